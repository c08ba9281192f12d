"""The part of the page about scores: key numbers, heat map and curves for each metric, and routing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from everseg.report.figures import colour, colour_range, label, plot_curves, svg, with_base
from everseg.report.html import number, section, table, text
from everseg.results import (
    Interval,
    ResultMatrix,
    Results,
    Summary,
    average,
    bytes_text,
    headline,
    routing,
    stored_bytes,
)
from everseg.results.metrics import METRICS

Panel = Callable[[Results, Summary, str, int], str]
"""From results, summary and a metric to HTML; the number keeps several panels in one page apart."""


def panels(results: Results, summary: Summary, panel: Panel) -> str:
    """A panel for each metric, one visible at a time, switched by radio buttons without any script."""
    metrics = list(results.lower_is_better)
    switches = "".join(
        f'<input type="radio" name="metric" id="metric-{i}"{" checked" if i == 0 else ""}>'
        f'<label for="metric-{i}">{text(label(metric))}</label>'
        for i, metric in enumerate(metrics)
    )
    shown = "".join(f"#metric-{i}:checked ~ .panel-{i} {{ display: block }}\n" for i in range(len(metrics)))
    bodies = "".join(
        f'<div class="panel panel-{i}">{panel(results, summary, metric, i)}</div>\n'
        for i, metric in enumerate(metrics)
    )
    return (
        f"<style>{shown}</style>\n"
        f'<div class="metrics"><span class="hint" aria-hidden="true">Metric</span>{switches}\n'
        f"{bodies}</div>\n"
    )


def domain_panel(results: Results, summary: Summary, metric: str, index: int) -> str:
    matrix = results.matrix(metric)
    meaning = METRICS[metric].meaning if metric in METRICS else ""
    better = "Lower is better." if matrix.lower_is_better else "Higher is better."
    curves, words = svg(plot_curves(results, metric), f"curves {index}"), text(curves_in_words(matrix))
    return (
        key_numbers(results, summary, metric)
        + section(
            f"{label(metric)} after each stage",
            heat_map(matrix, metric),
            f"{label(metric)}: {meaning}. {better}" if meaning else better,
        )
        + section(
            "What happens to each domain",
            f'<div class="scroll"><div class="chart" role="img" aria-label="{words}">{curves}</div></div>',
            "A ring marks the stage that taught the domain; the line is thin before. "
            f"A line that {'rises' if matrix.lower_is_better else 'falls'} after its ring is forgetting.",
        )
    )


def key_numbers(results: Results, summary: Summary, metric: str) -> str:
    """The figures that papers compare, each with one plain sentence."""
    matrix, found, name = results.matrix(metric), headline(results, metric), label(metric)
    base = matrix.baseline[matrix.tasks()]
    untouched = (
        f" The untouched base has {base.mean():.3f}." if len(base) and not np.isnan(base).any() else ""
    )
    told = f" Told each image's domain: {summary['oracle'][metric]:.3f}." if "oracle" in summary else ""
    direction = "below 0 is forgetting" if matrix.lower_is_better else "above 0 is forgetting"
    cards = [
        _score(
            "AA", "average", found["AA"], f"Mean {name} on all learned domains at the end.{untouched}{told}"
        ),
        _score(
            "FM",
            "forgetting",
            found["FM"],
            f"Mean change since each domain was learned; 0 is perfect, {direction}.",
        ),
        _score("FT", "forward transfer", found["FT"], f"Mean {name} on each domain just before its stage."),
        _score("Unseen", "", found["unseen"], f"Mean {name} on domains that were never learned."),
    ]
    routes = routing(results)
    if routes is not None:
        cards.append(
            card(
                "Routing",
                "accuracy",
                number(routes.accuracy),
                "",
                "Share of images sent to their own domain's module.",
            )
        )
    stored = stored_bytes(summary)
    if stored is not None:
        cards.append(
            card("Stored", "", bytes_text(stored), "", "All that must be kept besides the base model.")
        )
    known = not math.isnan(found["AA"].low)
    note = '<p class="hint">Small figures: 95 % intervals over test images.</p>\n' if known else ""
    return f'<dl class="cards">{"".join(cards)}</dl>\n{note}'


def _score(name: str, long: str, value: Interval, meaning: str) -> str:
    if math.isnan(value.estimate):
        return ""
    ends = "" if math.isnan(value.low) else f"{value.low:.3f} to {value.high:.3f}"
    return card(name, long, number(value.estimate), ends, meaning)


def card(name: str, long: str, value: str, ends: str, meaning: str) -> str:
    return (
        f'<div><dt>{text(name)} <span class="hint">{text(long)}</span></dt>'
        f'<dd class="value">{text(value)}</dd><dd class="hint ends">{text(ends)}</dd>'
        f'<dd class="meaning">{text(meaning)}</dd></div>'
    )


def heat_map(matrix: ResultMatrix, metric: str) -> str:
    """The result matrix as a table whose cells are coloured: it can be read aloud, copied and printed."""
    names, values = with_base(matrix)
    offset = len(names) - len(matrix.stages)
    ends = colour_range(values.ravel().tolist())
    rows = []
    for i, name in enumerate(names):
        cells = [
            heat_cell(
                value, ends, matrix.lower_is_better, learned=int(matrix.learned_at[j]), stage=i - offset
            )
            for j, value in enumerate(values[i].tolist())
        ]
        mean = number(average(matrix, i - offset)) if i >= offset else ""
        rows.append((name if i < offset else f"after {name}", [*cells, f'<td class="mean">{mean}</td>']))
    columns = [
        f"{c} (background)" if b else c for c, b in zip(matrix.columns, matrix.background, strict=True)
    ]
    caption = (
        f"{label(metric)} of each domain (columns) after each stage (rows). Framed: right after the domain "
        "was learned; slanted: not yet learned; AA: mean over learned domains."
    )
    return table(caption, ["", *columns, "AA"], rows, "heat")


def heat_cell(
    value: float, ends: tuple[float, float], lower_is_better: bool, *, learned: int, stage: int
) -> str:
    if math.isnan(value):
        return f'<td class="none">{number(value)}</td>'
    ground, ink = colour(value, ends, lower_is_better)
    kind = "learned" if stage == learned else "unseen" if stage < learned else "seen"
    return f'<td class="{kind}" style="background:{ground};color:{ink}"><span>{number(value)}</span></td>'


def curves_in_words(matrix: ResultMatrix) -> str:
    """What the curves show, for those who cannot see them."""
    told = []
    for j in matrix.tasks():
        then, now = matrix.values[matrix.learned_at[j], j], matrix.last[j]
        told.append(f"{matrix.columns[j]} {number(then)} when learned, {number(now)} at the end")
    return "Curves of each domain over the stages: " + "; ".join(told)


def routing_table(results: Results) -> str:
    """Which module each domain's images were sent to after the last stage."""
    routes = routing(results)
    if routes is None:
        return ""
    rows = []
    for k, domain in enumerate(routes.domains):
        total = int(routes.counts[k].sum())
        cells = []
        for m, module in enumerate(routes.modules):
            count = int(routes.counts[k, m])
            ground, ink = colour(count / total, (0.0, 1.0), lower_is_better=False)
            style = f' style="background:{ground};color:{ink}"' if count else ' class="none"'
            own = ' class="learned"' if count and module == domain else ""
            cells.append(f"<td{own}{style}><span>{count}</span></td>")
        share = routes.right[k]
        right = "unseen" if math.isnan(share) else f"{100 * share:.1f} %"
        rows.append((domain, [*cells, f'<td class="mean">{right}</td>']))
    body = table(
        "Test images of each domain (rows) by the module chosen for them (columns), after the last stage.",
        ["", *routes.modules, "right"],
        rows,
        "heat",
    )
    return section(
        "Which module was chosen",
        body,
        "The method is not told where an image comes from. Framed: the domain's own module.",
    )
