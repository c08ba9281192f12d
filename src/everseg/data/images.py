"""Decode image files of any common format and depth to 8-bit RGB."""

from __future__ import annotations

import io
import warnings
from contextlib import suppress
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

DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")

_SUBFILE, _ORIENTATION = 254, 0x0112
"""Tags: what a page of a TIFF is (bit 0: a smaller copy of another page), and how an image is turned."""

_SIDEWAYS = (5, 6, 7, 8)
"""Orientations that swap width and height."""


def read_file(path: Path) -> bytes:
    """A file's content.

    Raises:
        UserError: the file is missing, unreadable or empty.
    """
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise UserError(f"{path} is {kind}; remove it or put the file in its place")
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
    """An image file, decoded and turned as its own EXIF orientation says.

    Raises:
        UserError: not an image, truncated, several pages, or too many pixels.
    """
    try:
        # Pillow warns about large files, odd EXIF blocks and palettes; what matters is raised as an error.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content))
            pages = _pages(image)
            image.load()
            shown = ImageOps.exif_transpose(image)
            shown.format = image.format  # a turned copy has none
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise UserError(f"{path} has more than {limit} million pixels; cut it into tiles") from error
    except UnidentifiedImageError as error:
        raise UserError(
            f"{path} is not an image that Pillow can read; convert it to png or remove it"
        ) from error
    except Exception as error:  # Pillow's decoders raise errors of a dozen types on damaged files.
        raise UserError(f"{path} is damaged or truncated ({error}); copy it again or remove it") from error
    if pages > 1:
        raise UserError(
            f"{path} has {pages} pages, and reading one would drop the others; save the page that counts, or "
            "each page, as a file of its own"
        )
    return shown


def _pages(image: Image.Image) -> int:
    """The pages of a file, without smaller copies of the same picture, as TIFF, MPO and PSD keep them."""
    count = getattr(image, "n_frames", 1)
    if count == 1 or image.format in ("MPO", "PSD", "ICNS"):
        return 1
    if image.format != "TIFF":
        return int(count)
    full = 0
    for page in range(count):
        image.seek(page)
        full += not image.tag_v2.get(_SUBFILE, 0) & 1  # type: ignore[attr-defined]
    image.seek(0)
    return full


def open_header(path: Path) -> Image.Image:
    """An image file of which no more than the header has been read.

    Raises:
        OSError: it is not a regular file (a named pipe would never answer), or no image.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    return Image.open(path)


def orientation(path: Path) -> int:
    """The EXIF orientation of a file from its header, without decoding it; 1 where it has none, as files that
    are not images.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_header(path) as image:
                return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow raises errors of a dozen types; a damaged image is a sentence when decoded.
        return 1


def shown_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image as it is shown, after its EXIF orientation; reads no more than the header where
    that says it.

    Raises:
        UserError: the file cannot be read or is not an image.
    """
    with suppress(Exception), warnings.catch_warnings():  # The decoder says what is wrong, in a sentence.
        warnings.simplefilter("ignore")
        with open_header(path) as image:
            if image.format != "TIFF":
                width, height = image.size
                return (width, height) if orientation(path) in _SIDEWAYS else (height, width)
    content = read_file(path)
    if beyond_pillow(content):  # Which bands are shown does not matter.
        _, height, width = read_tiff(content, path, chosen=True)[0].shape
    else:
        _, height, width = decode_image(content, path).shape
    return height, width


def decode_image(content: bytes, path: Path) -> Tensor:
    """(3, H, W) uint8 from an image file's content; `path` is for messages only.

    Grey, RGB, palette, CMYK and 1-bit images become RGB as Pillow converts them. An alpha channel is dropped,
    not blended. Deep grey (16-bit, 32-bit, float) is converted to 0..255 by `shallow`.

    Raises:
        UserError: not an image, truncated, too many pixels, or values without a meaning as grey (NaN,
            negative).
    """
    if beyond_pillow(content):
        return _picture(content, path)
    image = open_image(content, path)
    if image.mode in DEEP:
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
    """The picture of a TIFF, if the file declares one."""
    values, picture = read_tiff(content, path, chosen=False)
    if picture is None and len(values) != 3:
        raise UserError(
            f"{path} has {len(values)} bands; say which are red, green and blue, as in bands: [3, 2, 1]"
        )
    grey = shallow(values[: picture or 3], path)
    return torch.from_numpy(np.repeat(grey, 3, axis=0) if len(grey) == 1 else grey)


def refuse_nan(values: NDArray[np.generic], path: Path | str) -> None:
    """Raise `UserError` where values are NaN or infinite."""
    if not np.isfinite(values).all():
        raise UserError(f"{path} contains NaN or infinite values; replace them, for example by 0")


def shallow(values: NDArray[np.generic], path: Path | str) -> NDArray[np.uint8]:
    """Deep values (H, W) or (C, H, W) to 0..255.

    Integers up to 255 stay as they are; up to 65535 they are divided by 257. Floats from 0 to 1 are
    multiplied by 255; larger ones follow the rule for integers. The range decides for each image: 12-bit data
    kept in 16-bit files come out dark, which `check` reports.
    """
    wide = values.astype(np.float64)
    refuse_nan(wide, path)
    low, high = float(wide.min()), float(wide.max())
    if low < 0 or high > 65535:
        raise UserError(f"{path} has values from {low:g} to {high:g}; scale them to 0..255 or 0..65535 first")
    if values.dtype.kind == "f" and high <= 1:
        wide *= 255
    elif high > 255:
        wide /= 257
    return (wide + 0.5).astype(np.uint8)
