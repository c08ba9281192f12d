"""Find files whose form no reader knows, and say what to do with them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from everseg.data.known.site import Site
from everseg.data.layout import split_of
from everseg.data.names import some
from everseg.errors import UserError
from everseg.files import read_json
from everseg.text import lines_of, read_text

_PICTURES = "convert them to png or tif"
_VOLUMES = "convert them to NIfTI (.nii.gz), for example with SimpleITK or nibabel"
_ARRAYS = "save images and masks as png, or give them to Stream.from_arrays"
_SLIDES = "cut them into tiles and save these as png or tif"

FORMATS = (
    ({".heic", ".heif", ".avif", ".dng", ".cr2", ".nef", ".arw", ".psd", ".exr", ".tga", ".xcf"}, _PICTURES),
    ({".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".hdr"}, _VOLUMES),
    ({".npy", ".npz", ".h5", ".hdf5", ".mat", ".tfrecord", ".pkl", ".pt"}, _ARRAYS),
    ({".svs", ".ndpi", ".mrxs", ".scn", ".czi", ".vsi", ".lif"}, _SLIDES),
    ({".shp", ".gpkg", ".kml", ".gdb"}, "draw the outlines into masks, for example with gdal_rasterize"),
    ({".mp4", ".avi", ".mov", ".mkv", ".webm"}, "save their frames as png or jpg"),
    ({".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst"}, "unpack them"),
)
"""Endings of files that hold images, and what to do with such files."""

_TEXTS = (".json", ".geojson", ".xml", ".csv")
"""Endings of files that may hold annotations."""
_LARGEST = 50_000_000
"""Bytes of a file that is read to see what it is."""
_HEAD = 4000
"""Characters at the beginning of a text that tell what it is."""
_EXPORT = "export the annotations as COCO JSON with polygons, or as masks"
_MASKS = "draw the masks into png files, in a folder masks beside images"


def unread_annotations(site: Site, alone: bool) -> list[str]:
    """A sentence for each kind of annotations that no layout has taken, and for each damaged file.

    alone: whether there is nothing else to learn from. Next to masks, boxes and tables are expected."""
    said: list[str] = []
    kinds: dict[tuple[str, str], list[Path]] = {}
    for folder in site.folders:
        files = [f for f in folder.ending(*_TEXTS) if f not in site.used]
        for file in files[:3]:  # Where there are many, they are alike.
            if file.suffix.lower() == ".json" and (fault := _damaged(file)):
                said.append(f"{fault}; its annotations are not used")
            elif (alone or file.suffix.lower() != ".csv") and (told := _told(file, alone)):
                kinds.setdefault(told, []).extend(f for f in files if f.suffix == file.suffix)
    for (what, todo), files in kinds.items():
        unique = list(dict.fromkeys(files))
        are = "is" if len(unique) == 1 else "are"
        shown = some(file.relative_to(site.root).as_posix() for file in unique)
        said.append(f"{shown} {are} not used: {what}; {todo}")
    return said


def unread_images(site: Site) -> list[str]:
    """A sentence for each kind of images that nothing here reads."""
    said = []
    for endings, todo in FORMATS:
        files = [file for folder in site.folders for file in folder.files if _ending(file) in endings]
        if files:
            shown = some(file.relative_to(site.root).as_posix() for file in files)
            said.append(f"{site.root} holds {shown}, which everseg does not read; {todo}")
    return said


def split_lists(site: Site, images: Sequence[Sequence[Path]]) -> list[str]:
    """A sentence for each text file that lists the images of a split, where nothing else parts them.

    images: the files of each data set that no folder parts."""
    stems = {file.stem for files in images for file in files}
    said = []
    for folder in site.folders if stems else ():
        for file in folder.ending(".txt", ".lst", ".csv"):
            if split_of((file.stem,)) and file not in site.used and _lists(file, stems):
                name = file.relative_to(site.root).as_posix()
                said.append(
                    f"{name} seems to list the images of a split, and is not "
                    "used; put the images of each split into a folder of their own, such as train and test"
                )
    return said


def _lists(file: Path, stems: Collection[str]) -> bool:
    """Whether most lines of a text name one of the images."""
    try:
        rows = lines_of(read_text(file, names=True)) if file.stat().st_size <= _LARGEST else []
    except (OSError, ValueError):
        return False
    names = [re.split(r"[\s,;]", row.strip())[0].replace("\\", "/") for row in rows if row.strip()]
    known = sum(name in stems or PurePosixPath(name).stem in stems for name in names)
    return known * 2 > len(names)


def _ending(file: Path) -> str:
    return "" if file.name.lower().endswith(".nii.gz") else file.suffix.lower()


def _damaged(file: Path) -> str:
    try:
        if 0 < file.stat().st_size <= _LARGEST:
            read_json(file, names=True)
    except OSError:
        return ""
    except UserError as error:
        return str(error)
    return ""


def _told(file: Path, boxes: bool) -> tuple[str, str] | None:
    """What a file is, and what to do with it; None if it is nothing known.

    boxes: tell VOC's boxes, too.
    """
    try:
        text = read_text(file, names=True) if file.stat().st_size <= _LARGEST else ""
        if file.suffix.lower() == ".xml":
            return next(_of_xml(text[:_HEAD], boxes), None)
        if file.suffix.lower() == ".csv":
            return next(_of_table(text.partition("\n")[0]), None)
        return next(_of_json(read_json(file, names=True)), None) if text else None
    except (OSError, ValueError, UserError):
        return None


def _of_xml(head: str, boxes: bool) -> Iterator[tuple[str, str]]:
    if "<annotations>" in head and ("<image " in head or "<meta" in head):
        yield (
            "it is CVAT's XML, for which there is no reader",
            "export the task as 'Segmentation mask 1.1' or 'COCO 1.0' instead",
        )
    elif boxes and "<annotation" in head and ("<bndbox>" in head or "<object>" in head):
        yield "these are VOC's boxes, and a box is not a mask", _MASKS
    elif "<Annotations" in head or "<Annotation " in head or "<Coordinate" in head:
        yield "it holds outlines on a slide, for which there is no reader", _EXPORT


def _of_table(head: str) -> Iterator[tuple[str, str]]:
    names = {re.sub(r"[\W_]", "", name).lower() for name in re.split("[,;\t]", head)}
    if names & {"encodedpixels", "rle", "segmentation", "mask rle", "rlemask", "annotation"}:
        yield "it lists masks as run lengths, for which there is no reader", _MASKS
    elif names & {"mask", "masks", "maskpath", "maskfile", "label", "labelpath", "maskfilename"}:
        if names & {"image", "images", "imagepath", "imagefile", "img", "filename", "path"}:
            yield (
                "it seems to list which mask belongs to which image",
                "name masks like their images, or say how they pair by images: and masks: (docs/data.md)",
            )


def _of_json(tree: Any) -> Iterator[tuple[str, str]]:
    rows = list(tree.values()) if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    first = next((row for row in rows if isinstance(row, dict)), {})
    metadata = tree.get("_via_img_metadata") if isinstance(tree, dict) else None
    if isinstance(metadata, dict) or {"filename", "regions"} <= set(first):
        yield "it is VIA's, for which there is no reader", "export it as COCO JSON (Annotation, Export)"
    elif isinstance(tree, dict) and isinstance(tree.get("objects"), list) and "size" in tree:
        yield "these are Supervisely's, for which there is no reader", "export as COCO or as masks instead"
    elif isinstance(tree, dict) and tree.get("type") == "FeatureCollection":
        yield "it is GeoJSON, for which there is no reader", _MASKS
    elif isinstance(tree, list) and {"annotations", "data"} <= set(first):
        yield "it is Label Studio's own JSON", "export as COCO, YOLO or PNG masks instead"
    elif isinstance(tree, list) and {"image_id", "segmentation"} <= set(first):
        yield (
            "it is a list of COCO results, without the images",
            "add the lists images and categories, as in a COCO data set",
        )
    elif isinstance(tree, dict) and isinstance(tree.get("images"), list):
        listed = tree.get("annotations")
        rows = listed[:3] if isinstance(listed, list) else []
        if any(isinstance(row, dict) and "segments_info" in row for row in rows):
            yield "it says what the colours of panoptic maps mean, for which there is no reader", _EXPORT
