"""`everseg doctor`: what is here, what a run would take, whether it fits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from everseg.cli.shared import AsJson, Method, Preset, Settings, app
from everseg.errors import UserError
from everseg.types import Precision


@app.command()
def doctor(
    stream: Annotated[
        Path | None,
        typer.Option(metavar="STREAM", help="Stream file (YAML); default: one domain of 100 images."),
    ] = None,
    method: Method = "samcl",
    base: Annotated[
        str, typer.Option(metavar="BASE", help="tiny (embedded), a file, a folder, or a hub id.")
    ] = "tiny",
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
    from everseg.domains.scoring import ScoreConfig
    from everseg.methods import configure
    from everseg.runs.problem import only_domains, refuse_classes
    from everseg.runs.run import RunConfig

    refuse_classes(method, "doctor forecasts methods that learn domains")
    scores = ScoreConfig.presets()
    config = RunConfig(
        method,
        configure(method, preset, settings or []),
        base,
        preset,
        score=scores.get(preset, ScoreConfig()),
        precision=precision,
    )
    opened = None if stream is None else only_domains(Stream.from_yaml(stream), "doctor forecasts domains")
    found = examine(config, opened)
    print(json.dumps(found.to_json()) if as_json else text(found).rstrip())
    if found.error:
        raise UserError(found.error)
    if not found.fits:
        raise typer.Exit(1)
