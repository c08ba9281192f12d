"""The palette of PASCAL VOC's class map files."""

from __future__ import annotations

import numpy as np


def _colour(number: int) -> tuple[int, int, int]:
    parts = [0, 0, 0]
    for bit in range(8):
        parts[bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
    return parts[0], parts[1], parts[2]


VOC_COLOURS = np.array([_colour(number) for number in range(256)], np.uint8)
"""(256, 3): the colour of each class number in VOC's files: its bits, dealt out to red, green and blue,
highest first. Generated class maps have this palette; results have that of `everseg.pictures.palette`.

Source: the colour map of the VOC development kit."""

VOC_TABLE = {
    red | green << 8 | blue << 16: number for number, (red, green, blue) in enumerate(VOC_COLOURS.tolist())
}
"""The class number of each colour, for maps that were saved in colour: see `everseg.data.numbers`."""
