"""COCO's `segmentation` in the forms that exporters write, converted to the two of the format."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from everseg.errors import brief

FARTHEST = 1e6
"""Of a corner from the image's origin, in pixels. Beyond that a coordinate is not a drawing but a mistake."""

Shape = Mapping[str, Any] | Sequence[Any]
"""{"counts", "size"}, or a list of polygons [x, y, x, y, ...], or a list of both."""


class NoShape(ValueError):
    """A segmentation that has no form we know; says what it has instead."""


def shape_of(given: Any, height: int, width: int) -> Shape:
    """A segmentation as COCO's format has it, from any form in which exporters write it.

    Polygons may be flat, pairs [x, y] or mappings {x, y}, one or several; empty ones among others are left
    out. Run lengths may be in a list, without a size, or numbers written as text or with a decimal point.

    Raises:
        NoShape: it is something else, or of another size than the image.
    """
    if isinstance(given, dict):
        return _runs(given, height, width)
    if not isinstance(given, list):
        raise NoShape(f"is {_kind(given)}, not a list of polygons or run lengths")
    parts = [given] if _is_polygon(given) else [part for part in given if part != []]
    return [_part(part, height, width) for part in parts]


def rectangle(box: Any, height: int, width: int) -> Shape:
    """The polygon of a bbox [x, y, width, height] in an image of this height and width.

    Raises:
        NoShape: it is something else.
    """
    corners = _numbers(box) if isinstance(box, list) else None
    if corners is None or len(corners) != 4 or not (corners[2] > 0 and corners[3] > 0):
        raise NoShape("has a bbox that is not [x, y, width, height] with width and height above 0")
    if _are_shares(corners, height, width):
        raise NoShape("has a bbox within 0 and 1, as shares of the image's size, where COCO counts pixels")
    x, y, across, down = corners
    if max(abs(v) for v in corners) > FARTHEST:
        raise NoShape(f"has a bbox farther than {FARTHEST:,.0f} pixels from the image")
    return [[x, y, x + across, y, x + across, y + down, x, y + down]]


def _are_shares(values: Sequence[float], height: int, width: int) -> bool:
    """Whether coordinates are shares of the image's size, and no pixels."""
    return max(height, width) > 2 and all(abs(v) <= 1 for v in values) and any(v % 1 for v in values)


def number(given: Any) -> float | None:
    """A finite number that is one, or is written as text; None otherwise."""
    if isinstance(given, str):
        try:
            given = float(given)
        except ValueError:
            return None
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    try:
        return float(given) if math.isfinite(given) else None
    except OverflowError:
        return None


def whole(given: Any) -> int | None:
    """A whole number that is one, or is written as text or with a decimal point; None otherwise."""
    if isinstance(given, int) and not isinstance(given, bool):
        return given  # Of any size: a float would round it.
    value = number(given)
    return int(value) if value is not None and value == int(value) else None


def _kind(given: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(given), "a number")


def _is_point(given: Any) -> bool:
    if isinstance(given, dict):
        return {"x", "y"} <= set(given)
    return isinstance(given, list) and len(given) == 2 and not any(isinstance(v, list | dict) for v in given)


def _is_polygon(given: list[Any]) -> bool:
    """Whether a list is a single polygon, not a list of polygons."""
    return bool(given) and (
        all(_is_point(point) for point in given) or not any(isinstance(part, list | dict) for part in given)
    )


def _numbers(given: list[Any]) -> list[float] | None:
    found = [number(value) for value in given]
    return None if None in found else [value for value in found if value is not None]


def _part(part: Any, height: int, width: int) -> Any:
    if isinstance(part, dict):
        return _runs(part, height, width)
    if not isinstance(part, list):
        raise NoShape(f"has {_kind(part)} among its polygons")
    flat = part
    if part and all(_is_point(point) for point in part):
        flat = [v for p in part for v in ((p["x"], p["y"]) if isinstance(p, dict) else p)]
    try:
        corners = np.asarray(flat, np.float64)
    except (ValueError, TypeError, OverflowError):
        corners = np.empty(0)
    if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2 or not np.isfinite(corners).all():
        raise NoShape("has a polygon without at least three corners, written x, y, x, y, ...")
    if abs(corners).max() > FARTHEST:
        raise NoShape(f"has a corner farther than {FARTHEST:,.0f} pixels from the image")
    if _are_shares(corners.tolist(), height, width):
        raise NoShape("has corners within 0 and 1, as shares of the image's size, where COCO counts pixels")
    return flat if flat is part else corners.tolist()


def _runs(given: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    if "counts" not in given:
        raise NoShape("is a mapping without counts; run lengths are {counts, size}")
    counts, size = given["counts"], given.get("size", [height, width])
    sides = [whole(side) for side in size] if isinstance(size, list) else []
    if sides != [height, width]:
        raise NoShape(f"has the size {brief(repr(size), 60)}, which is not the image's {[height, width]}")
    if isinstance(counts, str):
        if not counts.isascii():
            raise NoShape("has run lengths with letters that are none of theirs")
        return {"counts": counts, "size": sides}
    lengths = [whole(count) for count in counts] if isinstance(counts, list) else [None]
    known = [length for length in lengths if length is not None and length >= 0]
    if len(known) < len(lengths):
        raise NoShape("has run lengths that are not whole numbers from 0")
    if sum(known) != height * width:
        raise NoShape(f"has run lengths that do not add up to {height} x {width} pixels")
    return {"counts": known, "size": sides}
