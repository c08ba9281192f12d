"""COCO's run lengths, plain and compressed."""

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
