"""Prompts from the command line and from files: a CSV table, points.json, or COCO JSON.

Nothing here loads torch before a prompt becomes tensors, so that a wrong file is refused at once.
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from everseg.errors import UserError
from everseg.runs.inputs import Source, stem

if TYPE_CHECKING:
    from everseg.types import Prompts

Point = tuple[float, float]
Box = tuple[float, float, float, float]

_SAMPLE = {2: "--point 411,230", 4: "--box 40,30,200,180"}


@dataclass(frozen=True)
class Asked:
    """Prompts of one object in an image.

    points: clicks, (P, 2).
    labels: 1 for clicks on the object, 0 for clicks off it.
    box: x0, y0, x1, y1, or None.
    name: name of the object in the prompt file; "" if it has none.
    category: ID of its COCO category.
    """

    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()
    box: Box | None = None
    name: str = ""
    category: int = 1

    def tensors(self, scale: Point = (1.0, 1.0)) -> Prompts:
        """As prompts of one object, in pixels."""
        import torch

        from everseg.types import Prompts

        points = torch.tensor([self.points]) if self.points else None
        return Prompts(
            points=None if points is None else points * torch.tensor(scale),
            labels=torch.tensor([self.labels]) if self.points else None,
            boxes=None if self.box is None else torch.tensor([self.box]),
        )


@dataclass(frozen=True)
class ImagePrompts:
    """All prompts of one image.

    frame: side of the square that the image is stretched to and that coordinates refer to; 0: pixels of the
        image.
    image_id: ID of the image in a COCO file.
    where: file and line that first name the image, for messages.
    """

    objects: tuple[Asked, ...]
    frame: int = 0
    image_id: int | str | None = None
    where: str = ""

    def tensors(self, height: int, width: int) -> list[Prompts]:
        """The prompts of each object, in pixels of an image of this size."""
        scale = (width / self.frame, height / self.frame) if self.frame else (1.0, 1.0)
        return [one.tensors(scale) for one in self.objects]


def parse_numbers(text: str, count: int, what: str) -> tuple[float, ...]:
    """Finite numbers from "x,y" or "x0,y0,x1,y1".

    Raises:
        UserError: not `count` finite numbers.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count or not all(math.isfinite(v) for v in values):
        form = "x,y" if count == 2 else "x0,y0,x1,y1"
        raise UserError(
            f"{what} {text!r} is not {count} numbers; write {form} in pixels, such as {_SAMPLE[count]}"
        )
    return values


def prompts_of(points: Sequence[str], negatives: Sequence[str], boxes: Sequence[str]) -> ImagePrompts | None:
    """One object from clicks on it, clicks off it, and at most one box; or one object for each of several
    boxes. None where nothing is given.

    Raises:
        UserError: clicks off an object alone, text that is not a number, an empty box, or several boxes
            together with clicks.
    """
    if not points and not boxes:
        if negatives:
            raise UserError(
                "no prompt points at the object; give --point x,y (repeatable) or --box x0,y0,x1,y1"
            )
        return None
    if len(boxes) > 1 and (points or negatives):
        raise UserError(
            "several boxes are several objects, and clicks cannot say which they mean; give one box"
        )
    corners = []
    for text in boxes:
        x0, y0, x1, y1 = parse_numbers(text, 4, "--box")
        if x1 <= x0 or y1 <= y0:
            raise UserError(
                f"--box {text!r} is empty: the second corner must lie right of and below the first"
            )
        corners.append((x0, y0, x1, y1))
    clicks = []
    for what, texts in (("--point", points), ("--negative", negatives)):
        for text in texts:
            x, y = parse_numbers(text, 2, what)
            clicks.append((x, y))
    labels = (1,) * len(points) + (0,) * len(negatives)
    if not clicks:
        return ImagePrompts(tuple(Asked(box=box) for box in corners))
    return ImagePrompts((Asked(tuple(clicks), labels, corners[0] if corners else None),))


# ---------------------------------------------------------------- which image a file's entry means


def assign(
    entries: Mapping[str, ImagePrompts], sources: Sequence[Source], file: Path
) -> tuple[list[ImagePrompts | None], list[str]]:
    """The prompts of each source, None where the file has none; and a sentence for each entry that is of no
    image given.

    An entry names its image by a path, absolute or below the working folder or the prompt file's folder, or
    by the last parts of one, as many as it takes: `x.png`, `a/x.png`. Where no name matches, names without
    suffixes are compared. A frame or slice is named as in `x.nii.gz@12`.

    Raises:
        UserError: an entry may mean several images, or several entries mean one.
    """
    parts = [_parts(os.path.abspath(source.place)) for source in sources]
    whole = {path: n for n, path in enumerate(parts)}
    ends = _Ends(parts), _Ends([(*path[:-1], stem(path[-1])) for path in parts])
    found: list[ImagePrompts | None] = [None] * len(sources)
    names: dict[int, str] = {}
    strange = []
    for name, prompts in entries.items():
        places = [
            whole[path]
            for folder in (Path(), file.parent)
            if (path := _parts(os.path.abspath(folder / name))) in whole
        ]
        wanted = _parts(os.path.normpath(name.replace("\\", "/")))
        wanted = tuple(part for part in wanted if part not in (".", "/"))
        if not places:
            places = ends[0].of(wanted) or ends[1].of((*wanted[:-1], stem(wanted[-1])) if wanted else ())
        if not places:
            strange.append(f"{prompts.where} is about {name}, which is not among the given images")
            continue
        if len(set(places)) > 1:
            first, second = (sources[n].place for n in places[:2])
            raise UserError(
                f"{prompts.where} has a row for {name}, which may be {first} or {second}; write more of "
                "its path"
            )
        if places[0] in names:
            raise UserError(
                f"{file}: {names[places[0]]} and {name} are both {sources[places[0]].place}; "
                "write one of them"
            )
        names[places[0]] = name
        found[places[0]] = prompts
    return found, strange


def _parts(path: str) -> tuple[str, ...]:
    return tuple(unicodedata.normalize("NFC", part) for part in Path(path).parts)


class _Ends:
    """Paths by their last parts."""

    def __init__(self, paths: Sequence[tuple[str, ...]]) -> None:
        self.paths = paths
        self.by_name: dict[str, list[int]] = {}
        for n, path in enumerate(paths):
            self.by_name.setdefault(path[-1], []).append(n)

    def of(self, wanted: tuple[str, ...]) -> list[int]:
        if not wanted:
            return []
        return [n for n in self.by_name.get(wanted[-1], []) if self.paths[n][-len(wanted) :] == wanted]
