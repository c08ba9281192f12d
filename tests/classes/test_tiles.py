"""Class maps of large images, tile by tile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everseg.classes.tiles import ScoresPixels, tiled
from everseg.data.tiling import Tiling
from everseg.methods import build, configure
from everseg.types import ImageQuery


class Local:
    """Scores that depend on pixels at most `reach` away, with zeros beyond what it is shown."""

    def __init__(self, reach: int) -> None:
        self.reach = reach
        self.largest = 0

    def scores(self, query: ImageQuery) -> Tensor:
        self.largest = max(self.largest, query.image[0].numel())
        blur = F.avg_pool2d(query.image[None].float(), 2 * self.reach + 1, 1, self.reach)[0]
        return torch.cat([blur, 255 - blur.amax(0, keepdim=True)])

    def decide(self, scores: Tensor) -> Tensor:
        return scores.argmax(0).to(torch.uint8)


def blobs(height: int, width: int) -> Tensor:
    """Smooth colours."""
    rough = torch.randint(0, 256, (1, 3, height // 16 + 2, width // 16 + 2), dtype=torch.uint8)
    return F.interpolate(rough, size=(height, width), mode="bilinear")[0]


@pytest.mark.parametrize("size", [(200, 310), (64, 200), (65, 66), (40, 150)])
@pytest.mark.parametrize("shift", [0, 11])
def test_scores_of_single_pixels_give_the_map_of_the_whole(size: tuple[int, int], shift: int) -> None:
    image, model = blobs(*size), Local(0)
    whole = model.decide(model.scores(ImageQuery(image)))
    model.largest = 0
    assert (tiled(model, image, Tiling(64, 8, shift)) != whole).float().mean() < 1e-3
    assert model.largest <= 64 * 64


def test_context_at_a_tile_s_edge_hardly_counts() -> None:
    """Without a halo, pixels near tiles' edges are decided by half of what is around them."""
    image, model = blobs(300, 420), Local(6)
    whole = model.decide(model.scores(ImageQuery(image)))
    wrong = [float((tiled(model, image, Tiling(96, halo)) != whole).float().mean()) for halo in (0, 16)]
    assert wrong[1] < 0.003 < wrong[0]


@pytest.mark.parametrize("method", ["eir", "ssul", "fine-tuning"])
def test_a_learner_decides_by_its_scores(micro_backbone: Any, method: str) -> None:
    learner = build(method, micro_backbone, configure(method), 0)
    assert isinstance(learner, ScoresPixels)
    query = ImageQuery(blobs(40, 56))
    for classes in (0, 3):
        if classes:
            learner.model.grow(classes)
        (wanted,) = learner.predict([query])
        assert torch.equal(learner.decide(learner.scores(query)), wanted)
        assert learner.scores(query).shape == (1 + classes, 40, 56)
