"""COCO's masks: run lengths (plain and compressed) and polygons.

Polygons are filled here because faster_coco_eval moves slanted borders by up to a pixel, and what a run was
trained and scored on must not change.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def decode_rle(counts: str | bytes | Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """(height, width) bool from run lengths.

    Raises:
        ValueError: they are malformed or do not add up to height x width.
    """
    from faster_coco_eval.core.mask import decode, frPyObjects  # only COCO files need it

    rle = {"size": [height, width], "counts": counts}
    try:
        packed = rle if isinstance(counts, str | bytes) else frPyObjects(rle, height, width)
        return decode(packed).astype(np.bool_, copy=False)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"its run lengths do not add up to {height} x {width} pixels") from error


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
