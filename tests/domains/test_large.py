"""The embedded base on an image that is far larger than it: known objects, wherever they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everseg.data.tiling import Tiling
from everseg.domains.methods.zero_shot import ZeroShot
from everseg.domains.segment import segment
from everseg.models.names import TINY
from everseg.models.promptable.load import load_base
from everseg.types import Prompts

Objects = list[tuple[int, int, int]]
"""x, y and radius of each."""


def painted(side: int, objects: Objects) -> Tensor:
    """A textured ground with bright discs."""
    generator = torch.Generator().manual_seed(0)
    rough = torch.randint(60, 110, (1, 3, 256, 256), dtype=torch.uint8, generator=generator)
    image = F.interpolate(rough, size=(side, side), mode="nearest")[0]
    for n, (x, y, r) in enumerate(objects):
        here = slice(y - r, y + r + 1), slice(x - r, x + r + 1)
        image[:, *here][:, disc(r)] = torch.tensor([[200], [150 + 20 * (n % 4)], [90]], dtype=torch.uint8)
    return image


def disc(r: int) -> Tensor:
    steps = torch.arange(-r, r + 1)
    return steps[:, None] ** 2 + steps**2 <= r * r


def overlaps(found: Any, objects: Objects) -> list[float]:
    """IoU with the truth, computed around each object."""
    values = []
    for one, (x, y, r) in zip(found, objects, strict=True):
        region = one.region
        h, w = region.pixels.shape
        left, top = min(x - r, region.x), min(y - r, region.y)
        canvas = np.zeros((2, max(y + r + 1, region.y + h) - top, max(x + r + 1, region.x + w) - left), bool)
        canvas[0, y - r - top : y + r + 1 - top, x - r - left : x + r + 1 - left] = disc(r).numpy()
        canvas[1, region.y - top :, region.x - left :][:h, :w] = region.pixels
        values.append(float(canvas.all(0).sum() / canvas.any(0).sum()))
    return values


def check(
    side: int, objects: Objects, tile: int, halo: int, least: float, kinds: tuple[bool, ...] = (False, True)
) -> None:
    """kinds: whether objects are prompted by boxes, or by a click on their middle."""
    torch.set_num_threads(1)
    base = load_base(TINY)
    predict = ZeroShot(base).predict
    for boxed in kinds:
        prompts = [
            Prompts(boxes=torch.tensor([[x - r, y - r, x + r, y + r]], dtype=torch.float32))
            if boxed
            else Prompts(torch.tensor([[[x, y]]], dtype=torch.float32), torch.tensor([[1]]))
            for x, y, r in objects
        ]
        image = painted(side, objects)
        found = segment(predict, image, prompts, Tiling(tile, halo), "")
        values = overlaps(found, objects)
        print(f"{side} px, {'boxes' if boxed else 'clicks'}: IoU {[round(v, 3) for v in values]}")
        assert min(values) > least
        # The image without its first columns and rows: windows that do not reach its border are the same.
        dx, dy = 37, 61
        moved = [
            Prompts(
                None if p.points is None else p.points - torch.tensor([dx, dy]),
                p.labels,
                None if p.boxes is None else p.boxes - torch.tensor([dx, dy, dx, dy]),
            )
            for p in prompts
        ]
        again = segment(predict, image[:, dy:, dx:], moved, Tiling(tile, halo), "")
        for here, there in zip(found, again, strict=True):
            assert (here.region.x - there.region.x, here.region.y - there.region.y) == (dx, dy)
            assert np.array_equal(here.region.pixels, there.region.pixels)


def test_objects_of_a_large_image() -> None:
    check(800, [(400, 420, 60)], 256, 32, 0.85, kinds=(False,))


@pytest.mark.slow
def test_objects_of_a_very_large_image() -> None:
    objects = [(1500, 1400, 60), (4096, 4096, 150), (3072, 1024, 300), (5000, 6200, 800), (6400, 2300, 35)]
    check(8000, objects, 1024, 128, 0.75)
