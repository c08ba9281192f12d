"""TIFF files beyond what Pillow reads: many bands, 16-bit colour, float colour, big and planar files."""

from __future__ import annotations

import io
import logging
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from everseg.data.extras import needed
from everseg.errors import UserError, first_line

_GREY = (0, 1)
_RGB = 2
_ALPHA = (1, 2)
"""Values of the tags PhotometricInterpretation and ExtraSamples."""
_ORIENTATION, _PHOTOMETRIC, _SAMPLES, _EXTRA = 274, 262, 277, 338
MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Pillow refuses larger images, and so do readers that are not Pillow's."""


def is_tiff(content: bytes) -> bool:
    """Whether a file's content is TIFF, BigTIFF included, in either byte order."""
    return content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def tags_of(path: Path) -> set[int]:
    """Numbers of the tags on a TIFF's first page; none of another file, or of a damaged one, of which the
    decoders say what is wrong."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
            if not is_tiff(head):
                return set()
            order, big = "<" if head[:2] == b"II" else ">", 43 in head[2:4]
            file.seek(struct.unpack_from(f"{order}{'Q' if big else 'I'}", head, 8 if big else 4)[0])
            count = struct.unpack(f"{order}{'Q' if big else 'H'}", file.read(8 if big else 2))[0]
            size = 20 if big else 12
            entries = file.read(size * min(count, 4096))
            return {
                struct.unpack_from(f"{order}H", entries, at)[0] for at in range(0, len(entries) - 1, size)
            }
    except (OSError, OverflowError, ValueError, struct.error):
        return set()


def beyond_pillow(content: bytes) -> bool:
    """Whether a file is a TIFF that Pillow cannot open, or of which it would show the first of several bands
    as grey."""
    if not is_tiff(content):
        return False
    # It prints how many samples it cannot decode.
    logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tags: Any = Image.open(io.BytesIO(content)).tag_v2  # type: ignore[attr-defined]
    except UnidentifiedImageError:
        return True
    except Exception:  # Damaged files, of which Pillow's own decoder says what is wrong.
        return False
    bands = tags.get(_SAMPLES, 1)
    alpha = bands == 2 and tags.get(_EXTRA, (0,))[0] in _ALPHA
    return bool(tags.get(_PHOTOMETRIC) in _GREY and bands > 1 and not alpha)


def read_tiff(content: bytes, path: Path, *, chosen: bool) -> tuple[NDArray[Any], int | None]:
    """All bands (C, H, W) as the file has them, turned as its orientation tag says, and how many of them,
    from the first, are a picture by the file's own word: 1 for grey, 3 for RGB, None if it does not say.

    The axis of the bands is what the file says it is. Where several pages or a shape without names leave it
    open, the shortest axis is that of the bands.

    chosen: whether bands are chosen by their numbers, which may be those of pages.

    Raises:
        UserError: tifffile is missing, or the file is damaged, compressed in a way that needs more packages,
            too large, has more than three axes, or pages of which none was chosen or that are not alike.
    """
    tifffile = needed("tifffile", "tiff", path)
    # It remarks on odd tags; what matters is raised below.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            series, page = file.series[0], file.pages.first
            axes, shape = series.axes, series.shape
            unlike = [one for one in file.series[1:] if not one.keyframe.is_reduced]
            if unlike or (len(series.pages) > 1 and not chosen):
                pages = len(series.pages) + sum(len(one.pages) for one in unlike)
                choice = "" if unlike else ", or choose some of them, as in bands: [1]"
                raise UserError(
                    f"{path} has {pages} pages, and reading one would drop the others; save the page that "
                    f"counts, or each page, as a file of its own{choice}"
                )
            if int(np.prod(shape)) > MOST_PIXELS * 4:
                raise UserError(f"{path} has {'x'.join(map(str, shape))} values; cut it into tiles")
            values = np.asarray(series.asarray())
            if values.shape != shape or not page.dataoffsets or not values.size:
                raise ValueError("it lacks a part of its values")
            photometric, extra = int(page.photometric), [int(e) for e in page.extrasamples]
            turned = page.tags.valueof(_ORIENTATION, 1)
    except UserError:
        raise
    except Exception as error:  # tifffile raises errors of many types on damaged files.
        if "imagecodecs" in str(error) or isinstance(error, ImportError):
            raise UserError(
                f"{path} is compressed in a way that tifffile reads only with imagecodecs; "
                "pip install imagecodecs, or save the file with deflate or no compression"
            ) from error
        raise UserError(
            f"{path} is damaged or truncated ({first_line(error)}); copy it again or remove it"
        ) from error
    bands = _bands_first(values, axes, path)
    picture = None
    if len(bands) == 1 or (photometric in _GREY and len(bands) == 2 and extra[:1] and extra[0] in _ALPHA):
        picture = 1
    elif photometric == _RGB and len(bands) >= 3:
        picture = 3
    return _turned(bands, int(turned)), picture


def _bands_first(values: NDArray[Any], axes: str, path: Path) -> NDArray[Any]:
    long = [i for i, n in enumerate(values.shape) if n > 1 or axes[i] in "YX"]
    kept, values = "".join(axes[i] for i in long), values.reshape([values.shape[i] for i in long])
    if kept == "YX":
        return values[None]
    if values.ndim != 3 or "Y" not in kept or "X" not in kept:
        raise UserError(
            f"{path} has the axes {axes} ({'x'.join(map(str, values.shape))}); save one plane per file"
        )
    named = [i for i, axis in enumerate(kept) if axis in "SC"]
    place = named[0] if named else int(np.argmin(values.shape))
    return np.moveaxis(values, place, 0)


def _turned(bands: NDArray[Any], orientation: int) -> NDArray[Any]:
    """As the tag says: 2 to 4 mirror or turn by half, 5 to 8 swap rows and columns first."""
    if orientation in (5, 6, 7, 8):
        bands = bands.swapaxes(1, 2)
    if orientation in (3, 4, 7, 8):
        bands = bands[:, ::-1]
    if orientation in (2, 3, 6, 7):
        bands = bands[:, :, ::-1]
    return bands
