"""Outlines of a mask as polygons of few points, as annotation tools expect them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from everseg.pictures.drawn import Region

TOLERANCE = 0.6
"""Pixels by which a polygon may leave the outline."""

Points = NDArray[np.float64]
"""(P, 2) x, y in pixels, where the first pixel reaches from 0 to 1."""


def outlines(region: Region, tolerance: float = TOLERANCE) -> tuple[list[Points], bool]:
    """The outer outlines of a region's parts, and whether any has a hole, which no polygon can say.

    The outline runs between the centres of pixels, so that with a tolerance of 0 exactly the region's pixels
    have their centres inside.
    """
    from contourpy import FillType, contour_generator

    if not region.count:
        return [], False
    padded = np.pad(region.pixels, 1).astype(np.float64)
    made = contour_generator(z=padded, fill_type=FillType.OuterOffset).filled(0.5, 2.0)
    found, holes = [], False
    for points, offsets in zip(*made, strict=True):
        holes = holes or len(offsets) > 2
        outer = np.asarray(points[offsets[0] : offsets[1]], np.float64)
        # Contours are in numbers of pixels' centres; the border and the cut are taken away again.
        found.append(simplified(outer + (region.x - 0.5, region.y - 0.5), tolerance))
    return found, holes


def simplified(ring: Points, tolerance: float) -> Points:
    """A closed ring (P + 1, 2), its first point again at the end, with fewer points and without that one.

    Source: Douglas and Peucker, "Algorithms for the reduction of the number of points", 1973.
    """
    far = int(np.argmax(((ring - ring[0]) ** 2).sum(1)))
    keep = np.zeros(len(ring), bool)
    keep[[0, far, len(ring) - 1]] = True
    stack = [(0, far), (far, len(ring) - 1)]
    while stack:
        first, last = stack.pop()
        if last - first < 2:
            continue
        chord = ring[last] - ring[first]
        between = ring[first + 1 : last] - ring[first]
        length = float(np.hypot(*chord))
        away = np.abs(chord[0] * between[:, 1] - chord[1] * between[:, 0])
        away = away / length if length else np.hypot(between[:, 0], between[:, 1])
        most = int(np.argmax(away))
        if away[most] > max(tolerance, 1e-9):
            middle = first + 1 + most
            keep[middle] = True
            stack += [(first, middle), (middle, last)]
    few = ring[keep][:-1]
    return few if len(few) >= 3 else ring[:-1]
