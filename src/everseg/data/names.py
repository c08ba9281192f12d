"""File names: names to skip, names that are equal, and names of samples."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from everseg.errors import UserError, printable

POINTS = "points.json"
"""Clicks stored beside masks."""

_LITTER = {
    "thumbs.db",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "picasa.ini",
    "desktop.ini",
    "icon\r",
    "__macosx",
    "@eadir",
    "@recycle",
    "@synoresource",
    "@tmp",
    "#recycle",
    "$recycle.bin",
    "system volume information",
    "__pycache__",
    "lost+found",
    "dicomdir",
}


_BESIDE = (":zone.identifier", ".aux.xml", ".tif.ovr", ".tif.msk", ".tfw", ".tifw", ".jgw", ".pgw", ".wld")
"""Endings of files that Windows and programs for maps write beside others."""


def is_litter(name: str) -> bool:
    """Whether file managers, archives, notebooks and programs for maps leave files or folders of this name:
    `.DS_Store`, `._x.png`, `Thumbs.db`, `@eaDir`, `.ipynb_checkpoints`, `x.tif.aux.xml` and the like."""
    low = name.lower()
    return low.startswith((".", "~$")) or low.endswith(_BESIDE) or low in _LITTER


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder; False for a link that leads to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_pipe(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a pipe, on which a reader would wait, or a device: not a file, folder or link."""
    try:
        return not (entry.is_symlink() or entry.is_file() or entry.is_dir())
    except OSError:
        return False


def composed(text: str) -> str:
    """The text with each accented letter as one character (NFC): macOS writes them as two."""
    return unicodedata.normalize("NFC", text)


def sample_name(image: Path, base: Path) -> str:
    """What the sample of an image is called: the image's path below `base`, with `/`."""
    return writable(image.relative_to(base).as_posix() if image != base else image.name)


def writable(name: str) -> str:
    """A file's name as text that can be written: bytes that are not UTF-8 are escaped."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return printable(name)
    return name


def sample_names(images: Sequence[Path]) -> list[str]:
    """What the samples of several images are called: their file names. Where files of several folders have
    one name, all are named by their paths from their common folder."""
    flat = [sample_name(image, image.parent) for image in images]
    if len(set(flat)) == len(flat):
        return flat
    files = [image.absolute() for image in images]
    base = Path(os.path.commonpath([file.parent for file in files]))
    return [sample_name(file, base) for file in files]


def some(files: Iterable[str | Path]) -> str:
    """Up to three file names, and how many more there are."""
    names = [f if isinstance(f, str) else f.name for f in files]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def twice(names: Sequence[str], what: str) -> list[str]:
    """A sentence if names occur twice in a split, because scores are kept by name; `what` is its subject.

    Samples without a name are not compared.
    """
    if len(set(names)) == len(names):
        return []
    found = [name for name, count in Counter(names).items() if count > 1 and name]
    if not found:
        return []
    return [
        f"{what} has two samples named {some(found)}; scores are kept by name, so give each sample of a "
        "split a name of its own"
    ]


def refuse_twice(names: Sequence[str], what: str) -> None:
    """Raise `UserError` where names occur `twice`."""
    for sentence in twice(names, what):
        raise UserError(sentence)
