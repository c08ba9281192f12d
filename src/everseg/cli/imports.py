"""`everseg import`: the modules of the method's published code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from everseg.cli.shared import AsJson, Settings, Workers, import_app
from everseg.progress import remark

DOUBT = 0.5
"""Where the selector knows less than this share of a domain's images, something is wrong."""


@import_app.command("samcl")
def import_samcl(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of modules, *.pth, and module_selector.pth.")
    ],
    base: Annotated[
        str, typer.Option(metavar="BASE", help="Their base model: a folder, a file or a hub id.")
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Run folder to write.")],
    stream: Annotated[
        Path | None,
        typer.Option(metavar="STREAM", help="Stream file whose training images fill the buffer."),
    ] = None,
    order: Annotated[
        str, typer.Option(metavar="A,B,...", help="The selector's classes in order; default: as published.")
    ] = "",
    background: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="The class without a module: the untouched base; default: as published."
        ),
    ] = "",
    settings: Settings = None,
    workers: Workers = 0,
    as_json: AsJson = False,
) -> None:
    """Turn modules trained by the published SAMCL code into a run."""
    from everseg.data import Stream
    from everseg.domains.released import BACKGROUND
    from everseg.models.names import from_anywhere
    from everseg.runs.adopt import adopt_samcl

    run = adopt_samcl(
        folder,
        from_anywhere(base),
        out,
        order=[name.strip() for name in order.split(",")] if order else (),
        background=background or BACKGROUND,
        stream=None if stream is None else Stream.from_yaml(stream),
        settings=settings or [],
        workers=workers,
    )
    if stream is None:
        remark(
            "the files hold no embeddings of training images, so every image gets a module, whatever "
            "it shows; to leave images of unknown domains to the base, give --stream and --set "
            "selector.abstain=0.001"
        )
    for entry in run.record.learned:
        known = entry.figures.get("selector_accuracy")
        if known is not None and known < DOUBT:
            remark(
                f"{entry.name}: the selector recognises only {known:.0%} of this stage's training images; "
                "check --base and --order"
            )
    if as_json:
        values = run.record.to_json()
        print(json.dumps({"learned": values["learned"], "imported": values["imported"]}))
        return
    for entry in run.record.learned:
        made_of = entry.imported
        what = "the untouched base" if made_of is None else f"{made_of.file} {made_of.sha256[:16]}"
        known = entry.figures.get("selector_accuracy")
        told = "" if known is None else f", the selector knows {known:.1%} of its training images"
        print(f"{entry.name}: {what}{told}")
    print(out)
