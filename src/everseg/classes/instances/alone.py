"""Training crop of a single instance: its own image with everything else removed."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from everseg.classes.crops import TRIALS, crop_window
from everseg.classes.instances.pool import Instance
from everseg.classes.settings import ClassTuneConfig
from everseg.data.resize import resized
from everseg.types import VOID

MEAN_COLOUR = (124, 116, 104)
"""ImageNet's mean: what normalisation makes zero."""


def instance_crop(
    instance: Instance,
    config: ClassTuneConfig,
    generator: torch.Generator,
    *,
    visible: float = 0.0,
    outside: Literal["void", "background"] = "void",
) -> tuple[Tensor, Tensor]:
    """A random crop of an image that has nothing but an instance on ImageNet's mean colour: image (3, S, S)
    uint8, labels (S, S) uint8.

    The crop is drawn as `random_crop` draws it, so that instances are replayed at the scale they were learned
    at.

    visible: the crop is drawn again, ten times at most, until it has this share of the instance's box; then
        it is moved onto it.
    outside: what the rest is labelled.

    Source: EIR, instance replay; the published code crops an image, multiplies it by the mask after
    normalisation, wherever the instance is, and trains the rest as background.
    """
    side = config.crop
    image = torch.tensor(MEAN_COLOUR, dtype=torch.uint8)[:, None, None].expand(3, side, side).clone()
    labels = torch.full((side, side), VOID if outside == "void" else 0, dtype=torch.uint8)
    top, left, h, w = _window(instance, config, generator, visible)
    mirrored = float(torch.rand((), generator=generator)) < config.flip
    y0, x0 = (instance.box[0] - top) * side / h, (instance.box[1] - left) * side / w
    y1, x1 = (instance.box[2] - top) * side / h, (instance.box[3] - left) * side / w
    size = max(1, round(y1) - round(y0)), max(1, round(x1) - round(x0))
    rows, columns = _overlap(round(y0), size[0], side), _overlap(round(x0), size[1], side)
    if rows is not None and columns is not None:
        pixels = resized(instance.pixels[None], size)[0]
        inside = F.interpolate(instance.inside[None, None].byte(), size=size, mode="nearest")[0, 0].bool()
        inside = inside[rows[1], columns[1]]
        place = image[:, rows[0], columns[0]]
        place.copy_(torch.where(inside, pixels[:, rows[1], columns[1]], place))
        labels[rows[0], columns[0]].masked_fill_(inside, instance.label)
    if mirrored:
        image, labels = image.flip(-1), labels.flip(-1)
    return image, labels


def _window(
    instance: Instance, config: ClassTuneConfig, generator: torch.Generator, visible: float
) -> tuple[int, int, int, int]:
    """Top, left, height and width of the crop."""
    height, width = instance.size
    top, left, bottom, right = instance.box
    window = (0, 0, height, width)
    for _ in range(TRIALS):
        window = crop_window(height, width, config.area, generator)
        y, x, h, w = window
        seen = max(0, min(bottom, y + h) - max(top, y)) * max(0, min(right, x + w) - max(left, x))
        if seen >= visible * min((bottom - top) * (right - left), h * w):
            return window
    y, x, h, w = window
    y = min(max((top + bottom - h) // 2, 0), height - h)
    x = min(max((left + right - w) // 2, 0), width - w)
    return y, x, h, w


def _overlap(start: int, length: int, side: int) -> tuple[slice, slice] | None:
    """Where `length` pixels from `start` on meet a row of `side`: there and here; None if nowhere."""
    first, last = max(0, start), min(side, start + length)
    return None if first >= last else (slice(first, last), slice(first - start, last - start))
