"""The one exception that is meant for the person at the keyboard."""

from __future__ import annotations

import codecs
import difflib
import re
import unicodedata
from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can fix: says what is wrong, where, and what to do, in one sentence.

    The command line prints the sentence without a traceback and exits with code 2. Our own errors are
    assertions. Whatever bytes and line breaks the names in it have, it stays one line that can be printed.
    """

    def __init__(self, sentence: str) -> None:
        # A process that decodes images passes the sentence on at the end of its traceback.
        wrapped = re.search(r"\neverseg\.[\w.]+: (.*)\Z", sentence, re.DOTALL)
        super().__init__(printable((wrapped[1] if wrapped else sentence).strip()))


def printable(text: str) -> str:
    """Text on one line that every terminal and file takes.

    A file name may hold any bytes. Those that are not UTF-8 become `\\xfc`, line breaks and other control
    characters `\\n`, `\\x07`.
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # how Python keeps a byte that it could not decode
        return f"\\x{ord(character) - 0xDC00:02x}"
    if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return character.encode("unicode_escape").decode()
    return character


def _encodable(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError), "text that is written, not read"
    escaped = "".join(map(_escaped, error.object[error.start : error.end]))
    return escaped.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error("printable", _encodable)  # errors="printable" escapes what an encoding cannot hold


def sentence(text: str) -> str:
    """`printable`, and words of thousands of letters in brief."""
    return re.sub(r"\S{1000,}", lambda match: brief(match[0]), printable(text))


def brief(text: str, longest: int = 120) -> str:
    """A text for a message, its middle left out where it is very long."""
    if len(text) <= longest:
        return text
    return f"{text[: longest // 2]}...{text[-longest // 4 :]}"


MOST_NAMES = 40
"""Names that a message about an unknown one lists."""


def unknown(what: str, given: object, allowed: Iterable[str], place: str = "") -> UserError:
    """A `UserError` for a name that does not exist, naming the nearest one that does; `place` goes first."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(given), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    listed = ", ".join(names[:MOST_NAMES])
    if len(names) > MOST_NAMES:
        listed += f" and {len(names) - MOST_NAMES} more"
    return UserError(f"{place}unknown {what} {given!r}: {hint}choose one of {listed}")


def first_line(error: BaseException) -> str:
    """What an error of another package says, without the lines after the first."""
    return next(iter(str(error).splitlines()), type(error).__name__)
