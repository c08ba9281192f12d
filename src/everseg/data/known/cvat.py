"""CVAT's "Segmentation mask 1.1": SegmentationClass, SegmentationObject and labelmap.txt."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from everseg.data.domains.cvat import Colours
from everseg.data.known.site import Folder, Options, Place, Site, read_names
from everseg.data.layout import split_of
from everseg.data.proposal import home_of, shared
from everseg.errors import UserError


def cvat_places(site: Site) -> Iterator[Place]:
    """Folders with labelmap.txt beside SegmentationClass."""
    for folder in site.folders:
        maps = folder.path / "SegmentationClass"
        if not folder.ending("labelmap.txt") or not maps.is_dir():
            continue
        given = "/".join(folder.parts) or "."
        try:
            labels = list(Colours.of(folder.path / "labelmap.txt").labels)
        except UserError as error:
            site.remarks.append(str(error))
            continue
        each = (folder.path / "SegmentationObject").is_dir()
        options: Options = {"kind": "cvat", "path": given, "instances": "each" if each else "merged"}
        shown = ", ".join(labels[:6]) + (", ..." if len(labels) > 6 else "")
        doubts, comments = [], {} if each else {"instances": "each needs a folder SegmentationObject"}
        if len(labels) > 1:
            doubts.append(
                f"labelmap.txt has the labels {shown}, and "
                f"each object is a sample; categories: [{labels[0]}] would take some of them"
            )
        if not (folder.path / "JPEGImages").is_dir():
            images = _images(site, folder, maps)
            if images is None:
                site.remarks.append(
                    f"CVAT: {given} is not used: it was exported without images; put them into "
                    f"{folder.path / 'JPEGImages'}"
                )
                continue
            options["images"] = images
            site.take([group for group in site.groups if "/".join(group.folder) == images])
        site.take(site.below(folder.parts))
        lists = folder.path / "ImageSets" / "Segmentation"
        subsets = {split_of((file.stem,)): file.stem for file in sorted(lists.glob("*.txt"))}
        chosen = {split: name for split, name in subsets.items() if split}
        named = {"train", "test"} <= set(chosen) or {"train", "val"} <= set(chosen)
        for split, subset in chosen.items() if named else [(split_of(folder.parts), "")]:
            own = {**options, "subset": subset} if subset else options
            said = f"CVAT: {given}{f', subset {subset}' if subset else ''}"
            yield Place(
                home_of(folder.parts),
                split,
                own,
                said,
                partial(read_names, site.root, own),
                f", labels {shown}",
                doubts,
                comments,
                folder=folder.path,
            )


def _images(site: Site, folder: Folder, maps: Path) -> str | None:
    """The folder of images that has most of the maps' names, where the export has none of its own."""
    stems = {file.stem for file in maps.rglob("*.png")}
    places = [
        group
        for group in site.groups
        if group.folder[: len(folder.parts) + 1] not in ((*folder.parts, n) for n in _MAPS)
        and len(stems & {file.stem for file in group.files}) * 2 > len(stems)
    ]
    best = max(places, key=lambda group: shared(group.folder, folder.parts), default=None)
    return None if best is None else "/".join(best.folder) or "."


_MAPS = ("SegmentationClass", "SegmentationObject")
