"""One wide picture for a first screen: what each method remembers, and what that looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import SubFigure

from everseg.files import write_bytes
from everseg.pictures.tile import tile
from everseg.report.data import MaskExample
from everseg.report.figures import INK, draw_curves, figure, png
from everseg.results import Results, average


def story(
    path: Path, series: Mapping[str, Results], examples: Sequence[MaskExample], metric: str = "iou"
) -> Path:
    """Draw each method's curves on the left and up to two examples on the right, as one PNG of 1400x500.

    series: {title: results}, drawn from left to right on one scale; two read best.
    examples: image with clicks, truth, untouched base and adapted, one row each. Returns `path`.

    Raises:
        UserError: the file cannot be written, or a run does not have the metric.
    """
    assert series, "a story needs at least one run"
    drawn = figure(14, 5)
    parts = drawn.subfigures(
        1, 2 if examples else 1, width_ratios=(1, 0.58) if examples else None, wspace=0.03, squeeze=False
    )[0]
    panels = parts[0].subplots(1, len(series), squeeze=False)[0]
    for axes, (title, results) in zip(panels, series.items(), strict=True):
        draw_curves(axes, results, metric)
        shown = f"{title}: {average(results.matrix(metric)):.2f} at the end"
        axes.set_title(shown, size=12, weight="bold", color=INK, loc="left", parse_math=False)
        for tick in axes.get_xticklabels():
            tick.set(rotation=30, ha="right", rotation_mode="anchor")
    # One scale for all: the widest that any run needs.
    limits = [axes.get_ylim() for axes in panels]
    for k, axes in enumerate(panels):
        axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
        if k:
            axes.set_ylabel("")
            axes.tick_params(labelleft=False)
    if examples:
        _pictures(parts[1], examples[:2])
    write_bytes(path, png(drawn))
    return path


def _pictures(part: SubFigure, examples: Sequence[MaskExample]) -> None:
    """A row of three pictures for each example."""
    grid = part.subplots(len(examples), 3, squeeze=False)
    for row, example in zip(grid, examples, strict=True):
        clicks = tile(
            example.image, truth=example.truth, points=example.points, labels=example.labels, longest=320
        )
        plain = tile(example.image, mask=example.plain, truth=example.truth, longest=320)
        adapted = tile(example.image, mask=example.adapted, truth=example.truth, longest=320)
        titles = (
            example.domain,
            f"base: IoU {example.iou_plain:.2f}",
            f"adapted: IoU {example.iou_adapted:.2f}",
        )
        for axes, picture, title in zip(row, (clicks, plain, adapted), titles, strict=True):
            axes.imshow(picture)
            axes.set_title(title, size=10, color=INK, loc="left", parse_math=False)
            axes.set_axis_off()
