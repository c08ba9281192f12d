"""points.json: clicks stored beside masks, in the layout that SAMCL publishes.

One JSON object, mask file name -> [[[x, y], ...], [label, ...]]; x (column) and y (row) are in the square
frame that the image is stretched to (1024 x 1024), labels are 1 on the object and 0 off it, as in
the files that SAMCL's authors published. Other programs name the image, write true and false, or pad with
label -1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from everseg.data.columns import ClickColumn
from everseg.data.domains.faults import Faults
from everseg.data.domains.prompts import FRAME, StoredClicks
from everseg.data.listing import Meant
from everseg.data.maskrule import Threshold, mask_rule
from everseg.data.meaning import settled
from everseg.data.names import POINTS, is_litter
from everseg.data.samples import PartlyReadable
from everseg.errors import UserError
from everseg.files import read_json, write_text
from everseg.text import read_text
from everseg.types.pixels import draw_clicks


def read_points(path: str | Path) -> dict[str, StoredClicks]:
    """Stored clicks for each key of the file, by default a mask's file name.

    Raises:
        PartlyReadable: entries of the wrong shape, outside 0..1024, NaN, or with labels other than 0, 1 and
            the padding -1; says all.
        UserError: not JSON, or not a mapping.
    """
    stored = PointsFile(Path(path))
    if problems := stored.faults.sentences():
        raise PartlyReadable(problems, ())
    clicks = {key: stored.clicks[place] for key, place in stored.places.items()}
    return {key: one for key, one in clicks.items() if one is not None}


class PointsFile:
    """A points.json: its usable entries, and the faults of the others.

    clicks: of each entry, None where it is faulty. places: where the clicks of each key are among them.

    folder: the folder of the masks; those in folders below it may be named by their path from there.

    Raises:
        UserError: not JSON, or not a mapping.
    """

    def __init__(self, path: Path, folder: Path | None = None) -> None:
        self.faults = Faults(path)
        self.folder = path.parent if folder is None else folder
        self.clicks, self.places = ClickColumn(), dict[str, int]()
        for key, value in _items(path):
            if key in self.places:
                _refuse(path)
            self.places[key] = len(self.clicks)
            try:
                self.clicks.append(_entry(value))
            except _NoClicks as error:
                self.clicks.append(None)
                self.faults.add("entry", repr(key), *error.args)
        self._keys = Meant(self.places)

    @cached_property
    def _by_stem(self) -> dict[str, str]:
        """The keys by their names without the ending, where there is one of each."""
        stems: dict[str, list[str]] = {}
        for key in self.places:
            stems.setdefault(Path(key).stem, []).append(key)
        return {stem: keys[0] for stem, keys in stems.items() if len(keys) == 1}

    @cached_property
    def _stems(self) -> Meant:
        return Meant(self._by_stem)

    def of(self, image: Path, mask: Path, *, box: bool) -> StoredClicks | None:
        """The clicks of an image and its mask; None, and a fault, where there are none that point at the
        object.

        box: a box points at it, too.
        """
        key = self._key(image, mask)
        if key is None:
            self.faults.add("mask", mask.name, "has no clicks", "add them or set prompts: clicks")
            return None
        clicks = self.clicks[self.places[key]]
        if clicks is not None and not box and not any(clicks.labels):
            what = "has only clicks off the object (label 0), so that nothing points at it"
            self.faults.add("mask", mask.name, what, "add one on it, or set prompts: stored+box")
            return None
        return clicks

    def _key(self, image: Path, mask: Path) -> str | None:
        """The key that means this pair: the mask's path, its name, the image's, or a name without its
        ending."""
        if mask.is_relative_to(self.folder):
            below = mask.relative_to(self.folder).as_posix()
            if (found := self._keys.find(below)) is not None:
                return found
        named = self._keys.find(mask.name) or self._keys.find(image.name)
        if named is not None:
            return named
        stem = self._stems.find(mask.stem) or self._stems.find(image.stem)
        return None if stem is None else self._by_stem[stem]


def _items(path: Path) -> Iterator[tuple[str, Any]]:
    """The entries of a JSON object, one after the other, without the tree of all in memory.

    Raises:
        UserError: as `_refuse`.
    """
    try:
        text, read = read_text(path, names=True), json.JSONDecoder().raw_decode
        at = _beyond("{", text, 0)
        while text[at] != "}":
            key, at = read(text, at)
            value, at = read(text, _beyond(":", text, at))
            if not isinstance(key, str):
                raise ValueError("a key is not text")
            yield key, value
            at = _space(text, at)
            if text[at] != "}":
                at = _beyond(",", text, at)
                if text[at] == "}":
                    raise ValueError("an entry is missing")
        if _space(text, at + 1) < len(text):
            raise ValueError("more than one object")
    except (OSError, ValueError, IndexError, RecursionError):
        _refuse(path)


def _refuse(path: Path) -> NoReturn:
    """Say what is wrong with a file: not JSON, not an object, or a key twice."""
    tree = read_json(path, names=True, unique=True)
    assert not isinstance(tree, dict), f"{path} can be read"
    raise UserError(
        f"{path} holds a {type(tree).__name__}; it must map mask file names to [[[x, y], ...], [1, ...]]"
    )


_SPACE = re.compile(r"[ \t\n\r]*")


def _space(text: str, at: int) -> int:
    """The place behind white space."""
    found = _SPACE.match(text, at)
    assert found, "nothing is white space, too"
    return found.end()


def _beyond(mark: str, text: str, at: int) -> int:
    """The place behind a mark and the white space around it."""
    at = _space(text, at)
    if text[at] != mark:
        raise ValueError(f"{mark} is missing")
    return _space(text, at + 1)


REDRAW = "rewrite it with `everseg data points --force` or correct it by hand"
PADDING = (-1, -10)
"""Labels of points that are none: SAM's own, and that of transformers."""


class _NoClicks(Exception):
    """An entry that is wrong: what it has or is, what to do, and the value found."""

    def __init__(self, what: str, value: object = None) -> None:
        super().__init__(what, REDRAW, value)


def _entry(value: Any) -> StoredClicks:
    match value:
        case [[_, *_] as points, [_, *_] as labels] if len(points) == len(labels):
            pass
        case _:
            raise _NoClicks("is not [[[x, y], ...], [label, ...]] with one label a point")
    if any(not isinstance(label, int | float) or label not in (0, 1, *PADDING) for label in labels):
        raise _NoClicks("has labels other than 1, on the object, and 0, off it", labels)
    clicks = [
        (point, int(label)) for point, label in zip(points, labels, strict=True) if label not in PADDING
    ]
    if not clicks:
        raise _NoClicks("has no clicks, only padding")
    for point, _ in clicks:
        if not (isinstance(point, list) and len(point) == 2 and all(_is_number(v) for v in point)):
            raise _NoClicks("has a point that is not [x, y]", point)
        if not all(0 <= v <= FRAME for v in point):
            raise _NoClicks(f"has a point outside the {FRAME}x{FRAME} frame", point)
    return StoredClicks(
        tuple((_inside(x), _inside(y)) for (x, y), _ in clicks), tuple(label for _, label in clicks)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _inside(value: float) -> float:
    """A coordinate of the frame; its far border belongs to the last pixel."""
    return float(FRAME - 1 if value == FRAME else value)


def write_points(
    masks: str | Path,
    seed: int = 0,
    clicks: int = 3,
    frame: int = FRAME,
    threshold: Threshold | None = None,
    values: tuple[int, ...] | None = None,
    force: bool = False,
) -> Path:
    """Draw clicks for every mask of a folder and write them to its points.json, atomically.

    As SAMCL's generator: the mask is resized to `frame` x `frame` (nearest) and foreground pixels are drawn
    uniformly with replacement. Unlike it, each draw is seeded by (seed, file name), so adding a mask changes
    no other's clicks. A frame other than 1024 is for other programs: everseg reads 1024.

    Raises:
        UserError: no masks, an unreadable or empty one, or the file exists and `force` is not given.
    """
    folder = Path(masks)
    target = folder / POINTS
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder that holds the masks")
    if clicks < 1:
        raise UserError(f"clicks is {clicks}; a mask needs at least 1")
    if target.exists() and not force:
        raise UserError(
            f"{target} exists and may hold clicks that somebody drew; give force (--force) to replace it"
        )
    files = sorted(f for f in folder.iterdir() if f.is_file() and f.name != POINTS and not is_litter(f.name))
    if not files:
        raise UserError(f"{folder} holds no masks; give the folder that holds the masks")
    meaning = settled(files, mask_rule(threshold, values))
    drawn: dict[str, Any] = {}
    for file in files:
        small = Image.fromarray(meaning.mask(file).astype(np.uint8))
        mask = np.asarray(small.resize((frame, frame), Image.Resampling.NEAREST)) > 0
        if not mask.any():
            raise UserError(
                f"{file}: its object vanishes when resized to {frame}x{frame}; remove it or draw it larger"
            )
        drawn[file.name] = [draw_clicks(mask, clicks, seed, file.name).tolist(), [1] * clicks]
    write_text(target, json.dumps(drawn))
    return target
