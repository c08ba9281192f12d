"""How each stage's training went: its loss, and the scores on validation images, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from everseg.report.cells import Chart, number
from everseg.report.data import ReportData, TrainingCurve
from everseg.report.figures import plot_trainings, svg


def context(data: ReportData) -> dict[str, Any] | None:
    trained = [training for training in data.trainings if training.epochs]
    if not trained:
        return None
    return {
        "losses": chart(trained, "loss", "losses"),
        "val": chart([t for t in trained if t.val], "score on validation images", "validation"),
    }


def chart(trainings: Sequence[TrainingCurve], what: str, name: str) -> Chart | None:
    """Losses or scores over the epochs.

    name: keeps several charts of one page apart.
    """
    if not trainings:
        return None
    values = {t.name: (t.epochs, t.losses if what == "loss" else t.val, t.best) for t in trainings}
    drawn = plot_trainings(values, what)
    told = [
        f"{n} {number(v[0])} after the first epoch, {number(v[-1])} after the last"
        for n, (_, v, _) in values.items()
    ]
    return Chart(svg(drawn, name), f"{what} over the epochs: " + "; ".join(told))
