"""The folder that `everseg data init` looks at, and the stages that it proposes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from everseg.data.described import described
from everseg.data.layout import DEEPEST, Group, listing, split_of
from everseg.data.proposal import boundary, groups_in
from everseg.data.readers import kind_and_options, open_samples
from everseg.data.samples import PartlyReadable
from everseg.errors import UserError

Options = dict[str, Any]
"""What a stream file says of a split."""


@dataclass
class StageProposal:
    """A proposed stage, with what was found and what may be wrong.

    counts: number of images per split.
    comments: comments on options, for the stream file.
    unsettled: per split, the option to write if the masks may mean more than one thing.
    classes: whether the masks seem to be class maps.
    home: common folder, where files that name classes are looked for.
    """

    name: str
    splits: dict[str, Options] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    unsettled: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    classes: bool = False
    home: Path = field(default_factory=Path)


@dataclass(frozen=True)
class Folder:
    """A folder's path below the root, and the files in it."""

    parts: tuple[str, ...]
    path: Path
    files: tuple[Path, ...]

    def ending(self, *suffixes: str) -> list[Path]:
        """The files whose names end so, in small letters."""
        return [file for file in self.files if file.name.lower().endswith(suffixes)]


@dataclass
class Site:
    """The folder that is looked at.

    groups: of images that no layout has taken yet.
    remarks: on what was left out.
    used: files of annotations that some layout has read.
    """

    root: Path
    groups: list[Group]
    jsons: list[Path]
    folders: list[Folder]
    remarks: list[str] = field(default_factory=list)
    used: set[Path] = field(default_factory=set)

    def below(self, parts: Sequence[str]) -> list[Group]:
        """The groups in a folder and those below it."""
        return [group for group in self.groups if group.folder[: len(parts)] == tuple(parts)]

    def take(self, groups: Sequence[Group]) -> None:
        """Leave no group to other layouts that one has taken."""
        self.groups[:] = [group for group in self.groups if group not in groups]


@dataclass
class Place:
    """What one reader can read: a folder, or one split of it.

    home: what the folders say about which data set this is.
    split: "train", "test", "val" or nothing.
    said: which place it is, in words.
    more: what else was found there.
    names: the images in the order in which `part` counts them.
    unsettled, classes: as in `StageProposal`.
    """

    home: tuple[str, ...]
    split: str
    options: Options
    said: str
    names: Callable[[], Sequence[str]]
    more: str = ""
    doubts: list[str] = field(default_factory=list)
    comments: dict[str, str] = field(default_factory=dict)
    unsettled: str = ""
    classes: bool = False
    folder: Path = field(default_factory=Path)


def walk(root: Path) -> list[Folder]:
    """All folders below a root and their files, without litter, sorted."""
    return list(_walk(root, (), set()))


def _walk(path: Path, parts: tuple[str, ...], seen: set[str]) -> Iterator[Folder]:
    real = os.path.realpath(path)
    if len(parts) > DEEPEST or real in seen:
        return
    seen.add(real)
    folders, files = listing(path)
    yield Folder(parts, path, tuple(files))
    for below in folders:
        yield from _walk(below, (*parts, below.name), seen)


def read_names(root: Path, options: Options) -> list[str]:
    """The images that a reader gives, in its order, by their paths.

    Raises:
        UserError: it can read nothing.
    """
    kind, given = kind_and_options(options)
    try:
        samples = open_samples(kind, given, {"seed": 0}, root)
    except PartlyReadable as error:
        samples = error.rest
        if not len(samples):
            raise
    told = described(samples)
    return relative(list(dict.fromkeys(told.file(index) for index in range(len(told)))))


def relative(files: Sequence[str]) -> list[str]:
    """Paths below their deepest common folder."""
    if len(files) < 2:
        return [os.path.basename(file) for file in files]
    return [os.path.relpath(file, os.path.commonpath(files)) for file in files]


def stages_of(places: Sequence[Place], remarks: list[str]) -> list[StageProposal]:
    """One stage for each home. What cannot be read at all becomes a remark."""
    by_home: dict[tuple[str, ...], list[Place]] = {}
    for place in places:
        by_home.setdefault(place.home, []).append(place)
    stages = []
    for home, members in by_home.items():
        by_split: dict[str, Place] = {}
        for place in members:
            if by_split.setdefault(place.split, place) is not place:
                remarks.append(f"{place.said} is not used: there are others of the same split")
        try:
            stages.append(_stage("-".join(home), by_split))
        except UserError as error:
            remarks.append(f"{members[0].said} is not used: {error}")
    return stages


def _stage(name: str, by_split: dict[str, Place]) -> StageProposal:
    stage = StageProposal(name)
    chosen = chosen_splits(by_split, stage, lambda place: place.said)
    for split, place in chosen.items():
        stage.found.append((f"{split}: " if len(chosen) > 1 else "") + place.said + place.more)
        stage.doubts += [doubt for doubt in place.doubts if _form(doubt) not in map(_form, stage.doubts)]
        stage.comments.update(place.comments)
        if place.unsettled:
            stage.unsettled[split] = place.unsettled
        stage.classes |= place.classes
        stage.home = place.folder
    if len(chosen) > 1:
        for split, place in chosen.items():
            stage.splits[split], stage.counts[split] = place.options, len(place.names())
        return stage
    (place,) = chosen.values()
    if option := stage.unsettled.pop("", ""):
        stage.unsettled = {"train": option, "test": option}
    hold_out(stage, place.options, place.names(), "it")
    return stage


T = TypeVar("T")


def _form(doubt: str) -> str:
    """A sentence without its numbers and brackets, which differ from split to split."""
    return re.sub(r"\([^)]*\)|-?\d[\d.e+]*", "#", doubt)


def chosen_splits(by_split: Mapping[str, T], stage: StageProposal, said: Callable[[T], str]) -> dict[str, T]:
    """What to train and to test on; or, under "", the one that has to be parted."""
    train = by_split.get("train") or by_split.get("")
    test = by_split.get("test")
    val = by_split.get("val")
    if train is not None and test is None and val is not None:
        stage.doubts.append(f"there is no test split, so {said(val)} is tested on")
        test = val
    elif train is not None and test is not None and val is not None:
        stage.doubts.append(f"{said(val)} is not used: it seems to be the validation split")
    if train is not None and test is not None:
        return {"train": train, "test": test}
    whole = train or test or val
    assert whole is not None, "there is a split"
    return {"": whole}


def hold_out(stage: StageProposal, options: Options, names: Sequence[str], what: str) -> None:
    """Part the images of one place into those to train and to test on, and say by what.

    Raises:
        UserError: there are not two images.
    """
    if parts := _named_splits(names):
        stage.found.append("the files' names say what to train and to test on")
        _part(stage, options, parts)
        return
    groups, example = groups_in(names)
    cut = boundary(groups)
    if cut is None and example:
        stage.doubts.append(f"{example}, but no cut keeps all of them apart; choose part: by hand")
        cut = boundary(names)
    if cut is None:
        raise UserError(
            f"{what} has {len(names) or 'no'} image with a mask; add some until there are two, one to "
            "train on and one to test on"
        )
    stage.found.append(f"no folder says what to test on: the last {len(names) - cut} of {len(names)} images")
    if example:
        stage.found.append(f"{example}, and are not split")
    else:
        stage.doubts.append(
            "if several images show one patient or scene, move the border of part: between them"
        )
    _part(stage, options, {"train": [0, cut], "test": [cut, len(names)]})


def _part(stage: StageProposal, options: Options, parts: dict[str, list[int]]) -> None:
    for split, part in parts.items():
        stage.splits[split] = {**options, "part": part}
        stage.counts[split] = part[1] - part[0]


def _named_splits(names: Sequence[str]) -> dict[str, list[int]]:
    """Which of the sorted images are trained and tested on, if their own names say so, as train_1.bmp."""
    splits = [split_of((name,)) for name in names]
    found = {}
    for split in dict.fromkeys(splits):
        first = splits.index(split)
        part = [first, first + splits.count(split)]
        if not split or set(splits[slice(*part)]) != {split}:
            return {}
        found[split] = part
    test = found.get("test") or found.get("val")
    return {"train": found["train"], "test": test} if "train" in found and test else {}


def counted_labels(labels: Mapping[str, int]) -> str:
    """The most frequent labels, and how many more there are."""
    ranked = sorted(labels, key=lambda label: (-labels[label], label))
    return ", ".join(ranked[:6]) + (f" and {len(ranked) - 6} more" if len(ranked) > 6 else "")
