"""Old, new and all classes after each step: key numbers, means, curves of the steps, and each class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from everseg.pictures.palette import class_colour
from everseg.report.cells import (
    DASH,
    Card,
    Cell,
    css,
    curves,
    heat_cell,
    known,
    meaning,
    number,
    score_card,
    stored_card,
)
from everseg.report.data import ReportData
from everseg.report.figures import colour_range
from everseg.results import (
    ResultMatrix,
    Results,
    Summary,
    average_over_steps,
    class_alarms,
    class_means,
    forgetting,
    setting_names,
)
from everseg.results.labels import label
from everseg.text import plural

MEANS = ("old", "new", "all", "harmonic")


def context(data: ReportData) -> dict[str, Any]:
    metrics, scored = enumerate(data.results.lower_is_better), "iou" in data.results.lower_is_better
    names = setting_names(data.config.get("settings", {}))
    return {
        "means": MEANS,
        "stages": data.results.stages,
        "metrics": [_metric(data.results, data.summary, metric, i) for i, metric in metrics],
        "alarms": [a.sentence(names) for a in class_alarms(data.results.matrix("iou"))] if scored else [],
    }


def _metric(results: Results, summary: Summary, metric: str, index: int) -> dict[str, Any]:
    matrix = results.matrix(metric)
    several = len(matrix.stages) > 1
    return {
        "label": label(metric),
        "meaning": meaning(metric, matrix.lower_is_better),
        "cards": key_numbers(matrix, summary),
        "rows": means_table(matrix, summary.get("first_classes")),
        "curves": curves(step_means(results, metric), metric, f"curves {index}") if several else None,
        "classes": class_table(matrix),
    }


def step_means(results: Results, metric: str) -> Results:
    """Results with a column for each step that taught classes: the mean of their scores."""
    matrix = results.matrix(metric)
    out = Results({metric: results.lower_is_better[metric]})
    tasks = matrix.tasks()
    for row, stage in enumerate(matrix.stages):
        cells = {}
        for k in range(row + 1):
            own = tasks[matrix.learned_at[tasks] == k]
            if len(own):
                cells[matrix.stages[k]] = {metric: float(matrix.values[row, own].mean())}
        out = out.with_stage(stage, cells=cells, learned=[stage] if stage in cells else [])
    return out


def key_numbers(matrix: ResultMatrix, summary: Summary) -> list[Card]:
    """The figures that papers compare, each with one plain sentence."""
    named = summary.get("first_classes")
    means, steps = class_means(matrix, old=named), len(matrix.stages)
    old = int((matrix.learned_at[matrix.tasks()] == 0).sum()) if named is None else len(named)
    new = len(matrix.tasks()) - old
    cards = [
        score_card("All", "mIoU", means.all, f"Mean over the background and all {old + new - 1} classes."),
        score_card("Old", "", means.old, f"The background and {plural(old - 1, 'class')} of the first step."),
        score_card("New", "", means.new, f"{plural(new, 'class')} of all later steps."),
        score_card("Harmonic", "mean", means.harmonic, "Of old and new: high only if both are."),
    ]
    if steps > 1:
        avg, lost = average_over_steps(matrix), forgetting(matrix)
        told = "Mean loss of a class since the step that taught it; 0 is perfect."
        cards += [
            score_card("Avg", "over steps", avg, f"Mean of All after each of {steps} steps."),
            score_card("FM", "forgetting", lost, told),
        ]
    return known([*cards, stored_card(summary, "Everything that must be kept between steps.")])


def means_table(matrix: ResultMatrix, old: Sequence[str] | None = None) -> list[tuple[str, list[Cell]]]:
    """A row for each step with a cell for each mean; last the average over several steps.

    old: as in `class_means`.
    """
    rows = []
    found = [class_means(matrix, row, old) for row in range(len(matrix.stages))]
    ends = colour_range(getattr(means, kind) for means in found for kind in MEANS)
    for stage, means in zip(matrix.stages, found, strict=True):
        cells = [
            heat_cell(getattr(means, kind), ends, matrix.lower_is_better, learned=-1, stage=0)
            for kind in MEANS
        ]
        rows.append((f"after {stage}", cells))
    if len(rows) > 1:
        over = Cell(number(average_over_steps(matrix)), "mean")
        rows.append(("average over steps", [over if kind == "all" else Cell("") for kind in MEANS]))
    return rows


def class_table(matrix: ResultMatrix) -> list[dict[str, Any]]:
    """A row for each class in the order of its channels: name, colour, the step that taught it where that
    differs from the row before, and cells: its score after each step, and the change since it was learned."""
    ends = colour_range(matrix.values.ravel().tolist())
    rows = []
    before = -1
    for j, name in enumerate(matrix.columns):
        learned = int(matrix.learned_at[j])
        step = matrix.stages[learned] if learned < len(matrix.stages) else "no step"
        cells = [
            heat_cell(value, ends, matrix.lower_is_better, learned=learned, stage=i)
            for i, value in enumerate(matrix.values[:, j].tolist())
        ]
        change = matrix.last[j] - matrix.values[learned, j] if learned < len(matrix.stages) - 1 else math.nan
        cells.append(Cell(DASH if math.isnan(change) else f"{change:+.3f}", "mean"))
        rows.append(
            {
                "name": name,
                "colour": css(class_colour(j)) if j else "",
                "step": step if learned != before else "",
                "cells": cells,
            }
        )
        before = learned
    return rows
