"""`everseg export`: what was learned, for those who do not have everseg."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from everseg.cli.shared import AsJson, BaseHere, RunFolder, app
from everseg.runs.export import Form, export
from everseg.runs.folder import load


@app.command(name="export")
def write(
    run: RunFolder,
    to: Annotated[
        Form,
        typer.Option(help="sam: the base with what was learned folded in; peft: the adapter alone"),
    ],
    out: Annotated[Path, typer.Option(help="folder to write; an earlier export in it is replaced")],
    base: BaseHere = None,
    as_json: AsJson = False,
) -> None:
    """Write what a run with adapter=linear has learned as a plain SAM, or as an adapter for peft."""
    manifest = export(load(run, base), to, out)
    if as_json:
        print(json.dumps(manifest))
        return
    print(f"{', '.join(manifest['learned'])} in {out}: {', '.join(manifest['files'])}")
