"""`everseg predict`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from everseg.cli.shared import AsJson, BaseHere, RunFolder, app
from everseg.errors import UserError, printable
from everseg.text import plural

if TYPE_CHECKING:
    from everseg.data.decoding import Decoding
    from everseg.pictures.drawn import Form
    from everseg.runs.annotations import Tool
    from everseg.runs.inputs import Source
    from everseg.runs.predicting import How
    from everseg.runs.prompts import ImagePrompts
    from everseg.runs.run import Run

FAILED = 3
"""Exit code of a command that could not predict every image."""


@app.command()
def predict(
    run: RunFolder,
    images: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Image files, folders of images, or quoted patterns."),
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
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Prompts for each image: a CSV file, points.json or COCO JSON."),
    ] = None,
    form: Annotated[
        Literal["masks", "labels", "coco", "labelme", "cvat"],
        typer.Option(
            "--format", help="A mask per object, a label map per image, or files for annotation tools."
        ),
    ] = "masks",
    overlay: Annotated[bool, typer.Option(help="Also draw the masks over each image.")] = True,
    tile: Annotated[
        int | None, typer.Option(metavar="N", help="Process images larger than this in tiles.")
    ] = None,
    halo: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Pixels around a tile or box that the model also sees.  [default: 128]"
        ),
    ] = None,
    bands: Annotated[
        str | None,
        typer.Option(metavar="R,G,B", help="Bands to show, counted from 1; one band is grey."),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(metavar="LOW,HIGH", help="Values that become black and white, or percentiles: 2%,98%."),
    ] = None,
    axis: Annotated[
        Literal["sagittal", "coronal", "axial"], typer.Option(help="Direction of the slices of volumes.")
    ] = "axial",
    workers: Annotated[int, typer.Option(min=0, metavar="N", help="Threads that read and write images.")] = 2,
    stage: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE",
            help="Use this stage's module; plain: the untouched base.",
        ),
    ] = None,
    base: BaseHere = None,
    as_json: AsJson = False,
) -> None:
    """Segment images with clicks or boxes. A run of classes needs neither.

    Writes a mask or a class map, an overlay and a JSON file per image. Images that fail are skipped, and the
    exit code is then 3. The same command resumes where it stopped.
    """
    from everseg.runs.inputs import find_images
    from everseg.runs.promptfiles import category_names, read_prompts
    from everseg.runs.prompts import assign, prompts_of

    if halo is not None and tile is None:
        raise UserError("--halo is the margin of tiles; give --tile as well, or leave it out")
    sources = find_images(images, out, axis)
    typed = prompts_of(point or [], negative or [], box or [])
    wanted: list[ImagePrompts | None] = [typed] * len(sources)
    faults: list[str] = []
    named = {} if prompts is None else category_names(prompts)
    if prompts is not None:
        if typed is not None:
            raise UserError("--prompts and --point, --negative or --box are both given; give one of them")
        entries, remarks = read_prompts(prompts)
        wanted, faults = assign(entries, sources, prompts)
        for text in remarks:
            _say(text, error=True)

    from everseg.data.tiling import Tiling
    from everseg.runs.annotations import check_free
    from everseg.runs.folder import load
    from everseg.runs.outputs import check_coco
    from everseg.runs.predicting import How

    tiling = None if tile is None else Tiling(tile, 128 if halo is None else halo)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out is {out}, which is a file; give a folder")
    tool: Tool | None = None
    stored: Form = "coco"
    if form == "masks" or form == "labels":
        stored = form
    else:
        tool = form
    if tool is not None:
        check_free(tool, out, sources)
        check_coco(out)
    loaded = load(run, base)
    prompted = typed is not None or prompts is not None
    loaded.problem.check_prompted(prompted, str(run))
    unprompted = 0
    if prompts is not None:
        for source, one in zip(sources, wanted, strict=True):
            if one is None:
                unprompted += 1
                faults.append(f"{source.place} has no prompts in {prompts}")
        kept = [n for n, one in enumerate(wanted) if one is not None]
        sources, wanted = [sources[n] for n in kept], [wanted[n] for n in kept]
    how = How(stored, overlay, stage, tiling, workers, _decoding(bands, window), axis)
    if _predict(loaded, sources, wanted, out, how, faults, unprompted, tool, named, as_json=as_json):
        raise typer.Exit(FAILED)


def _decoding(bands: str | None, window: str | None) -> Decoding:
    """How files are read, as it is typed: "4,3,2" and "0,4000".

    Raises:
        UserError: it is typed wrongly.
    """
    from everseg.data.decoding import Decoding

    ends = None if window is None else window.split(",")
    if ends is not None and len(ends) != 2:
        raise UserError(
            f"--window is {window!r}; give two values, as in 0,4000, or percentiles, as in 2%,98%"
        )
    try:
        chosen = None if bands is None else tuple(int(band) for band in bands.split(","))
    except ValueError as error:
        raise UserError(f"--bands is {bands!r}; give numbers counted from 1, as in 4,3,2") from error
    return Decoding(chosen, None if ends is None else (ends[0].strip(), ends[1].strip()))


SHOWN = 10
"""Faults of a prompt file that are listed one by one; further ones are counted."""


def _predict(
    run: Run,
    sources: Sequence[Source],
    prompts: Sequence[ImagePrompts | None],
    out: Path,
    how: How,
    faults: Sequence[str],
    unprompted: int,
    tool: Tool | None,
    named: Mapping[int, str],
    *,
    as_json: bool,
) -> bool:
    """Predict this process's share of the images and say what became of them; whether anything failed.

    faults: of the prompt file, reported first.
    unprompted: further images, for which it has no prompts.
    tool: the annotation tool that files are written for.
    named: names by COCO category id.
    """
    from everseg.distributed import gather, shard, wait, world
    from everseg.runs.annotations import Annotated, write_annotations
    from everseg.runs.outputs import OutputFolder, write_coco
    from everseg.runs.predict import predict_files

    folder = OutputFolder(out, run.problem.outputs)
    if world().main:
        for text in faults[:SHOWN]:
            _say(f"error: {text}", error=True)
        if len(faults) > SHOWN:
            _say(f"error: and {len(faults) - SHOWN} more images or prompts without a partner", error=True)
        folder.sweep([source.name for source in sources])
    wait()
    mine = shard(range(len(sources)))
    skipped, failed = 0, list[str]()
    for outcome in predict_files(run, [sources[n] for n in mine], [prompts[n] for n in mine], out, how):
        skipped += outcome.skipped
        if outcome.record is None:
            failed.append(outcome.source.name)
            _say(f"error: {_as_typed(outcome.error)}", error=True)
        elif not as_json:
            shown = folder.record_path(outcome.source.name)
            for text, file in run.problem.lines(outcome.record):
                _say(f"{outcome.source.place}: {text} -> {shown.with_name(file) if file else shown}")
    told = [one for share in gather([(skipped, failed)]) for one in share]
    skipped, failed = sum(one[0] for one in told), [name for one in told for name in one[1]]
    if world().main:
        lost = set(failed)
        finished = [(n, source) for n, source in enumerate(sources) if source.name not in lost]
        if tool is not None:
            numbered = [(source, _number(prompts[n], n)) for n, source in finished]
            if tool == "coco":
                _say(
                    f"{plural(len(finished), 'image')} -> {write_coco(folder, iter(numbered))}", error=as_json
                )
            records = ((source, number, folder.record(source.name)) for source, number in numbered)
            images = (Annotated(source, number, record) for source, number, record in records if record)
            _say(
                f"{plural(len(finished), 'image')} -> {write_annotations(tool, folder, images, named)}",
                error=as_json,
            )
        if as_json:
            for place, (_, source) in enumerate(finished):
                print("[" if place == 0 else ", ", json.dumps(folder.record(source.name)), sep="", end="")
            print("]" if finished else "[]")
        if failed or faults or skipped:
            without = f", {unprompted} without prompts" if unprompted else ""
            where = f"; results are in {out}" if finished else ""
            _say(
                f"{plural(len(sources) + unprompted, 'image')}: {len(finished) - skipped} predicted, "
                f"{skipped} finished before, {len(failed)} failed{without}{where}",
                error=True,
            )
        sys.stdout.flush()
    wait()  # torchrun ends all processes as soon as one ends with exit code 3.
    return bool(failed or faults)


def _as_typed(text: str) -> str:
    """A reader's message with its options as they are given to this command: `bands: [3, 2, 1]` as
    `--bands 3,2,1`."""
    return re.sub(r"\b(bands|window): \[([^]]*)\]", lambda m: f"--{m[1]} {m[2].replace(', ', ',')}", text)


def _number(prompts: ImagePrompts | None, place: int) -> int | str:
    """An image's number in COCO results: that of the prompt file, else its place among the images."""
    if prompts is None or prompts.image_id is None:
        return place + 1
    return prompts.image_id


def _say(text: str, *, error: bool = False) -> None:
    """Print a line, whatever bytes a file's name has."""
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=True)
