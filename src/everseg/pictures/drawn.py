"""A prediction as files: what is written for one image, in which form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Form = Literal["masks", "labels", "coco"]
"""A PNG mask per object, one label map per image, or run lengths as in COCO; a run of classes has class maps
for both of the first two."""

PNG, GEOTIFF = ".png", ".tif"


@dataclass(frozen=True)
class Wanted:
    """How a prediction is to be drawn.

    stem: of the files' names.
    overlay: whether the prediction is also drawn over the image.
    classes: names of the channels, for runs that have any.
    names: what a prompt file calls each object; empty if they have no names.
    categories: COCO category of each object.
    suffix: of the masks' files, `PNG` or `GEOTIFF`; overlays are PNG.
    """

    stem: str
    form: Form = "masks"
    overlay: bool = True
    classes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    categories: tuple[int, ...] = ()
    suffix: str = PNG


@dataclass(frozen=True)
class Drawn:
    """Pictures and figures of one prediction.

    pictures: by file name, each drawn when it is called for, which may be in another thread; the name says in
        which format it is written.
    record: what the JSON file says, without the image's path.
    """

    pictures: Mapping[str, Callable[[], Image.Image]]
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Region:
    """The pixels of one object, cut to their bounding box.

    pixels: (h, w) bool.
    x, y: its upper left corner in the image.
    size: (H, W) of the image.
    """

    pixels: NDArray[np.bool_]
    x: int
    y: int
    size: tuple[int, int]

    @classmethod
    def of(cls, mask: NDArray[np.bool_], x: int, y: int, size: tuple[int, int]) -> Region:
        """From the pixels of a part of the image whose upper left corner is at x, y."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return cls(np.zeros((0, 0), bool), x, y, size)
        top, left = int(rows[0]), int(columns[0])
        cut = mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
        return cls(cut.copy(), x + left, y + top, size)

    @property
    def count(self) -> int:
        """How many pixels it has."""
        return int(self.pixels.sum())

    @property
    def bbox(self) -> list[int]:
        """x, y, width and height, as COCO has them."""
        height, width = self.pixels.shape
        return [self.x, self.y, width, height]

    def into(self, canvas: NDArray[Any], value: Any) -> None:
        """Set its pixels in an array (H, W)."""
        height, width = self.pixels.shape
        canvas[self.y : self.y + height, self.x : self.x + width][self.pixels] = value

    def full(self) -> NDArray[np.bool_]:
        """(H, W) bool."""
        canvas = np.zeros(self.size, bool)
        self.into(canvas, True)
        return canvas


def union(regions: Sequence[Region], size: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) bool: the pixels of any region."""
    canvas = np.zeros(size, bool)
    for region in regions:
        region.into(canvas, True)
    return canvas


def numbered(regions: Sequence[Region], size: tuple[int, int]) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """(H, W): 1 for the first region, 2 for the second, ...; 0 for none. Where regions overlap, the smaller
    one is on top, so that none is hidden by one that contains it. uint8 up to 254 regions, since 255 is
    void, else uint16.
    """
    canvas = np.zeros(size, np.uint8 if len(regions) < 255 else np.uint16)
    for n in sorted(range(len(regions)), key=lambda n: -regions[n].count):
        regions[n].into(canvas, n + 1)
    return canvas
