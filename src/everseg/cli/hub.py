"""`everseg push`: share a run on a model hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from everseg.cli.shared import AsJson, BaseHere, RunFolder, app


@app.command()
def push(
    run: RunFolder,
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    licence: Annotated[
        str | None,
        typer.Option("--license", metavar="LICENSE", help="License of the run, such as apache-2.0."),
    ] = None,
    message: Annotated[str, typer.Option(metavar="TEXT", help="Message of the upload.")] = "",
    dry_run: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write the files into this folder; upload nothing."),
    ] = None,
    base: BaseHere = None,
    as_json: AsJson = False,
) -> None:
    """Upload a run to the Hugging Face hub, with a model card. Read it as hf://OWNER/NAME."""
    from everseg.errors import UserError
    from everseg.runs.folder import load
    from everseg.runs.hub import check_name, stage
    from everseg.runs.hub import push as push_run

    check_name(repo)
    current = load(run, base)
    if dry_run is not None:
        if dry_run.exists() and any(dry_run.iterdir()):
            raise UserError(f"{dry_run} is not empty; give --dry-run a new folder")
        dry_run.mkdir(parents=True, exist_ok=True)
        stage(current, dry_run, repo, licence)
        told = {"folder": str(dry_run), "files": sorted(path.name for path in dry_run.iterdir())}
        print(
            json.dumps(told) if as_json else f"{', '.join(told['files'])} in {dry_run}; nothing was uploaded"
        )
        return
    where = push_run(current, repo, private=private, licence=licence, message=message)
    print(json.dumps({"url": where}) if as_json else f"{where}; read it as hf://{repo}")
