"""The means that class-incremental segmentation reports, read off a matrix whose columns are classes.

A column's value is the IoU of its class over the whole test set, and the background is a column that the
first stage taught. So "all" is the average of the matrix, and forgetting and transfer are those of any
stream.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np

from everseg.results.matrix import ResultMatrix, average
from everseg.results.store import ImageScore, Results

BACKGROUND = "background"
"""The column of what is not a class, as `ClassSteps.columns` names it."""


@dataclass(frozen=True)
class ClassMeans:
    """Mean IoU after a stage; NaN where there is nothing to average.

    old: classes of the first stage and the background (columns headed "0-15", and "1-15" in several papers).
    new: classes of all later stages.
    all: every class seen and the background.
    harmonic: of old and new.
    """

    old: float
    new: float
    all: float
    harmonic: float


def common_classes(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    """The classes that two runs have in the same channels, up to the first channel that differs."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False))
    return [name for name, _ in alike]


def class_means(matrix: ResultMatrix, row: int = -1, old: Collection[str] | None = None) -> ClassMeans:
    """Old, new, all and their harmonic mean, scored after `row`.

    old: names of the columns that count as old, where that is not what the first stage taught: a learner of
        all at once is held against those that learned in steps.

    Source: MiB (Cermelli et al. 2020) for old, new and all; DKD for the harmonic mean. EIR's published
    evaluation counts the background among the old classes, as here.
    """
    if not len(matrix.values):
        return ClassMeans(math.nan, math.nan, math.nan, math.nan)
    seen = matrix.tasks(row)
    scores, first = matrix.values[matrix.row(row), seen], matrix.learned_at[seen] == 0
    if old is not None:
        first = np.array([matrix.columns[column] in old for column in seen], dtype=np.bool_)
    before, after = (
        float(part.mean()) if len(part) else math.nan for part in (scores[first], scores[~first])
    )
    harmonic = 2 * before * after / (before + after) if before + after else before + after
    return ClassMeans(before, after, average(matrix, row), harmonic)


def average_over_steps(matrix: ResultMatrix) -> float:
    """Mean over the stages of the "all" measured after each, over the classes seen by then.

    It depends on what the truth says where a class has not been seen yet: background or ignored.

    Source: PLOP (Douillard et al. 2021), "avg".
    """
    rows = [average(matrix, row) for row in range(len(matrix.values))]
    return sum(rows) / len(rows) if rows else math.nan


def with_class_row(
    results: Results,
    stage: str,
    taught: Sequence[str],
    scores: Mapping[str, Mapping[str, float]],
    parts: Sequence[ImageScore] = (),
) -> Results:
    """Results with a row for a stage of classes.

    taught: columns that the stage taught; those of the first stage begin with the background.
    scores: {metric: {column: IoU}}, NaN for an absent class that no mean is to have: its column stays, and is
        no task in the averages.
    parts: as in `Results`.
    """
    cells = _cells(scores)
    absent = [column for column in taught if column not in cells]
    grown = results.with_stage(stage, cells=cells, learned=taught, background=absent)
    return replace(
        grown, parts={**results.parts, len(results.stages): tuple(parts)} if parts else results.parts
    )


def retested_classes(
    results: Results, scores: Mapping[str, Mapping[str, float]], parts: Sequence[ImageScore] = ()
) -> Results:
    """Results whose last row is measured on other test images, and no other row: see `Results.retested`."""
    last = {len(results.stages) - 1: tuple(parts)} if parts else {}
    return replace(results, cells={}, parts=last).retested(cells=_cells(scores))


def _cells(scores: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Values of each column that has them in all metrics."""
    columns = {column: None for values in scores.values() for column in values}
    return {
        column: {metric: values[column] for metric, values in scores.items()}
        for column in columns
        if not any(math.isnan(values[column]) for values in scores.values())
    }
