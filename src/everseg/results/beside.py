"""How each domain ends beside the untouched base: learning must not make a domain worse than it was."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from everseg.results.labels import label
from everseg.results.matrix import ResultMatrix, average, forward_transfer, unseen_average
from everseg.results.store import Results

MARGIN = 0.0005
"""A difference that three decimals show: less is rounding."""


@dataclass(frozen=True)
class Beside:
    """A domain's last score and the untouched base's, NaN where not measured.

    learned: whether a stage taught it.
    forgotten: whether it was taken out again.
    """

    domain: str
    metric: str
    score: float
    base: float
    learned: bool
    background: bool
    lower_is_better: bool
    forgotten: bool

    @property
    def worse(self) -> bool:
        """Whether it ends below the untouched base; above for errors. Forgotten domains are exempt."""
        return not self.forgotten and is_worse(self.score, self.base, self.lower_is_better)

    @property
    def state(self) -> str:
        """What it is where it is not a learned domain, in a word."""
        states = {"background": self.background, "forgotten": self.forgotten, "unseen": not self.learned}
        return next((state for state, there in states.items() if there), "")

    def sentence(self) -> str:
        """That it is worse, for people."""
        kind = "the background" if self.background else "learned" if self.learned else "never learned"
        side = "above" if self.lower_is_better else "below"
        return (
            f"{self.domain} ({kind}) ends {side} the untouched base: {label(self.metric)} {self.score:.3f}, "
            f"untouched base {self.base:.3f}"
        )


def is_worse(score: float, base: float, lower_is_better: bool) -> bool:
    """Whether a score is visibly worse than the untouched base's; not where one was not measured."""
    return (base - score) * (-1 if lower_is_better else 1) >= MARGIN


def beside_base(results: Results, metric: str) -> list[Beside]:
    """Each domain after the last stage, learned or not, in the order of the columns.

    Raises:
        UserError: no such metric.
    """
    matrix = results.matrix(metric)
    last = len(matrix.stages) - 1
    return [
        Beside(
            domain,
            metric,
            float(matrix.last[j]),
            float(matrix.baseline[j]),
            bool(matrix.learned_at[j] <= last),
            bool(matrix.background[j]),
            matrix.lower_is_better,
            bool(matrix.forgotten[j]),
        )
        for j, domain in enumerate(matrix.columns)
    ]


def base_averages(matrix: ResultMatrix) -> dict[str, float]:
    """AA, FT and the mean over unseen domains as they would be had nothing been learned: the untouched base's
    scores in place of the run's."""
    if not len(matrix.stages):
        return {"AA": math.nan, "FT": math.nan, "unseen": math.nan}
    still = replace(matrix, values=np.broadcast_to(matrix.baseline, matrix.values.shape))
    return {"AA": average(still), "FT": forward_transfer(still), "unseen": unseen_average(still)}
