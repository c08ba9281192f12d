"""Each domain's score after each stage: key numbers, result matrix and curves for each metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from everseg.report.cells import (
    Card,
    Cell,
    curves,
    heat_cell,
    known,
    meaning,
    number,
    score_card,
    stored_card,
)
from everseg.report.data import ReportData
from everseg.report.figures import colour_range, with_base
from everseg.results import (
    ResultMatrix,
    Results,
    Summary,
    average,
    base_averages,
    beside_base,
    headline,
    routing,
)
from everseg.results.labels import label


def context(data: ReportData) -> dict[str, Any]:
    metrics = enumerate(data.results.lower_is_better)
    return {"metrics": [_metric(data.results, data.summary, metric, i) for i, metric in metrics]}


def _metric(results: Results, summary: Summary, metric: str, index: int) -> dict[str, Any]:
    matrix = results.matrix(metric)
    cards, ends = key_numbers(results, summary, metric), beside_base(results, metric)
    return {
        "label": label(metric),
        "lower_is_better": matrix.lower_is_better,
        "meaning": meaning(metric, matrix.lower_is_better),
        "cards": cards,
        "below": [each.sentence() for each in ends if each.worse],
        "columns": [f"{each.domain} ({each.state})" if each.state else each.domain for each in ends],
        "rows": heat_map(matrix, [each.worse for each in ends]),
        "curves": curves(results, metric, f"curves {index}"),
    }


def key_numbers(results: Results, summary: Summary, metric: str) -> list[Card]:
    """The figures that papers compare, each with one plain sentence."""
    matrix, found, name = results.matrix(metric), headline(results, metric), label(metric)
    untouched = {
        key: "" if math.isnan(value) else f" Untouched base: {value:.3f}."
        for key, value in base_averages(matrix).items()
    }
    told = f" With the true domain given: {summary['oracle'][metric]:.3f}." if "oracle" in summary else ""
    worse = "below" if matrix.lower_is_better else "above"
    routes = routing(results)
    meanings = {
        "AA": f"Mean {name} over all learned domains at the end.{untouched['AA']}{told}",
        "FM": f"Mean change since each domain was learned; 0 is perfect, {worse} 0 is forgetting.",
        "FT": f"Mean {name} on each domain just before its stage.{untouched['FT']}",
        "unseen": f"Mean {name} on domains that were never learned.{untouched['unseen']}",
        "routing": "Share of images sent to their own domain's module.",
        "stored": "Everything that must be kept besides the base model.",
    }
    return known(
        [
            score_card("AA", "average", found["AA"], meanings["AA"]),
            score_card("FM", "forgetting", found["FM"], meanings["FM"]),
            score_card("FT", "forward transfer", found["FT"], meanings["FT"]),
            score_card("Unseen", "", found["unseen"], meanings["unseen"]),
            score_card("Routing", "accuracy", routes.accuracy, meanings["routing"]) if routes else None,
            stored_card(summary, meanings["stored"]),
        ]
    )


def heat_map(matrix: ResultMatrix, worse: Sequence[bool]) -> list[tuple[str, list[Cell]]]:
    """The rows of the result matrix: a name, a cell per domain, and their mean over learned domains.

    worse: for each domain, whether it ends below the untouched base.
    """
    names, values = with_base(matrix)
    offset = len(names) - len(matrix.stages)
    ends = colour_range(values.ravel().tolist())
    rows = []
    for i, name in enumerate(names):
        last = i == len(names) - 1 >= offset
        cells = [
            heat_cell(
                value,
                ends,
                matrix.lower_is_better,
                learned=int(matrix.learned_at[j]),
                stage=i - offset,
                below=last and worse[j],
            )
            for j, value in enumerate(values[i].tolist())
        ]
        mean = number(average(matrix, i - offset)) if i >= offset else ""
        rows.append((name if i < offset else f"after {name}", [*cells, Cell(mean, "mean")]))
    return rows
