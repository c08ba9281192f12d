"""Two predictors of domains on the same images, by kind of prompt: what the gate compares.

For every few images both are asked about everything at once, and as they share one feature cache the trunk
runs once for each image, however many kinds of prompts there are.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from everseg.data.samples import take_evenly
from everseg.domains.cache import RECENT, FeatureCache
from everseg.domains.scoring import Predict, ScoreConfig, compared
from everseg.errors import UserError
from everseg.progress import bar
from everseg.results.health import MOVED, NOTHING
from everseg.results.metrics import binary_scores
from everseg.results.paired import Kind, Pairs
from everseg.types import PromptPrediction, Prompts, PromptSample, Query
from everseg.types.pixels import draw_clicks, tight_box

CLICKS, BOX = "clicks", "box"
PROMPTS = (CLICKS, BOX)

DRAWN = 3
"""Clicks on an object whose stream has none."""

MOST_CLICKS = 5
"""The IoU is measured with the first one, two, ... clicks up to so many."""


@runtime_checkable
class Caches(Protocol):
    """A learner that keeps the trunk's features."""

    cache: FeatureCache


def share_features(first: Any, second: Any) -> None:
    """Let two learners on one base keep the trunk's features together, if they round them alike."""
    if isinstance(first, Caches) and isinstance(second, Caches) and first.cache.dtype == second.cache.dtype:
        second.cache = first.cache


@dataclass
class Measured:
    """Scores of some columns.

    pairs: IoU per image, by column and kind of prompt.
    health: input of `results.health.health`.
    clicks: IoU per image, by column and number of clicks.
    predicted, true: predicted and true IoU of objects, for the old and the new predictor.
    """

    pairs: list[Pairs] = field(default_factory=list)
    health: list[Pairs] = field(default_factory=list)
    clicks: list[Pairs] = field(default_factory=list)
    predicted: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    true: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))


Rows = dict[str, dict[str, list[tuple[float, float]]]]
"""By what was asked and by image: old and new."""


def measure(
    old: Predict,
    new: Predict,
    samples: Sequence[PromptSample],
    column: str,
    kind: Kind,
    how: ScoreConfig,
    into: Measured,
    *,
    seed: int = 0,
    checked: int = 24,
) -> None:
    """Score both on every image with its clicks and with a box around its truth, and check on some how they
    listen. An image's score is the mean over its objects, in however many samples they come.

    checked: how many those are.

    Raises:
        UserError: a sample cannot be read.
    """
    rows: Rows = defaultdict(lambda: defaultdict(list))
    healthy = set(take_evenly(range(len(samples)), checked)) if checked else set()
    with bar(f"compare on {column}", len(samples)) as advance:
        for start in range(0, len(samples), RECENT):
            places = range(start, min(start + RECENT, len(samples)))
            part = [samples[n] for n in places]
            units = [image_of(sample, n) for n, sample in zip(places, part, strict=True)]
            asked = [
                _asked(sample, f"{column}/{unit}", seed, health=n in healthy)
                for n, unit, sample in zip(places, units, part, strict=True)
            ]
            queries = [
                Query(sample.image, prompts, sample.key, lasting=False)
                for sample, own in zip(part, asked, strict=True)
                for prompts in own.values()
            ]
            before = list(old(queries))
            after = before if new is old else list(new(queries))
            answers = iter(zip(before, after, strict=True))
            for unit, sample, own in zip(units, part, asked, strict=True):
                _score(unit, sample, {name: next(answers) for name in own}, how, rows, into)
                advance("")
    for name, by_unit in rows.items():
        values = np.array([np.mean(pair, axis=0) for pair in by_unit.values()], np.float64)
        pairs = Pairs(column, kind, name, tuple(by_unit), values[:, 0], values[:, 1])
        if name in PROMPTS:
            into.pairs.append(pairs)
        elif name in (MOVED, NOTHING):
            into.health.append(pairs)
        else:
            into.clicks.append(pairs)


def image_of(sample: PromptSample, place: int) -> str:
    """The image that a sample, perhaps one object of it, is of: its path within the split."""
    return re.sub(r"#\d+$", "", sample.name) or f"{place:05d}"


def prompted(sample: PromptSample, prompt: str, name: str, seed: int) -> Prompts:
    """A sample's clicks, which are drawn on the truth where it has none, or a tight box around the truth."""
    masks = sample.masks.numpy()
    if prompt == BOX:
        return Prompts(boxes=torch.from_numpy(np.stack([tight_box(mask) for mask in masks])))
    if sample.prompts.points is not None:
        return replace(sample.prompts, boxes=None)
    return _clicks([draw_clicks(mask, DRAWN, seed, f"{name}#{n}") for n, mask in enumerate(masks)])


def _clicks(points: Sequence[Any]) -> Prompts:
    """Clicks on objects, as many on each."""
    stacked = torch.from_numpy(np.stack(points))
    return Prompts(stacked, torch.ones(stacked.shape[:2], dtype=torch.int64))


def _asked(sample: PromptSample, name: str, seed: int, *, health: bool) -> dict[str, Prompts]:
    """All prompts of one sample, by what they are for."""
    if empty := [n for n, mask in enumerate(sample.masks) if not mask.any()]:
        raise UserError(f"{name} has no object in mask {empty[0]}; leave out masks without an object")
    own = prompted(sample, CLICKS, name, seed)
    asked = {CLICKS: own, BOX: prompted(sample, BOX, name, seed)}
    if not health:
        return asked
    assert own.points is not None and own.labels is not None
    # Clicks on the object first, so that one click is one on it.
    order = own.labels.argsort(dim=1, descending=True, stable=True)
    points = own.points.gather(1, order[..., None].expand(-1, -1, 2))
    labels = own.labels.gather(1, order)
    most = min(int((labels == 1).sum(1).min()), MOST_CLICKS)
    asked |= {f"{count}": Prompts(points[:, :count], labels[:, :count]) for count in range(1, most + 1)}
    nowhere = ~sample.masks.any(0).numpy()
    if nowhere.any():
        count = max(most, 1)
        moved = [draw_clicks(nowhere, count, seed, f"{name}#{n}: moved") for n in range(len(sample.masks))]
        far = np.unravel_index(int(ndimage.distance_transform_edt(nowhere).argmax()), nowhere.shape)
        asked[MOVED] = _clicks(moved)
        asked[NOTHING] = _clicks([np.array([[far[1], far[0]]], np.float32)])
    return asked


def _score(
    unit: str,
    sample: PromptSample,
    answers: dict[str, tuple[PromptPrediction, PromptPrediction]],
    how: ScoreConfig,
    rows: Rows,
    into: Measured,
) -> None:
    masks: dict[str, tuple[Tensor, Tensor]] = {}
    for name, pair in answers.items():
        if name == NOTHING:
            rows[name][unit].append(_pair(pair, lambda one: float(one.masks().float().mean())))
            continue
        found, truth = zip(*(compared(one, sample.masks, how) for one in pair), strict=True)
        if name in (CLICKS, MOVED):
            masks[name] = (found[0], found[1])
        if name == MOVED:
            continue
        ious = [binary_scores(one, true)["iou"] for one, true in zip(found, truth, strict=True)]
        rows[name][unit] += list(zip(*(each.tolist() for each in ious), strict=True))
        if name in PROMPTS:
            for side, (one, iou) in enumerate(zip(pair, ious, strict=True)):
                into.predicted[side].extend(_told(one))
                into.true[side].extend(iou.tolist())
    if MOVED in answers:
        here, there = masks[CLICKS], masks[MOVED]
        same = [binary_scores(a, b)["iou"].mean() for a, b in zip(here, there, strict=True)]
        rows[MOVED][unit].append((float(same[0]), float(same[1])))


def _told(prediction: PromptPrediction) -> list[float]:
    """The predicted IoU of each object, NaN where the mask is not a number either."""
    whole = torch.isfinite(prediction.logits).flatten(1).all(1)
    return torch.where(whole, prediction.iou, torch.nan).tolist()


def _pair(
    pair: tuple[PromptPrediction, PromptPrediction], value: Callable[[PromptPrediction], float]
) -> tuple[float, float]:
    return value(pair[0]), value(pair[1])
