"""Decode the file of a mask, a class map or an instance map: one decoder for all three.

What the values mean is decided elsewhere and for all files of a split at once: `masks` for binary masks,
`numbers` for maps whose values number classes or objects.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from everseg.data.images import DEEP, open_header, open_image, read_file, refuse_nan
from everseg.errors import UserError

Form = Literal["grey", "palette", "colour"]

Colour = tuple[int, int, int]


_LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")


_STEP = 51
"""To a multiple of which the channels of colours in a JPEG are rounded."""

_NEAR = 12
"""By how much white may differ from 255 in a JPEG of a grey mask. What is near 0 may be a number."""


@dataclass(frozen=True)
class Raster:
    """The pixels of a mask or map as they are in its file.

    values: (H, W) grey values, palette indices, or colours as R + 256 G + 65536 B.
    form: which of the three they are. A file in colour whose channels are all equal is grey.
    palette: (n, 3) uint8, the colours of palette indices; None for other forms.
    lossy: whether the format is one that may change values, as JPEG does.
    """

    values: NDArray[np.generic]
    form: Form
    palette: NDArray[np.uint8] | None = None
    lossy: bool = False

    def colours(self) -> NDArray[np.int32]:
        """(H, W): the colour of every pixel as one number, see `packed`."""
        if self.form == "colour":
            return self.values.astype(np.int32)
        if self.palette is not None:
            shown = np.zeros((256, 3), np.uint8)
            shown[: len(self.palette)] = self.palette
            return np.asarray(packed(shown)[self.values.astype(np.int64)])
        return packed(np.repeat(self.values.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1))

    def colour(self, value: int) -> Colour:
        """The colour that a value is shown in."""
        if self.form == "colour":
            return unpacked(value)
        if self.palette is not None:
            return _triple(self.palette[value]) if value < len(self.palette) else (0, 0, 0)
        return value, value, value


def read_raster(path: Path) -> Raster:
    """The pixels of a mask or map, turned as the file's own EXIF orientation says. Alpha is ignored.

    Raises:
        UserError: unreadable, several pages, NaN, or a mask that is kept in the alpha channel.
    """
    return decode_raster(read_file(path), path)


def decode_raster(content: bytes, path: Path) -> Raster:
    """As `read_raster`, from a file's content; `path` is for messages only."""
    image = open_image(content, path)
    lossy = image.format in _LOSSY
    if image.mode in ("P", "PA"):
        indices = np.asarray(image if image.mode == "P" else image.getchannel(0))
        colours = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
        return Raster(indices, "palette", colours)
    if image.mode in ("1", "L", *DEEP):
        values = np.asarray(image)
        if values.dtype.kind == "f":
            refuse_nan(values, path)
        return Raster(values.astype(np.uint8) if values.dtype == bool else values, "grey", lossy=lossy)
    if image.mode in ("LA", "La", "RGBA", "RGBa"):
        _refuse_alpha(image, path)
    if image.mode in ("LA", "La"):
        return Raster(np.asarray(image.getchannel(0)), "grey")
    try:
        rgb = np.asarray(image.convert("RGB"))
    except ValueError as error:
        raise UserError(
            f"{path} has colour mode {image.mode}, which masks cannot have; save it as 8-bit png"
        ) from error
    if lossy and _nearly_grey(rgb):
        return Raster(np.asarray(image.convert("L")), "grey", lossy=True)
    if (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all():
        return Raster(np.ascontiguousarray(rgb[..., 0]), "grey", lossy=lossy)
    return Raster(packed(rgb), "colour", lossy=lossy)


def raster_of(values: NDArray[Any], what: Path | str) -> Raster:
    """Grey values (H, W) that are in no image file, such as a slice of a volume; `what` is for messages.

    Raises:
        UserError: they are not (H, W) numbers, or NaN is among them.
    """
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise UserError(
            f"{what} has values of shape {values.shape} and type {values.dtype}; a mask has one number per "
            "pixel"
        )
    if values.dtype.kind == "f":
        refuse_nan(values, what)
    return Raster(values.astype(np.uint8) if values.dtype == bool else values, "grey")


def palette_of(path: Path) -> dict[int, Colour]:
    """The colours of a file's palette from its header; nothing where it has none or is not an image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_header(path) as image:
                colours = image.getpalette("RGB") if image.mode in ("P", "PA") else None
    except Exception:  # Pillow raises errors of a dozen types; a damaged image is a sentence when decoded.
        return {}
    return dict(enumerate(map(_triple, np.array(colours or [], np.uint8).reshape(-1, 3))))


def packed(rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Colours (..., 3) as one number each, R + 256 G + 65536 B, the numbering of COCO's panoptic maps."""
    wide = rgb.astype(np.int32)
    return np.asarray(wide[..., 0] | wide[..., 1] << 8 | wide[..., 2] << 16)


def unpacked(number: int) -> Colour:
    """The colour that `packed` made this number of."""
    return number & 255, number >> 8 & 255, number >> 16 & 255


def channels_of(values: NDArray[Any]) -> NDArray[np.int64]:
    """The channels (..., 3) of colours that are packed as numbers."""
    wide = values.astype(np.int64)
    return np.stack([wide & 255, wide >> 8 & 255, wide >> 16 & 255], axis=-1)


def whole(values: NDArray[np.generic]) -> NDArray[np.integer]:
    """Values as whole numbers: floats within 0..1 are multiplied by 255."""
    if values.dtype.kind != "f":
        return values  # type: ignore[return-value]
    floats = values.astype(np.float64)
    return np.rint(floats * 255 if 0 < floats.max() <= 1 else floats).astype(np.int64)


def in_steps(raster: Raster) -> NDArray[np.integer]:
    """Values of a raster as whole numbers; in a lossy format so that equal areas have equal values again:
    channels of colours in steps of 51, and greys near 255 as this.
    """
    if raster.form == "colour":
        if not raster.lossy:
            return raster.values.astype(np.int64)
        return packed((np.rint(channels_of(raster.values) / _STEP) * _STEP).astype(np.uint8))
    values = whole(raster.values)
    if not raster.lossy or values.dtype != np.uint8 or values.max(initial=0) < 128:
        return values
    return np.where(near_white(values), 255, values).astype(np.uint8)


def near_white(value: Any) -> Any:
    """Whether 8-bit greys may have been 255 before a JPEG was made of them."""
    return (value > 255 - _NEAR) & (value <= 255)


def _triple(row: NDArray[np.uint8]) -> Colour:
    red, green, blue = row.tolist()
    return red, green, blue


def _nearly_grey(rgb: NDArray[np.uint8]) -> bool:
    """Whether channels differ by no more than they do in a JPEG of a grey mask."""
    wide = rgb.astype(np.int16)
    return bool((np.abs(wide - wide[..., :1]) <= 8).all())


def _refuse_alpha(image: Image.Image, path: Path) -> None:
    """Refuse a file whose colours are constant and whose transparency draws the object."""
    *colours, alpha = image.getextrema()
    if all(low == high for low, high in colours) and alpha[0] < alpha[1]:  # type: ignore[misc,index]
        raise UserError(
            f"{path} has one colour everywhere and its object in the alpha channel, which masks ignore; save "
            "the alpha channel as a grey png"
        )
