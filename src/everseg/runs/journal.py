"""Write the readings of a training to the run's log and to trackers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from everseg.progress import Curve, Reading
from everseg.runs.folder import append_events
from everseg.runs.record import Line, Progress, Training
from everseg.runs.run import Run

SHARE = 0.02
"""A reading is logged after this share of the stage's time so far: ten hours give some 200 lines, a hundred
hours fewer than twice as many."""

POINTS = 200
"""Maximum number of epochs of a training in the log."""


class Journal:
    """Writes the readings of one stage to the log of a run, less often the longer the stage takes."""

    def __init__(self, run: Run, stage: str) -> None:
        self.run, self.stage = run, stage
        self.last = -math.inf

    def __call__(self, what: Reading | Curve) -> None:
        if isinstance(what, Curve):
            append_events(self.run, [self._training(what)])
        elif what.left == 0 or what.seconds - self.last >= SHARE * what.seconds:
            self.last = what.seconds
            append_events(self.run, [self._progress(what)])

    def _progress(self, reading: Reading) -> Line:
        return Progress(
            self.stage,
            reading.name,
            reading.step,
            reading.steps,
            reading.epoch,
            reading.epochs,
            reading.loss if math.isfinite(reading.loss) else None,
            reading.images_per_second,
            reading.seconds,
            reading.left,
            reading.score,
        )

    def _training(self, curve: Curve) -> Line:
        told = _evenly(len(curve.losses), curve.best)
        losses = tuple(curve.losses[epoch - 1] for epoch in told)
        scores = tuple(curve.scores[epoch - 1] for epoch in told) if curve.scores else ()
        return Training(self.stage, curve.name, tuple(told), losses, scores, curve.best)


def _evenly(epochs: int, best: int) -> Sequence[int]:
    """Some of the epochs 1, 2, ...: evenly spread, the last and the best among them."""
    step = max(1, math.ceil(epochs / POINTS))
    return sorted({*range(epochs, 0, -step), *([best] if best else [])})
