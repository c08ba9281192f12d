"""Two predictors on the same images: who is asked what, how often the trunk runs, what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from everseg.data import SyntheticDomain
from everseg.domains.gate import BOX, CLICKS, Measured, measure, prompted, share_features
from everseg.domains.methods.zero_shot import ZeroShot, ZeroShotConfig
from everseg.domains.scoring import Predict, ScoreConfig
from everseg.errors import UserError
from everseg.results.health import MOVED, NOTHING, health
from everseg.results.paired import Pairs
from everseg.types import PromptPrediction, Prompts, PromptSample, Query

SIDE = 32


def sample(name: str, number: int, objects: int = 1) -> PromptSample:
    """Squares of 8 x 8 in the upper left quarter, with two clicks each."""
    masks = torch.zeros(objects, SIDE, SIDE, dtype=torch.bool)
    points = torch.zeros(objects, 2, 2)
    for n in range(objects):
        masks[n, 2:10, 2 + 8 * n : 10 + 8 * n] = True
        points[n] = torch.tensor([[4.0 + 8 * n, 4.0], [6.0 + 8 * n, 5.0]])
    image = torch.full((3, SIDE, SIDE), number, dtype=torch.uint8)
    labels = torch.ones(objects, 2, dtype=torch.int64)
    return PromptSample(image, Prompts(points, labels), masks, name)


def predictor(
    samples: Sequence[PromptSample], box: float = 1.0, sure: float = 0.9, deaf: bool = False
) -> Predict:
    """Finds the truth where a click or a box says so; `box`: the share of the rows that it keeps for a box.
    deaf: also where a click lies anywhere else."""
    truth = {int(s.image[0, 0, 0]): s.masks for s in samples}

    def one(query: Query) -> PromptPrediction:
        masks = truth[int(query.image[0, 0, 0])]
        found = torch.zeros(len(query.prompts), SIDE, SIDE, dtype=torch.bool)
        for n in range(len(found)):
            if query.prompts.points is None:
                found[n] = masks[n]
                found[n, 2 + round(8 * box) :] = False
            else:
                x, y = query.prompts.points[n, 0].long().tolist()
                found[n] = masks[n] & (masks[n, y, x] | deaf)
        return PromptPrediction(found.float() * 20 - 10, torch.full((len(found),), sure), (SIDE, SIDE))

    return lambda queries: [one(query) for query in queries]


def measured(old: Predict, new: Predict, samples: Sequence[PromptSample]) -> Measured:
    into = Measured()
    measure(old, new, samples, "a", "learned", ScoreConfig(), into)
    return into


def by_prompt(pairs: Sequence[Pairs]) -> dict[str, Pairs]:
    return {p.prompt: p for p in pairs}


def test_clicks_and_boxes_are_scored_apart_and_image_by_image() -> None:
    samples = [sample(f"{n}.png", n) for n in range(6)]
    found = by_prompt(measured(predictor(samples), predictor(samples, box=0.5), samples).pairs)
    assert list(found) == [CLICKS, BOX]
    assert found[CLICKS].units == tuple(f"{n}.png" for n in range(6))
    assert not found[CLICKS].difference.any()
    assert found[BOX].old == pytest.approx(np.ones(6)) and found[BOX].new == pytest.approx(np.full(6, 0.5))


def test_an_images_score_is_the_mean_over_its_objects_however_they_come() -> None:
    together = [sample("0.png", 0, objects=2)]
    apart = [sample("0.png#1", 0), sample("0.png#2", 0)]
    for samples in (together, apart):
        found = by_prompt(measured(predictor(samples), predictor(samples, box=0.75), samples).pairs)
        assert found[BOX].units == ("0.png",) and found[BOX].new == pytest.approx([0.75])
    nested = [sample("p1/0.png", 0), sample("p2/0.png", 1)]
    assert by_prompt(measured(predictor(nested), predictor(nested), nested).pairs)[BOX].units == (
        "p1/0.png",
        "p2/0.png",
    )


def test_a_run_that_does_not_listen_is_warned_of() -> None:
    samples = [sample(f"{n}.png", n) for n in range(8)]
    into = measured(predictor(samples), predictor(samples, deaf=True, sure=0.2), samples)
    assert by_prompt(into.health)[MOVED].new == pytest.approx(np.ones(8))
    assert not by_prompt(into.health)[MOVED].old.any()
    assert by_prompt(into.health)[NOTHING].new == pytest.approx(np.full(8, 64 / SIDE**2))
    found = health(into.health, into.clicks, into.predicted, into.true)
    assert [count for count, *_ in found.clicks] == [1, 2]
    assert found.old.error == pytest.approx(0.1, abs=1e-6) and found.new.error == pytest.approx(0.8, abs=1e-6)
    listens, calibrated = found.warnings
    assert "listens less to its clicks" in listens and "moved clicks leave 1.00" in listens
    assert "predicted IoU is further from the truth: on average by 0.800, before 0.100" in calibrated
    assert not health(into.health[:0], [], into.predicted[:1] * 2, into.true[:1] * 2).warnings


def test_output_that_is_no_number_is_told() -> None:
    samples = [sample(f"{n}.png", n) for n in range(2)]
    good = predictor(samples)

    def broken(queries: Sequence[Query]) -> list[PromptPrediction]:
        found = good(queries)
        return [PromptPrediction(p.logits * torch.nan, p.iou, p.size) for p in found]

    into = measured(good, broken, samples)
    assert not by_prompt(into.pairs)[CLICKS].new.any()
    found = health(into.health, into.clicks, into.predicted, into.true)
    assert found.new.broken == 4 and found.new.objects == 0
    assert "output is not a number for 4 of 4 prompts" in found.warnings[-1]


def test_prompts_come_from_the_stream_or_from_the_truth() -> None:
    of = sample("0.png", 0)
    assert prompted(of, CLICKS, "a", 0).points is of.prompts.points
    box = Prompts(boxes=torch.tensor([[2.0, 2.0, 9.0, 9.0]]))
    given = prompted(of, BOX, "a", 0).boxes
    assert given is not None and box.boxes is not None and torch.equal(given, box.boxes)
    boxed = PromptSample(of.image, box, of.masks, "0.png")
    drawn = prompted(boxed, CLICKS, "a", 0)
    assert drawn.boxes is None and drawn.points is not None
    x, y = drawn.points[0].long().T
    assert bool(of.masks[0, y, x].all())
    empty = PromptSample(of.image, of.prompts, torch.zeros_like(of.masks), "0.png")
    with pytest.raises(UserError, match=r"a/0.png has no object in mask 0"):
        measured(predictor([of]), predictor([of]), [empty])


def test_the_trunk_runs_once_for_each_image(micro: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [SyntheticDomain("lesions", 6, size=32)[n] for n in range(6)]
    old, new = ZeroShot(micro), ZeroShot(micro)
    share_features(new, old)
    assert old.cache is new.cache
    seen = 0
    trunk = micro.trunk

    def counted(pixels: Tensor) -> Any:
        nonlocal seen
        seen += len(pixels)
        return trunk(pixels)

    monkeypatch.setattr(micro, "trunk", counted)
    into = measured(old.predict, new.predict, samples)
    assert seen == 6
    assert all(not p.difference.any() for p in (*into.pairs, *into.health, *into.clicks))


def test_features_that_are_rounded_otherwise_are_not_shared(micro: Any) -> None:
    rough = ZeroShot(micro)
    fine = ZeroShot(micro, ZeroShotConfig.presets()["paper"])
    fine.cache.dtype = torch.float32
    share_features(fine, rough)
    assert rough.cache is not fine.cache
