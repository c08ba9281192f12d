"""`everseg export`: what was learned, for those who do not have everseg."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from everseg.cli.shared import AsJson, BaseHere, RunFolder, app
from everseg.types import ExportForm


@app.command()
def export(
    run: RunFolder,
    to: Annotated[
        ExportForm,
        typer.Option(help="sam: the base with what was learned folded in; peft: the adapter alone."),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder to write; an earlier export in it is replaced.")
    ],
    base: BaseHere = None,
    as_json: AsJson = False,
) -> None:
    """Write a run as a plain SAM or as an adapter for peft. It needs adapter=linear."""
    from everseg.runs.export import export as export_run
    from everseg.runs.folder import load

    manifest = export_run(load(run, base), to, out)
    if as_json:
        print(json.dumps(manifest))
        return
    print(f"{', '.join(manifest['learned'])} in {out}: {', '.join(manifest['files'])}")
