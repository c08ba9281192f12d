"""Check that annotations lie within their image and that their corners are in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from everseg.data.domains.faults import places, verb
from everseg.errors import UserError, brief

FAR = 0.05
"""Share of a side by which an annotation must leave the image for the order of x and y to be doubted. People
draw across borders, and tools round, by less."""

SAMPLED = 20_000
"""Number of polygons, evenly spaced, that are checked for crossing themselves."""

_GRID = 32
"""The side of the grid on which a polygon is looked at, whatever its size."""

_CROSSED = 0.05
"""Share of a polygon's area that must be drawn twice or the other way round to be reported: polygons that
were traced by a program have tiny loops."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def extent(polygons: Sequence[Sequence[float]]) -> Box:
    """The box around polygons [x, y, x, y, ...]."""
    corners = np.concatenate([np.asarray(p, np.float64).reshape(-1, 2) for p in polygons])
    (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
    return left, top, right, bottom


def swapped(box: Box) -> Box:
    """A box with x and y swapped."""
    left, top, right, bottom = box
    return top, left, bottom, right


@dataclass
class Extents:
    """Notes on the positions of the annotations of a file or folder.

    as_written, as_swapped: how many fit their image in one order of x and y and not in the other.
    in_neither: how many fit in neither.
    outside: those that leave their image, and by how many pixels at most.
    crossing: those whose outline crosses itself; one in `step` polygons is looked at.
    """

    source: object
    noun: str = "annotation"
    step: int = 1
    seen: int = 0
    as_written: int = 0
    in_neither: int = 0
    as_swapped: list[str] = field(default_factory=list)
    far: bool = False
    outside: list[str] = field(default_factory=list)
    farthest: float = 0
    crossing: list[str] = field(default_factory=list)

    def add(self, place: object, box: Box, height: int, width: int) -> None:
        """Take note of one annotation, or of its part, that has the extent `box`."""
        margin = max(2.0, 0.01 * max(height, width))
        over, other = beyond(box, height, width), beyond(swapped(box), height, width)
        if over <= margin < other:
            self.as_written += 1
        if over <= margin:
            return
        self._put(self.outside, place)
        self.farthest = max(self.farthest, over)
        if other > margin:
            self.in_neither += 1
            return
        self._put(self.as_swapped, place)
        self.far |= over > FAR * min(height, width)

    def add_polygon(self, place: object, polygon: Sequence[float]) -> None:
        """Take note of a polygon [x, y, x, y, ...] if it crosses itself."""
        self.seen += 1
        if self.seen % self.step == 0 and crosses_itself(np.asarray(polygon, np.float64).reshape(-1, 2)):
            self._put(self.crossing, place)

    def _put(self, where: list[str], place: object) -> None:
        name = brief(str(place), 60)
        if not where or where[-1] != name:
            where.append(name)

    def refuse_swapped(self) -> None:
        """Raise `UserError` where more annotations fit their images with x and y swapped than as written."""
        # Coordinates of a larger image leave this one in either order.
        if not self.far or len(self.as_swapped) <= self.as_written + 4 * self.in_neither:
            return
        raise UserError(
            f"{self.source}: {places(self.noun, self.as_swapped)} "
            f"{verb('is outside of the image', len(self.as_swapped))}, and would be inside with x and y "
            "swapped; write x before y in the whole file"
        )

    def notes(self) -> list[str]:
        """What a person should look at, as sentences."""
        found = []
        if self.outside:
            found.append(
                f"{self.source}: {places(self.noun, self.outside)} "
                f"{verb('is partly or wholly outside of the image', len(self.outside))}, by up to "
                f"{self.farthest:.0f} pixels, and cut off there; see in the contact sheet (--sheet) whether "
                "the coordinates are those of an image of another size"
            )
        if self.crossing:
            found.append(
                f"{self.source}: {places(self.noun, self.crossing)} "
                f"{verb('has an outline that crosses itself', len(self.crossing))} (what it goes round twice "
                "is left out, as in pycocotools and OpenCV); see in the contact sheet (--sheet) whether the "
                "corners are in order"
            )
        return found


def beyond(box: Box, height: int, width: int) -> float:
    """By how many pixels a box leaves an image, at most; 0 where it does not."""
    left, top, right, bottom = box
    return max(-left, -top, right - width, bottom - height, 0.0)


def crosses_itself(corners: NDArray[np.float64]) -> bool:
    """Whether parts of a polygon (n, 2) overlap each other or are gone round in opposite directions.

    The winding number tells: it is 0 outside and 1 (or -1) everywhere inside a polygon that does not cross
    itself. A figure of eight has both signs, a pentagram has 2 in its middle.
    """
    low, high = corners.min(0), corners.max(0)
    if len(corners) < 4 or not (high > low).all():
        return False
    x0, y0 = ((corners - low) / (high - low) * _GRID).T
    x1, y1 = np.roll(x0, -1), np.roll(y0, -1)
    lines = np.arange(_GRID) + 0.5
    edge, row = np.nonzero((y0[:, None] <= lines) != (y1[:, None] <= lines))
    x = x0[edge] + (lines[row] - y0[edge]) * (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
    column = np.ceil(x - 0.5).astype(np.int64)
    turns = np.bincount(
        row * (_GRID + 1) + column, np.where(y1 > y0, 1, -1)[edge], minlength=_GRID * (_GRID + 1)
    )
    winding = turns.reshape(_GRID, _GRID + 1).cumsum(axis=1)[:, :-1]
    one, other = np.count_nonzero(winding > 0), np.count_nonzero(winding < 0)
    wrong = np.count_nonzero(np.abs(winding) > 1)
    if min(one, other) > _CROSSED * (one + other) and not _is_joined(corners):
        wrong += min(one, other)
    return bool(wrong > _CROSSED * (one + other))


def _is_joined(corners: NDArray[np.float64]) -> bool:
    """Whether a polygon is several parts that a line to and fro joins, as converters write objects of several
    parts; those may go round in opposite directions."""
    ends = [tuple(corner) for corner in corners.tolist()]
    edges = {(a, b) for a, b in zip(ends, [*ends[1:], ends[0]], strict=True) if a != b}
    return any((b, a) in edges for a, b in edges)
