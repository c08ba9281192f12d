"""What the commands share: the app they hang on, their common arguments, how they find a stream.

A command's module imports nothing heavy at its top, so that help and mistakes answer at once; what a command
needs is imported where it runs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from everseg.errors import UserError
from everseg.methods import METHODS
from everseg.progress import remark

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from everseg.data import Stream
    from everseg.runs.run import Run

HELP = (
    "Continual learning for Segment Anything: learn domains or classes one after another, without old images."
)

# Help is plain text: panels and columns of types leave the words no room in a terminal of 80 columns.
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=HELP,
)
data_app = typer.Typer(no_args_is_help=True, help="Check, make and look at the data of a stream.")
app.add_typer(data_app, name="data")
pool_app = typer.Typer(no_args_is_help=True, help="Look at the stored instances of a run, and delete some.")
app.add_typer(pool_app, name="pool")
import_app = typer.Typer(no_args_is_help=True, help="Import modules that others have trained.")
app.add_typer(import_app, name="import")

StreamFile = Annotated[Path, typer.Argument(metavar="STREAM", help="Stream file (YAML).")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, or hf://OWNER/NAME.")]
Method = Annotated[
    str, typer.Option(metavar="METHOD", help=f"{', '.join(METHODS)}, or package.module:Class.")
]
Preset = Annotated[
    str,
    typer.Option(
        metavar="PRESET", help="paper, or reference: quirks of the published code; some methods have more."
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Random seed.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, such as tune.fit.epochs=5."),
]
Workers = Annotated[
    int, typer.Option(min=0, metavar="N", help="Processes that decode images; 0 uses this one.")
]
BaseHere = Annotated[
    str | None, typer.Option("--base", metavar="BASE", help="Path of the base model, if it has moved.")
]
ScoreSettings = Annotated[
    list[str] | None,
    typer.Option("--score", metavar="KEY=VALUE", help="Change how images are scored, such as size=original."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Rescore = Annotated[
    bool | None,
    typer.Option(
        "--rescore/--no-rescore", help="Score the run again, if its data are at hand; default: yes."
    ),
]
OldScore = Annotated[bool | None, typer.Option("--score/--no-score", hidden=True)]

T = TypeVar("T")


def renamed(old: str, given: T | None, new: str, value: T | None) -> T | None:
    """The value of an option that may still be given by its old name, with a remark then.

    Raises:
        UserError: both are given.
    """
    if given is None:
        return value
    if value is not None:
        raise UserError(f"{old} is the old name of {new}; give {new} alone")
    remark(f"{old} is now called {new}")
    return given


def required(option: str, value: T | None) -> T:
    """The value of an option that cannot be left out but has an old name."""
    if value is None:
        raise UserError(f"missing option {option}")
    return value


def show(*what: Table | Text) -> None:
    """Print tables, and sentences as one line each. Where there is no terminal to fit into, columns stay
    whole."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 160)
    for each in what:
        console.print(each, soft_wrap=isinstance(each, Text))


def show_warning(sentence: str) -> None:
    """Print a sentence that asks for attention, on one line."""
    from rich.text import Text

    show(Text(f"! {sentence}", style="yellow"))


def open_stream(path: Path, run: Path) -> Stream:
    """A stream file, in which the data of stages that `run` has learned may be gone."""
    from everseg.runs.data import open_stream as opened

    return opened(path, run)


def own_stream(run: Run) -> Stream:
    """The stream that a run was made from; see `runs.data.own_stream`."""
    from everseg.runs.data import own_stream as opened

    return opened(run)
