"""labelme's JSON files, beside the images or in a folder of their own."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from everseg.data.domains.labelme import BACKGROUND, IGNORE
from everseg.data.known.site import Folder, Options, Place, Site, counted_labels, read_names
from everseg.data.layout import Group, split_of, words
from everseg.data.proposal import DOMAIN_WORDS, home_of, shared
from everseg.data.samples import take_evenly
from everseg.text import read_text

_AREAS = ("polygon", "rectangle", "oriented_rectangle", "rotation", "circle", "mask", None)
_LARGEST = 50_000_000
"""Bytes of a JSON file that is read to see whether it is labelme's."""


def labelme_places(site: Site) -> Iterator[Place]:
    """Folders of which most JSON files are labelme's; folders of patients that hold them are one."""
    found = [(folder, files) for folder in site.folders if (files := _files(folder))]
    site.used |= {file for folder, _ in found for file in folder.ending(".json")}
    for folders in _together(found):
        first = folders[0][0]
        parts = first.parts if len(folders) == 1 else first.parts[:-1]
        trees = [tree for _, files in folders for tree in files.values()]
        groups, images = _images(site, folders)
        what = f"labelme: {'/'.join(parts) or '.'} is not used"
        if groups is None:
            name = Path(trees[0]["imagePath"].replace("\\", "/")).name
            site.remarks.append(
                f"{what}: its images, such as {name}, are not in {site.root}; copy them beside the JSON files"
            )
            continue
        if not groups:
            site.remarks.append(f"{what}: its images are used with other annotations")
            continue
        site.take(groups)
        options: Options = {"kind": "labelme", "path": "/".join(parts) or ".", "instances": "each"}
        if images is not None:
            options["images"] = images
        labels = Counter(
            shape["label"]
            for tree in trees
            for shape in tree["shapes"]
            if isinstance(shape, dict) and isinstance(shape.get("label"), str)
        )
        for special in (BACKGROUND, IGNORE):
            labels.pop(special, None)
        if not labels:
            site.remarks.append(f"{what}: its files have no shapes; draw some with labelme")
            continue
        doubts = []
        if len(labels) > 1:
            doubts.append(
                f"there are the labels {counted_labels(labels)}, and each shape is an object; categories: "
                f"[{next(iter(labels))}] would take some of them"
            )
        yield Place(
            home_of(parts),
            split_of(parts),
            options,
            f"labelme: {'/'.join(parts) or '.'}",
            partial(read_names, site.root, options),
            f", labels {counted_labels(labels)}",
            doubts,
            folder=site.root.joinpath(*parts),
        )


def _files(folder: Folder) -> dict[Path, Any]:
    """A few of the folder's JSON files, parsed, if most of those that are not damaged are labelme's."""
    chosen = {file: _parsed(file) for file in take_evenly(folder.ending(".json"), 12)}
    trees = {file: tree for file, tree in chosen.items() if _is_labelme(tree)}
    return trees if len(trees) * 2 > sum(tree is not None for tree in chosen.values()) else {}


def _parsed(file: Path) -> Any:
    try:
        return json.loads(read_text(file)) if file.stat().st_size <= _LARGEST else None
    except (OSError, ValueError, RecursionError):
        return None


def _is_labelme(tree: Any) -> bool:
    return (
        isinstance(tree, dict)
        and isinstance(tree.get("shapes"), list)
        and isinstance(tree.get("imagePath"), str)
    )


Found = tuple[Folder, dict[Path, Any]]


def _together(found: Sequence[Found]) -> list[list[Found]]:
    """Folders of patients, numbered alike below one folder, as one; every other folder for itself."""
    alike: dict[object, list[Found]] = {}
    for folder, files in found:
        own = folder.parts[-1] if folder.parts else ""
        form = re.sub(r"\d+", "#", own)
        patients = "#" in form and not split_of((own,)) and not set(words(own)) & DOMAIN_WORDS
        key = (folder.parts[:-1], form) if patients else folder.parts
        alike.setdefault(key, []).append((folder, files))
    return [
        part for group in alike.values() for part in ([group] if len(group) > 2 else [[f] for f in group])
    ]


def _images(site: Site, folders: Sequence[Found]) -> tuple[list[Group] | None, str | None]:
    """The groups of the images, and their folder if they are not next to the JSON files; None where they
    are nowhere."""
    names: list[tuple[Path, str]] = [
        (file, tree["imagePath"].replace("\\", "/")) for _, files in folders for file, tree in files.items()
    ]
    beside = [
        place
        for file, name in names
        for place in (file.parent / name, file.parent / Path(name).name)
        if place.is_file()
    ]
    if len(beside) * 2 >= len(names):
        places = {place.resolve().parent for place in beside}
        taken = [g for g in site.groups if {f.resolve().parent for f in g.files[:1]} & places]
        return taken, None
    if len(folders) > 1:
        return None, None
    wanted = {Path(name).name for _, name in names}
    holding = [g for g in site.groups if len(wanted & {f.name for f in g.files}) * 2 >= len(wanted)]
    if not holding:
        return None, None
    own = folders[0][0].parts
    best = max(holding, key=lambda g: (split_of(g.folder) == split_of(own), shared(g.folder, own)))
    return [g for g in holding if g.folder == best.folder], "/".join(best.folder) or "."
