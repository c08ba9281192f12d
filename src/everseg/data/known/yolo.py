"""YOLO's layout: `images/` and `labels/` of text files, with or without a data.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from everseg.data.domains.yolo import YoloData, label_file, read_lines
from everseg.data.domains.yolobare import NAMES, inside
from everseg.data.known.site import Folder, Options, Place, Site, relative
from everseg.data.layout import SUFFIXES, split_of
from everseg.data.proposal import home_of
from everseg.data.samples import take_evenly
from everseg.errors import UserError
from everseg.text import plural, read_text

_SPLITS = ("train", "val", "test")


def yolo_places(site: Site) -> Iterator[Place]:
    """The splits of every data.yaml, and of folders `images` and `labels` without one."""
    told: list[tuple[str, ...]] = []
    for folder in site.folders:
        files = [file for file in folder.ending(".yaml", ".yml") if _is_data(file)]
        for file in files:
            yield from _places(site, folder, file if file.name != "data.yaml" else folder.path)
        site.remarks += [fault for file in folder.ending(".yaml", ".yml") if (fault := _invalid(file))]
        above = any(folder.parts[: len(parts)] == parts for parts in told)
        told += [folder.parts] if files or folder.ending("data.yaml") else []
        if folder.parts not in told and not above and _bare(folder):
            yield from _places(site, folder, folder.path)


def _is_data(file: Path) -> bool:
    try:
        tree: Any = yaml.safe_load(read_text(file))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return False
    return (
        isinstance(tree, dict) and isinstance(tree.get("names"), list | dict) and bool(set(tree) & {*_SPLITS})
    )


def _invalid(file: Path) -> str:
    """What is wrong with a data.yaml that is not YAML, or does not name its classes."""
    try:
        tree: Any = yaml.safe_load(read_text(file))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        wrong = f"{file} is not valid YAML, so its data set is not used; correct it"
        return wrong if file.name.lower() == "data.yaml" else ""
    if isinstance(tree, dict) and {"train", "val"} <= set(tree) and {"names", "nc"} & set(tree):
        if not isinstance(tree.get("names"), list | dict):
            return f"{file} is not used: names: is not a list of classes, as in names: [cat, dog]; correct it"
    return ""


def _bare(folder: Folder) -> bool:
    """Whether a folder has images, and labels of YOLO's form, but no data.yaml."""
    labels = inside(folder.path, "labels")
    if labels is not None and inside(folder.path, "images") is not None:
        texts = sorted(labels.rglob("*.txt"))
    else:
        stems = {file.stem for file in folder.ending(*SUFFIXES)}
        texts = [file for file in folder.ending(".txt") if file.stem in stems]
    looked = take_evenly([text for text in texts if text.name != NAMES], 8)
    good = 0
    for text in looked:
        try:
            good += read_lines(text) is not None
        except UserError:
            continue
    return bool(looked) and good * 2 > len(looked)


def _places(site: Site, folder: Folder, path: Path) -> Iterator[Place]:
    given = path.relative_to(site.root).as_posix()
    named = _named(path)
    faults = []
    places = []
    for split in _SPLITS:
        try:
            data = YoloData.of(path, split)
        except UserError as error:
            if split in named:
                faults.append(f"YOLO: {given}, split {split} is not used: {error}")
            continue
        places.append(_place(site, folder, given, split, data))
    site.remarks += faults
    # A data.yaml that names one folder under several keys has one split.
    seen = set()
    for place, images in places:
        if images not in seen:
            yield place
        seen.add(images)


def _named(path: Path) -> Sequence[str]:
    """The splits that a data.yaml names; "train" where there is none."""
    try:
        tree = yaml.safe_load(read_text(path / "data.yaml" if path.is_dir() else path))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return _SPLITS[:1]
    return [split for split in _SPLITS if isinstance(tree, dict) and tree.get(split)]


def _place(
    site: Site, folder: Folder, given: str, split: str, data: YoloData
) -> tuple[Place, tuple[Path, ...]]:
    folders = {image.resolve().parent for image in data.images}
    site.take([g for g in site.groups if g.files[0].resolve().parent in folders])
    options: Options = {"kind": "yolo", "path": given, "split": split, "instances": "each"}
    doubts, comments = [], {}
    lines = _lines(data)
    if lines and all(line.box for line in lines):
        options["boxes"] = True
        doubts.append("the labels are boxes without outlines, so each box is filled and taken as the mask")
        comments["boxes"] = "unsure: a filled box is not an outline; draw polygons for masks that fit"
    elif any(line.box for line in lines):
        doubts.append("some labels are boxes, which are not masks: draw polygons, or set boxes: true")
        comments["instances"] = "or merged; add boxes: true to fill the boxes of lines without a polygon"
    if len(data.names) > 1:
        doubts.append(
            f"there are the classes {', '.join(data.names[:6])}{', ...' if len(data.names) > 6 else ''}, and "
            f"each polygon is an object; categories: [{data.names[0]}] would take some of them"
        )
    said, more = f"YOLO: {given}, split {split}", f", {plural(len(data.images), 'image')}"
    names = partial(_names, data)
    if split == "train" and (own := split_of(folder.parts)):  # train/images, test/images without data.yaml
        split = own
    place = Place(
        home_of(folder.parts), split, options, said, names, more, doubts, comments, folder=folder.path
    )
    return place, data.images


def _lines(data: YoloData) -> list[Any]:
    found = []
    for image in take_evenly(data.images, 24):
        try:
            found += read_lines(label_file(image))
        except UserError:
            continue
    return found


def _is_sound(image: Path, data: YoloData) -> bool:
    """Whether an image has labels that can be read."""
    path = label_file(image)
    try:
        lines = read_lines(path) if path.is_file() else []
        for line in lines:
            data.check(line, path, boxes=True)
    except UserError:
        return False
    return bool(lines)


def _names(data: YoloData) -> list[str]:
    """The images with labels, in the order in which the reader counts them."""
    sound = [image for image in data.images if _is_sound(image, data)]
    labelled = [image for image in data.images if label_file(image).is_file()]
    return relative([str(image) for image in sound or labelled])
