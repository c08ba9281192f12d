"""The parts of a contact sheet: paper, text, and square tiles with a picture in the middle."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from everseg.pictures.palette import Colour
from everseg.pictures.tile import fitted

PAPER: Colour = (250, 250, 248)
INK: Colour = (28, 30, 34)
FADED: Colour = (118, 122, 128)
GROUND: Colour = (232, 232, 228)
"""Of a tile, around its picture."""

GAP = 8
MARGIN = 20


class Sheet:
    """A blank sheet to write and paste on.

    picture: the sheet so far. draw: draws on it.
    """

    def __init__(self, width: int, height: int) -> None:
        self.picture = Image.new("RGB", (width, height), PAPER)
        self.draw = ImageDraw.Draw(self.picture)

    def write(self, left: int, top: int, text: str, size: int, colour: Colour = FADED) -> None:
        self.draw.text((left, top), text, colour, font(size))

    def paste(self, tile: Image.Image, left: int, top: int) -> None:
        self.picture.paste(tile, (left, top))


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def blank_tile(side: int) -> Image.Image:
    return Image.new("RGB", (side, side), GROUND)


def enlarged(picture: Image.Image, side: int) -> tuple[NDArray[np.uint8], float]:
    """Pixels of a picture whose longer side is made `side`, and its scale."""
    size, scale = fitted(*picture.size, side, enlarge=True)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS)).copy(), scale


def framed(pixels: NDArray[np.uint8], side: int) -> tuple[Image.Image, tuple[int, int]]:
    """A tile with a picture in its middle, and where the picture's left and top are."""
    tile = blank_tile(side)
    place = ((side - pixels.shape[1]) // 2, (side - pixels.shape[0]) // 2)
    tile.paste(Image.fromarray(pixels), place)
    return tile, place


def beginning(text: str, length: int) -> str:
    """At most `length` characters of a text, the first ones."""
    return text if len(text) <= length else text[: length - 1] + "…"


def end(text: str, length: int) -> str:
    """At most `length` characters of a text, the last ones: they tell file names apart."""
    return text if len(text) <= length else "…" + text[1 - length :]
