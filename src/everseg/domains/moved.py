"""Prompt insensitivity: how much of a mask stays when its prompt is moved elsewhere.

    several objects    the prompt of the next object that does not overlap it, which was answered already
    one object         as many clicks on the background as there were on the object: one more prediction

A model that segments what it is pointed at draws another mask; one that has learned to draw the same thing
wherever it is pointed at does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from everseg.domains.segment import joined
from everseg.results.metrics import binary_scores
from everseg.types import PromptPrediction, Prompts, PromptSample, Query
from everseg.types.pixels import draw_clicks

Predict = Callable[[Sequence[Query]], Sequence[PromptPrediction]]


def insensitivities(
    predict: Predict,
    samples: Sequence[PromptSample],
    names: Sequence[str],
    predictions: Sequence[PromptPrediction],
) -> list[float]:
    """Of each image the IoU, mean over its objects, of the predicted mask and the one that the moved prompt
    gives; NaN where no prompt could be moved. Masks are compared at the decoder's resolution.

    names: of the images; clicks on the background are a function of name and truth.
    predictions: for the samples' own prompts.
    """
    others = [[_other(sample.masks, n) for n in range(len(sample.masks))] for sample in samples]
    away = [
        {n: prompts for n, m in enumerate(own) if m is None and (prompts := _on_background(sample, n, name))}
        for sample, own, name in zip(samples, others, names, strict=True)
    ]
    asked = [
        replace(s.query(), prompts=joined(list(p.values()))) for s, p in zip(samples, away, strict=True) if p
    ]
    answers = iter(predict(asked) if asked else [])
    found = []
    for prediction, own, moved in zip(predictions, others, away, strict=True):
        masks = prediction.logits >= 0
        kept = [n for n, m in enumerate(own) if m is not None]
        first = [masks[kept], masks[list(moved)]]
        second = [masks[[m for m in own if m is not None]]]
        second.append(next(answers).logits >= 0 if moved else masks[:0])
        overlap = binary_scores(torch.cat(first), torch.cat(second))["iou"]
        found.append(float(overlap.mean()))  # NaN of nothing
    return found


def _other(masks: Tensor, n: int) -> int | None:
    """The next object, counted in a circle, that has no pixel in common with object `n`."""
    following = [*range(n + 1, len(masks)), *range(n)]
    return next((m for m in following if not (masks[n] & masks[m]).any()), None)


def _on_background(sample: PromptSample, n: int, name: str) -> Prompts | None:
    """As many clicks as point at object `n`, on pixels of no object; None where there are none, or where a
    box points at it, too, which has no natural place elsewhere."""
    labels = sample.prompts.labels
    background = ~sample.masks.any(0).numpy()
    if labels is None or sample.prompts.boxes is not None or not background.any():
        return None
    count = max(1, int((labels[n] == 1).sum()))
    points = draw_clicks(np.asarray(background), count, 0, f"{name}#{n} elsewhere")
    return Prompts(torch.from_numpy(points)[None], torch.ones(1, count, dtype=torch.int64))
