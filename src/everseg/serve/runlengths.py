"""Masks as run lengths, as requests and answers have them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from everseg.errors import UserError

Counts = list[int]
"""Run lengths of a mask in column order, zeros first, as COCO has them uncompressed."""


def counts_of(mask: NDArray[np.bool_]) -> Counts:
    """Run lengths of a mask (H, W)."""
    flat = mask.ravel(order="F")
    if not flat.size:
        return [0]
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def mask_of(counts: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """A mask (H, W) from its run lengths.

    Raises:
        UserError: they do not add up to the image.
    """
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise UserError(f"a mask's run lengths do not add up to {width}x{height} pixels; reload the page")
    values = np.zeros(len(counts), bool)
    values[1::2] = True
    return np.repeat(values, np.array(counts, np.int64)).reshape((height, width), order="F")
