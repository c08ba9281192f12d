"""The scores of a run of classes: their means after each step, by the step that taught them, and each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from everseg.pictures.palette import class_colour
from everseg.report.figures import colour_range, label, plot_curves, svg
from everseg.report.html import DASH, number, section, swatch, table, text
from everseg.report.scores import card, curves_in_words, heat_cell
from everseg.results import (
    ResultMatrix,
    Results,
    Summary,
    average_over_steps,
    bytes_text,
    class_means,
    forgetting,
    stored_bytes,
)
from everseg.results.metrics import METRICS

MEANS = ("old", "new", "all", "harmonic")


def class_panel(results: Results, summary: Summary, metric: str, index: int) -> str:
    """All about one metric of a run whose columns are classes."""
    matrix = results.matrix(metric)
    return (
        key_numbers(matrix, summary)
        + section(
            "Old and new classes after each step",
            means_table(matrix, summary.get("first_classes")),
            f"Mean {label(metric)} over classes; each class's is taken over all pixels of the test set.",
        )
        + (_curves(results, metric, index) if len(matrix.stages) > 1 else "")
        + section("Each class", class_table(matrix, metric), _meaning(metric))
    )


def _curves(results: Results, metric: str, index: int) -> str:
    steps = step_means(results, metric)
    curves = svg(plot_curves(steps, metric), f"curves {index}")
    words = text(curves_in_words(steps.matrix(metric)))
    return section(
        "What happens to the classes of each step",
        f'<div class="scroll"><div class="chart" role="img" aria-label="{words}">{curves}</div></div>',
        "The mean of the classes that a step taught, the background among the first. A ring marks that "
        "step. A line that falls after its ring is forgetting.",
    )


def _meaning(metric: str) -> str:
    meaning = METRICS[metric].meaning if metric in METRICS else ""
    return f"{label(metric)}: {meaning}. Higher is better." if meaning else "Higher is better."


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


def key_numbers(matrix: ResultMatrix, summary: Summary) -> str:
    """The figures that papers compare, each with one plain sentence."""
    named = summary.get("first_classes")
    means, steps = class_means(matrix, old=named), len(matrix.stages)
    old = int((matrix.learned_at[matrix.tasks()] == 0).sum()) if named is None else len(named)
    new = len(matrix.tasks()) - old
    found = [
        ("All", "mIoU", means.all, f"Mean over the background and all {old + new - 1} classes."),
        ("Old", "", means.old, f"The background and the {old - 1} classes of the first step."),
        ("New", "", means.new, f"The {new} classes of all later steps."),
        ("Harmonic", "mean", means.harmonic, "Of old and new: high only if both are."),
    ]
    if steps > 1:
        told = "Mean loss of a class since the step that taught it; 0 is perfect."
        found += [
            ("Avg", "over steps", average_over_steps(matrix), f"Mean of All after each of {steps} steps."),
            ("FM", "forgetting", forgetting(matrix), told),
        ]
    cards = [card(n, extra, number(v), "", told) for n, extra, v, told in found if not math.isnan(v)]
    stored = stored_bytes(summary)
    if stored is not None:
        meaning = "All that must be kept between steps."
        cards.append(card("Stored", "", bytes_text(stored), "", meaning))
    return f'<dl class="cards">{"".join(cards)}</dl>\n'


def means_table(matrix: ResultMatrix, old: Sequence[str] | None = None) -> str:
    """A row for each step, a column for each mean; last the average over several steps. old: as in
    `class_means`."""
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
        over = ["", "", f'<td class="mean">{number(average_over_steps(matrix))}</td>', ""]
        rows.append(("average over steps", [cell or "<td></td>" for cell in over]))
    caption = (
        "Old: the background and the classes of the first step; new: those of all later steps seen by then; "
        "all: both; harmonic: the harmonic mean of old and new."
    )
    return table(caption, ["", *MEANS], rows, "heat")


def class_table(matrix: ResultMatrix, metric: str) -> str:
    """A row for each class in the order of its channels, with its colour; a column for each step."""
    ends = colour_range(matrix.values.ravel().tolist())
    rows = []
    before = -1
    for j, name in enumerate(matrix.columns):
        learned = int(matrix.learned_at[j])
        taught = matrix.stages[learned] if learned < len(matrix.stages) else "no step"
        colour = swatch(class_colour(j)) if j else ""
        cells = [
            f'<td class="key">{colour}</td>',
            f'<td class="step">{text(taught) if learned != before else ""}</td>',
        ]
        before = learned
        for i, value in enumerate(matrix.values[:, j].tolist()):
            cells.append(heat_cell(value, ends, matrix.lower_is_better, learned=learned, stage=i))
        change = matrix.last[j] - matrix.values[learned, j] if learned < len(matrix.stages) - 1 else math.nan
        cells.append(f'<td class="mean">{DASH if math.isnan(change) else f"{change:+.3f}"}</td>')
        rows.append((name, cells))
    caption = (
        f"{label(metric)} of each class (rows) after each step (columns). Framed: right after the class was "
        "learned; change: since then. The colours are those of the pictures."
    )
    return table(caption, ["", "", "step", *matrix.stages, "change"], rows, "heat classes")
