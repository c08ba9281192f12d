"""What is wrong with the data of a stream, as sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from everseg.data.views import Severity


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: where, what, and what to do about it."""

    severity: Severity
    stage: str
    split: str
    file: str
    what: str
    todo: str

    def __str__(self) -> str:
        told = f"{self.what}; {self.todo}" if self.todo else self.what
        return f"{self.severity}: {self.stage}/{self.split}: {told}"


_FILE = re.compile(r"[^\s/\\'\"]+\.[A-Za-z]{2,5}\b|\d+")
"""What differs between the sentences about equal faults: names of files, and numbers."""

NAMED = 3
"""Files that a line about equal faults names."""


def counted(findings: Sequence[Finding]) -> list[str]:
    """A line for each finding, and one for all of a split that say the same of different files."""
    alike: dict[tuple[str, ...], list[Finding]] = {}
    for found in findings:
        what = found.what
        for own in (found.file, Path(found.file).name, Path(found.file).stem) if found.file else ():
            what = re.sub(rf"(?<![A-Za-z0-9]){re.escape(own)}(?![A-Za-z0-9])", "*", what)
        sentence = _FILE.sub("*", f"{what}; {found.todo}")
        alike.setdefault((found.severity, found.stage, found.split, sentence), []).append(found)
    return [_one_line(group) for group in alike.values()]


def _one_line(group: Sequence[Finding]) -> str:
    first, rest = group[0], group[1:]
    if not rest:
        return str(first)
    names = [name for f in rest[:NAMED] if (name := Path(f.file).name or _first_file(f.what))]
    more = f" and {len(rest) - len(names)} more" if len(rest) > len(names) and names else ""
    files = f": {', '.join(names)}{more}" if names else ""
    what = f"{first.what} ({len(group)} alike{files})"
    return str(replace(first, what=what))


def _first_file(sentence: str) -> str:
    found = re.search(r"[^\s/\\'\"]+\.[A-Za-z]{2,5}\b", sentence)
    return found[0] if found else ""
