"""The pool as one picture: a row for each class, its instances with their masks, bytes and sources."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from everseg.classes.instances.pool import Instance, InstancePool

TILE = 112
CAPTION = 30
GAP = 8
LABEL = 150
MARGIN = 20
HEAD = 72

PAPER = (250, 250, 248)
INK = (28, 30, 34)
FADED = (118, 122, 128)
OUTLINE = (0, 229, 160)


def contact_sheet(
    pool: InstancePool, names: Mapping[int, str] | None = None, columns: int = 8
) -> Image.Image:
    """A picture of everything in the pool, by class.

    names: of the classes. Under each instance stand its size in the image, its bytes and the image's name.
    """
    groups = pool.by_class()
    rows = {label: math.ceil(len(items) / columns) for label, items in groups.items()}
    width = MARGIN * 2 + LABEL + columns * (TILE + GAP)
    height = HEAD + sum(rows.values()) * (TILE + CAPTION + GAP) + len(rows) * GAP + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    sources = len({item.image for item in pool.items.values()})
    title = f"{len(pool)} instances of {len(groups)} classes"
    draw.text((MARGIN, 14), title, INK, ImageFont.load_default(22))
    room = f" of {_size(pool.max_bytes)}" if pool.max_bytes else ""
    detail = f"{_size(pool.nbytes)}{room}, from {sources} images; room for {pool.count}"
    draw.text((MARGIN, 42), detail, FADED, ImageFont.load_default(14))
    top = HEAD
    for label, items in groups.items():
        name = (names or {}).get(label, f"class {label}")
        draw.text((MARGIN, top + 36), _short(name, 18), INK, ImageFont.load_default(17))
        total = f"{len(items)}, {_size(sum(i.nbytes for i in items))}"
        draw.text((MARGIN, top + 58), total, FADED, ImageFont.load_default(13))
        for k, item in enumerate(items):
            left = MARGIN + LABEL + k % columns * (TILE + GAP)
            at = top + k // columns * (TILE + CAPTION + GAP)
            sheet.paste(_tile(item), (left, at))
            box = f"{item.box[3] - item.box[1]}x{item.box[2] - item.box[0]}, {_size(item.nbytes)}"
            draw.text((left, at + TILE + 2), box, FADED, ImageFont.load_default(11))
            draw.text((left, at + TILE + 15), _short(item.image, 19), FADED, ImageFont.load_default(11))
        top += rows[label] * (TILE + CAPTION + GAP) + GAP
    return sheet


def _tile(item: Instance) -> Image.Image:
    """An instance fitted into a square, outlined."""
    tile = Image.new("RGB", (TILE, TILE), (232, 232, 228))
    picture = Image.fromarray(item.pixels.permute(1, 2, 0).numpy())
    scale = TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS)).copy()
    mask = Image.fromarray(item.inside.numpy()).resize(size, Image.Resampling.NEAREST)
    inside = np.asarray(mask.convert("L")) > 127
    pixels[~inside] = (pixels[~inside] * 0.25 + 0.75 * np.array((232, 232, 228))).astype(np.uint8)
    pixels[inside & ~ndimage.binary_erosion(inside)] = OUTLINE
    tile.paste(Image.fromarray(pixels), ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return tile


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _short(text: str, length: int) -> str:
    """The end of a name tells images apart."""
    return text if len(text) <= length else "…" + text[1 - length :]
