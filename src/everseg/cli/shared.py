"""What the verbs share: the app they hang on, their common arguments, how they find a stream."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from everseg.data import Stream
from everseg.errors import UserError
from everseg.runs.folder import Run, learned_stages

HELP = "Keep one image segmenter up to date for ever: learn a stream of domains and forget nothing."

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=HELP)
data_app = typer.Typer(no_args_is_help=True, help="Look at, check and make the data of a stream.")
app.add_typer(data_app, name="data")
pool_app = typer.Typer(no_args_is_help=True, help="The instances that a run keeps of old classes.")
app.add_typer(pool_app, name="pool")
import_app = typer.Typer(no_args_is_help=True, help="Take over what others have trained.")
app.add_typer(import_app, name="import")
# Where there is no terminal to fit into, tables keep their columns whole.
out_console = Console(width=None if sys.stdout.isatty() else 160)

StreamFile = Annotated[Path, typer.Argument(metavar="STREAM", help="stream file (YAML)")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="run folder")]
Workers = Annotated[int, typer.Option(min=0, help="processes that decode images; 0: this one")]
BaseHere = Annotated[
    str | None,
    typer.Option("--base", help="where the run's base lies now; default: where it lay then"),
]
ScoreSettings = Annotated[
    list[str] | None,
    typer.Option("--score", metavar="KEY=VALUE", help="change how it is scored, as size=original"),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]


def open_stream(path: Path, run: Path) -> Stream:
    """A stream file, in which the data of stages that `run` has learned may be gone."""
    return Stream.from_yaml(path, learned_stages(run))


def own_stream(current: Run) -> Stream:
    source = current.record.get("stream")
    if not source:
        raise UserError(f"{current.folder} was not made from a stream file; name one with --stream")
    return open_stream(Path(source), current.folder)
