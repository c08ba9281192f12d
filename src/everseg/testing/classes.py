"""The trial and the laws of methods that learn classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from everseg.testing.bases import micro_backbone
from everseg.testing.trial import Trial
from everseg.types import ImageQuery, SemanticSample, Stage

CLASSES = (("red", "green"), ("blue",))
COLOURS = torch.tensor([[110, 110, 110], [230, 30, 30], [30, 230, 30], [40, 60, 240]], dtype=torch.uint8)


def micro_image(index: int, classes: Sequence[int], size: tuple[int, int] = (64, 80)) -> SemanticSample:
    """Blocks of the classes' colours on grey noise, with all their labels. The classes are 1 to 3."""
    generator = torch.Generator().manual_seed(100 + index)
    labels = torch.zeros(size, dtype=torch.uint8)
    for c in classes:
        top, left = (int(torch.randint(0, s - 30, (), generator=generator)) for s in size)
        labels[top : top + 26, left : left + 26] = c
    noise = torch.randint(-20, 20, (3, *size), generator=generator)
    pixels = COLOURS[labels.long()].permute(2, 0, 1).int() + noise
    return SemanticSample(pixels.clamp(0, 255).to(torch.uint8), labels, f"{index}.png")


def micro_step(index: int, count: int = 4) -> Stage:
    """Step 0 adds the classes 1 and 2, step 1 adds 3; other classes are background in its
    labels. `count` images to train on, one to test."""
    own = torch.tensor((1, 2) if index == 0 else (3,))
    seen = []
    for i in range(count):
        whole = micro_image(10 * index + i, (1 + i % 2, 3))
        labels = torch.where(torch.isin(whole.labels, own), whole.labels, 0)
        seen.append(SemanticSample(whole.image, labels.to(torch.uint8), whole.name))
    return Stage(index, f"step-{index}", seen, [micro_image(99, (1, 2, 3))], CLASSES[index])


class ClassTrial(Trial):
    """Two steps of coloured blocks on the micro backbone."""

    small = (
        "tune.crop=64",
        *(f"tune.{step}.{key}" for step in ("first", "later") for key in ("epochs=2", "batch=4")),
        "memory=4",
        "count=6",
        "allocate=4",
    )
    next_count = 2
    batch_gap = 0.01  # The batch decides only which of two equal classes wins.

    def make_base(self) -> Any:
        return micro_backbone()

    def weights(self) -> nn.Module:
        backbone: nn.Module = self.base.backbone
        return backbone

    def stage(self, index: int, count: int | None = None) -> Stage:
        return micro_step(index, 4 if count is None else count)

    def questions(self) -> list[ImageQuery]:
        images = [
            micro_image(50, (1, 2)),
            micro_image(51, (3,)),
            micro_image(52, (1,), (97, 45)),
            micro_image(53, (2, 3)),
        ]
        return [sample.query() for sample in images]

    def check_shape(self, query: ImageQuery, prediction: Tensor) -> None:
        shape, size = tuple(prediction.shape), tuple(query.image.shape[1:])
        assert shape == size, f"an image of {size}, a prediction of {shape}"
        assert prediction.dtype == torch.uint8, f"channels are {prediction.dtype}, not uint8"
        assert int(prediction.max()) <= 3, f"channel {int(prediction.max())}, and three classes were learned"

    def equal(self, ours: Tensor, theirs: Tensor) -> bool:
        return torch.equal(ours, theirs)

    def gap(self, ours: Tensor, theirs: Tensor) -> float:
        """The share of pixels that differ."""
        if ours.shape != theirs.shape:
            return float("inf")
        return float((ours != theirs).float().mean())


def before_it_has_learned_all_is_background(trial: ClassTrial) -> None:
    fresh = trial.fresh()
    assert not any(p.any() for p in trial.ask(fresh)), "a learner that has learned nothing predicts a class"
    assert trial.ask(fresh, []) == [], "no query must give no prediction"


LAWS = (before_it_has_learned_all_is_background,)
