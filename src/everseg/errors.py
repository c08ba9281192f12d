"""The one exception that is meant for the person at the keyboard."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: says what was wrong, where, and what to do, in one sentence.

    The command line prints the sentence without a traceback and exits with code 2. Errors of ours are
    assertions.
    """

    def __str__(self) -> str:
        """The sentence alone, where a process that decodes images has wrapped it in its traceback."""
        return super().__str__().rpartition("everseg.errors.UserError: ")[2].strip()


def unknown(what: str, given: object, allowed: Iterable[str]) -> UserError:
    """A `UserError` for a name that does not exist, naming the nearest one that does."""
    names = sorted(allowed)
    near = difflib.get_close_matches(str(given), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"unknown {what} {given!r}: {hint}choose one of {', '.join(names)}")
