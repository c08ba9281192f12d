"""Faults of the rows of a file; equal faults are counted and named in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from everseg.errors import brief


@dataclass
class Faults:
    """What is wrong with the rows of `source`, by kind: (noun, what, todo) -> places, and a value found."""

    source: Path
    found: dict[tuple[str, str, str], tuple[list[str], str]] = field(default_factory=dict)

    def add(self, noun: str, place: object, what: str, todo: str, value: object = None) -> None:
        """Note a fault. Faults of one noun, `what` and `todo` are equal.

        noun, place: such as "annotation", 7.
        what: begins with "has" or "is".
        todo: what helps.
        value: what is there instead; the first of equal faults is shown.
        """
        shown = "" if value is None else f" ({brief(str(value), 60)})"
        self.found.setdefault((noun, what, todo), ([], shown))[0].append(brief(str(place), 60))

    def take(self, others: Faults) -> None:
        """Note the faults of others of the same file, too."""
        for kind, (where, shown) in others.found.items():
            self.found.setdefault(kind, ([], shown))[0].extend(where)

    def sentences(self, todo: str | None = None) -> list[str]:
        """A sentence for each kind of fault.

        todo: in place of what would help.
        """
        return [
            f"{self.source}: {places(noun, where)} {verb(what, len(where))}{shown}; {todo or fix}"
            for (noun, what, fix), (where, shown) in self.found.items()
        ]


def places(noun: str, where: Sequence[str]) -> str:
    """ "annotation 7", "annotations 7 and 9", or "12 annotations (7, 9, 11, ...)"."""
    if len(where) == 1:
        return f"{noun} {where[0]}"
    nouns = noun.removesuffix("y") + "ies" if noun.endswith("y") else f"{noun}s"
    if len(where) <= 3:
        return f"{nouns} {', '.join(where[:-1])} and {where[-1]}"
    return f"{len(where)} {nouns} ({', '.join(where[:3])}, ...)"


def verb(what: str, count: int) -> str:
    """What begins with "has" or "is", in the plural where there are several."""
    first, _, rest = what.partition(" ")
    return what if count == 1 else f"{ {'has': 'have', 'is': 'are'}[first] } {rest}"
