"""Prompted objects of one image: all at once, or each in a window of a large image.

In a large image an object is segmented in a window around its prompts, centred on them and moved inwards near
the image's border:

    a box      one window: a square of `tile` pixels, or larger so that `halo` pixels lie around the box
    clicks     windows of `tile` pixels, twice as many, ... up to the image. Of those in which the mask keeps
               `halo` pixels away from every inner edge, so that the object is whole, the smallest is taken
               whose predicted IoU is at least nine tenths of the best one's.

The result depends on the prompts and on what is around them, never on a grid, and no object is cut in two. An
object larger than a tile is segmented at the scale at which it fits into a window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from everseg.data.tiling import Tiling
from everseg.models.promptable.protocol import PADDING
from everseg.pictures.drawn import Region
from everseg.types import PromptPrediction, Prompts, Query, Route

Predict = Callable[[Sequence[Query]], Sequence[PromptPrediction]]

TOGETHER = 64
"""Objects in one query."""


@dataclass(frozen=True)
class Segmented:
    """One segmented object: its pixels, the model's estimate of the IoU, and the module that was used."""

    region: Region
    iou: float
    route: Route | None


def segment(
    predict: Predict, image: Tensor, objects: Sequence[Prompts], tiling: Tiling | None, key: str
) -> list[Segmented]:
    """Every object of an image (3, H, W), in order.

    objects: prompts of one object each.
    key: identifies the image, so that its features are found again.
    """
    height, width = image.shape[-2:]
    if tiling is None or max(height, width) <= tiling.tile:
        return _whole(predict, image, objects, key)
    return [_in_window(predict, image, one, tiling, key) for one in objects]


def _whole(predict: Predict, image: Tensor, objects: Sequence[Prompts], key: str) -> list[Segmented]:
    """Objects with a box and those without are two queries, which share the image's features."""
    found: dict[int, Segmented] = {}
    for boxed in (False, True):
        places = [n for n, one in enumerate(objects) if (one.boxes is not None) == boxed]
        for start in range(0, len(places), TOGETHER):
            part = places[start : start + TOGETHER]
            query = Query(image, joined([objects[n] for n in part]), key, lasting=False)
            (prediction,) = predict([query])
            for n, (logits, iou) in zip(
                part, zip(prediction.logits, prediction.iou, strict=True), strict=True
            ):
                mask = _mask(logits, prediction.size)
                region = Region.of(mask, 0, 0, prediction.size)
                found[n] = Segmented(region, float(iou), prediction.route)
    return [found[n] for n in range(len(objects))]


def joined(objects: Sequence[Prompts]) -> Prompts:
    """One query's prompts from those of several objects, padded to the most clicks of any; all have a box or
    none has."""
    clicks = [0 if one.points is None else one.points.shape[1] for one in objects]
    points = labels = None
    if most := max(clicks):
        points = torch.zeros(len(objects), most, 2)
        labels = torch.full((len(objects), most), PADDING)
        for n, one in enumerate(objects):
            if one.points is not None and one.labels is not None:
                points[n, : clicks[n]], labels[n, : clicks[n]] = one.points[0], one.labels[0]
    boxes = [one.boxes for one in objects if one.boxes is not None]
    return Prompts(points, labels, torch.cat(boxes) if boxes else None)


def _mask(logits: Tensor, size: tuple[int, int]) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """As `PromptPrediction.masks`, for one object, so that memory does not grow with their number."""
    big = F.interpolate(logits[None, None].float(), size=size, mode="bilinear", align_corners=False)
    return (big[0, 0] >= 0).numpy()


def _in_window(predict: Predict, image: Tensor, one: Prompts, tiling: Tiling, key: str) -> Segmented:
    corners = [t.reshape(-1, 2) for t in (one.points, one.boxes) if t is not None]
    low, high = torch.cat(corners).amin(0), torch.cat(corners).amax(0)
    centre, extent = ((low + high) / 2).tolist(), float((high - low).max())
    side = max(tiling.tile, round(extent) + 2 * tiling.halo)
    first: Segmented | None = None
    whole: list[Segmented] = []
    while True:
        window = _window(centre, side, image)
        found = _seen(predict, image, one, window, key)
        first = first or found
        if one.boxes is not None:
            return found
        if not _cut(found.region, window, tiling.halo):
            whole.append(found)
            if found.iou >= NEARLY:
                break
        if (window[2], window[3]) == (image.shape[-1], image.shape[-2]):
            break
        side *= 2
    best = max((seen.iou for seen in whole), default=0.0)
    return next((seen for seen in whole if seen.iou >= NEARLY * best), first)


NEARLY = 0.9
"""Share of the best predicted IoU that a smaller window needs. No estimate is much above 1, so that one of as
much ends the search."""

Window = tuple[int, int, int, int]
"""Left, top, width and height."""


def _window(centre: Sequence[float], side: int, image: Tensor) -> Window:
    height, width = image.shape[-2:]
    w, h = min(side, width), min(side, height)
    left = min(max(round(centre[0] - w / 2), 0), width - w)
    return left, min(max(round(centre[1] - h / 2), 0), height - h), w, h


def _seen(predict: Predict, image: Tensor, one: Prompts, window: Window, key: str) -> Segmented:
    """One object, as the model sees it in a window."""
    left, top, w, h = window
    moved = torch.tensor([left, top], dtype=torch.float32)
    inside = Prompts(
        None if one.points is None else one.points - moved,
        one.labels,
        None if one.boxes is None else one.boxes - moved.repeat(2),
    )
    part = image[:, top : top + h, left : left + w]
    name = f"{key}:{left},{top},{w},{h}" if key else ""
    (prediction,) = predict([Query(part, inside, name, lasting=False)])
    region = Region.of(
        _mask(prediction.logits[0], (h, w)), left, top, (int(image.shape[-2]), int(image.shape[-1]))
    )
    return Segmented(region, float(prediction.iou[0]), prediction.route)


def _cut(region: Region, window: Window, halo: int) -> bool:
    """Whether a mask is empty, or so near an edge of its window inside the image that the object may continue
    beyond."""
    left, top, w, h = window
    x, y, width, height = region.bbox
    return (
        not region.count
        or (left > 0 and x < left + halo)
        or (top > 0 and y < top + halo)
        or (left + w < region.size[1] and x + width > left + w - halo)
        or (top + h < region.size[0] and y + height > top + h - halo)
    )
