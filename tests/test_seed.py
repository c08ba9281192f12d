"""A seed depends on what it is for and on nothing else: no machine, no process, no order of calls."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from everseg.seed import fold, numpy_generator, torch_generator

# Runs that people keep depend on these numbers. They are the first 8 bytes of SHA-256, big end first, halved,
# of the parts joined by the unit separator: `printf '0\x1fstr:stage' | sha256sum`.
GOLDEN: dict[tuple[Any, ...], int] = {
    (0,): 3456079177858693020,
    (0, "stage"): 3645909616234578,
    (0, 1): 6202379895885305000,
    (0, "1"): 5590143287548861143,
    (7, "kvasir", "selector", 3): 1114912179173228231,
    (-1, "a", "b"): 2120970296029206092,
    (0, "Zürich"): 6304997002973042150,
}


@pytest.mark.parametrize(("keys", "seed"), GOLDEN.items())
def test_golden(keys: tuple[Any, ...], seed: int) -> None:
    assert fold(*keys) == seed


def test_golden_in_another_process_with_another_hash_seed() -> None:
    program = "from everseg.seed import fold; print(fold(7, 'kvasir', 'selector', 3))"
    environment = {**os.environ, "PYTHONHASHSEED": "4242"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == GOLDEN[7, "kvasir", "selector", 3]


keys = st.lists(st.integers() | st.text(st.characters(codec="utf-8", exclude_characters="\x1f")), max_size=4)


@given(st.integers(), keys)
def test_a_seed_fits_every_generator(seed: int, keys: list[int | str]) -> None:
    folded = fold(seed, *keys)
    assert 0 <= folded < 2**63
    torch.Generator().manual_seed(folded)
    np.random.default_rng(folded)


@given(st.integers(), keys, st.integers(), keys)
def test_other_keys_give_another_seed(a: int, left: list[int | str], b: int, right: list[int | str]) -> None:
    assert (fold(a, *left) == fold(b, *right)) == ((a, left) == (b, right))


def test_a_number_is_not_its_text_and_order_matters() -> None:
    assert len({fold(0, 1), fold(0, "1"), fold(1), fold(0, 0, 1), fold(0, 1, 0)}) == 5


def test_numbers_of_numpy_are_refused() -> None:
    with pytest.raises(AssertionError, match="fold differently"):
        fold(0, np.int64(3))  # type: ignore[arg-type]


def test_generators_are_independent_of_each_other_and_of_the_global_ones() -> None:
    alone = torch.rand(4, generator=torch_generator(0, "x")), numpy_generator(0, "x").random(4)
    torch.manual_seed(123)
    np.random.seed(123)
    other = torch.rand(4, generator=torch_generator(0, "y")), numpy_generator(0, "y").random(4)
    again = torch.rand(4, generator=torch_generator(0, "x")), numpy_generator(0, "x").random(4)
    assert torch.equal(alone[0], again[0]) and np.array_equal(alone[1], again[1])
    assert not torch.equal(alone[0], other[0]) and not np.array_equal(alone[1], other[1])
