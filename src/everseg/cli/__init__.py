"""The command line: one verb a function, thin; what a verb does lies below."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import signal
import sys
import warnings
from typing import Annotated, Any

import typer
from transformers.utils.logging import disable_progress_bar

from everseg import __version__
from everseg.cli import data, doctor, export, imports, merging, pool, runs, settings  # noqa: F401  # a group of verbs hangs itself on the app
from everseg.cli.shared import app
from everseg.errors import UserError
from everseg.progress import console as remarks


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    """Keep one image segmenter up to date for ever: learn a stream of domains and forget nothing."""
    if version:
        print(__version__)
        raise typer.Exit


USAGE: Any = typer.BadParameter.__bases__[0]
"""A wrong option or argument. Typer carries click inside or has it beside it, by version."""


class Interrupted(BaseException):
    """Ctrl-C. Typer would turn a KeyboardInterrupt into "Aborted" and exit code 1."""


def _interrupt(signum: int, frame: object) -> None:
    if multiprocessing.parent_process() is None:  # A decoding worker is told by the process it works for.
        raise Interrupted


def main() -> None:
    """The console command: sentences for people, exit code 2 for what they can mend."""
    warnings.filterwarnings("ignore", module="torch.*")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if not remarks.is_terminal:  # As for our own bars.
        disable_progress_bar()
    signal.signal(signal.SIGINT, _interrupt)
    try:
        sys.exit(app(standalone_mode=False))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except USAGE as error:
        if error.format_message():  # Not where the help was printed, for want of any argument.
            print(f"error: {error.format_message()}", file=sys.stderr)
        sys.exit(2)
    except Interrupted:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(
            f"error: {error.filename or 'a file'}: {error.strerror}; nothing was lost, mend it and run again",
            file=sys.stderr,
        )
        sys.exit(2)
