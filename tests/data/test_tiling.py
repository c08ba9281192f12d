"""Where tiles lie and what each counts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from everseg.data.tiling import Tiling
from everseg.errors import UserError


@pytest.mark.parametrize("length", [1, 63, 64, 65, 100, 500, 1001])
@pytest.mark.parametrize("halo", [0, 1, 8, 31])
@pytest.mark.parametrize("shift", [0, 5, 40])
def test_weights_add_up_to_one_and_neighbours_share_the_halo(length: int, halo: int, shift: int) -> None:
    starts, weights = Tiling(64, halo, shift).weights(length)
    total = np.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + len(weight)] += weight
        assert (weight > 0).all()
    assert total == pytest.approx(1, abs=1e-5)
    assert starts[0] == 0 and starts[-1] + min(64, length) == length
    assert all(b - a <= 64 - 2 * halo for a, b in itertools.pairwise(starts))
    assert len(set(starts)) == len(starts)


def test_a_weight_falls_smoothly_to_nothing_at_an_inner_edge() -> None:
    _, weights = Tiling(64, 8).weights(112)
    assert weights.shape == (2, 64)
    assert (weights[0, :48] == 1).all() and weights[0, -1] < 0.01
    assert np.abs(np.diff(weights[0])).max() < 0.12


@pytest.mark.parametrize(("tile", "halo"), [(31, 0), (64, 32), (64, -1)])
def test_tiles_that_cannot_be(tile: int, halo: int) -> None:
    with pytest.raises(UserError, match=r"--(tile|halo) is"):
        Tiling(tile, halo)
