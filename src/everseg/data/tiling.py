"""Tiles of an image that is larger than a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from everseg.errors import UserError


@dataclass(frozen=True)
class Tiling:
    """How large images are cut into tiles.

    tile: side of a tile in pixels.
    halo: margin in pixels that a tile shares with its neighbours on each side; two neighbours share twice as
        many.
    shift: pixels by which the inner tiles are moved right and down, to measure the influence of their
        position.
    """

    tile: int
    halo: int = 128
    shift: int = 0

    def __post_init__(self) -> None:
        if self.tile < 32:
            raise UserError(f"--tile is {self.tile}; give at least 32 pixels")
        if not 0 <= self.halo < self.tile / 2:
            raise UserError(f"--halo is {self.halo}; give 0 to less than half of --tile {self.tile}")

    def starts(self, length: int) -> list[int]:
        """Where tiles begin along a side of so many pixels: evenly spread, the first at its beginning and the
        last at its end."""
        if length <= self.tile:
            return [0]
        count = -(-(length - 2 * self.halo) // (self.tile - 2 * self.halo))
        even = np.linspace(0, length - self.tile, count).round().astype(int).tolist()
        if self.shift:
            # Moved, the inner tiles leave a gap at the beginning, which one more tile fills.
            step = self.shift % (even[1] - even[0])
            even = sorted({0, length - self.tile, *(e + step for e in even if e + step < length - self.tile)})
        return [int(start) for start in even]

    def weights(self, length: int) -> tuple[list[int], NDArray[np.float32]]:
        """The starts, and what each tile counts at each of its pixels along that side: (n, tile).

        A tile's weight rises smoothly over the pixels that it shares with a neighbour, so that no tile's edge
        shows; the weights of all tiles at a pixel add up to 1.
        """
        starts, side = self.starts(length), min(self.tile, length)
        places = np.arange(side) + 0.5
        total = np.zeros(length)
        raw = []
        for start in starts:
            rise = _smooth(places / max(2 * self.halo, 1)) if start else np.ones(side)
            fall = (
                _smooth((side - places) / max(2 * self.halo, 1)) if start + side < length else np.ones(side)
            )
            raw.append(np.minimum(rise, fall))
            total[start : start + side] += raw[-1]
        shares = [w / total[start : start + side] for start, w in zip(starts, raw, strict=True)]
        return starts, np.asarray(shares, np.float32)


def _smooth(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 to 1 over 0..1 with level ends; never quite 0, so that every pixel has a weight."""
    t = t.clip(1e-3, 1)
    return t * t * (3 - 2 * t)
