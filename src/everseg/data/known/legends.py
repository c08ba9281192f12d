"""Names of classes as files beside class maps give them: Roboflow, CamVid, labelme, CVAT, plain lists."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from everseg.data.classes.legend import BACKGROUND_NAME, VOID_NAME, Legend
from everseg.data.raster import Colour
from everseg.errors import UserError
from everseg.text import lines_of, read_text

_GROUND = {"background", "_background_", "__background__", "bg", "unlabelled_background"}
_VOID = {"void", "unlabelled", "unlabeled", "ignore", "__ignore__", "_ignore_", "other/void"}

CITYSCAPES = (
    "void void void void void void void road sidewalk void void building wall fence void void void pole void "
    "traffic_light traffic_sign vegetation terrain sky person rider car truck bus void void train motorcycle "
    "bicycle"
).split()
"""Names of labelIds from 0. Those that the benchmark does not score are void."""

CAMVID = "sky building pole road pavement tree sign fence car pedestrian bicyclist void".split()
"""Names of the numbers from 0 in the maps that SegNet's authors made."""


@dataclass(frozen=True)
class Named:
    """What a file says.

    names: in its order, of numbers from `first` where `numbers` is not given.
    """

    file: Path
    names: tuple[str, ...]
    numbers: tuple[int, ...] = ()
    colours: tuple[Colour, ...] = ()

    def by_number(self, occurring: Sequence[int]) -> dict[int, str]:
        """Names of numbers. A list begins at 0 where it names the background or void first, or where its
        length and the numbers in the maps say so; else at 1."""
        if self.numbers:
            return dict(zip(self.numbers, self.names, strict=True))
        names = list(self.names)
        if names[0].lower() == "__ignore__":  # labelme's, with the number -1
            names = names[1:]
        if not names:
            return {}
        from_zero = usual(names[0]) in (BACKGROUND_NAME, VOID_NAME)
        from_zero |= 0 in occurring and len(names) not in occurring and len(names) - 1 in occurring
        return dict(enumerate(names, 0 if from_zero else 1))


def usual(name: str) -> str:
    """A class's name, or what every tool's word for background or void is here."""
    low = name.strip().lower()
    return BACKGROUND_NAME if low in _GROUND else VOID_NAME if low in _VOID else name.strip()


def names_near(folders: Sequence[Path]) -> Named | None:
    """The first file in these folders that names classes."""
    for folder in folders:
        for name, parse in _FILES.items():
            file = folder / name
            if not file.is_file():
                continue
            try:
                found = parse(file)
            except (OSError, ValueError, KeyError, UserError):
                continue
            if found is not None and found.names:
                return found
    return None


def _rows(file: Path) -> list[str]:
    return [row.strip() for row in lines_of(read_text(file)) if row.strip()]


def _roboflow(file: Path) -> Named:
    """`_classes.csv`: Pixel Value, Class."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(_rows(file)[1:])]
    return Named(file, tuple(row[1] for row in rows), tuple(int(row[0]) for row in rows))


def _class_dict(file: Path) -> Named:
    """`class_dict.csv`: name, r, g, b."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(_rows(file)[1:])]
    return Named(file, tuple(row[0] for row in rows), (), tuple(_colour(row[1:4]) for row in rows))


def _coloured(file: Path) -> Named | None:
    """`64 128 64  Animal`, as CamVid has it, or `cat:128,0,0::`, as CVAT."""
    found = list(_in_colours(_rows(file)))
    return Named(file, tuple(n for n, _ in found), (), tuple(c for _, c in found)) if found else None


def _in_colours(rows: Sequence[str]) -> Iterator[tuple[str, Colour]]:
    for row in rows:
        first = re.fullmatch(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(.+)", row)
        last = re.fullmatch(r"([^:#]+):(\d+),(\d+),(\d+)(?::.*)?", row)
        if first:
            yield first[4].strip(), _colour(first.groups()[:3])
        elif last:
            yield last[1].strip(), _colour(last.groups()[1:4])


def _colour(cells: Sequence[str]) -> Colour:
    red, green, blue = (int(cell) for cell in cells)
    return red, green, blue


def _listed(file: Path) -> Named:
    """A name per line, or what `classes:` of a stream file takes."""
    rows = _rows(file)
    if file.suffix == ".txt" and not rows[0].startswith("Idx"):
        return Named(file, tuple(rows))
    names: Mapping[int, str] = Legend.of(str(file)).names
    return Named(file, tuple(names.values()), tuple(names))


_FILES = {
    "_classes.csv": _roboflow,
    "class_dict.csv": _class_dict,
    "label_colors.txt": _coloured,
    "labelmap.txt": _coloured,
    "class_names.txt": _listed,
    "classes.txt": _listed,
    "labels.txt": _listed,
    "classes.json": _listed,
    "classes.yaml": _listed,
    "objectInfo150.txt": _listed,
}
