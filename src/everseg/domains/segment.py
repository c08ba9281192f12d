"""Prompted objects of one image: all at once, or each in a window of a large image.

In a large image an object is segmented in a window around its prompts:

    1. The window is a square of `tile` pixels centred on the prompts, or larger so that a box lies in it with
       `halo` pixels on each side; near the image's border it is moved inwards.
    2. Where the mask of clicks reaches an inner edge of the window, the object may go on beyond: the window
       is doubled, until the mask lies inside or the window is the image.

The result depends on the prompts and on what is around them, never on a grid; and no object is cut in two. An
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
    """One object: its pixels, the model's own estimate of the IoU, the module that was used."""

    region: Region
    iou: float
    route: Route | None


def segment(
    predict: Predict, image: Tensor, objects: Sequence[Prompts], tiling: Tiling | None, key: str
) -> list[Segmented]:
    """Every object of an image (3, H, W), in order.

    objects: prompts of one object each. key: identifies the image, so that its features are found again.
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
    height, width = image.shape[-2:]
    corners = [t.reshape(-1, 2) for t in (one.points, one.boxes) if t is not None]
    low, high = torch.cat(corners).amin(0), torch.cat(corners).amax(0)
    (x, y), extent = ((low + high) / 2).tolist(), float((high - low).max())
    side = max(tiling.tile, round(extent) + 2 * tiling.halo)
    while True:
        w, h = min(side, width), min(side, height)
        left = min(max(round(x - w / 2), 0), width - w)
        top = min(max(round(y - h / 2), 0), height - h)
        moved = torch.tensor([left, top], dtype=torch.float32)
        inside = Prompts(
            None if one.points is None else one.points - moved,
            one.labels,
            None if one.boxes is None else one.boxes - moved.repeat(2),
        )
        window = image[:, top : top + h, left : left + w]
        query = Query(window, inside, f"{key}:{left},{top},{w},{h}" if key else "", lasting=False)
        (prediction,) = predict([query])
        mask = _mask(prediction.logits[0], (h, w))
        cut = (
            (left > 0 and mask[:, 0].any())
            or (top > 0 and mask[0].any())
            or (left + w < width and mask[:, -1].any())
            or (top + h < height and mask[-1].any())
        )
        if one.boxes is not None or not cut:
            return Segmented(
                Region.of(mask, left, top, (height, width)), float(prediction.iou[0]), prediction.route
            )
        side *= 2
