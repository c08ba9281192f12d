"""A contact sheet: what a stream looks like, one row per stage, with mask outlines and clicks."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from everseg.data.samples import take_evenly
from everseg.data.stream import Stream
from everseg.data.views import View, view_of
from everseg.errors import UserError
from everseg.pictures.encode import write_png
from everseg.pictures.palette import OFF, Colour, class_colour
from everseg.pictures.sheet import GAP, INK, MARGIN, Sheet, beginning, blank_tile, font
from everseg.types import Stage

TILE = 200
LABEL = 190
HEAD = 76
SWATCHES = 8
"""Classes named beside a stage of a stream of classes; the tiles leave room for no more."""


def contact_sheet(stream: Stream | str | Path, path: str | Path, columns: int = 6) -> Path:
    """Write a PNG with one row per stage: its name and counts, and samples evenly spaced over its splits.

    Two thirds of the columns show train, the rest test. Masks are outlined in orange; clicks are green discs
    on the object and red squares off it; boxes are blue. In streams of classes the labels that a stage sees
    are laid over the image, each class in its own colour, void in white. A sample that cannot be read shows
    the reason.

    Raises:
        UserError: the stream cannot be opened, or the file cannot be written.
    """
    if not isinstance(stream, Stream):
        stream = Stream.from_yaml(stream)
    if columns < 2:
        raise UserError(f"columns is {columns}; a contact sheet needs at least 2")
    stages = (*stream.stages, *stream.unseen)
    width = MARGIN * 2 + LABEL + columns * (TILE + GAP) + GAP
    sheet = Sheet(width, HEAD + len(stages) * (TILE + GAP) + MARGIN)
    sheet.write(MARGIN, 18, stream.name, 26, INK)
    view = view_of(stream)
    _legend(sheet, view.marks, width - MARGIN, 26)
    split = columns - max(1, columns // 3)  # the first column of test samples

    def left(column: int) -> int:
        return MARGIN + LABEL + column * (TILE + GAP) + (GAP if column >= split else 0)

    for column, text in ((0, "train"), (split, "test")):
        sheet.write(left(column), HEAD - 20, text, 14)
    for row, stage in enumerate(stages):
        top = HEAD + row * (TILE + GAP)
        _label(sheet, stage, stream, top)
        for samples, first, count in ((stage.train, 0, split), (stage.test, split, columns - split)):
            for k, index in enumerate(take_evenly(range(len(samples)), count)):
                sheet.paste(_tile(samples, index, view), left(first + k), top)
    path = Path(path)
    write_png(path, sheet.picture)
    return path


def _legend(sheet: Sheet, marks: Sequence[tuple[str, Colour]], right: int, top: int) -> None:
    for text, colour in marks:
        right -= round(sheet.draw.textlength(text, font(14)))
        sheet.write(right, top, text, 14)
        right -= 20
        sheet.draw.rounded_rectangle((right, top + 3, right + 13, top + 14), 3, fill=colour, outline=INK)
        right -= 16


def _label(sheet: Sheet, stage: Stage, stream: Stream, top: int) -> None:
    kind = (
        "background"
        if stage.background
        else "never trained"
        if stage in stream.unseen
        else f"stage {stage.index + 1}"
    )
    sheet.write(MARGIN, top + 62, kind, 14)
    sheet.write(MARGIN, top + 80, beginning(stage.name, 16), 21, INK)
    counts = [f"{len(s):,} {what}" for s, what in ((stage.train, "train"), (stage.test, "test")) if len(s)]
    sheet.write(MARGIN, top + 110, " · ".join(counts), 14)
    known = sum(len(s.classes) for s in stream.stages[: stage.index])
    for i, name in enumerate(stage.classes[:SWATCHES]):
        left, line = MARGIN + LABEL // 2 * (i % 2), top + 134 + 15 * (i // 2)
        sheet.draw.rectangle((left, line + 2, left + 9, line + 11), fill=class_colour(known + i + 1))
        sheet.write(left + 14, line, name[:10], 11)
    if len(stage.classes) > SWATCHES:
        more = f"and {len(stage.classes) - SWATCHES} more"
        sheet.write(MARGIN, top + 134 + 15 * (SWATCHES // 2), more, 11)


def _tile(samples: Sequence[Any], index: int, view: View) -> Image.Image:
    """One sample, or the reason why it cannot be read."""
    try:
        return view.tile(samples[index], TILE)
    except UserError as error:
        tile = blank_tile(TILE)
        lines = textwrap.wrap(str(error).split("; ")[0], 25)
        ImageDraw.Draw(tile).text((8, 8), "\n".join(lines[:12]), OFF, font(12))
        return tile
