"""Negative flips: test images that were good once and are bad now, whatever the mean does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from everseg.results.store import BASE, ImageScore, Results

METRIC = "iou"

GOOD = 0.5
"""The IoU from which an image counts as good: what detection takes for a hit."""

Since = Literal["learned", "base"]
"""Which state an image was good in: right after its domain was learned, or the untouched base."""


@dataclass(frozen=True)
class Flips:
    """One domain's test images in two states.

    images: names of those scored in both.
    flipped: of those that were good and are bad now.
    """

    images: tuple[str, ...]
    flipped: tuple[str, ...]

    @property
    def rate(self) -> float:
        """NFR: negative flips as a share of all images. Source: Yan et al. 2021."""
        return len(self.flipped) / len(self.images) if self.images else math.nan


def negative_flips(results: Results, since: Since, good: float = GOOD) -> dict[str, Flips]:
    """The flips of each domain between a former state and the last row; domains whose images were not scored
    one by one in both are left out. In a run of classes, of each stage: the images that show its classes.

    since: "learned": right after its stage, for domains that were learned. "base": the untouched base, for
        domains that were never learned and for background, too.
    """
    last = len(results.stages) - 1
    if METRIC not in results.lower_is_better or last < 0:
        return {}
    scores, learned_at = results.scores, results.learned_at
    if results.parts:
        scores, learned_at = results.parts, {stage: row for row, stage in enumerate(results.stages)}
    found = {}
    for column in learned_at if since == "learned" else results.columns:
        row = BASE if since == "base" else learned_at[column]
        before, now = (_values(scores.get(r, ()), column) for r in (row, last))
        # Other images, as after new test data, say nothing about a flip.
        if before and set(before) == set(now):
            flipped = (image for image, value in before.items() if value >= good > now[image])
            found[column] = Flips(tuple(before), tuple(flipped))
    return found


def _values(scores: Sequence[ImageScore], column: str) -> dict[str, float]:
    return {score.image: score.values[METRIC] for score in scores if score.column == column}
