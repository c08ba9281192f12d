"""Which numbers occur in which class maps: read once, kept on disk, or taken from a list.

All choices of images (by step, by class) need this and nothing else of the maps, so that a stream of ten
thousand images opens in a moment. It is what the maps say at their original size.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from everseg.data.images import open_image, read_file
from everseg.errors import UserError
from everseg.files import load_state, save_state
from everseg.text import lines_of, read_text

Bools = NDArray[np.bool_]

CACHE = "EVERSEG_CACHE"
"""Names the folder of what can be computed again; without it XDG_CACHE_HOME or ~/.cache is used."""

_RULES = "presence-1"
"""Names the rules of this file: part of every key."""

_FRESH = 2.0
"""Seconds within which a file may change again without a new time of change, on coarse file systems."""


def open_map(path: Path) -> Image.Image:
    """A class map as an 8-bit image of numbers (modes P and L), turned as its EXIF orientation says.

    Raises:
        UserError: unreadable, in colour, with alpha, or deeper than 8 bits.
    """
    image = open_image(read_file(path), path)
    if image.mode in ("P", "L"):
        return image
    if image.mode == "1":
        return Image.fromarray(np.asarray(image).astype(np.uint8))
    deep = image.mode.startswith(("I", "F"))
    what = "has more than 8 bits a pixel" if deep else f"is in colour ({image.mode}) and has no palette"
    raise UserError(f"{path} {what}, so it is no class map; save class numbers 0 to 255 as 8-bit png")


def occurring(maps: Sequence[Path]) -> tuple[Bools, dict[int, UserError]]:
    """Which numbers occur in each class map, (N, 256), and what is wrong with those that cannot be read.

    The answer is kept in the cache folder under a hash of every file's place, size and times of change; not
    if a file is faulty or has changed just now.
    """
    key = _key(maps)
    kept = _folder() / f"{key}.safetensors"
    if key and kept.is_file():
        with suppress(UserError, KeyError, TypeError):  # A damaged file is written anew.
            found = np.unpackbits(load_state(kept)["present"].numpy(), axis=1).astype(bool)
            if found.shape == (len(maps), 256):
                return found, {}
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # Decoding lets other threads run.
        results = list(threads.map(_occurring, maps))
    faults = {i: r for i, r in enumerate(results) if isinstance(r, UserError)}
    present = np.zeros((len(maps), 256), bool)
    for i, numbers in enumerate(results):
        if not isinstance(numbers, UserError):
            present[i] = numbers
    if key and not faults and key == _key(maps):
        with suppress(UserError):  # Where nothing can be written, the next start reads the maps again.
            save_state(kept, {"present": torch.from_numpy(np.packbits(present, axis=1))})
    return present, faults


def _occurring(path: Path) -> Bools | UserError:
    try:
        return np.asarray(open_map(path).histogram()[:256]) > 0
    except UserError as error:
        return error


def _key(maps: Sequence[Path]) -> str:
    """Hex digest of what the files are without reading them; "" where that is no proof."""
    digest = hashlib.sha256(_RULES.encode())
    now = time.time()
    for path in maps:
        try:
            stat = path.stat()
        except OSError:
            return ""
        if now - max(stat.st_mtime, stat.st_ctime) < _FRESH:
            return ""
        line = [str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE) or Path(base) / "everseg") / "presence"


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
