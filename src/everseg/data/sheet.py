"""A contact sheet: what a stream looks like, one row a stage, with mask outlines and clicks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from everseg.data.samples import take_evenly
from everseg.data.stream import Stream
from everseg.errors import UserError
from everseg.files import atomic_path
from everseg.pictures.voc import COLOURS, class_colour
from everseg.types import PromptSample, SemanticSample, Stage

TILE = 200
GAP = 8
LABEL = 190
MARGIN = 20
HEAD = 76

PAPER = (250, 250, 248)
INK = (28, 30, 34)
FADED = (118, 122, 128)
OUTLINE = (0, 229, 160)
CLICK_IN = (255, 214, 10)
CLICK_OUT = (255, 69, 58)
BOX = (64, 156, 255)
SWATCHES = 8
"""Classes named beside a stage of a stream of classes; the tiles leave room for no more."""


def contact_sheet(stream: Stream | str | Path, path: str | Path, columns: int = 6) -> Path:
    """Write a PNG: a row for each stage with its name and counts, and samples evenly spaced over its splits.

    Two thirds of the columns show train, the rest test. The mask's outline is green, clicks are yellow (red:
    off the object), boxes blue. In streams of classes the labels that a stage sees are laid over the image,
    each class in a colour of its own, void in white. A sample that cannot be read shows the reason.

    Raises:
        UserError: the stream cannot be opened or the file not be written.
    """
    if not isinstance(stream, Stream):
        stream = Stream.from_yaml(stream)
    if columns < 2:
        raise UserError(f"columns is {columns}; a contact sheet needs at least 2")
    stages = (*stream.stages, *stream.unseen)
    width = MARGIN * 2 + LABEL + columns * (TILE + GAP) + GAP
    height = HEAD + len(stages) * (TILE + GAP) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 18), stream.name, INK, ImageFont.load_default(26))
    if not stages[0].classes:
        _legend(draw, width - MARGIN, 26)
    split = columns - max(1, columns // 3)  # the first column of test samples

    def left(column: int) -> int:
        return MARGIN + LABEL + column * (TILE + GAP) + (GAP if column >= split else 0)

    for column, text in ((0, "train"), (split, "test")):
        draw.text((left(column), HEAD - 20), text, FADED, ImageFont.load_default(14))
    for row, stage in enumerate(stages):
        top = HEAD + row * (TILE + GAP)
        _label(draw, stage, stream, top)
        for samples, first, count in ((stage.train, 0, split), (stage.test, split, columns - split)):
            for k, index in enumerate(take_evenly(range(len(samples)), count)):
                sheet.paste(_tile(samples, index), (left(first + k), top))
    path = Path(path)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
    return path


def _legend(draw: ImageDraw.ImageDraw, right: int, top: int) -> None:
    font = ImageFont.load_default(14)
    for text, colour in (("box", BOX), ("click", CLICK_IN), ("object", OUTLINE)):
        right -= round(draw.textlength(text, font))
        draw.text((right, top), text, FADED, font)
        right -= 20
        draw.rounded_rectangle((right, top + 3, right + 13, top + 14), 3, fill=colour, outline=INK)
        right -= 16


def _label(draw: ImageDraw.ImageDraw, stage: Stage, stream: Stream, top: int) -> None:
    kind = (
        "background"
        if stage.background
        else "never trained"
        if stage in stream.unseen
        else f"stage {stage.index + 1}"
    )
    name = stage.name if len(stage.name) <= 16 else stage.name[:15] + "…"
    draw.text((MARGIN, top + 62), kind, FADED, ImageFont.load_default(14))
    draw.text((MARGIN, top + 80), name, INK, ImageFont.load_default(21))
    counts = [f"{len(s):,} {what}" for s, what in ((stage.train, "train"), (stage.test, "test")) if len(s)]
    draw.text((MARGIN, top + 110), " · ".join(counts), FADED, ImageFont.load_default(14))
    known = sum(len(s.classes) for s in stream.stages[: stage.index])
    for i, name in enumerate(stage.classes[:SWATCHES]):
        left, line = MARGIN + LABEL // 2 * (i % 2), top + 134 + 15 * (i // 2)
        draw.rectangle((left, line + 2, left + 9, line + 11), fill=class_colour(known + i + 1))
        draw.text((left + 14, line), name[:10], FADED, ImageFont.load_default(11))
    if len(stage.classes) > SWATCHES:
        text = f"and {len(stage.classes) - SWATCHES} more"
        draw.text((MARGIN, top + 134 + 15 * (SWATCHES // 2)), text, FADED, ImageFont.load_default(11))


def _tile(samples: Sequence[Any], index: int) -> Image.Image:
    """One sample, fitted into a square, enlarged or reduced, with what is marked on it."""
    tile = Image.new("RGB", (TILE, TILE), (232, 232, 228))
    try:
        sample: PromptSample | SemanticSample = samples[index]
    except UserError as error:
        words, lines = str(error).split("; ")[0].split(), [""]
        for word in words:
            lines = (
                [*lines, word] if len(lines[-1]) + len(word) > 24 else [*lines[:-1], f"{lines[-1]} {word}"]
            )
        ImageDraw.Draw(tile).text((8, 8), "\n".join(lines[:12]), CLICK_OUT, ImageFont.load_default(12))
        return tile
    picture = Image.fromarray(sample.image.permute(1, 2, 0).numpy())
    scale = TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS)).copy()
    place = ((TILE - size[0]) // 2, (TILE - size[1]) // 2)
    if isinstance(sample, SemanticSample):
        labels = np.asarray(Image.fromarray(sample.labels.numpy()).resize(size, Image.Resampling.NEAREST))
        over = labels != 0
        pixels[over] = (0.4 * pixels[over] + 0.6 * COLOURS[labels[over]]).astype(np.uint8)
        tile.paste(Image.fromarray(pixels), place)
        return tile
    for mask in sample.masks.numpy():
        small = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
        inside = np.asarray(small) > 127
        pixels[ndimage.binary_dilation(inside, iterations=2) & ~inside] = (12, 40, 32)
        pixels[inside & ~ndimage.binary_erosion(inside, iterations=1)] = OUTLINE
    tile.paste(Image.fromarray(pixels), place)
    _marks(tile, sample, scale, size)
    return tile


def _marks(tile: Image.Image, sample: PromptSample, scale: float, size: tuple[int, int]) -> None:
    draw = ImageDraw.Draw(tile)
    left, top = (TILE - size[0]) // 2, (TILE - size[1]) // 2
    prompts = sample.prompts
    for box in [] if prompts.boxes is None else prompts.boxes.tolist():
        x0, y0, x1, y1 = (v * scale for v in box)
        draw.rectangle((left + x0, top + y0, left + x1 + scale, top + y1 + scale), outline=BOX, width=2)
    if prompts.points is None or prompts.labels is None:
        return
    points, labels = prompts.points.reshape(-1, 2).tolist(), prompts.labels.reshape(-1).tolist()
    for (x, y), label in zip(points, labels, strict=True):
        if label in (0, 1):
            x, y = left + (x + 0.5) * scale, top + (y + 0.5) * scale
            draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=INK)
            draw.ellipse((x - 3.6, y - 3.6, x + 3.6, y + 3.6), fill=CLICK_IN if label else CLICK_OUT)
