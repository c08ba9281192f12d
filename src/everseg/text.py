"""Text and file names from any system: files in any encoding, names that are not UTF-8.

Python keeps the bytes of a file name that are not UTF-8 as lone surrogates, which no strict encoder writes.
What leaves the program as text goes through `everseg.errors.printable`, `write_text` or JSON, which escapes
them.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

LONGEST_PART, LONGEST_PATH = 255, 4095
"""Bytes of a file name and of a whole path: what Linux takes."""


def read_text(path: Path, *, names: bool = False) -> str:
    """The text of a file as the editors of any system write it: UTF-8, UTF-16 or UTF-32, with or without a
    byte order mark.

    names: keep bytes that are not UTF-8 as Python keeps them in file names, because the file lists names.

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: it is not text, or text in another encoding.
    """
    content = path.read_bytes()
    return content.decode(json.detect_encoding(content), "surrogateescape" if names else "strict")


def lines_of(text: str) -> list[str]:
    """The lines of a text from any system. Unlike `str.splitlines`, only ends of lines end a line: a name may
    hold any other character.
    """
    return re.split(r"\r\n|\r|\n", text)


def uncapitalised(sentence: str) -> str:
    """A sentence with a small first letter, to stand within another; values in it stay as they are."""
    return sentence[:1].lower() + sentence[1:]


def plural(count: int, noun: str) -> str:
    """A number of things, such as "1 image", "2 images" or "2 classes"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith('s') else 's'}"


def is_file_name(name: str) -> bool:
    """Whether a file can be called this, with folders before it or without."""
    if not name or "\0" in name:
        return False
    try:
        whole = os.fsencode(name)
    except UnicodeEncodeError:  # Surrogates that stand for no byte.
        return False
    return len(whole) <= LONGEST_PATH and all(len(part) <= LONGEST_PART for part in whole.split(b"/"))
