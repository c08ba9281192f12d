"""`everseg data`: check, clicks, made-up domains."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from everseg.cli.shared import AsJson, StreamFile, data_app
from everseg.data import (
    SCENES,
    check,
    contact_sheet,
    write_points,
    write_synthetic_classes,
    write_synthetic_stream,
)
from everseg.data.classes.steps import Setting
from everseg.progress import remark


@data_app.command("check")
def data_check(
    stream: StreamFile,
    sheet: Annotated[Path | None, typer.Option(help="PNG with samples of every stage")] = None,
    as_json: AsJson = False,
) -> None:
    """Read every file of a stream and say what is wrong with each; exit code 1 if anything is."""
    found = check(stream)
    if as_json:
        print(json.dumps(dataclasses.asdict(found)))
    else:
        print(found)
    if sheet is not None:
        contact_sheet(stream, sheet)
        remark(f"contact sheet: {sheet}")
    if not found.ok:
        raise typer.Exit(1)


@data_app.command("points")
def data_points(
    masks: Annotated[Path, typer.Argument(help="folder of masks")],
    seed: Annotated[int, typer.Option(help="of the clicks")] = 0,
    clicks: Annotated[int, typer.Option(min=1, help="on each mask")] = 3,
    mask_threshold: Annotated[
        str, typer.Option(help="a grey value above which is object, or '==255'")
    ] = "127",
    force: Annotated[bool, typer.Option(help="replace a points.json that is there")] = False,
) -> None:
    """Draw clicks on every mask and write points.json beside them, in SAMCL's form but with a seed."""
    threshold: Any = int(mask_threshold) if mask_threshold.isdigit() else mask_threshold
    print(write_points(masks, seed=seed, clicks=clicks, threshold=threshold, force=force))


@data_app.command("synthetic")
def data_synthetic(
    out: Annotated[Path, typer.Argument(help="folder to write")],
    domain: Annotated[
        list[str] | None, typer.Option(help=f"of {', '.join(SCENES)}; default: all but natural")
    ] = None,
    train: Annotated[int, typer.Option(min=1, help="training images a domain")] = 60,
    test: Annotated[int, typer.Option(min=1, help="test images a domain")] = 20,
    seed: Annotated[int, typer.Option(help="of every image")] = 0,
) -> None:
    """Write made-up domains as image folders with a stream file."""
    print(write_synthetic_stream(out, tuple(domain or SCENES), train=train, test=test, seed=seed))


@data_app.command("synthetic-classes")
def data_synthetic_classes(
    out: Annotated[Path, typer.Argument(help="folder to write")],
    steps: Annotated[str, typer.Option(help="so many of the eight classes first, then so many")] = "4-2",
    setting: Annotated[Setting, typer.Option(help="which images and labels a step has")] = "overlapped",
    train: Annotated[int, typer.Option(min=1, help="training images")] = 240,
    test: Annotated[int, typer.Option(min=1, help="test images")] = 60,
    size: Annotated[int, typer.Option(min=48, help="side of an image in pixels")] = 128,
    seed: Annotated[int, typer.Option(help="of every image")] = 0,
) -> None:
    """Write made-up images of eight classes with class maps, and a stream file that brings them in steps."""
    print(write_synthetic_classes(out, steps, train, test, seed, size, setting))
