"""COCO's masks: run lengths (plain and compressed) and polygons, decoded with numpy.

Run lengths go down the columns and begin with background. The compressed form writes each length (from the
fourth on, its difference to the one before the last) in groups of five bits, least significant first, as
characters from "0" on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def decode_rle(counts: str | bytes | Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """(height, width) bool from run lengths.

    Raises:
        ValueError: the lengths are negative or do not add up to height x width.
    """
    lengths = np.asarray(uncompress(counts) if isinstance(counts, str | bytes) else counts, np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError(f"run lengths add up to {lengths.sum()}, not {height} x {width}")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(width, height).T


def uncompress(text: str | bytes) -> list[int]:
    """Run lengths from COCO's compressed string.

    Raises:
        ValueError: characters outside the alphabet, or the string ends within a number.
    """
    codes = text.encode() if isinstance(text, str) else text
    lengths: list[int] = []
    value = shift = 0
    for code in codes:
        bits = code - 48
        if not 0 <= bits < 64:
            raise ValueError(f"character {chr(code)!r} does not belong in run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:  # the last group; its highest bit is the sign
            if bits & 16:
                value -= 1 << shift
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the string ends within a number")
    return lengths


def fill_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> NDArray[np.bool_]:
    """(height, width) bool: the union of polygons [x, y, x, y, ...], each filled by the even-odd rule.

    A pixel belongs to a polygon that contains its centre, (column + 0.5, row + 0.5). pycocotools differs from
    that by single pixels along slanted borders.

    Raises:
        ValueError: a polygon with fewer than three corners or an odd number of coordinates.
    """
    mask = np.zeros((height, width), bool)
    for polygon in polygons:
        corners = np.asarray(polygon, np.float64)
        if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2 or not np.isfinite(corners).all():
            raise ValueError("a polygon needs at least three corners, written x, y, x, y, ...")
        mask |= _fill(corners.reshape(-1, 2), height, width)
    return mask


def _fill(corners: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """Even-odd fill: along each row's centre line, every edge crossed turns inside to outside and back."""
    (x0, y0), (x1, y1) = corners.T, np.roll(corners, -1, axis=0).T
    lines = np.arange(height) + 0.5
    edge, row = np.nonzero((y0[:, None] <= lines) != (y1[:, None] <= lines))
    x = x0[edge] + (lines[row] - y0[edge]) * (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
    column = np.ceil(x - 0.5).clip(0, width).astype(np.int64)
    turns = np.zeros((height, width + 1), np.int64)
    np.add.at(turns, (row, column), 1)
    return np.asarray(turns.cumsum(axis=1)[:, :width] % 2 == 1)
