"""Which numbers occur in which class maps: read once, kept on disk, or taken from a list.

All choices of images (by step, by class) need this and nothing else of the maps, so that a stream of ten
thousand images opens in a moment. It is what the maps say at their original size.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from everseg.data.classes.palettes import palette_notes
from everseg.data.kept import kept_in, key_of
from everseg.data.numbers import Table, along_edges, by_colour, labels_of, refuse_blurred
from everseg.data.raster import Raster, read_raster
from everseg.errors import UserError
from everseg.files import load_state, save_state
from everseg.text import lines_of, read_text

Bools = NDArray[np.bool_]

_RULES = "presence-3"
"""Names the rules of this file: part of every key."""

CHECKED = 24
"""Number of maps, evenly spaced, whose numbers are checked closely: whether smooth resizing made them."""


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


@dataclass(frozen=True)
class Occurring:
    """The numbers that occur in class maps.

    present: (N, 256) bool.
    faults: what is wrong with maps that cannot be read, by their index.
    notes: sentences on what the user should check.
    """

    present: Bools
    faults: dict[int, UserError]
    notes: tuple[str, ...] = ()


def occurring(maps: Sequence[Path], colours: Table | None = None) -> Occurring:
    """What occurs in class maps.

    The answer is kept in the cache folder under a hash of every file's place, size and times of change; not
    if a file is faulty or has changed just now.

    Raises:
        UserError: two maps show one class in the same colour and under two numbers.
    """
    rules = f"{_RULES}|{sorted((colours or {}).items())}"
    key = key_of(maps, rules)
    kept = kept_in("presence") / f"{key}.safetensors"
    if key and kept.is_file():
        with suppress(UserError, KeyError, TypeError, ValueError):  # A damaged file is rewritten.
            state = load_state(kept)
            present = np.unpackbits(state["present"].numpy(), axis=1).astype(bool)
            if present.shape == (len(maps), 256):
                return Occurring(present, {}, tuple(json.loads(state["notes"].numpy().tobytes())))
    found = occurring_in(maps, lambda place: read_raster(maps[place]), colours)
    if key and not found.faults and key == key_of(maps, rules):
        notes = np.frombuffer(json.dumps(found.notes).encode(), np.uint8).copy()
        state = {
            "present": torch.from_numpy(np.packbits(found.present, axis=1)),
            "notes": torch.from_numpy(notes),
        }
        with suppress(UserError):  # Where nothing can be written, the next start reads the maps again.
            save_state(kept, state)
    return found


def occurring_in(
    maps: Sequence[Path], read: Callable[[int], Raster], colours: Table | None = None
) -> Occurring:
    """As `occurring`, of maps that need not be files.

    maps: names them in messages.
    read: decodes the map at a place.
    """
    closely = set(range(0, len(maps), max(1, len(maps) // CHECKED)))

    def look(place: int) -> _Look | UserError:
        return _look(maps[place], lambda: read(place), colours, closely=place in closely)

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # Decoding lets other threads run.
        results = list(threads.map(look, range(len(maps))))
    faults = {i: r for i, r in enumerate(results) if isinstance(r, UserError)}
    present = np.zeros((len(maps), 256), bool)
    palettes: dict[bytes, list[int]] = {}
    thin: dict[tuple[int, ...], list[int]] = {}
    for i, result in enumerate(results):
        if not isinstance(result, UserError):
            present[i] = result.present
            palettes.setdefault(result.palette, []).append(i)
            if result.thin:
                thin.setdefault(result.thin, []).append(i)
    notes = [*_thin_notes(thin, maps), *palette_notes(palettes, present, maps, colours)]
    return Occurring(present, faults, tuple(notes))


@dataclass(frozen=True)
class _Look:
    """What is in one map.

    palette: empty where its colours do not matter.
    thin: a number that occurs along edges.
    """

    present: Bools
    palette: bytes
    thin: tuple[int, ...]


def _look(
    path: Path, read: Callable[[], Raster], colours: Table | None, *, closely: bool
) -> _Look | UserError:
    try:
        raster = read()
        if closely:
            refuse_blurred(raster, path)
        numbers = map_of(raster, path, colours)
    except UserError as error:
        return error
    thin = along_edges(numbers) if raster.form != "colour" else ()
    if len(thin) > 1:  # One may be a class of borders.
        return UserError(
            f"{path} has numbers such as {', '.join(map(str, thin[:4]))} along the edges between smaller and "
            "larger ones, as in a class map that was resized smoothly; make it again as png, resized with "
            "the nearest neighbour"
        )
    own = raster.palette is not None and not by_colour(raster, colours)
    palette = raster.palette.tobytes() if own and raster.palette is not None else b""
    return _Look(np.bincount(numbers.ravel(), minlength=256) > 0, palette, thin)


def _thin_notes(thin: Mapping[tuple[int, ...], list[int]], maps: Sequence[Path]) -> Iterator[str]:
    for (number,), places in thin.items():
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        yield (
            f"{maps[places[0]]}{more} has the number {number} along the edges between smaller and "
            "larger ones, as in a class map that was resized smoothly; unless it is a class of borders, make "
            "the map again as png, resized with the nearest neighbour"
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
