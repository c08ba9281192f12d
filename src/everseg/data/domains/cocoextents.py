"""Check the positions of COCO segmentations and boxes, and that they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from everseg.data.domains.extents import SAMPLED, Box, Extents, beyond, extent, swapped
from everseg.data.domains.faults import places, verb
from everseg.data.domains.rle import decode_rle
from everseg.data.domains.shapes import Shape, number
from everseg.errors import UserError

_NEAR = 2.0
"""Pixels by which a side of a bbox may differ from the polygon's: tools round, and count pixels or edges."""

_SHARE = 0.1
"""And by which share of its longer side: some tools write the bbox of a smoothed outline."""


DECODED = 500
"""The first so many run lengths are decoded to compare them with their bbox, and some of the others."""


@dataclass
class CocoExtents(Extents):
    """As `Extents`, of a COCO file.

    apart: annotations whose bbox is not that of their segmentation.
    as_corners: those of which it is one as [left, top, right, bottom].
    turned: those of which it is one with x and y swapped.
    corner_boxes: boxes that are taken as masks and fit their image only as corners.
    as_sizes: how many boxes cannot be corners.
    decoded: how many run lengths there were.
    """

    apart: list[str] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    as_corners: list[str] = field(default_factory=list)
    corner_boxes: list[str] = field(default_factory=list)
    as_sizes: int = 0
    decoded: int = 0

    def add_shape(self, known: object, shape: Shape, bbox: Any, height: int, width: int) -> None:
        """Take note of an annotation with a segmentation and, mostly, a bbox."""
        given = _numbers(bbox)
        parts: Sequence[Any] = [shape] if isinstance(shape, Mapping) else shape
        polygons = [part for part in parts if not isinstance(part, dict)]
        if polygons and len(polygons) == len(parts):
            own = extent(polygons)
            self.add(known, own, height, width)
            for polygon in polygons:
                self.add_polygon(known, polygon)
        elif len(parts) == 1 and given is not None and (of_runs := self._of_runs(parts[0], height, width)):
            own = of_runs
        else:
            return
        if given is None or _alike(given, own, height, width):
            return
        as_corners = _alike(_as_sizes(given), own, height, width)
        self._put(self.as_corners if as_corners else self.apart, known)
        if _alike(swapped(given), own, height, width):
            self._put(self.turned, known)

    def _of_runs(self, runs: Mapping[str, Any], height: int, width: int) -> Box | None:
        """The extent of run lengths; None of those that cannot be decoded, which is a fault of their own when
        they are, and of most where there are many, since each must be decoded."""
        self.decoded += 1
        if self.decoded % max(1, self.step * SAMPLED // DECODED) and self.decoded > DECODED:
            return None
        try:
            mask = decode_rle(runs["counts"], height, width)
        except ValueError:
            return None
        rows, columns = np.flatnonzero(mask.any(1)).tolist(), np.flatnonzero(mask.any(0)).tolist()
        return (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) if rows else None

    def add_box(self, known: object, bbox: Any, height: int, width: int) -> None:
        """Take note of a bbox that is taken as the mask."""
        given = _numbers(bbox)
        if given is None:
            return
        self.add(known, given, height, width)
        corners = _as_sizes(given)
        if corners[2] <= corners[0] or corners[3] <= corners[1]:
            self.as_sizes += 1
        elif (
            beyond(given, height, width) > max(_NEAR, _SHARE * min(height, width))
            and beyond(corners, height, width) <= _NEAR
        ):
            self._put(self.corner_boxes, known)

    def refuse(self, use_boxes: bool) -> None:
        """Raise `UserError` where the order of the coordinates is another one than COCO's.

        use_boxes: whether a bbox may be a mask.
        """
        self.refuse_swapped()
        corners = [*self.corner_boxes, *self.as_corners]
        if use_boxes and len(corners) > self.as_sizes:
            raise UserError(
                f"{self.source}: {places(self.noun, corners)} {verb('has a bbox', len(corners))} that fits "
                "as [left, top, right, bottom] and not as [x, y, width, height]; write width and height"
            )

    def notes(self) -> list[str]:
        found = super().notes()
        if self.turned:
            found.append(
                f"{self.source}: {places(self.noun, self.turned)} "
                f"{verb('has a segmentation and a bbox', len(self.turned))} that agree only with x and y "
                "swapped; see in the contact sheet (--sheet) which of them lies on the object"
            )
        apart = [place for place in (*self.apart, *self.as_corners) if place not in self.turned]
        if apart:
            found.append(
                f"{self.source}: {places(self.noun, apart)} {verb('has a bbox', len(apart))} that is not "
                "around the segmentation, which is used; see in the contact sheet (--sheet) whether it lies "
                "on the object"
            )
        return found


def _numbers(bbox: Any) -> Box | None:
    """Left, top, right and bottom of a bbox [x, y, width, height]; None where it is something else."""
    given: Sequence[Any] = bbox if isinstance(bbox, list) and len(bbox) == 4 else ()
    found = [value for value in map(number, given) if value is not None]
    if len(found) < 4 or not (found[2] > 0 and found[3] > 0):
        return None
    x, y, width, height = found
    return x, y, x + width, y + height


def _as_sizes(box: Box) -> Box:
    """A box as it was written: x, y, and what was taken as width and height."""
    left, top, right, bottom = box
    return left, top, right - left, bottom - top


def _alike(one: Box, other: Box, height: int, width: int) -> bool:
    """Whether two boxes are one, as far as they are within the image."""
    ends = (width, height, width, height)
    a, b = ([min(max(v, 0.0), end) for v, end in zip(box, ends, strict=True)] for box in (one, other))
    near = max(_NEAR, _SHARE * max(a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1]))
    return all(abs(v - w) <= near for v, w in zip(a, b, strict=True))
