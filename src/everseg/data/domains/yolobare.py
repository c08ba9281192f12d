"""YOLO's folders without a data.yaml: `images` and `labels`, or all files in one folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from everseg.data.names import is_litter
from everseg.errors import UserError, unknown
from everseg.text import lines_of, read_text

_FOLDERS = {"train": ("train", "train2017"), "val": ("val", "valid", "val2017"), "test": ("test", "test2017")}
NAMES = "classes.txt"
"""The file that names the classes, one per line."""


def inside(path: Path, name: str) -> Path | None:
    """The folder of this name in `path`, in small letters or with capitals."""
    spelt = (path / text for text in (name, name.capitalize(), name.upper()))
    return next((folder for folder in spelt if folder.is_dir()), None)


def is_bare(path: Path) -> bool:
    """Whether a folder without data.yaml can be a data set: it has a folder `images`, or label files."""
    return inside(path, "images") is not None or any(_texts(path))


def _texts(folder: Path) -> Iterator[Path]:
    names = (NAMES, "readme.txt", "license.txt", "train.txt", "val.txt", "test.txt")
    return (f for f in folder.glob("*.txt") if f.name.lower() not in names and not is_litter(f.name))


def bare_split(path: Path, split: str) -> str:
    """The folder of a split's images below `path`, as a data.yaml would list it. Without folders of splits in
    `images`, everything is "train".

    Raises:
        UserError: there is no such split.
    """
    images = inside(path, "images")
    splits = {
        name: f"{images.name}/{folder}"
        for name, folders in _FOLDERS.items()
        for folder in folders
        if images and (images / folder).is_dir()
    } or {"train": images.name if images else "."}
    if split not in splits:
        raise unknown(f"split in {images or path}:", split, splits)
    return splits[split]


def bare_names(path: Path) -> list[str]:
    """The names of the classes by classes.txt, or class-0, class-1, ... as far as numbers occur in labels."""
    labels = inside(path, "labels") or path
    for listed in (path / NAMES, labels / NAMES):
        if listed.is_file():
            try:
                names = [row.strip() for row in lines_of(read_text(listed)) if row.strip()]
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"cannot read the class names {listed}; save it as UTF-8 text") from error
            if names:
                return names
    numbers = {0}
    for file in _texts(path) if labels == path else labels.rglob("*.txt"):
        if is_litter(file.name):
            continue
        try:
            rows = lines_of(read_text(file))
        except (OSError, UnicodeDecodeError):
            continue  # The reader says what is wrong with it.
        first = {row.split(maxsplit=1)[0] for row in rows if row.strip()}
        numbers |= {int(word) for word in first if word.isdecimal() and len(word) < 5}
    return [f"class-{number}" for number in range(max(numbers) + 1)]
