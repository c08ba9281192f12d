"""Tables for the terminal, as rich tables: `print` them with rich, or take their text with `as_text`."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from everseg.results.beside import Beside, base_averages, beside_base, is_worse
from everseg.results.bootstrap import Interval, headline
from everseg.results.further import MEANINGS, PER_METRIC, Further
from everseg.results.matrix import average
from everseg.results.routes import Routing, routing
from everseg.results.store import Results
from everseg.results.summary import Summary, bytes_text, stored_bytes
from everseg.types import OUTSIDE

DASH = "–"  # noqa: RUF001 - an en dash is what stands for "not measured"

WORSE, RED = "! ", "bold red"
"""The mark and the style of what is worse than the untouched base."""

LEGEND = "!: worse than the untouched base"

FORGOTTEN = " (forgotten)"
"""Behind the name or the score of a domain that was taken out of a run."""


def as_text(table: Table, width: int = 160) -> str:
    """A table as plain text without colours, for logs and files."""
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None, legacy_windows=False, force_jupyter=False).print(
        table
    )
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
    learned. In the last row, scores below the untouched base are red, with a mark.
    """
    matrix = results.matrix(metric)
    better = "lower is better" if matrix.lower_is_better else "higher is better"
    drawn = Table(title=Text(f"{metric} ({better})"), title_justify="left", box=SIMPLE_HEAD)
    drawn.add_column("after")
    ends = beside_base(results, metric)
    for each in ends:
        name = f"({each.domain})" if each.background else each.domain
        drawn.add_column(Text(name + FORGOTTEN if each.forgotten else name), justify="right")
    drawn.add_column("AA", justify="right")
    if not all(math.isnan(value) for value in matrix.baseline):
        cells = [Text(number(value), style="dim") for value in matrix.baseline]
        drawn.add_row(Text("untouched base", style="dim"), *cells, "", end_section=True)
    for i, stage in enumerate(matrix.stages):
        cells = []
        for j, value in enumerate(matrix.values[i]):
            style = "bold" if matrix.learned_at[j] == i else "dim" if matrix.learned_at[j] > i else ""
            worse = ends[j].worse and i == len(matrix.stages) - 1
            cells.append(
                Text(WORSE + number(value), style=RED) if worse else Text(number(value), style=style)
            )
        drawn.add_row(Text(stage), *cells, number(average(matrix, i)))
    return _explained(drawn, any(each.worse for each in ends))


def compare_table(
    runs: Sequence[tuple[str, Results, Summary]], metric: str = "iou", samples: int = 1000, what: str = ""
) -> Table:
    """Runs side by side: AA, FM, FT and the mean over unseen domains, with 95 % intervals over test images,
    and below each what the untouched base has; routing, bytes, seconds.

    what: what the runs are, for the title.
    """
    found = [headline(results, metric, samples=samples) for _, results, _ in runs]
    kinds = ["AA", "FM", "FT"]
    if not all(math.isnan(each["unseen"].estimate) for each in found):
        kinds.append("unseen")
    title = f"{what}{': ' if what else ''}{metric}, 95 % intervals over test images"
    drawn = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD)
    drawn.add_column("run")
    drawn.add_column("method")
    routed = [routing(results) for _, results, _ in runs]
    turned = any(routes is not None and OUTSIDE in routes.modules for routes in routed)
    for name in (*kinds, "routing", *(["outside"] if turned else []), "stored", "trainable", "seconds"):
        drawn.add_column(name, justify="right")
    worse = False
    for (name, results, summary), scores, routes in zip(runs, found, routed, strict=True):
        stored = stored_bytes(summary)
        matrix = results.matrix(metric)
        base = base_averages(matrix)
        drawn.add_row(
            Text(name),
            Text(summary.get("method", DASH)),
            *(_beside(scores[key], base.get(key, math.nan), matrix.lower_is_better) for key in kinds),
            DASH if routes is None else number(routes.accuracy),
            *([_outside(routes)] if turned else []),
            DASH if stored is None else bytes_text(stored),
            f"{summary['trainable_parameters']:,}" if "trainable_parameters" in summary else DASH,
            f"{sum(summary['stage_seconds']):.1f}" if "stage_seconds" in summary else DASH,
        )
        worse |= any(is_worse(scores[k].estimate, base[k], matrix.lower_is_better) for k in base)
    return _explained(drawn, worse)


def _outside(routes: Routing | None) -> Text:
    """The share of images for which no domain was plausible: of the domains learned, and of others."""
    if routes is None or OUTSIDE not in routes.modules:
        return Text(DASH)
    shown = Text(number(routes.outside(learned=True)))
    unseen = routes.outside(learned=False)
    return shown if math.isnan(unseen) else Text.assemble(shown, "\n", (f"unseen {number(unseen)}", "dim"))


def _beside(score: Interval, base: float, lower_is_better: bool) -> Text:
    """A figure, and below it the untouched base's where it was measured."""
    if math.isnan(base):
        return Text(interval(score))
    worse = is_worse(score.estimate, base, lower_is_better)
    return Text("\n").join([_marked(interval(score), worse), Text(f"base {number(base)}", style="dim")])


def domains_table(runs: Sequence[tuple[str, Results]], metric: str = "iou") -> Table:
    """Each domain after the last stage of each run, learned, forgotten or neither, beside the untouched
    base."""
    title = f"{metric} at the end"
    drawn = Table(title=Text(title), title_justify="left", box=SIMPLE_HEAD)
    drawn.add_column("domain")
    found = [{each.domain: each for each in beside_base(results, metric)} for _, results in runs]
    for name, _ in runs:
        drawn.add_column(Text(name), justify="right")
    for domain in dict.fromkeys(domain for own in found for domain in own):
        known = [own[domain] for own in found if domain in own]
        name = f"({domain})" if any(each.background for each in known) else domain
        unseen = "" if any(each.learned or each.forgotten for each in known) else ", unseen"
        forgotten = [domain in results.forgotten for _, results in runs]
        endings = (_ending(own.get(domain), gone) for own, gone in zip(found, forgotten, strict=True))
        drawn.add_row(Text(name + unseen), *endings)
    return _explained(drawn, any(each.worse for own in found for each in own.values()))


def _explained(drawn: Table, worse: bool) -> Table:
    """A table with what its mark means, where it has one."""
    drawn.caption = Text(LEGEND, style="red") if worse else None
    drawn.caption_justify = "left"
    return drawn


def _ending(found: Beside | None, forgotten: bool) -> Text:
    behind = FORGOTTEN if forgotten else ""
    if found is None:
        return Text(DASH + behind)
    shown = _marked(number(found.score) + behind, found.worse)
    base = Text(f" (base {number(found.base)})", style="dim")
    return shown if math.isnan(found.base) else Text.assemble(shown, base)


def _marked(shown: str, worse: bool, style: str = "") -> Text:
    """A score, red and with a mark where it is worse than the untouched base's."""
    return Text(WORSE + shown, style=RED) if worse else Text(shown, style=style)


def worse_lines(name: str, results: Results, metric: str) -> list[Text]:
    """A red sentence for each domain that ends below the untouched base.

    name: of the run, or "".
    """
    prefix = f"{name}: " if name else ""
    return [
        Text(WORSE + prefix + each.sentence(), style=RED)
        for each in beside_base(results, metric)
        if each.worse
    ]


def further_table(runs: Sequence[tuple[str, Further]], metric: str = "iou") -> Table:
    """The further figures of runs side by side, with 95 % intervals over test images, and the untouched
    base's below where it has one.

    metric: that of the figures that depend on one.
    """
    kinds = dict.fromkeys(kind for _, found in runs for kind in found.figures)
    of = {kind: metric if kind in PER_METRIC else "" for kind in kinds}
    drawn = Table(box=SIMPLE_HEAD)
    drawn.add_column("run")
    for kind in kinds:
        drawn.add_column(f"{spoken(kind)}\n{of[kind]}".rstrip(), justify="right")
    for name, found in runs:
        cells = []
        for kind in kinds:
            value = found.figures.get(kind, Interval(math.nan, math.nan, math.nan))
            below = 0.0 if kind == "generalisation" else math.nan
            shown = _marked(interval(value), is_worse(value.estimate, below, lower_is_better=False))
            base = found.base.get(kind, math.nan)
            told = Text(f"base {number(base)}", style="dim")
            cells.append(shown if math.isnan(base) else Text("\n").join([shown, told]))
        drawn.add_row(Text(name), *cells)
    return drawn


def further_lines(runs: Sequence[tuple[str, Further]], good: float) -> list[Text]:
    """What each further figure means, and for each run why one is not known."""
    kinds = dict.fromkeys(kind for _, found in runs for kind in found.figures)
    meanings = [Text(f"{spoken(kind)}: {MEANINGS[kind]}", style="dim") for kind in kinds]
    if any(kind not in PER_METRIC for kind in kinds):
        meanings.append(Text(f"good: IoU of {good:g} or more, mean over an image's objects", style="dim"))
    unknown: dict[tuple[str, str], list[str]] = {}
    for name, found in runs:
        for gap in found.missing.items():
            unknown.setdefault(gap, []).append(name)
    gaps = [
        Text(f"{spoken(kind)} of {', '.join(names)} is not known: {why}")
        for (kind, why), names in unknown.items()
    ]
    taken = [
        Text(f"plasticity of {name}: modules trained alone are taken from {', '.join(sorted({*sources}))}")
        for name, found in runs
        if "plasticity" in found.figures and (sources := found.alone_from.values())
    ]
    return [*meanings, *taken, *gaps]


def spoken(kind: str) -> str:
    """A further figure's name for people."""
    return kind.replace("_", " ")
