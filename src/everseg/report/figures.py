"""The result matrix and the curves over the stream as matplotlib figures.

Figures are made without pyplot, so nothing global is touched and any number of threads may draw. Names are
shown as they are: a dollar sign in one starts no formula.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from everseg.pictures.palette import LINES
from everseg.results import ResultMatrix, Results
from everseg.results.labels import label

INK = "#101419"
"""The colour of lines and letters; in a page it becomes the page's own text colour."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":")


def colour_range(values: Iterable[float]) -> tuple[float, float]:
    """Ends of a scale over the known values, a quarter of the largest apart at least: noise is no news."""
    known = [float(value) for value in values if not math.isnan(value)]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    apart = 0.25 * max(abs(low), abs(high)) or 0.2
    missing = max(0.0, apart - (high - low)) / 2
    return low - missing, high + missing


def colour(value: float, ends: tuple[float, float], lower_is_better: bool) -> tuple[str, str]:
    """Hex colours of a cell's ground (cividis, bright is good) and of the letters on it."""
    scale = matplotlib.colormaps["cividis_r" if lower_is_better else "cividis"]
    red, green, blue, _ = scale((value - ends[0]) / (ends[1] - ends[0]))
    # Letters are black or white, whichever has the higher contrast (WCAG relative luminance).
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    ground = f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
    return ground, "#000" if luminance > 0.179 else "#fff"


def figure(width: float, height: float) -> Figure:
    """An empty figure of `width` by `height` inches that draws with Agg."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def plot_matrix(results: Results, metric: str) -> Figure:
    """The result matrix as a heat map: stages down, domains across, the untouched base on top when known.

    A framed cell is the score right after its domain was learned. Bright is good for every metric.
    """
    matrix = results.matrix(metric)
    names, values = with_base(matrix)
    drawn = figure(1.9 + 0.85 * len(matrix.columns), 1.1 + 0.42 * len(names))
    axes = drawn.add_subplot()
    ends = colour_range(values.ravel().tolist())
    scale = "cividis_r" if matrix.lower_is_better else "cividis"
    axes.imshow(values, cmap=scale, vmin=ends[0], vmax=ends[1], aspect="auto")
    offset = len(names) - len(matrix.stages)
    for i, j in np.ndindex(values.shape):
        if math.isnan(values[i, j]):
            continue
        _, ink = colour(float(values[i, j]), ends, matrix.lower_is_better)
        bold = i - offset == matrix.learned_at[j]
        axes.text(
            j,
            i,
            f"{values[i, j]:.3f}",
            ha="center",
            va="center",
            color=ink,
            size=9,
            weight="bold" if bold else "normal",
        )
        if bold:
            axes.add_patch(_frame(i, j, ink))
    axes.set_xticks(
        range(len(matrix.columns)),
        matrix.columns,
        rotation=20,
        ha="left",
        rotation_mode="anchor",
        parse_math=False,
    )
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{label(metric)} after each stage", color=INK, size=10, loc="left")
    return drawn


def _frame(i: int, j: int, ink: str) -> matplotlib.patches.Rectangle:
    return matplotlib.patches.Rectangle((j - 0.47, i - 0.46), 0.94, 0.92, fill=False, edgecolor=ink, lw=1.6)


def with_base(matrix: ResultMatrix) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """Row names and values, the untouched base's row first when any of it was measured."""
    if np.isnan(matrix.baseline).all():
        return matrix.stages, matrix.values
    return ("untouched base", *matrix.stages), np.vstack([matrix.baseline, matrix.values])


def plot_curves(results: Results, metric: str) -> Figure:
    """Each domain's score after each stage."""
    drawn = figure(7.4, 3.4)
    draw_curves(drawn.add_subplot(), results, metric)
    return drawn


def draw_curves(axes: Axes, results: Results, metric: str) -> None:
    """Each domain's score after each stage: thin before the domain was learned, thick from there on.

    A ring marks the stage that taught the domain. Names stand at the ends of the curves.
    """
    matrix = results.matrix(metric)
    names, values = with_base(matrix)
    offset = len(names) - len(matrix.stages)
    where = np.arange(len(names))
    ends: list[tuple[float, str, str]] = []
    for j, column in enumerate(matrix.columns):
        known = np.flatnonzero(~np.isnan(values[:, j]))
        if not len(known):
            continue
        hue = LINES[j % len(LINES)]
        dash = DASHES[(j // len(LINES)) % len(DASHES)]
        learned = int(matrix.learned_at[j]) + offset
        before, after = known[known <= learned], known[known >= learned]
        axes.plot(where[before], values[before, j], color=hue, ls=dash, lw=1.0, alpha=0.55)
        axes.plot(where[after], values[after, j], color=hue, ls=dash, lw=2.2)
        axes.plot(where[known], values[known, j], color=hue, ls="", marker=MARKERS[j % len(MARKERS)], ms=4)
        if learned in known:
            axes.plot(
                [learned],
                [values[learned, j]],
                color=hue,
                ls="",
                marker="o",
                ms=10,
                mfc="none",
                mew=1.5,
            )
        ends.append((float(values[known[-1], j]), column, hue))
    axes.set_xlim(-0.2, max(len(names) - 0.8, 0.2))
    _name_ends(axes, ends, len(names) - 1, colour_range(values.ravel().tolist()))
    axes.set_xticks(where, names, parse_math=False)
    _style(axes, label(metric) + (" (lower is better)" if matrix.lower_is_better else ""))


def plot_trainings(values: Mapping[str, tuple[Sequence[int], Sequence[float], int]], what: str) -> Figure:
    """Losses or scores over the epochs: by the name of each training its epochs, its values and the epoch
    that was kept, which a ring marks; 0 for none."""
    drawn = figure(7.4, 3.4)
    axes = drawn.add_subplot()
    ends, last = [], 1
    for j, (name, (epochs, heights, best)) in enumerate(values.items()):
        hue, dash = LINES[j % len(LINES)], DASHES[(j // len(LINES)) % len(DASHES)]
        # One epoch alone is a point.
        axes.plot(epochs, heights, color=hue, ls=dash, lw=1.8, marker="o" if len(epochs) == 1 else "", ms=4)
        if best in epochs:
            height = heights[list(epochs).index(best)]
            axes.plot([best], [height], color=hue, ls="", marker="o", ms=10, mfc="none", mew=1.5)
        ends.append((heights[-1], name, hue))
        last = max(last, *epochs)
    axes.set_xlim(1 - 0.02 * last, 1.02 * last)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _name_ends(axes, ends, last, colour_range(v for _, heights, _ in values.values() for v in heights))
    axes.set_xlabel("epoch", color=INK)
    _style(axes, what)
    return drawn


def _name_ends(
    axes: Axes, ends: Sequence[tuple[float, str, str]], right: float, limits: tuple[float, float]
) -> None:
    """Write the names of lines beside their ends.

    ends: (height, name, colour).
    right: where they lie.
    """
    low, high = limits
    pad = 0.06 * (high - low)
    axes.set_ylim(low - pad, high + pad)
    for height, (value, name, hue) in zip(_spread([end[0] for end in ends], low, high), ends, strict=True):
        axes.annotate(
            name,
            (right, value),
            (1.02, height),
            textcoords=("axes fraction", "data"),
            color=hue,
            size=9,
            weight="bold",
            va="center",
            annotation_clip=False,
            parse_math=False,
        )


def _style(axes: Axes, what: str) -> None:
    axes.set_ylabel(what, color=INK)
    axes.tick_params(colors=INK, length=3)
    axes.grid(axis="y", color="#888888", alpha=0.25, lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)


def _spread(heights: list[float], low: float, high: float) -> list[float]:
    """Heights moved apart until the names written there do not overlap, their order kept."""
    gap = 0.075 * (high - low)
    order = sorted(range(len(heights)), key=lambda k: heights[k])
    moved = list(heights)
    # Neighbours that are too close push each other apart by the same amount, until all have room.
    for _ in range(200):
        for below, above in pairwise(order):
            push = max(0.0, gap - (moved[above] - moved[below])) / 2
            moved[below] -= push
            moved[above] += push
    return moved


def svg(drawn: Figure, name: str) -> str:
    """A figure as an SVG element for a page: its letters are text in the page's font and colour.

    The same figure and name give the same bytes. `name` keeps ids of several figures in one page apart.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"everseg {name}"}):
        drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Sizes come from the page's style sheet, groups need no ids, and letters and lines follow the page.
    for size in ("width", "height"):
        text = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    return text.replace(INK, "currentColor")


def png(drawn: Figure, dpi: int = 100) -> bytes:
    """A figure as PNG bytes, the same every time."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
