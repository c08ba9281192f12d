"""A prediction over its image, in the image's own size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from everseg.pictures.palette import COLOURS, MASK

Pixels = NDArray[np.uint8]


def draw_mask(image: Tensor, mask: NDArray[np.bool_]) -> Pixels:
    """The image with the mask tinted and outlined: (3, H, W) uint8 and (H, W) bool -> (H, W, 3) uint8."""
    pixels = image.permute(1, 2, 0).numpy().astype(np.float32)
    colour = np.array(MASK, np.float32)
    width = max(1, round(max(mask.shape) / 300))
    edge = mask & ~ndimage.binary_erosion(mask, iterations=width, border_value=1)
    pixels[mask] = 0.6 * pixels[mask] + 0.4 * colour
    pixels[edge] = colour
    return pixels.astype(np.uint8)


def draw_classes(image: Tensor, channels: Pixels) -> Pixels:
    """The image with every class tinted in its colour and outlined: (3, H, W) uint8 and (H, W) uint8 ->
    (H, W, 3) uint8."""
    pixels = image.permute(1, 2, 0).numpy().astype(np.float32)
    colours = COLOURS[channels].astype(np.float32)
    wide = 2 * max(1, round(max(channels.shape) / 600)) + 1
    edge = (ndimage.maximum_filter(channels, wide) != channels) & (channels != 0)
    edge |= (ndimage.minimum_filter(channels, wide) != channels) & (channels != 0)
    tinted = np.where((channels != 0)[..., None], 0.5 * pixels + 0.5 * colours, pixels)
    return np.where(edge[..., None], colours, tinted).astype(np.uint8)


def class_map(channels: Pixels) -> Image.Image:
    """A palette image whose indices are channels: (H, W) uint8."""
    picture = Image.fromarray(channels)
    picture.putpalette(COLOURS.tobytes())
    return picture
