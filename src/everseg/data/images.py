"""Decode image files of any common format and depth to 8-bit RGB, or to the plain values a mask holds."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from everseg.data.tiff import beyond_pillow, read_tiff
from everseg.errors import UserError

DECODING = "pixels-1"
"""Names the rules of this file. A change to what any image decodes to must change it: cache keys contain
it.
"""

_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")


def read_file(path: Path) -> bytes:
    """A file's content.

    Raises:
        UserError: the file is missing, unreadable or empty.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {error.strerror}; check the path and its permissions"
        ) from error
    if not content:
        raise UserError(f"{path} is empty (0 bytes); copy it again from where it came")
    return content


def open_image(content: bytes, path: Path) -> Image.Image:
    """The first frame of an image file, decoded and turned as its own EXIF orientation says.

    Raises:
        UserError: not an image, truncated, or too many pixels.
    """
    try:
        # Pillow warns about large files, odd EXIF blocks and palettes; what matters is raised as an error.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content))
            image.load()
            return ImageOps.exif_transpose(image)
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise UserError(f"{path} has more than {limit} million pixels; cut it into tiles") from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"{path} is not an image that Pillow can read; convert it to png or remove it"
        ) from error
    except Exception as error:  # Pillow's decoders raise errors of a dozen types on damaged files.
        raise UserError(f"{path} is damaged or truncated ({error}); copy it again or remove it") from error


def decode_image(content: bytes, path: Path) -> Tensor:
    """(3, H, W) uint8 from an image file's content; `path` is for messages only.

    Grey, RGB, palette, CMYK and 1-bit images become RGB as Pillow converts them. An alpha channel is dropped,
    not blended. Deep grey (16-bit, 32-bit, float) is brought to 0..255 by `shallow`.

    Raises:
        UserError: not an image, truncated, too many pixels, or values without a meaning as grey (NaN,
            negative).
    """
    if beyond_pillow(content):
        return _picture(content, path)
    image = open_image(content, path)
    if image.mode in _DEEP:
        grey = shallow(np.asarray(image), path)
        return torch.from_numpy(np.repeat(grey[None], 3, axis=0))
    try:
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        rgb = np.asarray(image.convert("RGB"))
    except ValueError as error:
        raise UserError(
            f"{path} has colour mode {image.mode}, which has no RGB form; save it as RGB"
        ) from error
    return torch.from_numpy(np.array(rgb.transpose(2, 0, 1), order="C"))


def _picture(content: bytes, path: Path) -> Tensor:
    """What a TIFF says is its picture, if it says so."""
    values, picture = read_tiff(content, path)
    if picture is None and len(values) != 3:
        raise UserError(
            f"{path} has {len(values)} bands; say in the stream file which are shown, as in bands: [3, 2, 1]"
        )
    grey = shallow(values[: picture or 3], path)
    return torch.from_numpy(np.repeat(grey, 3, axis=0) if len(grey) == 1 else grey)


def read_image(path: Path) -> Tensor:
    """(3, H, W) uint8 from an image file; see `decode_image`."""
    return decode_image(read_file(path), path)


def read_values(path: Path) -> tuple[NDArray[np.generic], bool]:
    """(H, W) values of a mask file and whether they are palette indices.

    A palette image gives its indices, 1-bit gives 0 and 1. An image in colour gives the largest of its
    channels, so that a red, a white and a blue mask on black all read alike. Alpha is ignored.

    Raises:
        UserError: not an image, truncated, too many pixels, NaN or infinity.
    """
    image = open_image(read_file(path), path)
    if image.mode in ("P", "PA"):
        return np.asarray(image if image.mode == "P" else image.getchannel(0)), True
    if image.mode in ("1", "L", *_DEEP):
        values = np.asarray(image)
        if values.dtype.kind == "f":
            _refuse_nan(values, path)
        return values.astype(np.uint8) if values.dtype == bool else values, False
    if image.mode in ("LA", "La"):
        return np.asarray(image.getchannel(0)), False
    return np.asarray(image.convert("RGB")).max(axis=2), False


def _refuse_nan(values: NDArray[np.generic], path: Path | str) -> None:
    if not np.isfinite(values).all():
        raise UserError(f"{path} contains NaN or infinite values; replace them, for example by 0")


def shallow(values: NDArray[np.generic], path: Path | str) -> NDArray[np.uint8]:
    """Deep values (H, W) or (C, H, W) to 0..255.

    Integers up to 255 stay as they are; up to 65535 they are divided by 257. Floats from 0 to 1 are
    multiplied by 255; larger ones follow the rule for integers. The range decides for each image: 12-bit data
    kept in 16-bit files come out dark, which `check` reports.
    """
    wide = values.astype(np.float64)
    _refuse_nan(wide, path)
    low, high = float(wide.min()), float(wide.max())
    if low < 0 or high > 65535:
        raise UserError(f"{path} has values from {low:g} to {high:g}; scale them to 0..255 or 0..65535 first")
    if values.dtype.kind == "f" and high <= 1:
        wide *= 255
    elif high > 255:
        wide /= 257
    return (wide + 0.5).astype(np.uint8)
