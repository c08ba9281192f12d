"""The colours of classes in class maps."""

from __future__ import annotations

import numpy as np


def class_colour(channel: int) -> tuple[int, int, int]:
    """PASCAL VOC's colour of a class: the bits of its number dealt out to red, green and blue, highest first.

    Source: the colour map of the VOC development kit. Void, 255, is (224, 224, 192), nearly white.
    """
    parts = [0, 0, 0]
    for bit in range(8):
        parts[bit % 3] |= (channel >> bit & 1) << (7 - bit // 3)
    return parts[0], parts[1], parts[2]


COLOURS = np.array([class_colour(channel) for channel in range(256)], np.uint8)
"""(256, 3): as the palette of a class map."""
