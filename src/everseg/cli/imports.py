"""`everseg import`: the modules of the method's published code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from everseg.cli.shared import AsJson, Workers, import_app
from everseg.data import Stream
from everseg.domains.released import BACKGROUND, ORDER, SELECTOR
from everseg.models.promptable.load import from_anywhere
from everseg.progress import remark
from everseg.runs.adopt import adopt_samcl

DOUBT = 0.5
"""Where the selector knows less than this share of a domain's images, something is wrong."""


@import_app.command("samcl")
def import_samcl(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help=f"folder of modules, *.pth, and {SELECTOR}")],
    base: Annotated[str, typer.Option(help="the base they were made for: a folder, a file or a hub id")],
    out: Annotated[Path, typer.Option(help="run folder to write")],
    stream: Annotated[
        Path | None,
        typer.Option(help="stream file whose training images fill the buffer, to learn on later"),
    ] = None,
    order: Annotated[
        str, typer.Option(metavar="A,B,...", help=f"the selector's classes; as published: {','.join(ORDER)}")
    ] = "",
    background: Annotated[
        str, typer.Option(help="the class that has no module: the untouched base")
    ] = BACKGROUND,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="change a setting of the reference preset"),
    ] = None,
    workers: Workers = 0,
    as_json: AsJson = False,
) -> None:
    """Make a run of SAMCL's published modules, or of those that its published code has trained."""
    run = adopt_samcl(
        folder,
        from_anywhere(base),
        out,
        order=[name.strip() for name in order.split(",")] if order else (),
        background=background,
        stream=None if stream is None else Stream.from_yaml(stream),
        settings=settings or [],
        workers=workers,
    )
    learned = run.record["learned"]
    for entry in learned:
        known = entry["figures"].get("selector_accuracy")
        if known is not None and known < DOUBT:
            remark(
                f"{entry['name']}: the selector knows only {known:.0%} of its training images; "
                "is --base the one, and is the order right?"
            )
    if as_json:
        print(json.dumps({"learned": learned, "imported": run.record["imported"]}))
        return
    for entry in learned:
        made_of = entry["imported"]
        what = "the untouched base" if made_of is None else f"{made_of['file']} {made_of['sha256'][:16]}"
        known = entry["figures"].get("selector_accuracy")
        told = "" if known is None else f", the selector knows {known:.1%} of its training images"
        print(f"{entry['name']}: {what}{told}")
    print(out)
