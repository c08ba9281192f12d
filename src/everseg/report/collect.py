"""From a run and its stream to what a report shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from everseg.config import plain as plain_values
from everseg.data import Stream
from everseg.report.choice import map_examples, mask_examples
from everseg.report.data import MapExample, MaskExample, ReportData, TrainingCurve
from everseg.results.flips import GOOD
from everseg.runs.alone import with_alone
from everseg.runs.run import Run


def collect(run: Run, stream: Stream | None, count: int = 3, good: float = GOOD) -> ReportData:
    """A run's report: its scores, losses and costs, and `count` test images per domain or step.

    stream: the run's, or None where its data are not available; then no images are shown.
    good: IoU from which an image counts as good.
    """
    panels = run.problem.panels
    shown = {
        panel: examples(run, stream, count)
        for panel, examples in EXAMPLES.items()
        if panel in panels and stream is not None
    }
    trainings = [
        TrainingCurve(
            t.stage if t.fit == t.stage else f"{t.stage}: {t.fit}", t.epochs, t.losses, t.val, t.best
        )
        for t in run.trainings()
    ]
    return ReportData(
        run.folder.name,
        plain_values(run.config),
        run.results,
        with_alone(run, ()),
        panels,
        **shown,
        trainings=trainings,
        further=run.problem.further,
        good=good,
    )


def _masks(run: Run, stream: Stream, count: int) -> list[MaskExample]:
    tests = {stage.name: stage.test for stage in (*stream.stages, *stream.unseen)}
    return mask_examples(run.learner.predict, run.problem.untouched(run), run.results, tests, count)


def _maps(run: Run, stream: Stream, count: int) -> list[MapExample]:
    known = [stage for stage in stream.stages if set(stage.classes) <= set(run.results.learned_at)]
    # Shown at the size that it was scored at.
    return map_examples(run.learner.predict, known, count, run.config.score.size)


EXAMPLES: dict[str, Callable[[Run, Stream, int], Sequence[Any]]] = {"masks": _masks, "maps": _maps}
"""The panels that show test images, and what finds and predicts these."""
