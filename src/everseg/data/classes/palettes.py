"""Check that the palettes of class maps show each number in one colour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from everseg.data.numbers import Table
from everseg.data.raster import Colour, unpacked
from everseg.errors import UserError


def palette_notes(
    palettes: Mapping[bytes, list[int]],
    present: NDArray[np.bool_],
    maps: Sequence[Path],
    colours: Table | None,
) -> list[str]:
    """What a person should look at: numbers that are shown in several colours, or in others than `colours`.

    palettes: which maps have which palette, as bytes; none where it is empty.

    Raises:
        UserError: a colour stands for one number in some maps and for another in others.
    """
    shown = [s for palette, places in palettes.items() for s in _shown(palette, places, present, maps)]
    number_of: dict[Colour, tuple[int, Path]] = {}
    for number, colour, having, unique in shown:
        if unique:
            known, first = number_of.setdefault(colour, (number, having))
            if known != number:
                raise UserError(
                    f"the palettes of the class maps disagree: the colour {colour} is number {known} in "
                    f"{first} and {number} in {having}; save all maps with one palette"
                )
    named = {number: unpacked(colour) for colour, number in (colours or {}).items()}
    first_of: dict[int, tuple[Colour, Path]] = {}
    notes: dict[int, str] = {}
    for number, colour, having, _ in shown:
        if len(set(colour)) == 1:  # Palettes of greys show the numbers themselves.
            continue
        if named.get(number, colour) != colour:
            what = f"{having} shows number {number} as {colour}, and its colour is {named[number]}"
        else:
            other, first = first_of.setdefault(number, (colour, having))
            what = f"{first} shows number {number} as {other}, and {having} as {colour}" * (other != colour)
        if what:
            notes.setdefault(
                number,
                f"{what}; see in the contact sheet (--sheet) whether it is one class in all maps, and save "
                "them with one palette",
            )
    return list(notes.values())


def _shown(
    palette: bytes, places: Sequence[int], present: NDArray[np.bool_], maps: Sequence[Path]
) -> Iterator[tuple[int, Colour, Path, bool]]:
    """(number, its colour, a map that has it, whether no other number has this colour) of one palette."""
    colours: list[Colour] = [
        (r, g, b) for r, g, b in np.frombuffer(palette, np.uint8).reshape(-1, 3).tolist()
    ]
    for number in np.flatnonzero(present[list(places)].any(axis=0)).tolist():
        if number < len(colours):
            having = maps[next(i for i in places if present[i, number])]
            yield number, colours[number], having, colours.count(colours[number]) == 1
