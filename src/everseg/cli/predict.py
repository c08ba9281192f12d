"""`everseg predict`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from everseg.cli.shared import AsJson, BaseHere, RunFolder, app
from everseg.errors import UserError, printable

if TYPE_CHECKING:
    from everseg.runs.inputs import Source
    from everseg.runs.predict import How
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
        Literal["masks", "labels", "coco"],
        typer.Option("--format", help="A mask per object, a label map per image, or COCO results."),
    ] = "masks",
    overlay: Annotated[bool, typer.Option(help="Also draw the masks over each image.")] = True,
    tile: Annotated[
        int | None, typer.Option(metavar="N", help="Cut images that are larger than this many pixels.")
    ] = None,
    halo: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Pixels around a tile or a box that the model sees, too.  [default: 128]"
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, metavar="N", help="Threads that read and write images.")] = 2,
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

    Writes a mask or a class map, an overlay and a JSON file per image. Goes on past images that fail and ends
    with exit code 3 then; the same command goes on where it stopped.
    """
    from everseg.runs.inputs import find_images
    from everseg.runs.promptfiles import read_prompts
    from everseg.runs.prompts import assign, prompts_of

    if halo is not None and tile is None:
        raise UserError("--halo is the margin of tiles; give --tile too")
    sources = find_images(images, out)
    typed = prompts_of(point or [], negative or [], box or [])
    wanted: list[ImagePrompts | None] = [typed] * len(sources)
    faults: list[str] = []
    if prompts is not None:
        if typed is not None:
            raise UserError("--prompts and --point, --negative or --box are both given; give one of them")
        entries, remarks = read_prompts(prompts)
        wanted, faults = assign(entries, sources, prompts)
        for text in remarks:
            _say(text, error=True)

    from everseg.data.tiling import Tiling
    from everseg.runs.folder import load
    from everseg.runs.outputs import check_coco
    from everseg.runs.predict import How

    tiling = None if tile is None else Tiling(tile, 128 if halo is None else halo)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out is {out}, which is a file; give a folder")
    if form == "coco":
        check_coco(out)
    loaded = load(run, base)
    prompted = typed is not None or prompts is not None
    loaded.problem.check_prompted(prompted, str(run))
    unprompted = 0
    if prompts is not None:
        for source, one in zip(sources, wanted, strict=True):
            if one is None:
                unprompted += 1
                faults.append(f"{source.path} has no prompts in {prompts}")
        kept = [n for n, one in enumerate(wanted) if one is not None]
        sources, wanted = [sources[n] for n in kept], [wanted[n] for n in kept]
    how = How(form, overlay, stage, tiling, workers)
    if _predict(loaded, sources, wanted, out, how, faults, unprompted, as_json=as_json):
        raise typer.Exit(FAILED)


SHOWN = 10
"""Faults of a prompt file that are told one by one; further ones are counted."""


def _predict(
    run: Run,
    sources: Sequence[Source],
    prompts: Sequence[ImagePrompts | None],
    out: Path,
    how: How,
    faults: Sequence[str],
    unprompted: int,
    *,
    as_json: bool,
) -> bool:
    """Predict this process's share of the images and say what became of them; whether anything failed.

    faults: of the prompt file, to be told first. unprompted: further images, for which it has no prompts.
    """
    from everseg.distributed import gather, shard, wait, world
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
            _say(f"error: {outcome.error}", error=True)
        elif not as_json:
            shown = folder.record_path(outcome.source.name)
            for text, file in run.problem.lines(outcome.record):
                _say(f"{outcome.source.path}: {text} -> {shown.with_name(file) if file else shown}")
    told = [one for share in gather([(skipped, failed)]) for one in share]
    skipped, failed = sum(one[0] for one in told), [name for one in told for name in one[1]]
    if world().main:
        lost = set(failed)
        finished = [(n, source) for n, source in enumerate(sources) if source.name not in lost]
        if how.form == "coco":
            numbered = ((source, _number(prompts[n], n)) for n, source in finished)
            _say(f"{_count(len(finished))} -> {write_coco(folder, numbered)}", error=as_json)
        if as_json:
            for place, (_, source) in enumerate(finished):
                print("[" if place == 0 else ", ", json.dumps(folder.record(source.name)), sep="", end="")
            print("]" if finished else "[]")
        if failed or faults or skipped:
            without = f", {unprompted} without prompts" if unprompted else ""
            where = f"; results are in {out}" if finished else ""
            _say(
                f"{_count(len(sources) + unprompted)}: {len(finished) - skipped} predicted, "
                f"{skipped} finished before, {len(failed)} failed{without}{where}",
                error=True,
            )
        sys.stdout.flush()
    wait()  # torchrun ends all processes as soon as one ends with exit code 3.
    return bool(failed or faults)


def _count(images: int) -> str:
    return f"{images} image" if images == 1 else f"{images} images"


def _number(prompts: ImagePrompts | None, place: int) -> int | str:
    """An image's number in COCO results: that of the prompt file, else its place among the images."""
    if prompts is None or prompts.image_id is None:
        return place + 1
    return prompts.image_id


def _say(text: str, *, error: bool = False) -> None:
    """Print a line, whatever bytes a file's name has."""
    print(printable(text), file=sys.stderr if error else sys.stdout, flush=True)
