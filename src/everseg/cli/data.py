"""`everseg data`: check, clicks, generated domains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from everseg.cli.shared import AsJson, Seed, StreamFile, data_app
from everseg.progress import remark
from everseg.types import Setting


@data_app.command("init")
def data_init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder that holds images and masks.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Stream file to write; default: stream.yaml in FOLDER."),
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing stream file.")] = False,
    classes: Annotated[
        bool | None,
        typer.Option("--classes/--domains", help="Kind of stream to write; default: as the masks look."),
    ] = None,
) -> None:
    """Write a stream file for a folder of images and masks."""
    from everseg.data import write_stream_for

    written = write_stream_for(folder, out, force, classes)
    print("\n".join(["found:", *(f"  {sentence}" for sentence in written.found)]))
    if written.doubts:
        print("\n".join(["unsure:", *(f"  {sentence}" for sentence in written.doubts)]))
    print(f"wrote {written.path}; edit it, then run: everseg data check {written.path}")
    if written.classes:
        print("it is a stream of classes: `everseg learn` uses the method eir unless --method names another")


@data_app.command("check")
def data_check(
    stream: StreamFile,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PNG with samples of every stage.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read every file of a stream and list what is wrong. Exit code 1 if anything is."""
    import dataclasses

    from everseg.data import check, contact_sheet

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


@data_app.command("discover")
def data_discover(
    stream: StreamFile,
    base: Annotated[
        str, typer.Option(metavar="BASE", help="The base that the stream will be learned with.")
    ] = "",
    natural: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Natural images, the scale of distances; tiny has them."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Keep features there, to learn with cache.where=disk later."),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PNG with a few images of every domain.")
    ] = None,
) -> None:
    """Group images that have no stage into domains."""
    from everseg.data import contact_sheet
    from everseg.distributed import world
    from everseg.domains.cache import CacheConfig
    from everseg.models.names import from_anywhere
    from everseg.runs.discover import discover_domains, pile_of
    from everseg.runs.natural import with_natural
    from everseg.runs.problem import problem_of

    pile_of(stream)  # before a base is loaded
    problem = problem_of("samcl")
    plain = problem.load_base(from_anywhere(base) if base else problem.base, world().device, "auto")
    model: Any = with_natural(natural, "samcl", plain, stream)
    cached = None if cache is None else CacheConfig(where="disk", folder=str(cache))
    found = discover_domains(stream, model, cached, None if natural is None else model.natural)
    if found is None:
        print("nothing new: the table lists every image")
    else:
        print("\n".join([*found.lines(), f"wrote {found.table}"]))
    if sheet is not None:
        contact_sheet(stream, sheet)
        remark(f"contact sheet: {sheet}")


@data_app.command("points")
def data_points(
    masks: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of masks.")],
    seed: Seed = 0,
    clicks: Annotated[int, typer.Option(min=1, metavar="N", help="Clicks per mask.")] = 3,
    mask_threshold: Annotated[
        str | None,
        typer.Option(
            metavar="VALUE", help="Grey value above which is object, or '==255'; default: as the masks say."
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing points.json.")] = False,
) -> None:
    """Draw seeded clicks on every mask into a points.json."""
    from everseg.data import write_points

    number = mask_threshold is not None and mask_threshold.isdigit()
    threshold: Any = int(mask_threshold) if mask_threshold and number else mask_threshold
    print(write_points(masks, seed=seed, clicks=clicks, threshold=threshold, force=force))


@data_app.command("synthetic")
def data_synthetic(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
    domain: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Domain to paint, such as polyps; may be repeated; default: all but natural."
        ),
    ] = None,
    train: Annotated[int, typer.Option(min=1, metavar="N", help="Training images per domain.")] = 60,
    test: Annotated[int, typer.Option(min=1, metavar="N", help="Test images per domain.")] = 20,
    seed: Seed = 0,
) -> None:
    """Write generated domains with a stream file."""
    from everseg.data import SCENES, write_synthetic_stream

    print(write_synthetic_stream(out, tuple(domain or SCENES), train=train, test=test, seed=seed))


@data_app.command("synthetic-classes")
def data_synthetic_classes(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
    steps: Annotated[
        str, typer.Option(metavar="SPLIT", help="Class split; 4-2: four classes, then two per step.")
    ] = "4-2",
    setting: Annotated[Setting, typer.Option(help="Which images and labels a step has.")] = "overlapped",
    train: Annotated[int, typer.Option(min=1, metavar="N", help="Training images.")] = 240,
    test: Annotated[int, typer.Option(min=1, metavar="N", help="Test images.")] = 60,
    size: Annotated[int, typer.Option(min=48, metavar="N", help="Side of an image in pixels.")] = 128,
    seed: Seed = 0,
) -> None:
    """Write generated classes with a stream file."""
    from everseg.data import write_synthetic_classes

    print(write_synthetic_classes(out, steps, train, test, seed, size, setting))
