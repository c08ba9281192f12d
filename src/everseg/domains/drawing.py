"""Prompted objects as pictures and a JSON record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from everseg.data.domains.coco_results import coco_entry
from everseg.domains.segment import Segmented
from everseg.pictures.drawn import Drawn, Wanted, numbered, union
from everseg.pictures.overlay import class_map, draw_mask
from everseg.types import MERGED, NATURAL, OUTSIDE


def draw(image: Tensor, found: Sequence[Segmented], wanted: Wanted) -> Drawn:
    """Masks of 0 and 255, one label map, or COCO entries; and an overlay of all objects."""
    height, width = image.shape[-2:]
    size = (int(height), int(width))
    regions = [one.region for one in found]
    pictures: dict[str, Callable[[], Image.Image]] = {}
    objects: list[dict[str, Any]] = []
    for n, one in enumerate(found):
        entry: dict[str, Any] = {"pixels": one.region.count, "predicted_iou": round(one.iou, 4)}
        if wanted.form == "masks":
            entry["file"] = (
                f"{wanted.stem}_mask{wanted.suffix}"
                if len(found) == 1
                else f"{wanted.stem}_mask_{n + 1}{wanted.suffix}"
            )
            pictures[entry["file"]] = partial(_black_and_white, one)
        elif wanted.form == "labels":
            entry["number"] = n + 1
        else:
            entry |= coco_entry(one.region) | {"category_id": wanted.categories[n]}
        if wanted.names and wanted.names[n]:
            entry["object"] = wanted.names[n]
        objects.append(entry)
    record: dict[str, Any] = {"size": {"width": size[1], "height": size[0]}, "masks": objects}
    if wanted.form == "labels":
        record["file"] = f"{wanted.stem}_labels{wanted.suffix}"
        pictures[record["file"]] = lambda: _label_map(numbered(regions, size))
    routes = [one.route for one in found]
    chosen = {None if route is None else route.name for route in routes}
    first = routes[0] if routes and len(chosen) == 1 else None
    record["module"] = None if first is None else first.name
    record["probability"] = None if first is None else round(first.probability, 4)
    if first is not None and first.probabilities:
        record["probabilities"] = {name: round(p, 4) for name, p in first.probabilities.items()}
    if first is not None and first.p_values:
        record["p_values"] = {name: float(f"{p:.3g}") for name, p in first.p_values.items()}
    if len(chosen) > 1:  # Windows of one image may look like different domains.
        for entry, route in zip(objects, routes, strict=True):
            entry["module"] = None if route is None else route.name
    if wanted.overlay:
        pictures[f"{wanted.stem}_overlay.png"] = lambda: Image.fromarray(
            draw_mask(image, union(regions, size))
        )
    return Drawn(pictures, record)


NAMED = {
    OUTSIDE: "the untouched base: unlike every domain learned",
    NATURAL: "the untouched base: a natural image",
    MERGED: "the merged adapter",
}
"""What is said where no domain's own module was used."""


def lines_of(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """For the terminal: what each object is, and the file that shows it."""
    lines = []
    for entry in record["masks"]:
        module, probability = entry.get("module", record["module"]), record["probability"]
        chosen = "" if module is None else f" with {NAMED.get(module, f'module {module}')}"
        sure = "" if probability is None or module in NAMED else f" ({probability:.2f})"
        lines.append((f"{entry['pixels']} pixels{chosen}{sure}", entry.get("file") or record.get("file", "")))
    return lines


def _black_and_white(one: Segmented) -> Image.Image:
    canvas = np.zeros(one.region.size, np.uint8)
    one.region.into(canvas, 255)
    return Image.fromarray(canvas)


def _label_map(numbers: Any) -> Image.Image:
    return class_map(numbers) if numbers.dtype == np.uint8 else Image.fromarray(numbers)
