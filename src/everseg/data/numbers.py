"""Read maps whose values number classes or objects, and detect damaged ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everseg.data.levels import Levels, distinct
from everseg.data.maskrule import colour_of
from everseg.data.raster import Colour, Raster, packed, read_raster, unpacked
from everseg.errors import UserError
from everseg.types import VOID

Table = Mapping[int, int]
"""{colour as R + 256 G + 65536 B: number}."""


def read_labels(path: Path, colours: Table | None = None) -> NDArray[np.int32]:
    """(H, W) int32 numbers of classes or objects from a grey or palette file, or one in colour.

    colours: the numbers that colours stand for, in files in colour; without it such a file is refused.

    Raises:
        UserError: unreadable, values that are not whole numbers from 0 to 65535, or a colour without number.
    """
    return labels_of(read_raster(path), path, colours)


def labels_of(raster: Raster, path: Path, colours: Table | None = None) -> NDArray[np.int32]:
    """The numbers in a map that was decoded already; see `read_labels`."""
    values = raster.values
    if raster.lossy:
        refuse_blurred(raster, path)
    if by_colour(raster, colours):
        assert colours is not None, "there is nothing to compare with"
        return _looked_up(raster.colours(), path, colours)
    if raster.form == "colour":
        if colours is None:
            raise UserError(
                f"{path} is in colour (it has {_some(np.unique(values))}), and nothing says which number a "
                'colour stands for; set mask_colours, as in mask_colours: {1: "#ff0000"}, or save numbers as '
                "8-bit png"
            )
        return _looked_up(values, path, colours)
    if values.dtype.kind == "f" and not (np.asarray(values) == np.rint(values)).all():
        raise UserError(
            f"{path} has values between whole numbers, which cannot number classes or objects; save it as png"
        )
    if values.min() < 0 or values.max() > 65535:
        raise UserError(
            f"{path} has values that cannot number classes or objects: they must be whole, from 0 to "
            "65535; save it as 16-bit png"
        )
    return values.astype(np.int32)


def by_colour(raster: Raster, colours: Table | None) -> bool:
    """Whether a palette shows a number in the colour of another number, so that the colours count.

    Programs that make palettes put the colours in any order. A colour that the palette repeats tells nothing.
    """
    if raster.form != "palette" or colours is None:
        return False
    assert raster.palette is not None
    shown = dict(enumerate(packed(raster.palette).tolist()))
    meant = {index: colours.get(shown[index]) for index in distinct(raster.values).tolist() if index in shown}
    return any(
        number not in (None, index) and shown.get(number) != shown[index] for index, number in meant.items()
    )


def table_of(colours: Mapping[int, Colour]) -> dict[int, int]:
    """The table for `read_labels` from the colour of each number."""
    return {int(packed(np.array(colour, np.uint8))): number for number, colour in colours.items()}


def colour_table(given: Mapping[int, Any]) -> dict[int, int]:
    """The table for `read_labels` from the option `mask_colours`, as in {1: "#800000", 2: [0, 128, 0]}.

    Raises:
        UserError: something that is not a colour.
    """
    return table_of({number: colour_of(colour) for number, colour in given.items()})


def _looked_up(values: NDArray[np.generic], path: Path, colours: Table) -> NDArray[np.int32]:
    found, places = np.unique(values, return_inverse=True)
    strange = [int(v) for v in found if int(v) not in colours and int(v) != 0]
    if strange:
        raise UserError(
            f"{path} has the colours {_some(np.array(strange))}, which stand for no number; correct the map "
            "or add them to mask_colours"
        )
    numbers = np.array([colours.get(int(v), 0) for v in found], np.int32)
    return np.asarray(numbers[places.reshape(values.shape)])


def refuse_blurred(raster: Raster, path: Path) -> None:
    """Check that the numbers in a map were drawn, and are not what JPEG or smooth resizing left between them.

    Raises:
        UserError: most numbers of the map have no area anywhere; or any, in a lossy format.
    """
    levels = Levels.of(np.asarray(raster.values, np.int64))
    # Colours as numbers are in no order, so that nothing is between two of them; those of blur are rare.
    in_order = raster.form != "colour"
    blurred = [
        v
        for v, count in levels.pixels.items()
        if not levels.inside[v] and (raster.lossy or (levels.between[v] if in_order else count <= _RARE))
    ]
    drawn = len(levels.pixels) - len(blurred)
    # Small objects have no inside either, but a map does not consist of them.
    if len(blurred) > (0 if raster.lossy else max(2, drawn)):
        why = "saved as JPEG or in another lossy format" if raster.lossy else "resized smoothly"
        what = "numbers" if in_order else "colours"
        examples = ", ".join(map(str, blurred[:3])) if in_order else _some(np.array(blurred[:3]))
        raise UserError(
            f"{path} has {len(levels.pixels)} {what}, and {len(blurred)} of them (such as {examples}) occur "
            f"only along the borders of others, as in a map that was {why}; make it again as png, resized "
            "with the nearest neighbour"
        )


_BLENDED = 0.25
"""Share of the pixels along borders of numbers that lie apart that have a number in between, from which on a
map counts as resized smoothly. Honest maps of real data sets have up to 0.08, and up to 0.24 when they are
resized to an eighth; those that were resized smoothly have 0.23 to 0.9."""

_BORDERS = 30
"""Pixels that a map must have along such borders for the share to mean something."""


_ALONE = 16
"""Pixels of a number that a class map has nowhere but between two others, from which on it is reported."""


def blended(numbers: NDArray[np.integer]) -> tuple[int, ...]:
    """The numbers that lie between two others along their borders, as smooth resizing leaves them, whether or
    not they have areas of their own elsewhere: a single one where it is nearly all. Nothing for a map that
    was drawn."""
    between, apart = _between_others(numbers)
    if apart < _BORDERS or len(between) < _BLENDED * apart:
        return ()
    found, counts = np.unique(between, return_counts=True)
    most = found[counts.argmax()].item()
    return (most,) if counts.max() >= 0.9 * len(between) else tuple(found.tolist())


def along_edges(numbers: NDArray[np.uint8]) -> tuple[int, ...]:
    """As `blended`, or else the numbers that a class map has nowhere but between two others."""
    if found := blended(numbers):
        return found
    between, _ = _between_others(numbers)
    counts = np.bincount(between, minlength=256)
    some = np.flatnonzero(counts >= _ALONE).tolist()
    return tuple(n for n in some if counts[n] >= 0.9 * np.count_nonzero(numbers == n))


def _between_others(numbers: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """The numbers of pixels that have a smaller and a larger one beside them, and how many pixels lie along
    borders where there is room for that."""
    if min(numbers.shape) < 3:
        return numbers[:0].ravel(), 0
    low, high = _neighbours(numbers, np.minimum), _neighbours(numbers, np.maximum)
    inner = numbers[1:-1, 1:-1]
    apart = (high - low > 1) & (high != VOID)  # Void surrounds objects of all numbers.
    return inner[apart & (low < inner) & (inner < high)], int(np.count_nonzero(apart))


def _neighbours(numbers: NDArray[Any], of: Any) -> NDArray[Any]:
    """The smallest or largest of the nine numbers around each pixel that is not at the border."""
    columns = of(of(numbers[:-2], numbers[1:-1]), numbers[2:])
    return np.asarray(of(of(columns[:, :-2], columns[:, 1:-1]), columns[:, 2:]))


_RARE = 8
"""Pixels of a colour that blur has made, in one map."""


def _some(values: NDArray[np.generic]) -> str:
    shown = ["#{:02x}{:02x}{:02x}".format(*unpacked(int(v))) for v in values[:4]]
    return ", ".join(shown) + (f" and {len(values) - 4} more" if len(values) > 4 else "")
