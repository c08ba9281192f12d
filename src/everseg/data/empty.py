"""Find which masks have an object; the result is stored until a file changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from everseg.data.kept import kept_in, key_of
from everseg.data.masks import REMOVE, Meaning
from everseg.data.raster import Raster, read_raster
from everseg.errors import UserError
from everseg.files import read_json, write_json

SKIP = f"{REMOVE}, or set skip_empty: true"
"""What to do about a mask without an object, where a reader has that option."""

LEFT_OUT = "skip_empty leaves out {} of {} images, whose masks have no object; see whether that is right"


def with_object(
    files: Sequence[Path], meaning: Meaning, read: Callable[[Path], Raster] = read_raster
) -> list[bool]:
    """Of each mask file, whether it shows an object.

    read: as for `settled`. A file that cannot be read counts as one with an object: what is wrong with it is
    said where its sample is asked for.
    """
    key = key_of(files, f"empty masks 1|{meaning!r}|{read.__module__}.{read.__qualname__}")
    kept = kept_in("empty") / f"{key}.json"
    if key and kept.is_file():
        with suppress(UserError, TypeError):  # A damaged file is written again.
            empty = set(read_json(kept))
            return [place not in empty for place in range(len(files))]
    found = [_has_object(file, meaning, read) for file in files]
    if key:
        with suppress(UserError):  # Where nothing can be written, the next start looks again.
            write_json(kept, [place for place, has in enumerate(found) if not has])
    return found


def _has_object(file: Path, meaning: Meaning, read: Callable[[Path], Raster]) -> bool:
    try:
        return bool(meaning.object_in(read(file), file).any())
    except UserError:
        return True
