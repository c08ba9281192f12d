"""Tell the values that somebody drew in a mask from the blur between them.

Smooth resizing and JPEG leave values on borders that no one chose. They tell themselves apart by their
neighbours: a drawn area has an inside, where a pixel's neighbours share its value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SOLID = 0.15
"""Share of a value's pixels that lie inside areas of this value, from which on it counts as drawn. Measured
on JPEG masks 0.00, on instance maps with objects of 21 pixels 0.62."""

SMALL = 0.0005
"""Share of all pixels that a value without an inside must have to count as drawn, where a split has only few
values at all: thin lines have no inside, and neither do stray pixels."""


@dataclass(frozen=True)
class Levels:
    """Number of pixels of each value, in one file or several.

    pixels: {value: pixels}.
    inside: {value: pixels with at least five of eight neighbours of the same value}.
    between: {value: pixels with a smaller and a larger value next to them}.
    """

    pixels: dict[int, int]
    inside: dict[int, int]
    between: dict[int, int]

    @classmethod
    def of(cls, values: NDArray[np.integer]) -> Levels:
        """The levels of one file (H, W)."""
        numbers = distinct(values)
        places: NDArray[Any] = values
        if values.dtype != np.uint8:  # Their places in the list stand for large values such as colours.
            places = np.searchsorted(numbers, values)
        here = numbers if places is values else np.arange(len(numbers))
        kept = (places, places[_inside(places)], places[_between(places)])
        counts = [np.bincount(part.ravel(), minlength=int(here[-1]) + 1)[here].tolist() for part in kept]
        return cls(*(dict(zip(numbers.tolist(), count, strict=True)) for count in counts))

    @classmethod
    def together(cls, parts: Iterable[Levels]) -> Levels:
        """The levels of several files at once."""
        sums: tuple[dict[int, int], ...] = ({}, {}, {})
        for part in parts:
            for total, counts in zip(sums, (part.pixels, part.inside, part.between), strict=True):
                for value, count in counts.items():
                    total[value] = total.get(value, 0) + count
        return cls(*sums)

    @property
    def drawn(self) -> tuple[int, ...]:
        """The values that somebody drew, in ascending order; the smallest and the largest are always among
        them where no value has an inside."""
        total = sum(self.pixels.values())
        few = len(self.pixels) <= 4

        def is_drawn(value: int) -> bool:
            count = self.pixels[value]
            if self.inside[value] >= SOLID * count:
                return True
            return few and count >= SMALL * total and self.between[value] < count / 2

        drawn = tuple(sorted(v for v in self.pixels if is_drawn(v)))
        return drawn or tuple(sorted({min(self.pixels), max(self.pixels)}))

    def share(self, value: int) -> float:
        return self.pixels[value] / sum(self.pixels.values())


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """The values that occur, in ascending order; 8-bit ones are counted, which is faster than sorting."""
    if values.dtype == np.uint8:
        return np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    return np.unique(values)


def _inside(places: NDArray[Any]) -> NDArray[np.bool_]:
    """(H, W): where at least five of the eight neighbours have the same value."""
    alike = np.zeros(places.shape, np.uint8)
    for rows, columns in ((0, 1), (1, 0), (1, 1), (1, -1)):
        one, other = _shifted(rows, columns)
        same = places[one] == places[other]
        alike[one] += same
        alike[other] += same
    return np.asarray(alike >= 5)


def _between(places: NDArray[Any]) -> NDArray[np.bool_]:
    """(H, W): where one of the eight neighbours is smaller and another is larger."""
    smaller = np.zeros(places.shape, bool)
    larger = np.zeros(places.shape, bool)
    for rows, columns in ((0, 1), (1, 0), (1, 1), (1, -1)):
        one, other = _shifted(rows, columns)
        less, more = places[other] < places[one], places[other] > places[one]
        smaller[one] |= less
        larger[one] |= more
        smaller[other] |= more
        larger[other] |= less
    return np.asarray(smaller & larger)


def _shifted(rows: int, columns: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Two views of an array that lie on each other when one is moved by (rows, columns)."""
    one = (slice(None, -rows or None), slice(None, -columns or None) if columns >= 0 else slice(1, None))
    other = (slice(rows, None), slice(columns, None) if columns >= 0 else slice(None, -1))
    return one, other
