"""Find the file that a name in a list refers to, whichever system wrote the list and the name."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from everseg.text import is_file_name

CODEPAGES = ("cp1252", "cp437", "cp850")
"""What Windows writes names in: in lists, and in zip files that are unpacked elsewhere."""


def forms(name: str) -> frozenset[str]:
    """What a name may be meant as: letters composed, and bytes that are not UTF-8 read by each code page."""
    try:
        name.encode()
    except UnicodeEncodeError:
        found = {unicodedata.normalize("NFC", name)}
        for codepage in CODEPAGES:
            try:
                found.add(unicodedata.normalize("NFC", os.fsencode(name).decode(codepage)))
            except UnicodeError:
                continue
        return frozenset(found)
    return frozenset({unicodedata.normalize("NFC", name)})


class Meant:
    """Which of some names are meant by other spellings of them. A name itself goes before every spelling."""

    def __init__(self, names: Iterable[str] | Mapping[str, object]) -> None:
        self.names = names if isinstance(names, Mapping) else frozenset(names)
        self._spelt: dict[str, set[str]] | None = None

    def find(self, name: str) -> str | None:
        """The one name that `name` means; None without a match or with several."""
        if name in self.names:
            return name
        if self._spelt is None:
            self._spelt = {}
            for known in self.names:
                for form in forms(known):
                    self._spelt.setdefault(form, set()).add(known)
        found: set[str] = set().union(*(self._spelt.get(form, ()) for form in forms(name)))
        return found.pop() if len(found) == 1 else None


def folders_and_name(name: str) -> tuple[str, ...]:
    """The parts of a path as any system writes it, or of an address."""
    return PurePosixPath(name.replace("\\", "/")).parts


def begin_with(names: Iterable[str]) -> tuple[str, ...]:
    """The folders that all of these names begin with. As they tell no two names apart, a file may be looked
    for without them."""
    folders = [folders_and_name(name)[:-1] for name in names]
    if not folders:
        return ()
    first, last = min(folders), max(folders)
    same = (here == there for here, there in zip(first, last, strict=False))
    return first[: next((i for i, equal in enumerate(same) if not equal), min(len(first), len(last)))]


class Listing:
    """The files below a folder, by the names that lists have for them.

    A name is taken as it is where there is such a file. Where not, backslashes separate folders, composed and
    decomposed letters are the same (é may be one character or two), and so are bytes and letters of Windows'
    code pages. A folder is listed once, and only if a name in it is spelt otherwise.

    above: folders with which all names begin, see `begin_with`. Some or all of them may lie elsewhere, as on
        the machine that wrote the list.
    """

    def __init__(self, folder: Path, above: Sequence[str] = ()) -> None:
        self.folder, self.above = folder, tuple(above)
        self._known: dict[Path, Meant] = {}

    def find(self, name: str) -> Path | None:
        """The file that a name means, or None if no file or several could be meant."""
        found = self._find(name)
        if found is not None or not self.above:
            return found
        parts = folders_and_name(name)
        if parts[: len(self.above)] != self.above:
            return None
        shorter = ("/".join(parts[start:]) for start in range(1, len(self.above) + 1))
        return next((file for text in shorter if (file := self._find(text))), None)

    def _find(self, name: str) -> Path | None:
        path = self.folder / name
        if not (name and is_file_name(str(path))):
            return None
        if not path.is_file():
            path = self.folder
            for part in Path(name.replace("\\", "/")).parts:
                inside = path / part
                if not inside.exists():
                    spelt = self._meant(path).find(part)
                    if spelt is None:
                        return None
                    inside = path / spelt
                path = inside
        return path if path.is_file() else None

    def _meant(self, folder: Path) -> Meant:
        if folder not in self._known:
            self._known[folder] = Meant(os.listdir(folder) if folder.is_dir() else ())
        return self._known[folder]


class Stems:
    """The files of a folder by their names without the ending, spelt as in `Listing`.

    ending: goes before all others where a stem has it.
    """

    def __init__(self, folder: Path, ending: str) -> None:
        self.folder, self.ending = folder, ending
        self._files: dict[str, list[str]] | None = None

    def find(self, stem: str) -> list[Path]:
        """The files that a stem means, sorted: none, one, or several with other endings."""
        path = self.folder / f"{stem}{self.ending}"
        if not (stem and is_file_name(str(path))):
            return []
        if path.is_file():
            return [path]
        if self._files is None:
            self._files = {}
            for name in sorted(os.listdir(self.folder)) if self.folder.is_dir() else ():
                if not name.startswith("."):
                    self._files.setdefault(Path(name).stem, []).append(name)
            self._meant = Meant(self._files)
        meant = self._meant.find(stem)
        files = [self.folder / name for name in self._files[meant]] if meant is not None else []
        return [file for file in files if file.suffix == self.ending] or files
