"""Data sets in layouts that have readers of their own: VOC's folders and COCO's JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from everseg.data.layout import Group, split_of
from everseg.data.proposal import home_of, shared

Ready = tuple[str, dict[str, dict[str, Any]], list[Group], list[str]]
"""A name, the options of its splits, the groups that belong to it, and what is unsure."""

LARGEST_JSON = 500_000_000
"""Bytes of a JSON file that is read to see whether it is COCO's."""


def voc_splits(root: Path, groups: Sequence[Group]) -> Iterator[Ready]:
    """Folders with JPEGImages, SegmentationClass and lists."""
    for group in groups:
        if not group.folder or group.folder[-1] != "JPEGImages":
            continue
        home = root.joinpath(*group.folder[:-1])
        lists = {f.stem: f for f in sorted((home / "ImageSets" / "Segmentation").glob("*.txt"))}
        maps = any((home / f"SegmentationClass{end}").is_dir() for end in ("", "Aug"))
        train = next((name for name in ("train_aug", "train") if name in lists), None)
        test = next((name for name in ("val", "test") if name in lists), None)
        if not maps or train is None or test is None:
            continue
        path = "/".join(group.folder[:-1]) or "."
        splits = {
            split: {"kind": "voc", "path": path, "split": name}
            for split, name in (("train", train), ("test", test))
        }
        taken = [other for other in groups if other.folder[: len(group.folder) - 1] == group.folder[:-1]]
        doubt = "of each image the largest part of a class is the object; for classes see docs/data.md"
        yield group.folder[-2] if len(group.folder) > 1 else "", splits, taken, [doubt]


def coco_splits(root: Path, groups: Sequence[Group], jsons: Sequence[Path]) -> Iterator[Ready]:
    """COCO files beside the images that they list."""
    found: dict[str, list[tuple[str, dict[str, Any], Group]]] = {}
    for file in jsons:
        names = _listed(file)
        places = [group for group in groups if names and _holds(root, group, names)]
        if not places:
            continue
        # Data sets and splits may be numbered alike: what lies near comes first, then what names the split.
        beside = file.relative_to(root).parts[:-1]
        own = split_of((*beside, file.stem))
        place = max(places, key=lambda g: (shared(g.folder, beside), own == split_of(g.folder)))
        depth = len(place.folder) - (names[0].count("/") if names else 0)
        folder = "/".join(place.folder[:depth]) or "."
        options = {
            "kind": "coco",
            "images": folder,
            "annotations": file.relative_to(root).as_posix(),
            "instances": "each",
        }
        home = "-".join(home_of(beside[: shared(place.folder, beside)]))
        found.setdefault(home, []).append((split_of((*place.folder, file.stem)), options, place))
    for home, members in found.items():
        by_split: dict[str, dict[str, Any]] = {}
        doubts = []
        for split, options, _ in members:
            if by_split.setdefault(split or "train", options) is not options:
                doubts.append(f"{options['annotations']} is not used: another file has the same split")
        train = by_split.get("train") or next(iter(by_split.values()))
        test = by_split.get("test") or by_split.get("val")
        if test is None or test is train:
            count = len({name for name in _listed(root / train["annotations"])})
            cut = max(1, round(0.8 * count))
            doubts.append(
                f"no file says what to test on: the images from number {cut} on, in the order of names"
            )
            train, test = {**train, "part": [0, cut]}, {**train, "part": [cut, count]}
        elif (val := by_split.get("val")) is not None and val not in (train, test):
            doubts.append(f"{val['annotations']} is not used: it seems to be the validation split")
        yield home, {"train": train, "test": test}, [group for *_, group in members], doubts


def _listed(file: Path) -> list[str]:
    """The images with annotations that have a segmentation, if the file is COCO's."""
    try:
        if file.stat().st_size > LARGEST_JSON:
            return []
        tree = json.loads(file.read_text(encoding="utf-8-sig"))
        drawn = {row["image_id"] for row in tree["annotations"] if row.get("segmentation")}
        named = [row["file_name"].replace("\\", "/") for row in tree["images"] if row["id"] in drawn]
        return sorted(PurePosixPath(name).as_posix() for name in named)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _holds(root: Path, group: Group, names: Sequence[str]) -> bool:
    """Whether a group has the first and the last of the listed images."""
    files = set(group.files)
    depths = [len(group.folder) - name.count("/") for name in (names[0], names[-1])]
    return all(
        depth >= 0 and root.joinpath(*group.folder[:depth], name) in files
        for depth, name in zip(depths, (names[0], names[-1]), strict=True)
    )
