"""What a reader needs to know about each score, without anything to compute it with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """What a reader needs to know about a score: its label, which way is better, and one plain sentence."""

    label: str
    lower_is_better: bool
    meaning: str


METRICS = {
    "iou": Metric("IoU", False, "overlap of the predicted and the true mask, as a share of their union"),
    "f1": Metric("F1", False, "harmonic mean of precision and recall over pixels (also called Dice)"),
    "mae": Metric("MAE", True, "share of the image's pixels that are labelled wrongly"),
}
"""The scores of domains, by the names that results, settings and options have for them."""


def label(metric: str) -> str:
    """What a metric is called in text; its name where nothing is known about it."""
    return METRICS[metric].label if metric in METRICS else metric
