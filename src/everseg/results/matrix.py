"""The matrix of one metric's scores, and the averages that continual learning takes over it.

T stages (rows), K columns: domains, or classes of a class-incremental stream. a_ij is the score on column j
after learning stage i; a_jj stands for the score right after the stage that taught j, a_Tj for the last row.

Every average is NaN where a score that it needs was not measured, or where it has no terms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from everseg.errors import unknown

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ResultMatrix:
    """Scores of one metric.

    values: (T, K) float64, NaN where not measured; row i is what was measured after learning stage i.
    learned_at: (K,) the stage that taught each column; T for a column that no stage has taught.
    lower_is_better: True for errors such as MAE.
    baseline: (K,) the untouched base's scores (zero-shot), NaN where not measured.
    background: (K,) True for a domain that is not a task in the averages (SAMCL's "COCO"). The row after it
        still is a row: it is taken as a_T when it comes last.
    forgotten: (K,) True for a domain that was learned and taken out again: neither learned nor unseen.
    stages, columns: names of rows and columns.
    """

    values: Floats
    learned_at: NDArray[np.int64]
    lower_is_better: bool
    baseline: Floats
    background: NDArray[np.bool_]
    forgotten: NDArray[np.bool_]
    stages: tuple[str, ...]
    columns: tuple[str, ...]

    @classmethod
    def of(
        cls,
        values: ArrayLike,
        learned_at: Sequence[int],
        *,
        lower_is_better: bool = False,
        baseline: ArrayLike | None = None,
        background: Sequence[bool] | None = None,
    ) -> ResultMatrix:
        """A matrix of plain numbers, columns named 0, 1, ...: for scores from elsewhere."""
        array = np.asarray(values, dtype=np.float64)
        assert array.ndim == 2 and array.shape[1] == len(learned_at), f"values {array.shape}, learned_at"
        rows, width = array.shape
        zero_shot = np.full(width, np.nan) if baseline is None else np.asarray(baseline, dtype=np.float64)
        return cls(
            values=array,
            learned_at=np.asarray(learned_at, dtype=np.int64),
            lower_is_better=lower_is_better,
            baseline=zero_shot,
            background=np.asarray([False] * width if background is None else background, dtype=np.bool_),
            forgotten=np.zeros(width, dtype=np.bool_),
            stages=tuple(str(i) for i in range(rows)),
            columns=tuple(str(j) for j in range(width)),
        )

    def tasks(self, row: int = -1) -> NDArray[np.int64]:
        """Columns that had been learned by `row`, without background, in the order of the columns."""
        return np.flatnonzero((self.learned_at <= self.row(row)) & ~self.background)

    def row(self, row: int) -> int:
        """`row` counted from the front; -1 when there is no row yet."""
        return row if row >= 0 else len(self.values) + row

    def when_learned(self, columns: NDArray[np.int64]) -> Floats:
        """a_jj: each column's score right after the stage that taught it."""
        return self.values[self.learned_at[columns], columns]

    @property
    def last(self) -> Floats:
        """a_T: (K,) the last row, NaN before there is one."""
        return self.values[-1] if len(self.values) else np.full(len(self.columns), np.nan)

    @property
    def sign(self) -> float:
        """+1 where higher is better, -1 where lower is better."""
        return -1.0 if self.lower_is_better else 1.0


def _mean(terms: Floats) -> float:
    return float(np.mean(terms)) if len(terms) else math.nan


def _earlier_tasks(matrix: ResultMatrix) -> NDArray[Any]:
    """Tasks taught before the last taught one: the j < T of the textbook sums."""
    tasks = matrix.tasks()
    return tasks[matrix.learned_at[tasks] < matrix.learned_at[tasks].max()] if len(tasks) else tasks


def _later_tasks(matrix: ResultMatrix) -> NDArray[Any]:
    """Tasks taught after the first taught one: those a learner could meet unseen."""
    tasks = matrix.tasks()
    return tasks[matrix.learned_at[tasks] > matrix.learned_at[tasks].min()] if len(tasks) else tasks


def average(matrix: ResultMatrix, row: int = -1) -> float:
    """AA = (1/T) sum_j a_Tj: the mean over all that was learned by `row`, scored after `row`.

    Source: SAMCL (AAAI-26), average accuracy; Chaudhry et al. 2018, average accuracy.
    """
    return _mean(matrix.values[matrix.row(row), matrix.tasks(row)]) if len(matrix.values) else math.nan


def unseen_average(matrix: ResultMatrix, row: int = -1) -> float:
    """Mean over the domains that no stage up to `row` has taught, without background and what was forgotten;
    ours."""
    if not len(matrix.values):
        return math.nan
    chosen = np.flatnonzero((matrix.learned_at > matrix.row(row)) & ~matrix.background & ~matrix.forgotten)
    return _mean(matrix.values[matrix.row(row), chosen])


def forgetting(matrix: ResultMatrix, definition: str = "samcl") -> float:
    """FM: how much of what was learned has been lost by the last row.

    "samcl": (1/T) sum_j (a_jj - a_Tj) over all T tasks, the last included (its term is 0 unless a background
        stage follows). The sign is the paper's: for MAE a worsening is negative. Source: SAMCL (AAAI-26),
        forgetting measure.
    "chaudhry": (1/(T-1)) sum_{j<T} (max_{i<T} a_ij - a_Tj), the best earlier score, seen or unseen, against
        the last; positive is forgetting for every metric (min in place of max, and the sign turned, where
        lower is better).
        Source: Chaudhry et al. 2018, "Riemannian Walk", forgetting measure.

    Raises:
        UserError: unknown definition.
    """
    if definition == "samcl":
        tasks = matrix.tasks()
        return _mean(matrix.when_learned(tasks) - matrix.last[tasks])
    if definition == "chaudhry":
        tasks = _earlier_tasks(matrix)
        if not len(tasks):
            return math.nan
        earlier = np.where(
            np.isnan(matrix.values[:-1, tasks]), -np.inf, matrix.sign * matrix.values[:-1, tasks]
        )
        best = earlier.max(axis=0)
        return _mean(np.where(np.isinf(best), np.nan, best) - matrix.sign * matrix.last[tasks])
    raise unknown("forgetting definition", definition, ["samcl", "chaudhry"])


def backward_transfer(matrix: ResultMatrix) -> float:
    """BWT = (1/(T-1)) sum_{j<T} (a_Tj - a_jj); positive is an improvement for every metric.

    Source: Lopez-Paz and Ranzato 2017, "Gradient Episodic Memory", backward transfer.
    """
    tasks = _earlier_tasks(matrix)
    return _mean(matrix.sign * (matrix.last[tasks] - matrix.when_learned(tasks)))


def forward_transfer(matrix: ResultMatrix, definition: str = "samcl") -> float:
    """FT: how well a domain is done just before it is learned.

    "samcl": (1/(T-1)) sum_{j>1} a_{j-1,j}, the bare score on the next domain, in the metric's own direction.
        Source: SAMCL (AAAI-26), forward transfer.
    "gem": (1/(T-1)) sum_{j>1} (a_{j-1,j} - b_j) with b the untouched base; positive is an improvement for
        every metric. Source: Lopez-Paz and Ranzato 2017, forward transfer, where b is a random
        initialisation.

    Raises:
        UserError: unknown definition.
    """
    tasks = _later_tasks(matrix)
    before = matrix.values[matrix.learned_at[tasks] - 1, tasks]
    if definition == "samcl":
        return _mean(before)
    if definition == "gem":
        return _mean(matrix.sign * (before - matrix.baseline[tasks]))
    raise unknown("forward transfer definition", definition, ["samcl", "gem"])


def plasticity(matrix: ResultMatrix, alone: Mapping[str, float]) -> float:
    """P = (1/T) sum_j (a_jj - o_j): how well a domain is learned in the stream, against its own module
    trained alone; 0 is as well, negative is less well, for every metric.

    alone: o_j by column.

    Source: the intransigence of Chaudhry et al. 2018 with its sign turned, where the reference is trained on
    all tasks so far; here it is trained on the domain alone.
    """
    tasks = matrix.tasks()
    return _mean(plasticities(matrix, alone)[tasks])


def plasticities(matrix: ResultMatrix, alone: Mapping[str, float]) -> Floats:
    """(K,) the terms of `plasticity`, NaN for a column that is not a task or has no reference."""
    tasks = matrix.tasks()
    own = np.array([alone.get(matrix.columns[j], math.nan) for j in tasks], dtype=np.float64)
    terms = np.full(len(matrix.columns), np.nan)
    terms[tasks] = matrix.sign * (matrix.when_learned(tasks) - own)
    return terms


def generalisation(matrix: ResultMatrix) -> float:
    """FG: how much learning other domains has changed a domain that had not been learned yet.

    Mean over the domains that were scored without having been learned, each counting the same, of the mean of
    a_ij - b_j over the stages i after which they were; positive is an improvement on the untouched base for
    every metric.

    Source: "Transfer" of ZSCL (Zheng et al. 2023), less the untouched base's score.
    """
    terms, asked = _generalisations(matrix)
    return _mean(terms[asked])


def generalisations(matrix: ResultMatrix) -> Floats:
    """(K,) the terms of `generalisation`, NaN for a column that has none."""
    return _generalisations(matrix)[0]


def _generalisations(matrix: ResultMatrix) -> tuple[Floats, NDArray[np.bool_]]:
    """The terms, and which columns have one. As in FT, nothing can be transferred before the first task."""
    tasks, rows = matrix.tasks(), np.arange(len(matrix.values))[:, None]
    first = matrix.learned_at[tasks].min() if len(tasks) else len(rows)
    scored = (rows >= first) & (rows < matrix.learned_at) & ~matrix.background & ~np.isnan(matrix.values)
    counts = scored.sum(axis=0)
    gains = np.where(scored, matrix.sign * (matrix.values - matrix.baseline), 0.0).sum(axis=0)
    return np.divide(gains, counts, out=np.full(len(counts), np.nan), where=counts > 0), counts > 0
