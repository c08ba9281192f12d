"""Prompt insensitivity: 0 for who follows the prompt, 1 for who ignores it, and no pass more than needed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from everseg.domains.moved import insensitivities
from everseg.domains.scoring import ScoreConfig, score
from everseg.types import PromptPrediction, Prompts, PromptSample, Query

SIDE = 16


def masks(*boxes: tuple[int, int, int, int]) -> Tensor:
    """Rectangles top, left, bottom, right."""
    out = torch.zeros(len(boxes), SIDE, SIDE, dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(out, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return out


LEFT, RIGHT, INNER = (0, 0, SIDE, 4), (0, 8, SIDE, SIDE), (4, 9, 8, 12)


def sample(truth: Tensor, clicks: int = 3, box: bool = False, name: str = "a") -> PromptSample:
    image = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    return PromptSample.from_mask(image, truth, clicks=clicks, box=box, name=name)


class Obedient:
    """Draws the object that its first click lies on, and the background where it lies on none."""

    def __init__(self, truth: Tensor) -> None:
        self.truth, self.asked = truth, 0

    def drawn(self, x: int, y: int) -> Tensor:
        hit = [mask for mask in self.truth if mask[y, x]]
        return hit[0] if hit else ~self.truth.any(0)

    def predict(self, queries: Sequence[Query]) -> list[PromptPrediction]:
        self.asked += len(queries)
        out = []
        for query in queries:
            points = query.prompts.points
            assert points is not None
            found = torch.stack([self.drawn(int(p[0, 0]), int(p[0, 1])) for p in points])
            out.append(PromptPrediction(found.float() * 2 - 1, torch.ones(len(found)), (SIDE, SIDE)))
        return out


class Stubborn(Obedient):
    """Draws the first object wherever it is pointed at."""

    def drawn(self, x: int, y: int) -> Tensor:
        return self.truth[0]


def measured(learner: Obedient, one: PromptSample) -> float:
    (found,) = score(learner.predict, [one], "x", ScoreConfig(), last=True)
    return found.insensitivity


@pytest.mark.parametrize("boxes", [[LEFT], [LEFT, RIGHT]], ids=["one object", "two objects"])
def test_who_follows_the_prompt_has_0_and_who_ignores_it_1(boxes: list[tuple[int, int, int, int]]) -> None:
    truth = masks(*boxes)
    assert measured(Obedient(truth), sample(truth)) == 0.0
    assert measured(Stubborn(truth), sample(truth)) == 1.0


def test_only_objects_without_another_beside_them_are_asked_again() -> None:
    for boxes, passes in (([LEFT, RIGHT], 1), ([LEFT], 2), ([RIGHT, INNER], 2)):
        learner = Obedient(masks(*boxes))
        measured(learner, sample(learner.truth))
        assert learner.asked == passes, boxes
    learner = Obedient(masks(LEFT))
    score(learner.predict, [sample(learner.truth)], "x", ScoreConfig(insensitivity=False), last=True)
    score(learner.predict, [sample(learner.truth)], "x", ScoreConfig())
    assert learner.asked == 2, "it is switched off, or it is not the last stage"


def test_clicks_on_the_background_are_as_many_and_the_same_every_time() -> None:
    asked: list[Prompts] = []
    learner = Obedient(masks(LEFT))

    def predict(queries: Sequence[Query]) -> list[PromptPrediction]:
        asked.extend(query.prompts for query in queries)
        return learner.predict(queries)

    one = sample(learner.truth, clicks=5)
    for _ in range(2):
        insensitivities(predict, [one], ["a"], learner.predict([one.query()]))
    first, again = (prompts.points for prompts in asked)
    assert first is not None and again is not None and first.shape == (1, 5, 2)
    assert torch.equal(first, again)
    assert not any(learner.truth[0, int(y), int(x)] for x, y in first[0].tolist())
    assert asked[0].labels is not None and asked[0].labels.tolist() == [[1] * 5]


def test_half_of_a_mask_that_stays_is_its_share_of_the_union() -> None:
    """Another object's mask overlaps half of this one's as predicted, though the truths do not."""
    truth = masks(LEFT, RIGHT)
    logits = torch.full((2, SIDE, SIDE), -1.0)
    logits[0, :, :8], logits[1, :, 4:8] = 1.0, 1.0
    own = PromptPrediction(logits, torch.ones(2), (SIDE, SIDE))
    assert insensitivities(lambda queries: [], [sample(truth)], ["a"], [own]) == [0.5]


def test_what_cannot_be_moved_is_not_measured() -> None:
    whole = masks((0, 0, SIDE, SIDE))
    assert math.isnan(measured(Obedient(whole), sample(whole))), "there is no background"
    boxed = sample(masks(LEFT), box=True)
    assert math.isnan(measured(Stubborn(boxed.masks), boxed)), "a box has no natural place elsewhere"
    several = sample(masks(LEFT, RIGHT), box=True)
    assert measured(Stubborn(several.masks), several) == 1.0, "but there is another object's box"
