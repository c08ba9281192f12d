"""Patterns of files: globs in which `{id}` marks the part of a name that images and masks have in common."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from everseg.data.names import POINTS, composed, is_folder, is_litter
from everseg.errors import UserError

ID = "{id}"
_TOKEN = re.compile(r"\{id\}|\*|\?|\[!?[^]]+\]")


class Glob:
    """One pattern below a folder, such as `images/**/*.png` or `1st_manual/{id}_manual1.gif`.

    `*` is any text and `?` any character of a name, `[a-c]` one of these characters, `**` any number of
    folders. `{id}` is any text of a name, the same wherever it occurs. A pattern without a wildcard is a
    folder, of which all files count, or a file. A last part without a dot matches any extension.

    fixed: the folders that the pattern begins with. parts: what follows.
    """

    def __init__(self, text: str) -> None:
        if not text.strip() or "\0" in text:
            raise UserError(f"the pattern {text!r} is empty; write a glob such as images/*.png")
        self.text = text
        parts = list(PurePosixPath(text).parts)
        count = next((i for i, part in enumerate(parts) if _TOKEN.search(part)), len(parts))
        self.fixed, self.parts = PurePosixPath(*parts[:count]), parts[count:]
        if self.parts and self.parts[-1] == "**":
            self.parts.append("*")
        self.has_id = any(ID in part for part in self.parts)
        self.literal = sum(len(_TOKEN.sub("", part)) for part in self.parts)
        """Characters that a name must have: of two patterns the one with more says more."""
        self.loose = any(ID in part and len(_TOKEN.findall(part)) > 1 for part in self.parts)
        """Whether a wildcard beside `{id}` leaves open how long it is."""
        self.open_end = bool(re.search(r"\{id\}[*?[]", text))
        self._compiled: dict[int | None, re.Pattern[str]] = {}

    def files(self, root: Path) -> list[tuple[Path, str]]:
        """Files in the folders of the pattern below `root`, sorted, each with its path below the fixed
        folders (NFC). Which of them match is left to `regex`.

        Raises:
            UserError: the fixed folder is missing.
        """
        start = root / self.fixed
        if not self.parts and start.is_file():
            return [(start, composed(start.name))]
        if not start.is_dir():
            raise UserError(
                f"{start} is not a folder, but the pattern {self.text!r} starts there; correct the pattern"
            )
        parts = self.parts or ["*"]
        found = sorted(set(_walk(start, parts)))
        return [(path, composed(path.relative_to(start).as_posix())) for path in found]

    def regex(self, length: int | None = None) -> re.Pattern[str]:
        """What a path below the fixed folders must be. Wildcards are groups; `{id}` is the group "id".

        length: of the id, where several would do.
        """
        if length in self._compiled:
            return self._compiled[length]
        size = "+?" if length is None else f"{{{length}}}"
        said = False
        out = []
        parts = self.parts or ["*"]
        for part in parts[:-1]:
            pattern, said = _component(part, size, said)
            out.append("((?:[^/]+/)*)" if part == "**" else pattern + "/")
        stem, dot, extension = parts[-1].rpartition(".")
        if dot:  # An extension names a format: its wildcards are not part of what pairs.
            name, said = _component(stem, size, said)
            last = name + r"\." + _component(extension, size, said, "(?:{})", "[^/.]")[0]
        else:
            last = _component(parts[-1], size, said)[0] + r"(?:\.[^./]*)?"
        self._compiled[length] = re.compile("".join(out) + f"(?i:{last})")
        return self._compiled[length]

    def ids(self, below: str, lengths: Sequence[int]) -> Iterator[str]:
        """What `{id}` can stand for in a path, the longest first.

        lengths: of the ids that there are.
        """
        if not self.loose:
            found = self.regex().fullmatch(below)
            if found:
                yield found["id"]
            return
        for length in lengths:
            found = self.regex(length).fullmatch(below)
            if found and not (self.open_end and _goes_on(found["id"], below[found.end("id") :])):
                yield found["id"]


def _goes_on(text: str, rest: str) -> bool:
    """Whether a number or a word goes on: `im1` is not the id of im10.png, nor `cat` of catfish.png."""
    last, following = text[-1:], rest[:1]
    return (last.isdigit() and following.isdigit()) or (last.isalpha() and following.isalpha())


def _component(
    part: str, size: str, said: bool, group: str = "({})", any_of: str = "[^/]"
) -> tuple[str, bool]:
    """One part of a path as a regular expression, and whether `{id}` has occurred by then."""
    out, at = "", 0
    for token in _TOKEN.finditer(part):
        out += re.escape(composed(part[at : token.start()]))
        at = token.end()
        match token[0]:
            case "{id}":
                out += "(?P=id)" if said else f"(?P<id>[^/]{size})"
                said = True
            case "*":
                out += group.format(f"{any_of}*?")
            case "?":
                out += group.format(any_of)
            case characters:
                inside = "".join(c if c == "-" else re.escape(c) for c in characters[1:-1].removeprefix("!"))
                out += group.format(f"[^/{inside}]" if characters[1] == "!" else f"[{inside}]")
    return out + re.escape(composed(part[at:])), said


def _walk(folder: Path, parts: list[str]) -> Iterator[Path]:
    """Files below `folder` that can match `parts`; what `{id}` stands for is left to the regular
    expression."""
    first, *rest = parts
    with os.scandir(folder) as listing:
        entries = [e for e in listing if not is_litter(e.name) and e.name != POINTS]
    for entry in entries:
        path = folder / entry.name
        if is_folder(entry):
            if first == "**":
                if not entry.is_symlink():
                    yield from _walk(path, parts)
            elif rest and re.fullmatch(_component(first, "+?", False)[0], composed(entry.name)):
                yield from _walk(path, rest)
        elif not rest and first != "**":
            yield path
    if first == "**":
        yield from _walk(folder, rest)
