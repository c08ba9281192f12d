"""A class map as pictures and a JSON record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from everseg.data.domains.coco_results import coco_entry
from everseg.pictures.drawn import Drawn, Region, Wanted
from everseg.pictures.overlay import class_map, draw_classes


def draw(image: Tensor, channels: NDArray[np.uint8], wanted: Wanted) -> Drawn:
    """A class map with a palette, whose numbers are channels, or a COCO entry per class that is seen; and an
    overlay."""
    counts = np.bincount(channels.ravel(), minlength=len(wanted.classes))
    record: dict[str, Any] = {
        "size": {"width": channels.shape[1], "height": channels.shape[0]},
        "classes": [
            {"channel": channel, "name": each, "pixels": int(counts[channel])}
            for channel, each in enumerate(wanted.classes)
        ],
    }
    pictures: dict[str, Callable[[], Image.Image]] = {}
    if wanted.form == "coco":
        size = (channels.shape[0], channels.shape[1])
        record["masks"] = [
            coco_entry(Region.of(channels == channel, 0, 0, size)) | {"category_id": channel, "object": each}
            for channel, each in enumerate(wanted.classes)
            if channel and counts[channel]
        ]
    else:
        record["file"] = f"{wanted.stem}_classes{wanted.suffix}"
        pictures[record["file"]] = lambda: class_map(channels)
    if wanted.overlay:
        pictures[f"{wanted.stem}_overlay.png"] = lambda: Image.fromarray(draw_classes(image, channels))
    return Drawn(pictures, record)


def lines_of(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """For the terminal: pixels of each class that is seen, and the file that shows them."""
    seen = [f"{c['name']} {c['pixels']}" for c in record["classes"][1:] if c["pixels"]]
    return [(", ".join(seen) or "only background", record.get("file", ""))]
