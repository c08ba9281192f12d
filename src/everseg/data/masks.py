"""The meaning of the masks of a split: which pixels are the object.

`MaskRule` (in `everseg.data.maskrule`) is what the options say. `settled` (in `everseg.data.meaning`) looks
at the files of a split and makes a `Meaning` of it, which reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everseg.data.levels import Levels, distinct
from everseg.data.maskrule import MaskRule
from everseg.data.raster import (
    Colour,
    Form,
    Raster,
    channels_of,
    in_steps,
    near_white,
    packed,
    read_raster,
    unpacked,
)
from everseg.errors import UserError
from everseg.text import plural
from everseg.types import VOID

BORDER = (224, 224, 192)
"""The colour of VOC's palette index 255, which surrounds objects and means void."""

_JPEG = 32
"""By how much a channel of a colour in a JPEG may differ from the colour that was meant."""


REMOVE = "remove the image and its mask"
"""What to do about a mask without an object."""


@dataclass(frozen=True)
class Meaning:
    """The meaning of the masks of a split, decided once for all of them.

    rule: the options that were given.
    form: form of the values. A palette of greys, such as black and white, is read as the greys it shows.
    drawn: values that somebody drew; others are the blur of smooth resizing or JPEG.
    object: values of the object.
    palette: {index: colour} of the indices seen, for form "palette"; of the first file if values are given.
    files: number of masks.
    unit: what a mask is stored in, for messages.
    redrawn: whether earlier versions read the masks differently, so that fingerprints must differ.
    """

    rule: MaskRule
    form: Form = "grey"
    drawn: tuple[int, ...] = ()
    object: tuple[int, ...] = ()
    palette: Mapping[int, Colour] = field(default_factory=dict)
    soft: bool = False
    files: int = 0
    unit: str = "file"
    redrawn: bool = False

    @property
    def cut(self) -> int:
        """Grey values above this one are object: the middle between the object and what is next darker."""
        (bright,) = self.object
        below = [v for v in self.drawn if v < bright]
        return (below[-1] + bright) // 2 if below else bright - 1

    @property
    def key(self) -> str:
        """What of this decides the pixels of a mask, for fingerprints."""
        return f"{self.rule}, shown greys" if self.redrawn else str(self.rule)

    def __str__(self) -> str:
        return self.words + (f" ({plural(self.files, self.unit)})" if self.files else "")

    @property
    def words(self) -> str:
        """What the masks mean, without their number."""
        if not self.files:
            return "no mask can be read"
        if not self.rule.open:
            return str(self.rule)
        if not self.object:
            return "no object in any mask"
        void = [v for v in (*self.rule.void, *([VOID] if self._void_index else [])) if v in self.drawn]
        drawn = "/".join(self.shown(v) for v in self.drawn)
        which = ", ".join(self.shown(v) for v in self.object)
        if self.soft:
            which = f"above {self.cut}" if self.form == "grey" else f"nearest to {which}"
        what = {"grey": "", "palette": "palette indices ", "colour": "colours "}[self.form]
        soft = " with soft borders" if self.soft else ""
        return f"{what}{drawn}{soft}, object {'' if self.soft else '= '}{which}" + (
            f", void = {', '.join(map(str, void))}" if void else ""
        )

    @property
    def _void_index(self) -> bool:
        return self.form == "palette" and VOID in self.drawn and VOID not in self.object

    def shown(self, value: int) -> str:
        """A value as people know it: a number, or a colour."""
        if self.form == "colour":
            return "#{:02x}{:02x}{:02x}".format(*unpacked(value))
        return str(value)

    def mask(self, path: Path, todo: str = REMOVE) -> NDArray[np.bool_]:
        """(H, W) bool from a mask file of the split; the file's own EXIF orientation is applied.

        Raises:
            UserError: unreadable, values that the split does not otherwise have, or no pixel is object (a
                promptable model cannot be asked for nothing).
        """
        raster = read_raster(path)
        mask = self.object_in(raster, path)
        if not mask.any():
            raise self.nothing(raster, path, todo)
        return mask

    def object_in(self, raster: Raster, path: Path | str) -> NDArray[np.bool_]:
        """(H, W) bool from the pixels of a mask of the split, wherever they come from; it may be empty.

        path: names the mask in messages.

        Raises:
            UserError: values that the split does not otherwise have.
        """
        mask = self._said(raster, path) if not self.rule.open else self._meant(raster, path)
        if self.rule.void and raster.form != "colour":
            mask &= ~np.isin(raster.values, self.rule.void)
        return mask

    def nothing(self, raster: Raster, path: Path | str, todo: str = REMOVE) -> UserError:
        """What to say of a mask without an object, and `todo` about it."""
        values = distinct(raster.values)
        if not values.any() and raster.form != "palette":
            return UserError(f"{path} is an empty mask (all 0); {todo}")
        some = ", ".join(str(v) for v in values[:6].tolist()) + (", ..." if len(values) > 6 else "")
        if raster.form == "colour":
            some = ", ".join("#{:02x}{:02x}{:02x}".format(*unpacked(int(v))) for v in values[:6])
        rule = self.rule if not self.rule.open else f"masks of {self}"
        what = {"grey": "values", "palette": "palette indices", "colour": "colours"}[raster.form]
        return UserError(
            f"{path} has no object under {rule} (it has the {what} {some}); {todo}, or correct "
            "mask_threshold, mask_values or mask_colours"
        )

    def _said(self, raster: Raster, path: Path | str) -> NDArray[np.bool_]:
        """The object by what a person said.

        Raises:
            UserError: numbers were said, and the file is in colour or shows a number as others show another.
        """
        rule = self.rule
        values: NDArray[Any] = raster.values
        if rule.values is not None:
            if raster.form == "colour":
                raise UserError(f"{path} is in colour, but mask_values are numbers; set mask_colours instead")
            others = {colour for index, colour in self.palette.items() if index not in rule.values}
            for index in rule.values if raster.form == "palette" else ():
                if raster.colour(index) in others and raster.colour(index) != self.palette.get(index):
                    raise UserError(
                        f"{path} shows palette index {index} as {raster.colour(index)}, which is another "
                        "index in other masks of this split; save all masks with one palette, or set "
                        "mask_colours"
                    )
            return np.isin(values, rule.values)
        if rule.colours is not None:
            return _of_colours(raster, rule.colours)
        if raster.form == "palette":
            if not _is_grey(raster.palette, distinct(values)):
                return np.asarray((values != 0) & (values != VOID))
            values = _shown(raster)
        if raster.form == "colour":
            values = np.max([values & 255, values >> 8 & 255, values >> 16], axis=0)
        grey = _scaled(values)
        if rule.exactly is not None:
            return np.asarray(grey == rule.exactly)
        assert rule.above is not None, "one of the four is given"
        return np.asarray(grey > rule.above)

    def _meant(self, raster: Raster, path: Path | str) -> NDArray[np.bool_]:
        """The object by what the split's masks mean, after a look whether this one means the same."""
        values = self._values(raster, path)
        soft = not set(distinct(values).tolist()) <= set(self.drawn)
        if soft:
            strange = [v for v in Levels.of(values).drawn if v not in self.drawn]
            if self.form == "palette":  # A class that no mask had that was looked at.
                strange = []
            if self.form == "grey" and self.soft:  # What is beyond both ends is on their side of the cut.
                white = near_white(self.drawn[-1])
                strange = [v for v in strange if v > self.drawn[0] and not (white and near_white(v))]
            if strange and self.drawn:
                raise UserError(
                    f"{path} has the value {self.shown(strange[0])}, but the masks of this split are {self}; "
                    "correct the file, or define the object with mask_values or mask_colours"
                )
        if self.form == "palette":
            return np.isin(values, [v for v in distinct(values).tolist() if self._is_object(v, raster)])
        if self.form == "colour" and soft:
            return _nearest(values, self.drawn, self.object)
        if self.form == "colour" or not self.object:
            return np.isin(values, self.object)
        return np.asarray(values > self.cut)

    def _is_object(self, index: int, raster: Raster) -> bool:
        """Whether a palette index is object, if need be one that no mask had that was looked at."""
        if index in self.drawn or {0, VOID} & set(self.object):
            return index in self.object
        like_ground = len(set(self.palette.values())) > 1 and raster.colour(index) == self.palette.get(0)
        return index not in (0, VOID) and not like_ground

    def _values(self, raster: Raster, path: Path | str) -> NDArray[np.integer]:
        """A file's values in the form of the split.

        Raises:
            UserError: its form or its palette is another one.
        """
        if raster.form == self.form == "palette":
            for index in distinct(raster.values).tolist():
                colour = raster.colour(index)
                if self.palette.get(index, colour) != colour:
                    raise UserError(
                        f"{path} shows palette index {index} as {colour}, where other masks of this split "
                        f"show it as {self.palette[index]}; save all masks with one palette, or set "
                        "mask_colours"
                    )
            return raster.values.astype(np.int64)
        if (
            self.form == "grey"
            and raster.form == "palette"
            and _is_grey(raster.palette, distinct(raster.values))
        ):
            return _shown(raster)
        if self.form == "grey" and raster.form == "grey":
            return in_steps(raster)
        if self.form == "colour" and raster.form == "grey":
            return packed(np.repeat(np.asarray(raster.values, np.uint8)[..., None], 3, axis=-1))
        if self.form == "colour" and raster.form == "colour":
            return in_steps(raster)
        forms = {"grey": "in grey", "palette": "with a palette in colour", "colour": "in colour"}
        raise UserError(
            f"{path} is {forms[raster.form]}, but the masks of this split are {forms[self.form]}; save "
            "all masks in one form, or set mask_colours"
        )


def _scaled(values: NDArray[np.generic]) -> NDArray[Any]:
    """Grey values as thresholds from 0 to 255 count them: masks of 0 and 1, of floats within 0..1 and of 16
    bits are scaled to that range."""
    high = float(values.max())
    if values.dtype.kind == "f":
        return np.rint(values.astype(np.float64) * (255 if 0 < high <= 1 else 1 if high <= 255 else 1 / 257))
    if high == 1:
        return values.astype(np.int64) * 255
    return np.rint(values.astype(np.float64) / 257) if high > 255 else values


def _is_grey(palette: NDArray[np.uint8] | None, used: NDArray[np.generic]) -> bool:
    """Whether a palette shows the indices in use as distinct greys."""
    if palette is None or int(used.max(initial=0)) >= len(palette):
        return False
    colours = palette[used.astype(np.int64)]
    if not (colours == colours[:, :1]).all():
        return False
    return len(used) == 1 or len(distinct(colours[:, 0])) > 1


def _shown(raster: Raster) -> NDArray[np.integer]:
    assert raster.palette is not None
    return raster.palette[raster.values.astype(np.int64), 0]


def _of_colours(raster: Raster, colours: Sequence[Colour]) -> NDArray[np.bool_]:
    if raster.palette is not None:
        wanted = [i for i, colour in enumerate(raster.palette.tolist()) if tuple(colour) in colours]
        return np.isin(raster.values, wanted)
    values: NDArray[Any] = raster.values
    if raster.form == "grey":
        values = packed(np.repeat(_scaled(values).astype(np.uint8)[..., None], 3, axis=-1))
    numbers = [int(packed(np.array(colour, np.uint8))) for colour in colours]
    if not raster.lossy:
        return np.isin(values, numbers)
    channels = channels_of(values)
    near = [(np.abs(channels - np.array(c)) <= _JPEG).all(axis=-1) for c in colours]
    return np.any(near, axis=0)


def _nearest(values: NDArray[np.integer], drawn: Sequence[int], chosen: Sequence[int]) -> NDArray[np.bool_]:
    """(H, W): whether the drawn colour that is nearest to a pixel's is one of the chosen."""
    channels = channels_of(values)
    distances = [((channels - np.array(unpacked(v))) ** 2).sum(axis=-1) for v in drawn]
    return np.isin(np.array(drawn)[np.argmin(distances, axis=0)], chosen)


def largest_part(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """The largest 4-connected part of one class in a class map (H, W); 0 and 255 belong to no class."""
    from scipy import ndimage  # Only maps of several classes need it.

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
