"""Which numbers occur in which class maps: read once, kept on disk, or taken from a list.

All choices of images (by step, by class) need this and nothing else of the maps, so that a stream of ten
thousand images opens in a moment. It is what the maps say at their original size.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from everseg.data.kept import kept_in, key_of
from everseg.data.numbers import Table, labels_of, refuse_blurred
from everseg.data.raster import Raster, read_raster
from everseg.errors import UserError
from everseg.files import load_state, save_state
from everseg.text import lines_of, read_text

Bools = NDArray[np.bool_]

_RULES = "presence-2"
"""Names the rules of this file: part of every key."""

CHECKED = 24
"""Of so many maps, evenly spaced, the numbers are looked at closely: whether smooth resizing made them."""


def read_map(path: Path, colours: Table | None = None) -> NDArray[np.uint8]:
    """A class map (H, W) as numbers, turned as its EXIF orientation says.

    colours: the number of each colour, for maps in colour.

    Raises:
        UserError: unreadable, in colours without numbers, or with numbers beyond 255.
    """
    return map_of(read_raster(path), path, colours)


def map_of(raster: Raster, path: Path, colours: Table | None = None) -> NDArray[np.uint8]:
    """As `read_map`, of a map that was decoded already; `path` is for messages only."""
    return _eight_bits(labels_of(raster, path, colours), path)


def _eight_bits(numbers: NDArray[np.int32], path: Path) -> NDArray[np.uint8]:
    if numbers.max(initial=0) > 255:
        raise UserError(
            f"{path} has numbers up to {numbers.max()}, and class maps hold 0 to 255; save it as 8-bit png"
        )
    return numbers.astype(np.uint8)


def occurring(maps: Sequence[Path], colours: Table | None = None) -> tuple[Bools, dict[int, UserError]]:
    """Which numbers occur in each class map, (N, 256), and what is wrong with those that cannot be read.

    The answer is kept in the cache folder under a hash of every file's place, size and times of change; not
    if a file is faulty or has changed just now.

    Raises:
        UserError: two maps show one class in the same colour and under two numbers.
    """
    rules = f"{_RULES}|{sorted((colours or {}).items())}"
    key = key_of(maps, rules)
    kept = kept_in("presence") / f"{key}.safetensors"
    if key and kept.is_file():
        with suppress(UserError, KeyError, TypeError):  # A damaged file is written anew.
            found = np.unpackbits(load_state(kept)["present"].numpy(), axis=1).astype(bool)
            if found.shape == (len(maps), 256):
                return found, {}
    present, faults = occurring_in(maps, lambda place: read_raster(maps[place]), colours)
    if key and not faults and key == key_of(maps, rules):
        with suppress(UserError):  # Where nothing can be written, the next start reads the maps again.
            save_state(kept, {"present": torch.from_numpy(np.packbits(present, axis=1))})
    return present, faults


def occurring_in(
    maps: Sequence[Path], read: Callable[[int], Raster], colours: Table | None = None
) -> tuple[Bools, dict[int, UserError]]:
    """As `occurring`, of maps that need not be files.

    maps: names them in messages. read: decodes the map at a place.
    """
    closely = set(range(0, len(maps), max(1, len(maps) // CHECKED)))

    def look(place: int) -> tuple[Bools, bytes] | UserError:
        return _occurring(maps[place], lambda: read(place), colours, closely=place in closely)

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # Decoding lets other threads run.
        results = list(threads.map(look, range(len(maps))))
    faults = {i: r for i, r in enumerate(results) if isinstance(r, UserError)}
    present = np.zeros((len(maps), 256), bool)
    palettes: dict[bytes, list[int]] = {}
    for i, result in enumerate(results):
        if not isinstance(result, UserError):
            present[i], palette = result
            palettes.setdefault(palette, []).append(i)
    _check_palettes(palettes, present, maps)
    return present, faults


def _occurring(
    path: Path, read: Callable[[], Raster], colours: Table | None, *, closely: bool
) -> tuple[Bools, bytes] | UserError:
    """The numbers in a map and its palette."""
    try:
        raster = read()
        if closely:
            refuse_blurred(raster, path)
        numbers = map_of(raster, path, colours)
    except UserError as error:
        return error
    palette = b"" if raster.palette is None else raster.palette.tobytes()
    return np.bincount(numbers.ravel(), minlength=256) > 0, palette


def _check_palettes(palettes: Mapping[bytes, list[int]], present: Bools, maps: Sequence[Path]) -> None:
    """Check that no colour stands for one number in some maps and for another in others.

    Raises:
        UserError: a colour does.
    """
    if len(palettes) < 2:
        return
    number_of: dict[tuple[int, ...], tuple[int, Path]] = {}
    for palette, places in palettes.items():
        colours = [tuple(c) for c in np.frombuffer(palette, np.uint8).reshape(-1, 3).tolist()]
        for number in np.flatnonzero(present[places].any(axis=0)).tolist():
            if number >= len(colours) or colours.count(colours[number]) > 1:
                continue
            having = maps[next(i for i in places if present[i, number])]
            known, first = number_of.setdefault(colours[number], (number, having))
            if known != number:
                raise UserError(
                    f"the palettes of the class maps disagree: the colour {colours[number]} is number "
                    f"{known} in {first} and {number} in {having}; save all maps with one palette"
                )


def listed(path: Path, stems: Sequence[str]) -> Bools:
    """Which numbers occur in the maps of these stems, (N, 256), by a list with a line "stem c c ..." a map.

    Classes are counted from 0 in the list, so c is the number c + 1: the form in which lists of VOC's classes
    are passed around. Lines of other maps are passed over.

    Raises:
        UserError: not such a list, a stem twice in it, or one that it lacks.
    """
    try:
        lines = lines_of(read_text(path, names=True))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"cannot read the list of classes {path}: {reason}; check the path") from error
    numbers: dict[str, list[int]] = {}
    for row, line in enumerate(lines, 1):
        stem, *classes = line.split() or [""]
        if not stem:
            continue
        if not all(c.isdecimal() and len(c) <= 3 and int(c) < 255 for c in classes):
            raise UserError(f"{path}, line {row}: {line!r} is not an image and classes from 0; correct it")
        if stem in numbers:
            raise UserError(f"{path}, line {row}: {stem} is listed twice; keep one line of each image")
        numbers[stem] = [int(c) + 1 for c in classes]
    present = np.zeros((len(stems), 256), bool)
    for i, stem in enumerate(stems):
        if stem not in numbers:
            raise UserError(f"{path} does not list {stem}; add its classes or leave out index:")
        present[i, numbers[stem]] = True
    return present
