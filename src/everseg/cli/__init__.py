"""The command line: one thin function per command."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import sys
import warnings
from typing import Annotated, Any

import typer

from everseg import __version__

# isort: off
# Each module adds its commands to the app, in the order in which help lists them.
from everseg.cli import demo, learn, predict, report  # noqa: F401
from everseg.cli import data, settings, doctor, merge, export, imports, pool  # noqa: F401

# isort: on
from everseg.cli.shared import HELP, app
from everseg.errors import UserError
from everseg.progress import console as remarks


@app.callback(invoke_without_command=True, help=HELP)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
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


def _no_bars_of_transformers() -> None:
    """It reads the variable when it is imported, which is later, if at all."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    if "transformers" in sys.modules:
        sys.modules["transformers"].logging.disable_progress_bar()


def main() -> None:
    """The console command: sentences for people, and exit code 2 for what they can fix."""
    warnings.filterwarnings("ignore", module="torch.*")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if not remarks.is_terminal:  # As for our own bars.
        _no_bars_of_transformers()
    signal.signal(signal.SIGINT, _interrupt)
    try:
        sys.exit(app(standalone_mode=False))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except USAGE as error:
        said = error.format_message()
        if said.startswith("Usage:"):  # A group of commands was named without a command: this is its help.
            print(said)
        else:
            print(f"error: {said}", file=sys.stderr)
        sys.exit(2)
    except Interrupted:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(
            f"error: {error.filename or 'a file'}: {error.strerror}; nothing was lost; fix it and rerun",
            file=sys.stderr,
        )
        sys.exit(2)
