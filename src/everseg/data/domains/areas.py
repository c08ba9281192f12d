"""Draw masks of annotated shapes: polygons, rectangles, circles and pasted patches.

Polygons are filled here because faster_coco_eval moves slanted borders by up to a pixel, and what a run was
trained and scored on must not change.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


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
    mask = np.zeros((height, width), bool)
    first, last = corners[:, 1].min(), corners[:, 1].max()
    top, bottom = (int(np.clip(v, 0, height)) for v in (np.floor(first), np.ceil(last)))
    (x0, y0), (x1, y1) = corners.T, np.roll(corners, -1, axis=0).T
    lines = np.arange(top, bottom) + 0.5
    edge, row = np.nonzero((y0[:, None] <= lines) != (y1[:, None] <= lines))
    if not len(row):
        return mask
    x = x0[edge] + (lines[row] - y0[edge]) * (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
    column = np.ceil(x - 0.5).clip(0, width).astype(np.int64)
    left, right = column.min(), column.max()
    turns = np.zeros((bottom - top, right - left + 1), np.int64)
    np.add.at(turns, (row, column - left), 1)
    mask[top:bottom, left:right] = turns.cumsum(axis=1)[:, :-1] % 2 == 1
    return mask


def rectangle(corners: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """(height, width): pixels whose centres lie between two opposite corners (2, 2) x, y."""
    (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    return np.asarray((rows >= y0) & (rows <= y1) & (columns >= x0) & (columns <= x1))


def circle(
    centre: NDArray[np.float64], edge: NDArray[np.float64], height: int, width: int
) -> NDArray[np.bool_]:
    """(height, width): pixels whose centres are no farther from `centre` than `edge` is (x, y)."""
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    radius = float(((edge - centre) ** 2).sum())
    return np.asarray((columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 <= radius)


def paste(patch: NDArray[np.bool_], left: int, top: int, height: int, width: int) -> NDArray[np.bool_]:
    """(height, width): `patch` with its first pixel at (left, top); what lies outside is cut off."""
    mask = np.zeros((height, width), bool)
    y0, y1 = max(top, 0), min(top + patch.shape[0], height)
    x0, x1 = max(left, 0), min(left + patch.shape[1], width)
    if y0 < y1 and x0 < x1:
        mask[y0:y1, x0:x1] = patch[y0 - top : y1 - top, x0 - left : x1 - left]
    return mask
