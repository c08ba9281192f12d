"""COCO results: one entry per object, its mask as compressed run lengths."""

from __future__ import annotations

from typing import Any

import numpy as np

from everseg.pictures.drawn import Region


def coco_entry(region: Region) -> dict[str, Any]:
    """The `segmentation`, `bbox` and `area` of a region."""
    from faster_coco_eval.core.mask import encode  # only COCO output needs it

    packed = encode(np.asfortranarray(region.full(), np.uint8))
    counts = packed["counts"]
    return {
        "segmentation": {
            "size": list(region.size),
            "counts": counts.decode() if isinstance(counts, bytes) else counts,
        },
        "bbox": region.bbox,
        "area": region.count,
    }
