"""`everseg pool`: look at the instances that a run keeps, and delete some."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from everseg.cli.shared import AsJson, BaseHere, pool_app, show
from everseg.progress import remark
from everseg.text import plural

Place = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, or a folder that holds a pool.")]
SHOWN = 3


@pool_app.command("show")
def show_pool(
    place: Place,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PNG with every instance, by class.")
    ] = None,
    items: Annotated[bool, typer.Option("--items", help="List every instance with its ID.")] = False,
    as_json: AsJson = False,
) -> None:
    """Count the instances of a pool, by class and image."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from everseg.classes.instances import contact_sheet
    from everseg.files import atomic_path
    from everseg.results import bytes_text
    from everseg.runs.pool import open_pool, tally

    pool, names = open_pool(place)
    counted = tally(pool)
    if out is not None:
        with atomic_path(out) as temporary:
            contact_sheet(pool, names).save(temporary, format="PNG")
        remark(f"contact sheet: {out}")
    if as_json:
        records = {
            name: item.record() | {"bytes": item.nbytes, "name": names.get(item.label)}
            for name, item in sorted(pool.items.items())
        }
        told = {"count": pool.count, "max_bytes": pool.max_bytes, "bytes": pool.nbytes, "instances": records}
        print(json.dumps(told))
        return
    sources = {item.image for item in pool.items.values()}
    room = f" of {bytes_text(pool.max_bytes)}" if pool.max_bytes else ""
    print(
        f"{len(pool)} of at most {plural(pool.count, 'instance')}, {plural(len(counted), 'class')}, "
        f"{bytes_text(pool.nbytes)}{room}, from {plural(len(sources), 'image')}"
    )
    drawn = Table(box=SIMPLE_HEAD)
    for column in ("class", "instances", "size", "images", "such as"):
        drawn.add_column(column, justify="right" if column in ("instances", "size", "images") else "left")
    for found in counted:
        such = ", ".join(found.images[:SHOWN])
        count = (str(found.instances), bytes_text(found.nbytes), str(len(found.images)))
        drawn.add_row(Text(names.get(found.label, str(found.label))), *count, Text(such))
    if counted:
        show(drawn)
    for name, item in sorted(pool.items.items()) if items else ():
        height, width = item.box[2] - item.box[0], item.box[3] - item.box[1]
        print(f"{name}  {width}x{height}  {bytes_text(item.nbytes)}  {item.image}")


@pool_app.command("remove")
def remove(
    place: Place,
    item: Annotated[str, typer.Option(metavar="ID", help="One instance; show --items lists them.")] = "",
    image: Annotated[str, typer.Option(metavar="NAME", help="All instances of an image.")] = "",
    prefix: Annotated[
        str, typer.Option(metavar="PATIENT-", help="All of images whose names begin with this.")
    ] = "",
    base: BaseHere = None,
    as_json: AsJson = False,
) -> None:
    """Delete instances from a pool for good. What the model learned from them remains."""
    from everseg.runs.pool import remove as remove_instances

    gone, left = remove_instances(place, item=item, image=image, prefix=prefix, base=base)
    if as_json:
        print(json.dumps({"removed": gone, "left": len(left)}))
        return
    print(f"removed {', '.join(gone)}; left in {place}: {plural(len(left), 'instance')}")
