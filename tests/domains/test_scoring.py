"""Scoring: every image once, in order, in the pixels that were asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from everseg.data import SyntheticDomain
from everseg.domains.scoring import BATCH, ScoreConfig, compared, score
from everseg.types import PromptPrediction, Prompts, PromptSample, Query, Route


def perfect(samples: Sequence[PromptSample]) -> Any:
    """A predictor that answers with the truth: found by the image, as a query has nothing else."""
    truth = {s.image.numpy().tobytes(): s.masks for s in samples}

    def predict(queries: Sequence[Query]) -> list[PromptPrediction]:
        assert len(queries) <= BATCH
        assert all(isinstance(q, Query) for q in queries)
        out = []
        for q in queries:
            masks = truth[q.image.numpy().tobytes()]
            out.append(
                PromptPrediction(masks.float() * 2 - 1, torch.ones(len(masks)), tuple(masks.shape[1:]))
            )
        return out

    return predict


def test_the_truth_scores_best_and_every_image_once() -> None:
    samples = [SyntheticDomain("nuclei", 20, size=64)[i] for i in range(20)]
    found = score(perfect(samples), samples, "nuclei", ScoreConfig())
    assert [s.image for s in found] == [s.name for s in samples]
    for s in found:
        assert s.column == "nuclei"
        assert s.values == {"iou": 1.0, "f1": 1.0, "mae": 0.0}
        assert s.route == ""
        assert math.isnan(s.probability)


def test_workers_change_nothing() -> None:
    samples = SyntheticDomain("nuclei", 5, size=64)
    alone = score(perfect(list(samples)), samples, "x", ScoreConfig())
    assert [s.values for s in score(perfect(list(samples)), samples, "x", ScoreConfig(workers=1))] == [
        s.values for s in alone
    ]


def test_an_images_value_is_the_mean_over_its_objects() -> None:
    masks = torch.zeros(2, 4, 4, dtype=torch.bool)
    masks[0, :2], masks[1, :, :1] = True, True
    sample = PromptSample(
        torch.zeros(3, 4, 4, dtype=torch.uint8), Prompts(boxes=torch.zeros(2, 4)), masks, "a"
    )
    logits = torch.full((2, 4, 4), -1.0)
    logits[0, :1] = 1.0  # half of the first object, nothing of the second

    def predict(queries: Sequence[Query]) -> list[PromptPrediction]:
        return [PromptPrediction(logits, torch.ones(2), (4, 4), Route("m", 0.75))]

    [found] = score(predict, [sample], "x", ScoreConfig())
    assert found.values["iou"] == pytest.approx((0.5 + 0.0) / 2)
    assert found.values["f1"] == pytest.approx((2 / 3 + 0.0) / 2)
    assert found.values["mae"] == pytest.approx((4 / 16 + 4 / 16) / 2)
    assert (found.route, found.probability) == ("m", 0.75)


def test_masks_are_compared_where_the_settings_say() -> None:
    truth = torch.zeros(1, 30, 50, dtype=torch.bool)
    truth[:, 10:20, 10:40] = True
    logits = torch.linspace(-1, 1, 64).view(1, 8, 8)
    prediction = PromptPrediction(logits, torch.ones(1), (30, 50))
    pred, wanted = compared(prediction, truth, ScoreConfig())
    assert pred.shape == (1, 30, 50)
    assert wanted is truth
    square, wanted = compared(prediction, truth, ScoreConfig.presets()["reference"])
    assert square.shape == wanted.shape == (1, 1024, 1024)
    # Nearest: each logit is a block of 128 x 128 pixels.
    assert torch.equal(square[0, ::128, ::128], logits[0] >= 0)
    assert torch.equal(square[0, 127::128, 127::128], logits[0] >= 0)
    assert torch.equal(wanted[0, 512, ::256], truth[0, 15, [0, 12, 25, 37]])


def test_half_a_chance_counts_as_object() -> None:
    """Probability at least 0.5, after resizing."""
    prediction = PromptPrediction(torch.zeros(1, 4, 4), torch.ones(1), (7, 9))
    assert prediction.masks().all()
    assert not PromptPrediction(torch.full((1, 4, 4), -1e-6), torch.ones(1), (7, 9)).masks().any()


def test_nothing_to_score_is_no_score() -> None:
    assert score(perfect([]), [], "x", ScoreConfig()) == []
