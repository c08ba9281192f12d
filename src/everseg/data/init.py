"""Look at a folder of images and masks, and write a stream file for it that a person can edit."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everseg.data.globs import ID
from everseg.data.images import open_image, read_file
from everseg.data.layout import SUFFIXES, Group, Look, look, scan, split_of, words
from everseg.data.maskrule import mask_rule
from everseg.data.meaning import Unsettled, settled
from everseg.data.names import some
from everseg.data.pairing import pair_files
from everseg.data.proposal import DataSet, boundary, common_folder, data_sets, groups_in
from everseg.data.ready import coco_splits, voc_splits
from everseg.data.samples import take_evenly
from everseg.data.stream import open_leniently
from everseg.data.streamfile import LONGEST, is_name
from everseg.errors import UserError, printable
from everseg.files import atomic_path

Options = dict[str, Any]
"""What a stream file says of a split."""


@dataclass
class StageProposal:
    """A stage, what was found for it, and what may be wrong with it.

    unsettled: by split, the option to write where the masks may mean more than one thing.
    """

    name: str
    splits: dict[str, Options] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    unsettled: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Proposal:
    """path: of the stream file. found, doubts: sentences for a person."""

    path: Path
    found: tuple[str, ...]
    doubts: tuple[str, ...]


def write_stream_for(folder: str | Path, out: str | Path | None = None, force: bool = False) -> Proposal:
    """Write a stream file for the data sets in a folder, atomically.

    out: the file to write; `stream.yaml` in the folder by default. force: replace a file that is there.

    Raises:
        UserError: there are no images with masks, or `out` exists and `force` is not given.
    """
    root = Path(folder)
    path = root / "stream.yaml" if out is None else Path(out)
    if path.exists() and not force:
        raise UserError(
            f"{path} exists and may have been edited; give --force to replace it, or another --out"
        )
    stages, remarks = propose(root)
    from_here = os.path.relpath(root.resolve(), path.parent.resolve())
    text = stream_text(stages, root.resolve().name, Path(from_here).as_posix(), remarks)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        stream, faults = open_leniently(temporary)
    found = []
    proposed = {stage.name: stage.found for stage in stages}
    for stage in (*stream.stages, *stream.unseen):
        found.append(f"stage {stage.name!r}: {len(stage.train)} training and {len(stage.test)} test samples")
        found += [f"  {sentence}" for sentence in proposed[stage.name]]
    doubts = [f"stage {s.name!r}: {sentence}" for s in stages for sentence in s.doubts]
    told = {(stage.name, split) for stage in stages for split in stage.unsettled}
    doubts += [
        f"stage {stage!r}, {split}: {sentence}"
        for stage, split, sentence in faults
        if (stage, split) not in told
    ]
    return Proposal(path, tuple(found), tuple(printable(d) for d in (*doubts, *remarks)))


def propose(root: Path) -> tuple[list[StageProposal], list[str]]:
    """The stages that a folder seems to hold, and a sentence on everything that was left out.

    Raises:
        UserError: there are none.
    """
    groups, jsons = scan(root)
    stages = _ready(root, groups, jsons)
    pairs, remarks = data_sets(groups)
    by_home: dict[tuple[str, ...], list[DataSet]] = {}
    for pair in pairs:
        by_home.setdefault(pair.home, []).append(pair)
    firsts = [home[:1] for home in by_home]
    trains = bool(stages) or any(pair.split in ("", "train") for pair in pairs)
    for home, members in sorted(by_home.items()):
        short = "-".join(home[:1] if firsts.count(home[:1]) == 1 else home)
        if trains and not any(pair.split in ("", "train") for pair in members):
            stages.append(_unseen(root, short, members[0]))
        else:
            stages += _stages(root, short, members)
    if not stages:
        raise UserError(_nothing(root, groups))
    for stage in stages:
        if len(stages) == 1 or not stage.name:
            stage.name = root.resolve().name
    _rename(stages)
    return stages, remarks


def _nothing(root: Path, groups: Sequence[Group]) -> str:
    count = sum(len(group.files) for group in groups)
    if not count:
        kinds = ", ".join(sorted(ending[1:] for ending in SUFFIXES))
        return f"{root} holds no images ({kinds}); give the folder that holds the images and masks"
    for group in groups:
        if not group.looks:
            try:
                open_image(read_file(group.files[0]), group.files[0])
            except UserError as error:
                return str(error)
    return (
        f"{root} holds {count} images ({some(str(group) for group in groups)}), and none of them seem to be "
        "masks of others; write the stream file by hand, as docs/data.md shows"
    )


def _ready(root: Path, groups: list[Group], jsons: Sequence[Path]) -> list[StageProposal]:
    """Data sets in layouts with a reader of their own, whose groups are taken out of `groups`."""
    stages = []
    for name, splits, taken, doubts in (*voc_splits(root, groups), *coco_splits(root, groups, jsons)):
        found = [f"{o['kind'].upper()}: {o.get('annotations') or o['path']}" for o in splits.values()]
        stages.append(StageProposal(name, splits, list(dict.fromkeys(found)), doubts))
        groups[:] = [group for group in groups if group not in taken]
    return stages


def _unseen(root: Path, name: str, pair: DataSet) -> StageProposal:
    """A domain that has test images only, beside others that are learned."""
    stage = StageProposal(name)
    stage.splits["test"] = _options(pair, root, stage, "test")
    stage.found.append("there is nothing to train on, so it is only tested")
    return stage


def _stages(root: Path, home: str, members: Sequence[DataSet]) -> list[StageProposal]:
    """The stages of one home: its splits make one; what is there twice is a stage each."""
    by_split: dict[str, DataSet] = {}
    stages = []
    for pair in members:
        if pair.split in by_split:
            stages.append(_stage(root, home, {"": pair}))
            stages[-1].doubts.append(f"{pair.images} may belong to another stage; put them together by hand")
        else:
            by_split[pair.split] = pair
    return [_stage(root, home, by_split), *stages]


def _stage(root: Path, name: str, by_split: dict[str, DataSet]) -> StageProposal:
    stage = StageProposal(name)
    train = by_split.get("train") or by_split.get("")
    test = by_split.get("test")
    if train is not None and test is None and (test := by_split.get("val")) is not None:
        stage.doubts.append(f"there is no test split, so {test.images} is tested on")
    elif train is not None and test is not None and (val := by_split.get("val")) is not None:
        stage.doubts.append(f"{val.images} is not used: it seems to be the validation split")
    if train is not None and test is not None:
        for split, pair in (("train", train), ("test", test)):
            stage.splits[split] = _options(pair, root, stage, split)
        return stage
    whole = train or test or by_split["val"]
    options = _options(whole, root, stage, "all")
    if option := stage.unsettled.pop("all", ""):
        stage.unsettled = {"train": option, "test": option}
    names = _names(root, options)
    if parts := _named_splits(names):
        stage.found.append("the files' names say what to train and to test on")
        stage.splits = {split: {**options, "part": part} for split, part in parts.items()}
        return stage
    groups, example = groups_in(names)
    cut = boundary(groups)
    if cut is None and example:
        stage.doubts.append(f"{example}, but no cut keeps all of them apart; choose part: by hand")
        cut = boundary(names)
    if cut is None:
        raise UserError(
            f"{root / str(whole.images)} is one image with a mask; a stream needs two to test one"
        )
    stage.found.append(f"no folder says what to test on: the last {len(names) - cut} of {len(names)} images")
    if example:
        stage.found.append(f"{example}, and are not split")
    else:
        stage.doubts.append(
            "if several images show one patient or scene, move the border of part: between them"
        )
    stage.splits = {"train": {**options, "part": [0, cut]}, "test": {**options, "part": [cut, len(names)]}}
    return stage


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


def _names(root: Path, options: Options) -> list[str]:
    """The images of a split in the order in which `part` counts them."""
    instances = options.get("kind") == "instances"
    pairs, _ = pair_files(
        root / options["path"],
        options.get("images"),
        options.get("masks"),
        folder="instances" if instances else "masks",
    )
    return [pair.name for pair in pairs]


# ---------------------------------------------------------------- the options of a split


def _options(pair: DataSet, root: Path, stage: StageProposal, split: str) -> Options:
    """What the stream file says of images and masks, and sentences on them for the stage."""
    image, mask = (pair.affixes.image, pair.affixes.mask) if pair.affixes else (None, None)
    shown = [_pattern(pair.images, (), image), _pattern(pair.masks, (), mask, pair.several)]
    said, meaning = _meaning(pair, stage, split, shown[1])
    base = common_folder(pair)
    default = "instances" if meaning.get("kind") == "instances" else "masks"
    options: Options = {"path": "/".join(base) or "."}
    places = (pair.images.folder, pair.masks.folder)
    plain = image == mask == pair.images.affix == pair.masks.affix == ("", "") and not pair.several
    if not plain or places != ((*base, "images"), (*base, default)):
        options["images"] = _pattern(pair.images, base, image)
        options["masks"] = _pattern(pair.masks, base, mask, pair.several)
    if not _is_text(options["path"]):  # A glob can have a wildcard for bytes that are no text.
        front = "".join(f"{_escaped(part)}/" for part in base)
        for key in ("images", "masks"):
            options[key] = front + str(options.get(key) or f"{key if key == 'images' else default}/*")
        options["path"] = "."
    if pair.several:
        options["instances"] = "each"
        stage.doubts.append("images have several masks, each taken as an object; merged: all are one object")
    if _sizes_differ(pair):
        options["resize_masks"] = True
        stage.doubts.append(f"masks {shown[1]} are not of the size of their images and will be resized")
    stage.found.append(
        f"{split}: {len(pair.images.files)} images {shown[0]}, {len(pair.masks.files)} masks {shown[1]}{said}"
    )
    return {**({"kind": meaning["kind"]} if "kind" in meaning else {}), **options, **meaning}


def _pattern(group: Group, base: Sequence[str], affix: tuple[str, str] | None, several: bool = False) -> str:
    folder = [
        part if part == "*" else ID.join(map(_escaped, part.split(ID))) for part in group.folder[len(base) :]
    ]
    if group.name:
        name = _escaped(group.name)
    elif affix is None:
        name = "*"
    else:
        whole = [_escaped(text) for text in (group.affix[0] + affix[0], affix[1] + group.affix[1])]
        marked = "*" if "*" in group.folder else ID
        ending = f"{_escaped(group.affix[1])}*" if several else whole[1]
        name = f"{whole[0]}{marked}{ending}{group.extension}"
    return "/".join([*folder, name])


def _escaped(text: str) -> str:
    """A name as a glob that is like it alone, or like it but for bytes that are no text."""
    return re.sub(r"([*?\[])", r"[\1]", re.sub("[\udc80-\udcff]", "\0", text)).replace("\0", "?")


def _is_text(text: str) -> bool:
    return not any("\udc80" <= character <= "\udcff" for character in text)


def _sizes_differ(pair: DataSet) -> bool:
    """Whether the masks looked at are larger or smaller than their images."""
    for key in take_evenly(sorted(pair.images.ids), 4):
        before, after = pair.affixes.image if pair.affixes else ("", "")
        added = pair.affixes.mask if pair.affixes else ("", "")
        inner = key[len(before) : len(key) - len(after)]
        mask = pair.masks.ids.get(f"{added[0]}{inner}{added[1]}")
        seen = (look(pair.images.ids[key]), look(mask)) if mask else (None, None)
        if seen[0] and seen[1] and seen[0].size != seen[1].size:
            return seen[0].size != seen[1].size[::-1]
    return False


def _meaning(pair: DataSet, stage: StageProposal, split: str, shown: str) -> tuple[str, Options]:
    """What the masks mean, as `data check` will say it of the split: in words and as options."""
    looks = pair.masks.looks
    named = bool({"instance", "instances", "object"} & set(words(shown)))
    if not pair.several and (_numbered(looks, named) or (named and any(seen.colour for seen in looks))):
        stage.doubts.append(
            f"the values of {shown} are taken as numbers of objects; if they are classes, write a stream of "
            "classes (docs/data.md)"
        )
        return ": numbers of objects", {"kind": "instances", "instances": "each"}
    try:
        return f": {settled(pair.masks.files, mask_rule()).words}", {}
    except Unsettled as error:
        stage.doubts.append(str(error))
        stage.unsettled[split] = error.option
        return "", {}


def _numbered(looks: Iterable[Look], named: bool) -> bool:
    """Whether maps seem to number objects: from 1 in turn, how many differs, and most are one part or the
    folder's name says so."""
    seen = [look for look in looks if any(look.values)]
    tops = [[value for value in look.values if value] for look in seen]
    in_turn = sum(top == list(range(1, len(top) + 1)) for top in tops) >= 0.8 * len(tops)
    return in_turn and len({len(top) for top in tops}) > 1 and (named or all(look.parts for look in seen))


# ---------------------------------------------------------------- the text


def _rename(stages: Sequence[StageProposal]) -> None:
    """Give every stage a name that is allowed and its own."""
    taken: set[str] = set()
    for stage in stages:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", stage.name).strip("-._").lower()[: LONGEST - 4] or "data"
        name = name if is_name(name) and name != "plain" else f"data-{name}"
        number = 2
        unique = name
        while unique in taken:
            unique, number = f"{name}-{number}", number + 1
        taken.add(unique)
        stage.name = unique


def stream_text(stages: Sequence[StageProposal], name: str, root: str, remarks: Sequence[str]) -> str:
    """The stream file, with a comment on everything that was found or is unsure."""
    lines = [
        "# Written by `everseg data init`. Edit it, look at it with `everseg data check`, then learn it with",
        "# `everseg learn`. Every option is explained in docs/data.md.",
        *(f"# Note: {printable(remark)}" for remark in remarks),
        f"name: {_yaml(printable(name))}",
        f"root: {_yaml(root)}  # paths below start here",
        "seed: 0",
    ]
    # What is only tested comes last, under a key of its own.
    learned = [stage for stage in stages if "train" in stage.splits]
    unseen = [stage for stage in stages if stage not in learned]
    for key, stage in [("stages", s) for s in learned] + [("unseen", s) for s in unseen]:
        lines += [] if f"{key}:" in lines else [f"{key}:"]
        lines += [f"  # {sentence}" for sentence in stage.found]
        lines += [f"  # Unsure: {printable(sentence)}" for sentence in stage.doubts]
        lines.append(f"  - name: {_yaml(stage.name)}")
        for split, options in stage.splits.items():
            lines.append(f"    {split}:")
            lines += [
                f"      {key}: {_yaml(value)}{_COMMENTS.get(key, '')}" for key, value in options.items()
            ]
            if split in stage.unsettled:
                lines.append(
                    f"      # {stage.unsettled[split]}  # unsure: keep what is the object, and take off the #"
                )
    return "\n".join(lines) + "\n"


_COMMENTS = {
    "part": "  # these of the images, sorted by name",
    "instances": "  # or merged: all of an image are one object",
}


def _yaml(value: Any) -> str:
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_./-]*|\.", value)
    if plain and value.lower() not in ("true", "false", "yes", "no", "on", "off", "null", "y", "n"):
        return value
    return json.dumps(value, ensure_ascii=False)  # JSON is YAML
