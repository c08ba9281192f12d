"""Masks of annotated shapes, and the size at which an image is shown."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from everseg.data.images import decode_image, read_file
from everseg.data.tiff import beyond_pillow, read_tiff

_ORIENTATION, _SIDEWAYS = 274, (5, 6, 7, 8)
"""The EXIF tag, and its values that swap width and height."""


def shown_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image as it is shown, after its EXIF orientation; reads no more than the header where
    that says it.

    Raises:
        UserError: the file cannot be read or is no image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.format != "TIFF":
                    width, height = image.size
                    turned = image.getexif().get(_ORIENTATION) in _SIDEWAYS
                    return (width, height) if turned else (height, width)
    except Exception:  # The decoder says what is wrong, in a sentence.
        pass
    content = read_file(path)
    shape = read_tiff(content, path)[0].shape if beyond_pillow(content) else decode_image(content, path).shape
    return int(shape[1]), int(shape[2])


def rectangle(corners: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """(height, width): pixels whose centres lie between two opposite corners (2, 2) x, y."""
    (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    return np.asarray((rows >= y0) & (rows <= y1) & (columns >= x0) & (columns <= x1))


def circle(
    centre: NDArray[np.float64], edge: NDArray[np.float64], height: int, width: int
) -> NDArray[np.bool_]:
    """(height, width): pixels whose centres are no farther from `centre` than `edge` is (x, y)."""
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
    radius = float(((edge - centre) ** 2).sum())
    return np.asarray((columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 <= radius)


def paste(patch: NDArray[np.bool_], left: int, top: int, height: int, width: int) -> NDArray[np.bool_]:
    """(height, width): `patch` with its first pixel at (left, top); what lies outside is cut off."""
    mask = np.zeros((height, width), bool)
    y0, y1 = max(top, 0), min(top + patch.shape[0], height)
    x0, x1 = max(left, 0), min(left + patch.shape[1], width)
    if y0 < y1 and x0 < x1:
        mask[y0:y1, x0:x1] = patch[y0 - top : y1 - top, x0 - left : x1 - left]
    return mask
