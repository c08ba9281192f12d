"""Meaning of the numbers in class maps: classes by name, background, void."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from everseg.errors import UserError, unknown
from everseg.files import path_from
from everseg.text import lines_of, read_text
from everseg.types import VOID

BACKGROUND_NAME, VOID_NAME = "background", "void"
"""Names that stand for no class, and may stand for several numbers."""

VOC = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor".split()
)
"""PASCAL VOC's classes 1 to 20."""

Classes = str | Sequence[str] | Mapping[int, str]
"""How a person names them: "voc", a file, a list for 1, 2, ..., or {number: name}."""


@dataclass(frozen=True)
class Legend:
    """Meaning of the numbers in class maps. A map with a number that is not listed is faulty.

    names: {number: name}; every class once, in the order of the numbers.
    background: numbers that are background.
    void: numbers that are ignored.
    assumed_void: whether 255 is void only because it has no name.
    given: whether the user named the classes, not the layout of a data set.
    """

    names: Mapping[int, str]
    background: frozenset[int] = frozenset({0})
    void: frozenset[int] = frozenset({VOID})
    assumed_void: bool = False
    given: bool = False

    @classmethod
    def of(cls, classes: Classes, root: Path = Path()) -> Legend:
        """The legend that `classes` means; file names start at `root`.

        A list names 1, 2, ..., or 0, 1, ... where its first name is "background". In every form "background"
        and "void" are not classes. 0 is background and 255 void where they are not named.

        A text file has a name a line, or a table with the columns Idx and Name (ADE20K's objectInfo150, of
        whose synonyms the first is taken); a YAML or JSON file has a list or a mapping.

        Raises:
            UserError: a file that cannot be read as one of these, a number beyond 0 to 255, no class, or a
                name twice.
        """
        if isinstance(classes, str):
            if classes == "voc":
                return replace(cls.of(VOC), assumed_void=False, given=False)
            return _named_in(path_from(root, classes, "classes"))
        if not isinstance(classes, Mapping):
            classes = dict(enumerate(classes, 0 if list(classes[:1]) == [BACKGROUND_NAME] else 1))
        names: dict[int, str] = {}
        for number, name in sorted(classes.items()):
            if not 0 <= number <= 255:
                raise UserError(
                    f"class {name!r} has the number {number}; class maps have 8 bits, so use a number from 0 "
                    "to 255"
                )
            if name in names.values() and name not in (BACKGROUND_NAME, VOID_NAME):
                raise UserError(f"two numbers are named {name!r}; give each class its own name")
            names[number] = name
        assumed_void = VOID not in names
        names = {0: BACKGROUND_NAME, VOID: VOID_NAME, **names}
        parts = {special: {n for n, name in names.items() if name == special} for special in SPECIAL}
        real = {n: name for n, name in sorted(names.items()) if name not in SPECIAL}
        if not real:
            raise UserError(
                "classes: names no class; write it as classes: [cat, dog] or classes: {1: cat, 2: dog}"
            )
        background, void = (frozenset(parts[special]) for special in SPECIAL)
        return cls(real, background, void, assumed_void, given=True)

    def name(self, given: str | int, place: str = "") -> str:
        """The class that a person means by its name or number; `place` is for the message.

        Raises:
            UserError: there is no such class.
        """
        if isinstance(given, int):
            if given in self.names:
                return self.names[given]
            low, high = min(self.names), max(self.names)
            raise UserError(f"{place}no class has the number {given}; choose one from {low} to {high}")
        if given not in self.names.values():
            raise unknown("class", given, self.names.values(), place)
        return given

    def check(self, names: Sequence[str], place: str) -> None:
        """Raise `UserError` unless all of these are classes here."""
        for name in names:
            self.name(name, place)


SPECIAL = (BACKGROUND_NAME, VOID_NAME)


def _named_in(path: Path) -> Legend:
    try:
        text = read_text(path)
        tree = _parse(path, text)
    except OSError as error:
        raise UserError(
            f"cannot read the class names {path}: {error.strerror}; name a file, or write a list"
        ) from error
    except (UnicodeDecodeError, yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} is not a list of class names ({error}); write one name per line") from error
    listed = isinstance(tree, list) and all(isinstance(name, str) for name in tree)
    mapped = isinstance(tree, dict) and all(
        isinstance(n, int) and isinstance(name, str) for n, name in tree.items()
    )
    if not (listed or mapped):
        raise UserError(
            f"{path} is neither a list of class names nor a mapping of numbers to names; write one "
            "name per line"
        )
    try:
        return Legend.of(tree)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _parse(path: Path, text: str) -> Any:
    if path.suffix.lower() in (".yaml", ".yml", ".json"):
        tree = yaml.safe_load(text)
        if isinstance(tree, dict):  # JSON's keys are text.
            return {int(n) if isinstance(n, str) and n.isdigit() else n: name for n, name in tree.items()}
        return tree
    lines = [line.strip() for line in lines_of(text) if line.strip()]
    if not lines:
        return []
    for delimiter in ("\t", ","):
        if {"Idx", "Name"} <= set(lines[0].split(delimiter)):
            rows = list(csv.DictReader(lines, delimiter=delimiter))
            if any(row["Idx"] is None or row["Name"] is None for row in rows):
                raise ValueError("a line lacks the columns Idx or Name")
            return {int(row["Idx"]): row["Name"].replace(";", ",").split(",")[0].strip() for row in rows}
    return lines
