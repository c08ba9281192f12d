"""`everseg doctor`: what is here, what a run would take, whether it fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from everseg.cli.shared import AsJson, Preset, Settings, app
from everseg.errors import UserError
from everseg.methods import METHODS
from everseg.types import Precision


@app.command()
def doctor(
    stream: Annotated[
        Path | None,
        typer.Option(metavar="STREAM", help="Stream file (YAML); default: one domain of 100 images."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="METHOD",
            help=f"{', '.join(METHODS)}, or package.module:Class; default: samcl, for classes eir.",
        ),
    ] = "",
    base: Annotated[
        str,
        typer.Option(
            metavar="BASE",
            help="Checkpoint, folder, or hub id; default: tiny (embedded), for classes mobilenet.",
        ),
    ] = "",
    preset: Preset = "paper",
    settings: Settings = None,
    precision: Annotated[
        Precision, typer.Option(help="What the base computes in; auto: bf16 on a GPU that has it, else fp32.")
    ] = "auto",
    as_json: AsJson = False,
) -> None:
    """Forecast the time, memory and storage of a run. Measures for a minute or so."""
    from everseg.data import Stream
    from everseg.doctor import examine, text
    from everseg.doctor.classes import class_text, examine_classes
    from everseg.methods import configure
    from everseg.runs.defaults import default_method, names_of, with_defaults
    from everseg.runs.problem import check_fits, problem_of
    from everseg.runs.run import RunConfig

    method = method or ("samcl" if stream is None else default_method(stream))
    kind = problem_of(method)
    config = RunConfig(
        method,
        configure(method, preset, settings or []),
        base,
        preset,
        score=kind.Score.presets().get(preset, kind.Score()),
        precision=precision,
    )
    opened = None if stream is None else Stream.from_yaml(stream)
    if opened is not None:
        check_fits(opened, method)
    if kind.name == "classes":
        if opened is None:
            raise UserError(
                f"method {method!r} learns classes; give the stream file that has them with --stream"
            )
        config = with_defaults(config, opened, None, names_of(method, settings), ())
        told = examine_classes(config, opened)
        print(json.dumps(told.to_json()) if as_json else class_text(told))
        return
    found = examine(config, opened)
    print(json.dumps(found.to_json()) if as_json else text(found).rstrip())
    if found.probe.error:
        raise UserError(found.probe.error)
    if not found.fits:
        raise typer.Exit(1)
