"""The command line: one thin function per command."""

from __future__ import annotations

import errno
import io
import logging
import multiprocessing
import os
import re
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from everseg import __version__

# isort: off
# Each module adds its commands to the app, in the order in which help lists them.
from everseg.cli import demo, learn, predict, report, gate, history  # noqa: F401
from everseg.cli import serve, data, settings, doctor, merge, export, hub, imports, pool  # noqa: F401

# isort: on
from everseg.cli.shared import HELP, app
from everseg.errors import UserError, brief, sentence
from everseg.progress import console as remarks


@app.callback(invoke_without_command=True, help=HELP)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


USAGE: Any = typer.BadParameter.__bases__[0]
"""A wrong option or argument. Typer includes click or depends on it, depending on the version."""


THEIRS = tuple(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EACCES", "EROFS", "ENAMETOOLONG", "ELOOP", "ENOTDIR", "EISDIR", "EIO")
)
"""System errors of disks and paths that only the user can fix."""


NO_MEMORY = re.compile("can't allocate memory|CUDA out of memory|cannot allocate memory", re.IGNORECASE)
"""What PyTorch says where memory runs out. On a CPU its error has no type of its own."""


class Interrupted(BaseException):
    """Ctrl-C. Typer would turn a KeyboardInterrupt into "Aborted" and exit code 1."""


def _interrupt(signum: int, frame: object) -> None:
    if multiprocessing.parent_process() is None:  # A decoding worker is stopped by its parent process.
        raise Interrupted


LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def _ask_for_large_pages() -> None:
    """Have PyTorch ask for memory in pages of 2 MB instead of 4 kB, where Linux has them: a large tensor's
    are given back when it is freed, and on a CPU it takes time to get new ones (benchmarks/large_pages.py).
    Read when the first tensor is made."""
    if LARGE_PAGES.exists():
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def _no_bars_of_transformers() -> None:
    """It reads the variable when it is imported, which is later, if at all."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    if "transformers" in sys.modules:
        sys.modules["transformers"].logging.disable_progress_bar()


def _take_any_name() -> None:
    """What a terminal or a pipe cannot show, such as bytes of a file name that are not UTF-8, is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="printable")


def _say(error: str) -> None:
    print(f"error: {sentence(error)}", file=sys.stderr)


def main() -> None:
    """The console command: sentences for people, and exit code 2 for what they can fix."""
    _take_any_name()
    _ask_for_large_pages()
    warnings.filterwarnings("ignore", module="torch.*")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if not remarks.is_terminal:  # As for our own progress bars.
        _no_bars_of_transformers()
    signal.signal(signal.SIGINT, _interrupt)
    try:
        sys.exit(app(standalone_mode=False))
    except UserError as error:
        _say(str(error))
        sys.exit(2)
    except USAGE as error:
        said = error.format_message()
        if said.startswith("Usage:"):  # A group without a command: this is its help.
            print(said)
        else:
            _say(said.replace("Value error, ", "", 1))  # Pydantic checks choices in some versions.
        sys.exit(2)
    except Interrupted:
        print("interrupted; the same command resumes where it stopped", file=sys.stderr)
        sys.exit(130)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not NO_MEMORY.search(str(error)):
            raise
        _say(
            "memory ran out; nothing that was finished is lost; take smaller crops or batches (--set), a "
            "smaller --tile or base, or a machine with more memory"
        )
        sys.exit(2)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "everseg":
            raise
        _say(f"the package {error.name} is missing; install everseg and what it needs: pip install everseg")
        sys.exit(2)
    except OSError as error:
        if error.errno not in THEIRS:
            raise
        name = brief(os.fsdecode(error.filename)) if error.filename else "a file"
        _say(f"{name}: {error.strerror}; nothing was lost; correct it and run the same command again")
        sys.exit(2)
