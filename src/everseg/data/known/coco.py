"""COCO's JSON and the folder of the images that it lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from everseg.data.domains.cocofile import is_named
from everseg.data.known.site import Folder, Options, Place, Site, counted_labels, read_names
from everseg.data.layout import Group, split_of
from everseg.data.listing import Listing, begin_with
from everseg.data.proposal import home_of, shared
from everseg.data.samples import take_evenly
from everseg.errors import UserError
from everseg.files import read_json
from everseg.text import plural

LARGEST_JSON = 500_000_000
"""Bytes of a JSON file that is read to see whether it is COCO's."""

_SOUGHT = 24
"""Listed images that are looked for in each folder."""


def coco_places(site: Site) -> Iterator[Place]:
    """Files of COCO's form, one or one per split."""
    taken: list[Group] = []
    for file in site.jsons:
        tree = _coco(file)
        if tree is None:
            continue
        named = [row for row in tree["images"] if is_named(row)]
        rows = [row for row in tree["annotations"] if isinstance(row, dict)]
        drawn = [row for row in rows if row.get("segmentation")]
        boxes = len([row for row in rows if not row.get("segmentation") and row.get("bbox")])
        if not named or not (drawn or boxes):
            continue  # Captions, or a list of images to be annotated.
        site.used.add(file)
        names = [row["file_name"] for row in named]
        beside = file.relative_to(site.root).parts[:-1]
        folder, groups = _images(site, names, (*beside, file.stem))
        taken += groups
        given = file.relative_to(site.root).as_posix()
        if folder is None:
            site.remarks.append(
                f"COCO: {given} is not used: the images that it lists, such as {names[0]}, are not in "
                f"{site.root}; put them there, or give a folder that holds both"
            )
            continue
        place = _place(site, given, folder, rows, boxes if not drawn else 0)
        if boxes and drawn:
            place.doubts.append(
                f"{boxes} of {boxes + len(drawn)} annotations have a bbox only: use_boxes: true fills it, "
                "skip_faulty: true leaves them out"
            )
        categories = _categories(tree)
        if len(categories) > 1:
            place.doubts.append(
                f"there are the categories {counted_labels(categories)}, and each annotation is an object; "
                f"categories: [{next(iter(categories))}] would take some of them"
            )
        yield place
    site.take(taken)  # Files of several splits may list images of one folder.


def _place(site: Site, given: str, folder: Folder, rows: Sequence[Any], boxes: int) -> Place:
    options: Options = {
        "kind": "coco",
        "images": "/".join(folder.parts) or ".",
        "annotations": given,
        "instances": "each",
    }
    doubts, comments = [], {}
    if boxes:
        options["use_boxes"] = True
        doubts.append("annotations are boxes without outlines, so each box is filled and taken as the mask")
        comments["use_boxes"] = "unsure: a filled box is not an outline; draw polygons for masks that fit"
    beside = tuple(given.split("/")[:-1])
    return Place(
        home_of(beside[: shared(folder.parts, beside)]),
        split_of((*folder.parts, Path(given).stem)),
        options,
        f"COCO: {given}",
        partial(read_names, site.root, options),
        f", {plural(len(rows), 'annotation')}",
        doubts,
        comments,
        folder=folder.path,
    )


def _coco(file: Path) -> Any:
    """The file's content, if it is of COCO's form."""
    try:
        tree = read_json(file, names=True) if file.stat().st_size <= LARGEST_JSON else None
    except (OSError, UserError):
        return None
    lists = isinstance(tree, dict) and all(isinstance(tree.get(k), list) for k in ("images", "annotations"))
    return tree if lists else None


def _images(site: Site, names: Sequence[str], told: Sequence[str]) -> tuple[Folder | None, list[Group]]:
    """The folder that most of the listed images lie in, None where they are nowhere; and their groups.
    told: the parts of the JSON file's path."""
    above = begin_with(names)
    sought = take_evenly(sorted(names), _SOUGHT)
    at = {group.folder[:depth] for group in site.groups for depth in range(len(group.folder) + 1)}
    best: tuple[object, Folder, set[Path]] | None = None
    for folder in site.folders:
        if folder.parts not in at:
            continue
        exact, cut = Listing(folder.path), Listing(folder.path, above)
        found = [file for name in sought if (file := cut.find(name))]
        if len(found) * 2 < len(sought):
            continue
        whole = sum(exact.find(name) is not None for name in sought)
        # Data sets and splits may be numbered alike: near files come first, then those that name the split.
        same = split_of(told) == split_of(folder.parts)
        rank = (whole, len(found), shared(folder.parts, told), same, -len(folder.parts))
        if best is None or rank > best[0]:  # type: ignore[operator]
            best = rank, folder, {file.parent for file in found}
    if best is None:
        return None, []
    _, folder, parents = best
    if len(parents) > 1:
        return folder, site.below(folder.parts)
    inside = {path.resolve() for path in parents}
    return folder, [group for group in site.groups if group.files[0].resolve().parent in inside]


def _categories(tree: Any) -> Counter[str]:
    """How many annotations there are of each category, by its name."""
    rows = tree.get("categories")
    names = {
        str(row.get("id")): row["name"]
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, dict) and isinstance(row.get("name"), str)
    }
    told = (str(row.get("category_id")) for row in tree["annotations"] if isinstance(row, dict))
    return Counter(names[number] for number in told if number in names)
