"""An image with masks and clicks drawn on it, small enough to travel inside a page."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from everseg.pictures.palette import MASK, OFF, ON, TRUTH

Pixels = NDArray[np.uint8]
Bits = NDArray[np.bool_]


def picture_of(image: Tensor) -> Image.Image:
    """(3, H, W) uint8 as a picture."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def fitted(width: int, height: int, longest: int, *, enlarge: bool = False) -> tuple[tuple[int, int], float]:
    """Width and height of a picture whose longer side is to have at most `longest` pixels, and the scale.

    enlarge: a smaller picture is made so large.
    """
    scale = longest / max(width, height)
    if not enlarge:
        scale = min(1.0, scale)
    return (max(1, round(width * scale)), max(1, round(height * scale))), scale


def tile(
    image: Tensor,
    *,
    mask: Tensor | None = None,
    truth: Tensor | None = None,
    points: Tensor | None = None,
    labels: Tensor | None = None,
    longest: int = 256,
) -> Image.Image:
    """The image, at most `longest` pixels on a side, a mask tinted, the truth outlined, clicks marked.

    image: (3, H, W) uint8.
    mask, truth: (H, W) bool.
    points: (P, 2) x, y in its pixels.
    labels: (P,), as in `draw_click`.
    """
    picture = picture_of(image)
    size, scale = fitted(*picture.size, longest)
    pixels = np.asarray(picture.resize(size, Image.Resampling.BOX)).astype(np.float64)
    if mask is not None:
        bits = _shrink(mask, size)
        pixels[bits] = 0.55 * pixels[bits] + 0.45 * np.array(MASK)
        pixels[_outline(bits)] = MASK
    if truth is not None:
        bits = _shrink(truth, size)
        if mask is None:
            pixels[bits] = 0.55 * pixels[bits] + 0.45 * np.array(TRUTH)
        pixels[_outline(bits)] = TRUTH
    drawn = Image.fromarray(pixels.round().astype(np.uint8))
    if points is not None and labels is not None:
        for (x, y), label in zip(points.tolist(), labels.tolist(), strict=True):
            draw_click(ImageDraw.Draw(drawn), (x + 0.5) * scale, (y + 0.5) * scale, int(label))
    return drawn


def _shrink(mask: Tensor, size: tuple[int, int]) -> Bits:
    grey = Image.fromarray(mask.cpu().numpy().astype(np.uint8) * 255)
    return np.asarray(grey.resize(size, Image.Resampling.BOX)) >= 128


def _outline(bits: Bits) -> Bits:
    """Pixels of the mask with a neighbour outside it."""
    padded = np.pad(bits, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return bits & ~inside


def draw_click(draw: ImageDraw.ImageDraw, x: float, y: float, label: int, radius: int = 5) -> None:
    """Mark a click: label 1 is a disc with a plus, 0 a square with a minus, anything else is padding."""
    if label not in (0, 1):
        return
    box = (x - radius, y - radius, x + radius, y + radius)
    arm = radius - 2
    if label == 1:
        draw.ellipse(box, fill=ON, outline="white")
        draw.line((x, y - arm, x, y + arm), fill="white")
    else:
        draw.rectangle(box, fill=OFF, outline="white")
    draw.line((x - arm, y, x + arm, y), fill="white")
