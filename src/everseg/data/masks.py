"""Which values of a mask file are the object."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from everseg.data.images import read_values
from everseg.errors import UserError
from everseg.types import VOID

Threshold = int | str
"""127 means "greater than 127"; "==255" means exactly 255, as SAMCL's published code has it."""


@dataclass(frozen=True)
class MaskRule:
    """Which values are foreground: one of `above`, `exactly` (grey masks) and `values` (any mask) decides."""

    above: int | None = 127
    exactly: int | None = None
    values: tuple[int, ...] | None = None

    def __str__(self) -> str:
        if self.values is not None:
            return f"mask_values: {list(self.values)}"
        if self.exactly is not None:
            return f'mask_threshold: "=={self.exactly}"'
        return f"mask_threshold: {self.above}"


def mask_rule(threshold: Threshold = 127, values: Sequence[int] | None = None) -> MaskRule:
    """A rule from the options `mask_threshold` and `mask_values`.

    Raises:
        UserError: a threshold that is neither a number from 0 to 254 nor "==" and a number up to 255.
    """
    if values is not None:
        if not values:
            raise UserError(
                "mask_values is empty; list the values that are the object, as in mask_values: [1, 2]"
            )
        return MaskRule(above=None, values=tuple(int(v) for v in values))
    exact = re.fullmatch(r"\s*==\s*(\d{1,3})\s*", threshold) if isinstance(threshold, str) else None
    if exact and 0 < int(exact[1]) <= 255:
        return MaskRule(above=None, exactly=int(exact[1]))
    if isinstance(threshold, int) and not isinstance(threshold, bool) and 0 <= threshold < 255:
        return MaskRule(above=threshold)
    raise UserError(
        f'mask_threshold {threshold!r} is neither a number from 0 to 254 nor "==255"; '
        "use 127 for masks of 0 and 255"
    )


def read_mask(path: Path, rule: MaskRule) -> NDArray[np.bool_]:
    """(H, W) bool from a mask file; the file's own EXIF orientation is applied, as for images.

    - `values` given: a pixel is object if its value (or palette index) is one of them.
    - A palette: every index but 0 and 255 (void).
    - The largest value is 1, as in 1-bit files: 1 is the object.
    - Otherwise grey: above the threshold, or exactly the value. 16-bit masks reaching beyond 255 are divided
      by 257, float masks within 0..1 multiplied by 255 first.

    Raises:
        UserError: unreadable, or no pixel is object (a promptable model cannot be asked for nothing).
    """
    values, palette = read_values(path)
    mask = _foreground(values, palette, rule)
    if not mask.any():
        high = values.max()
        if high == 0:
            raise UserError(f"{path} is an empty mask (all 0); remove the image and its mask")
        seen = "palette index 255, which means void" if palette and high == VOID else f"values up to {high}"
        raise UserError(
            f"{path} has no object under {rule} (it has {seen}); "
            "set mask_threshold or mask_values to what is the object"
        )
    return mask


def _foreground(values: NDArray[np.generic], palette: bool, rule: MaskRule) -> NDArray[np.bool_]:
    if rule.values is not None:
        return np.isin(values, rule.values)
    if palette:
        return np.asarray((values != 0) & (values != VOID))
    high = float(values.max())
    scale = 1.0
    if values.dtype.kind == "f" and 0 < high <= 1:
        scale = 255.0
    elif high == 1:
        return np.asarray(values != 0)
    elif high > 255:
        scale = 1 / 257
    grey: NDArray[Any] = values if scale == 1.0 else np.rint(values.astype(np.float64) * scale)
    if rule.exactly is not None:
        return np.asarray(grey == rule.exactly)
    assert rule.above is not None, "a rule without values or an exact value has a threshold"
    return np.asarray(grey > rule.above)


def read_labels(path: Path) -> NDArray[np.int32]:
    """(H, W) int32 numbers of classes or objects from a palette or grey file.

    Raises:
        UserError: unreadable, or values that are not whole numbers from 0 to 65535.
    """
    values, _ = read_values(path)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise UserError(
            f"{path} does not number anything: values must be whole, 0 to 65535; save it as 16-bit png"
        )
    return values.astype(np.int32)


def largest_part(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """The largest 4-connected part of one class in a class map (H, W); 0 and 255 belong to no class."""
    best, area = np.zeros(labels.shape, bool), 0
    sizes = np.bincount(labels.ravel())
    for value in np.argsort(-sizes, kind="stable"):
        if value in (0, VOID) or sizes[value] <= area:
            continue  # A class that covers less than the best part holds no larger one.
        parts, _ = ndimage.label(labels == value)
        areas = np.bincount(parts.ravel())
        areas[0] = 0
        part = int(areas.argmax())
        if areas[part] > area:
            best, area = parts == part, int(areas[part])
    return best
