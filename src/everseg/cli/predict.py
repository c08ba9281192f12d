"""`everseg predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from everseg.cli.shared import AsJson, BaseHere, RunFolder, app
from everseg.errors import UserError


@app.command()
def predict(
    run: RunFolder,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Image files; all get the same prompts.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for masks, overlays and JSON.")],
    point: Annotated[
        list[str] | None, typer.Option(metavar="X,Y", help="A click on the object, in pixels.")
    ] = None,
    negative: Annotated[
        list[str] | None, typer.Option(metavar="X,Y", help="A click off the object, in pixels.")
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(metavar="X0,Y0,X1,Y1", help="A box; several are several objects."),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE",
            help="Use this stage's module instead of letting the method choose; plain: the base.",
        ),
    ] = None,
    base: BaseHere = None,
    as_json: AsJson = False,
) -> None:
    """Segment images with clicks or boxes. A run of classes needs neither.

    Writes a mask or a class map, an overlay and a JSON file per image.
    """
    for path in images:
        if not path.is_file():
            what = "is a folder; give image files" if path.is_dir() else "does not exist"
            raise UserError(f"{path} {what}")
    from everseg.runs.folder import load
    from everseg.runs.predict import predict_files, prompts_of

    prompts = prompts_of(point or [], negative or [], box or [])
    written = predict_files(load(run, base), images, prompts, out, stage)
    if as_json:
        print(json.dumps([w.record for w in written]))
        return
    for one in written:
        for line in one.lines:
            print(line)
