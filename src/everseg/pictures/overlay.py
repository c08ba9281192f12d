"""A prediction over its image, in the image's own size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from everseg.pictures.palette import COLOURS, MASK

Pixels = NDArray[np.uint8]


BAND = 1024
"""Rows that `draw_classes` draws at a time, so that large images take little memory."""


def draw_mask(image: Tensor, mask: NDArray[np.bool_]) -> Pixels:
    """The image with the mask tinted and outlined: (3, H, W) uint8 and (H, W) bool -> (H, W, 3) uint8."""
    pixels = np.array(image.permute(1, 2, 0).numpy(), order="C")
    colour = np.array(MASK, np.float32)
    width = max(1, round(max(mask.shape) / 300))
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return pixels
    # What lies further than one pixel from the mask has no part in its outline.
    part = slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2)
    inside = mask[part]
    edge = inside & ~ndimage.binary_erosion(inside, iterations=width, border_value=1)
    shown = pixels[part]
    shown[inside] = (0.6 * shown[inside].astype(np.float32) + 0.4 * colour).astype(np.uint8)
    shown[edge] = colour
    return pixels


def draw_classes(image: Tensor, channels: Pixels) -> Pixels:
    """The image with every class tinted in its colour and outlined: (3, H, W) uint8 and (H, W) uint8 ->
    (H, W, 3) uint8."""
    margin = max(1, round(max(channels.shape) / 600))
    drawn = np.empty((*channels.shape, 3), np.uint8)
    for first in range(0, len(channels), BAND):
        above = max(first - margin, 0)
        part = channels[above : first + BAND + margin]
        edge = (ndimage.maximum_filter(part, 2 * margin + 1) != part) & (part != 0)
        edge |= (ndimage.minimum_filter(part, 2 * margin + 1) != part) & (part != 0)
        rows = slice(first, first + BAND)
        here, edge = channels[rows], edge[first - above :][:BAND]
        pixels = image[:, rows].permute(1, 2, 0).numpy().astype(np.float32)
        colours = COLOURS[here].astype(np.float32)
        tinted = np.where((here != 0)[..., None], 0.5 * pixels + 0.5 * colours, pixels)
        drawn[rows] = np.where(edge[..., None], colours, tinted)
    return drawn


def class_map(channels: Pixels) -> Image.Image:
    """A palette image whose indices are channels: (H, W) uint8."""
    picture = Image.fromarray(channels)
    picture.putpalette(COLOURS.tobytes())
    return picture
