"""Lists in docstrings, for mkdocstrings.

everseg writes arguments as `name: meaning` lines without a heading. griffe, which reads the docstrings,
expects them below a heading "Args:", so this extension adds it to functions and classes. The docstring of a
package has a line per file, which becomes a list. Without both the API reference would show run-on
paragraphs.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ARGUMENT = re.compile(r"^(\w+(?:, \w+)*): (.*)")


FILES = re.compile(r"^(\w+\.py(?:, \w+\.py)*)\s\s+(.*)$", re.MULTILINE)


def with_list_of_files(text: str) -> str:
    """The docstring of a package with its lines `file.py   what is in it` as a list."""
    listed = FILES.sub(lambda line: f"- `{line[1]}`: {line[2]}", text)
    return re.sub(r"(?m)^(- .*)\n(?=[^-\n])", r"\1\n\n", listed)


def with_heading(text: str, names: set[str], heading: str) -> str:
    """The docstring with a heading above the paragraphs whose first line explains one of the names.

    names: arguments of the function, or fields of the class.
    """
    out: list[str] = []
    for block in text.split("\n\n"):
        first = ARGUMENT.match(block)
        if first is None or first[1].split(", ")[0] not in names:
            out.append(block)
            continue
        lines = []
        for line in block.split("\n"):
            found = ARGUMENT.match(line)
            lines.append(f"    {found[1]}: {found[2]}" if found else "        " + line.strip())
        if out and out[-1].startswith(f"{heading}:\n"):  # One list, though the docstring has two paragraphs.
            out[-1] = "\n".join([out[-1], *lines])
        else:
            out.append("\n".join([f"{heading}:", *lines]))
    return "\n\n".join(out)


class PlainArguments(griffe.Extension):
    """Turns lines of names into sections, and lines of files into lists."""

    def on_module(self, *, mod: griffe.Module, **kwargs: Any) -> None:
        if mod.docstring:
            mod.docstring.value = with_list_of_files(mod.docstring.value)

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        if func.docstring:
            names = {parameter.name.lstrip("*") for parameter in func.parameters}
            func.docstring.value = with_heading(func.docstring.value, names, "Args")

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        if cls.docstring:
            attributes = {name for name, member in cls.members.items() if member.is_attribute}
            arguments = set()
            if "__init__" in cls.members and cls.members["__init__"].is_function:
                arguments = {p.name for p in cls.members["__init__"].parameters}
            text = with_heading(cls.docstring.value, arguments, "Args")
            cls.docstring.value = with_heading(text, attributes, "Attributes")
