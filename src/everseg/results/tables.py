"""Tables for the terminal, as rich tables: `print` them with rich, or take their text with `as_text`."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from everseg.results.bootstrap import Interval, headline
from everseg.results.matrix import average
from everseg.results.routes import routing
from everseg.results.store import Results
from everseg.results.summary import Summary, bytes_text, stored_bytes

DASH = "–"  # noqa: RUF001 - an en dash is what stands for "not measured"


def as_text(table: Table, width: int = 160) -> str:
    """A table as plain text without colours, for logs and files."""
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None, legacy_windows=False).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip().splitlines())


def number(value: float, digits: int = 3) -> str:
    """A score, or a dash where it was not measured."""
    return DASH if math.isnan(value) else f"{value:.{digits}f}"


def interval(value: Interval) -> str:
    """A score with its interval behind it, where there is one."""
    if math.isnan(value.low):
        return number(value.estimate)
    return f"{number(value.estimate)} [{value.low:.3f}, {value.high:.3f}]"


def table(results: Results, metric: str) -> Table:
    """One run's result matrix: a row for each learned stage, a column for each domain.

    A score is bold right after its domain was learned and dim before. AA is the mean over what had been
    learned.
    """
    matrix = results.matrix(metric)
    better = "lower is better" if matrix.lower_is_better else "higher is better"
    drawn = Table(title=Text(f"{metric} ({better})"), title_justify="left", box=SIMPLE_HEAD)
    drawn.add_column("after")
    for name, background in zip(matrix.columns, matrix.background, strict=True):
        drawn.add_column(Text(f"({name})" if background else name), justify="right")
    drawn.add_column("AA", justify="right")
    if not all(math.isnan(value) for value in matrix.baseline):
        cells = [Text(number(value), style="dim") for value in matrix.baseline]
        drawn.add_row(Text("untouched base", style="dim"), *cells, "", end_section=True)
    for i, stage in enumerate(matrix.stages):
        cells = []
        for j, value in enumerate(matrix.values[i]):
            style = "bold" if matrix.learned_at[j] == i else "dim" if matrix.learned_at[j] > i else ""
            cells.append(Text(number(value), style=style))
        drawn.add_row(Text(stage), *cells, number(average(matrix, i)))
    return drawn


def compare_table(
    runs: Sequence[tuple[str, Results, Summary]], metric: str = "iou", samples: int = 1000
) -> Table:
    """Runs side by side: AA, FM, FT with 95 % intervals over test images, routing, bytes, seconds."""
    drawn = Table(
        title=Text(f"{metric}, 95 % intervals over test images"), title_justify="left", box=SIMPLE_HEAD
    )
    drawn.add_column("run")
    drawn.add_column("method")
    for name in ("AA", "FM", "FT", "routing", "stored", "trainable", "seconds"):
        drawn.add_column(name, justify="right")
    for name, results, summary in runs:
        found = headline(results, metric, samples=samples)
        routes = routing(results)
        stored = stored_bytes(summary)
        drawn.add_row(
            Text(name),
            Text(summary.get("method", DASH)),
            *(Text(interval(found[key])) for key in ("AA", "FM", "FT")),
            DASH if routes is None else number(routes.accuracy),
            DASH if stored is None else bytes_text(stored),
            f"{summary['trainable_parameters']:,}" if "trainable_parameters" in summary else DASH,
            f"{sum(summary['stage_seconds']):.1f}" if "stage_seconds" in summary else DASH,
        )
    return drawn
