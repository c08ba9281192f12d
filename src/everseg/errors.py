"""The one exception that is meant for the person at the keyboard."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: says what was wrong, where, and what to do, in one sentence.

    The command line prints the sentence without a traceback and exits with code 2. Errors of ours are
    assertions.
    """


def unknown(what: str, given: object, allowed: Iterable[str]) -> UserError:
    """A `UserError` for a name that does not exist, naming the nearest one that does."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(given), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"unknown {what} {given!r}: {hint}choose one of {', '.join(names)}")


def first_line(error: BaseException) -> str:
    """What an error of another package says, without the lines after the first."""
    return next(iter(str(error).splitlines()), type(error).__name__)
