"""Which bands of an image are shown and how their values become 8 bits: the options `bands` and `window`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everseg.data.images import DECODING, decode_image, open_image, shallow
from everseg.data.tiff import is_tiff, read_tiff
from everseg.errors import UserError

Bands = tuple[int, ...] | None
"""One band as grey, or three as red, green and blue, counted from 1."""
Window = tuple[float | str, float | str] | None
"""What becomes 0 and what becomes 255: values, or percentiles of the image written as "2%"."""


@dataclass(frozen=True)
class Decoding:
    """How the values of an image file become 8-bit RGB.

    bands: one band or three, counted from 1; None: the bands that the file declares as its picture.
    window: lower and upper end, as values or percentiles; None: the range of the image.

    Raises:
        UserError: neither one band nor three, a band below 1, or a window whose ends are not in order.
    """

    bands: Bands = None
    window: Window = None

    def __post_init__(self) -> None:
        if self.bands is not None and (len(self.bands) not in (1, 3) or min(self.bands) < 1):
            raise UserError(
                f"bands is {list(self.bands)}; give one band or three (red, green, blue), counted from 1"
            )
        if self.window is not None:
            ends = [_end(end) for end in self.window]
            if ends[0][1] != ends[1][1] or not ends[0][0] < ends[1][0]:
                raise UserError(
                    f"window is {list(self.window)}; give two values, as in [0, 4000], or two percentiles, "
                    "as in [2%, 98%], the lower one first"
                )

    @property
    def name(self) -> str:
        """Names all that changes what a file decodes to: for cache keys and fingerprints."""
        parts = [DECODING]
        if self.bands is not None:
            parts.append("bands=" + ",".join(map(str, self.bands)))
        if self.window is not None:
            parts.append("window=" + ",".join(map(str, self.window)))
        return ":".join(parts)

    def decode(self, content: bytes, path: Path) -> Tensor:
        """(3, H, W) uint8 from a file's content; `path` is for messages only.

        Raises:
            UserError: as `decode_image`, or a band that the file does not have.
        """
        if self.bands is None and self.window is None:
            return decode_image(content, path)
        if is_tiff(content):
            values, picture = read_tiff(content, path, chosen=self.bands is not None)
        else:
            values, picture = _read(content, path, self.window)
        return self.shown(values, path, picture)

    def shown(
        self,
        values: NDArray[Any],
        what: Path | str,
        picture: int | None = None,
        ends: tuple[float, float] | None = None,
        valid: NDArray[np.bool_] | None = None,
    ) -> Tensor:
        """(3, H, W) uint8 from the values of all bands (C, H, W).

        picture: how many bands, from the first, are shown where `bands` is not given.
        ends: the window in values, where percentiles were taken of more than this image.
        valid: (H, W), pixels that have values; others become 0.
        """
        chosen = choose(values, self.bands, what, picture)
        if self.window is None and ends is None:
            grey = shallow(chosen if valid is None else np.where(valid, chosen, 0), what)
        else:
            low, high = ends or self.ends(chosen if valid is None else chosen[:, valid], what)
            known = np.where(valid, chosen, low) if valid is not None else chosen
            grey = windowed(known, low, high, what)
        return torch.from_numpy(np.repeat(grey, 3, axis=0) if len(grey) == 1 else np.array(grey, order="C"))

    def ends(self, values: NDArray[Any], what: Path | str) -> tuple[float, float]:
        """The window in values; percentiles are those of all `values` given."""
        assert self.window is not None, "without a window the range decides"
        (low, percent), (high, _) = (_end(end) for end in self.window)
        if not percent:
            return low, high
        if not values.size:
            return 0.0, 1.0  # Nothing is shown.
        _finite(values, what)
        low, high = (float(v) for v in np.percentile(values.astype(np.float64), [low, high]))
        return low, max(high, np.nextafter(low, np.inf))


PLAIN = Decoding()


def choose(
    values: NDArray[Any], bands: Sequence[int] | None, what: Path | str, picture: int | None = None
) -> NDArray[Any]:
    """The chosen bands of (C, H, W), or the first `picture` of them.

    Raises:
        UserError: a band that is not there, or no word on which of several to take.
    """
    if bands is None:
        if picture is None and len(values) not in (1, 3):
            raise UserError(
                f"{what} has {len(values)} bands; say which are red, green and blue, as in bands: [3, 2, 1]"
            )
        return values[: picture or len(values)]
    for band in bands:
        if band > len(values):
            raise UserError(
                f"{what} has {len(values)} bands and no band {band}; correct bands: {list(bands)}"
            )
    return values[[band - 1 for band in bands]]


def windowed(values: NDArray[Any], low: float, high: float, what: Path | str) -> NDArray[np.uint8]:
    """Values up to `low` become 0, from `high` on 255, and in between they follow a line.

    Raises:
        UserError: NaN or infinity.
    """
    _finite(values, what)
    grey = (values.astype(np.float64) - low) / (high - low) * 255
    return (grey.clip(0, 255) + 0.5).astype(np.uint8)


def _finite(values: NDArray[Any], what: Path | str) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError(f"{what} contains NaN or infinite values; replace them, for example by 0")


def _end(given: float | str) -> tuple[float, bool]:
    """A window's end, and whether it is a percentile.

    Raises:
        UserError: it is not a number, or no percentile from 0% to 100%.
    """
    text = str(given).strip()
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = float("nan")
    percent = text.endswith("%")
    if not np.isfinite(value) or (percent and not 0 <= value <= 100):
        raise UserError(f"window contains {given!r}; give numbers, or percentiles from 0% to 100%")
    return value, percent


def _read(content: bytes, path: Path, window: Window) -> tuple[NDArray[Any], int | None]:
    """(C, H, W) values of a file that is not a TIFF, and how many bands are its picture."""
    if window is not None and content[:4] == b"\x89PNG" and content[24] == 16 and content[25] in (2, 6):
        raise UserError(
            f"{path} is a PNG of 16-bit colours, of which only 8 bits are read; save it as TIFF to use window"
        )
    image = open_image(content, path)
    if image.mode in ("1", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    values = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
    return values, 1 if len(values) < 3 else 3
