"""The pool as one picture: one row per class, its instances with their masks, bytes and sources."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from PIL import Image
from scipy import ndimage

from everseg.classes.instances.pool import Instance, InstancePool
from everseg.pictures.palette import TRUTH
from everseg.pictures.sheet import GAP, GROUND, INK, MARGIN, Sheet, beginning, end, enlarged, framed
from everseg.pictures.tile import picture_of
from everseg.results import bytes_text

TILE = 112
CAPTION = 30
LABEL = 150
HEAD = 72


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
    sheet = Sheet(width, height)
    sources = len({item.image for item in pool.items.values()})
    sheet.write(MARGIN, 14, f"{len(pool)} instances of {len(groups)} classes", 22, INK)
    room = f" of {bytes_text(pool.max_bytes)}" if pool.max_bytes else ""
    detail = f"{bytes_text(pool.nbytes)}{room}, from {sources} images; room for {pool.count}"
    sheet.write(MARGIN, 42, detail, 14)
    top = HEAD
    for label, items in groups.items():
        name = (names or {}).get(label, f"class {label}")
        sheet.write(MARGIN, top + 36, beginning(name, 18), 17, INK)
        sheet.write(MARGIN, top + 58, f"{len(items)}, {bytes_text(sum(i.nbytes for i in items))}", 13)
        for k, item in enumerate(items):
            left = MARGIN + LABEL + k % columns * (TILE + GAP)
            at = top + k // columns * (TILE + CAPTION + GAP)
            sheet.paste(_tile(item), left, at)
            box = f"{item.box[3] - item.box[1]}x{item.box[2] - item.box[0]}, {bytes_text(item.nbytes)}"
            sheet.write(left, at + TILE + 2, box, 11)
            sheet.write(left, at + TILE + 15, end(item.image, 19), 11)
        top += rows[label] * (TILE + CAPTION + GAP) + GAP
    return sheet.picture


def _tile(item: Instance) -> Image.Image:
    """An instance fitted into a square and outlined, what is around it faded."""
    pixels, _ = enlarged(picture_of(item.pixels), TILE)
    size = (pixels.shape[1], pixels.shape[0])
    mask = Image.fromarray(item.inside.numpy()).resize(size, Image.Resampling.NEAREST)
    inside = np.asarray(mask.convert("L")) > 127
    pixels[~inside] = (pixels[~inside] * 0.25 + 0.75 * np.array(GROUND)).astype(np.uint8)
    pixels[inside & ~ndimage.binary_erosion(inside)] = TRUTH
    return framed(pixels, TILE)[0]
