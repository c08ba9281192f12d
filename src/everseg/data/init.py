"""Look at a folder of images and masks, and write a stream file for it that a person can edit."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from everseg.data.geo import read_band
from everseg.data.globs import ID
from everseg.data.images import decode_image, read_file
from everseg.data.known.classes import BOTH, class_stream, class_stream_text, seem_classes
from everseg.data.known.depth import shown_by
from everseg.data.known.layouts import known_stages
from everseg.data.known.legends import names_near
from everseg.data.known.site import Options, Site, StageProposal, chosen_splits, hold_out, walk
from everseg.data.known.unread import split_lists, unread_annotations, unread_images
from everseg.data.layout import ANY, EACH, SUFFIXES, Group, Look, look, scan, words
from everseg.data.maskrule import mask_rule
from everseg.data.meaning import Unsettled, settled
from everseg.data.names import some
from everseg.data.pairing import pair_files
from everseg.data.proposal import DataSet, common_folder, data_sets
from everseg.data.raster import Raster, read_raster
from everseg.data.samples import take_evenly
from everseg.data.stream import Stream, open_leniently
from everseg.data.streamtext import rename, stream_text
from everseg.errors import UserError, printable
from everseg.files import atomic_path
from everseg.text import plural


@dataclass(frozen=True)
class Proposal:
    """A stream file that was written for a folder.

    path: path of the stream file.
    found, doubts: sentences for the user.
    classes: whether the stream is one of classes.
    """

    path: Path
    found: tuple[str, ...]
    doubts: tuple[str, ...]
    classes: bool = False


def write_stream_for(
    folder: str | Path, out: str | Path | None = None, force: bool = False, classes: bool | None = None
) -> Proposal:
    """Write a stream file for the data sets in a folder, atomically.

    out: the file to write; `stream.yaml` in the folder by default.
    force: replace a file that is there.
    classes: whether to write a stream of classes; where None, the masks decide.

    Raises:
        UserError: there are no images with masks, `out` exists and `force` is not given, or `classes` does
            not fit what is there.
    """
    root = Path(folder)
    path = root / "stream.yaml" if out is None else Path(out)
    if path.exists() and not force:
        raise UserError(
            f"{path} exists and may have been edited; give --force to replace it, or another --out"
        )
    stages, remarks = propose(root)
    name, start = root.resolve().name, Path(os.path.relpath(root.resolve(), path.parent.resolve())).as_posix()
    proposed = None
    if classes or (classes is None and len(stages) == 1 and stages[0].classes):
        try:
            proposed = class_stream(root, stages)
        except UserError as error:
            if classes:
                raise
            stages[0].doubts.append(f"its masks seem to hold classes, but {error}")
    if proposed is not None:
        text = class_stream_text(proposed, name, start, remarks)
        stages = [proposed.stage, *proposed.apart]
    else:
        for stage in stages:
            if stage.classes and len(stages) > 1:
                stage.doubts.append(BOTH)
            elif classes is None and stage.unsettled:
                stage.doubts.append("if they are classes, --classes writes a stream of classes")
        text = stream_text(stages, name, start, remarks)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        stream, faults = open_leniently(temporary)
    found = found_in(stream, stages, faults)
    doubts = [f"stage {s.name!r}: {d}" if s.name else d for s in stages for d in s.doubts]
    told = {(stage.name, split) for stage in stages for split in stage.unsettled}
    doubts += counted([fault for fault in faults if fault[:2] not in told])
    parted = {s.name for s in stages if any("part" in options for options in s.splits.values())}
    if parted & {name for name, split, _ in faults if (name, split) not in told}:
        doubts.append(
            "part: counts the images that can be read today; after correcting the others, write the file "
            "again (--force)"
        )
    unsure = tuple(map(printable, (*doubts, *remarks)))
    return Proposal(path, tuple(map(printable, found)), unsure, proposed is not None)


def found_in(
    stream: Stream, stages: Sequence[StageProposal], faults: Sequence[tuple[str, str, str]]
) -> list[str]:
    """What a person reads of each stage: how many samples it has, and from which files."""
    found = []
    proposed = {stage.name: stage for stage in stages}
    closed = {(stage, split) for stage, split, _ in faults}
    for opened in (*stream.stages, *stream.unseen):
        stage = proposed.pop(opened.name, StageProposal(""))
        sizes = []
        for split, word in (("train", "training"), ("test", "test")):
            count = len(getattr(opened, split))
            waits = not count and (opened.name, split) in closed
            known = stage.counts.get(split, "all")
            sizes.append(
                f"{known} {word} images (not readable yet)" if waits else plural(count, f"{word} sample")
            )
        found.append(f"stage {opened.name!r}: {' and '.join(sizes)}")
        found += [f"  {sentence}" for sentence in stage.found]
    # What a stream of classes was found in has no stage of its name.
    return [*(sentence for stage in proposed.values() for sentence in stage.found), *found]


def counted(faults: Sequence[tuple[str, str, str]]) -> list[str]:
    """The first faults of each split, and how many more there are."""
    by_split: dict[tuple[str, str], list[str]] = {}
    for stage, split, sentence in faults:
        by_split.setdefault((stage, split), []).append(sentence)
    said = []
    for (stage, split), sentences in by_split.items():
        said += [f"stage {stage!r}, {split}: {sentence}" for sentence in sentences[:SHOWN]]
        if more := sentences[SHOWN:]:
            said.append(f"stage {stage!r}, {split}: and {len(more)} more; everseg data check lists all")
    return said


SHOWN = 3
"""Faults of a split that are printed."""


def propose(root: Path) -> tuple[list[StageProposal], list[str]]:
    """The stages that a folder seems to hold, and a sentence on everything that was left out.

    Raises:
        UserError: there are none.
    """
    groups, jsons = scan(root)
    site = Site(root, groups, jsons, walk(root))
    stages = known_stages(site)
    pairs, remarks = data_sets(site.groups)
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
    site.remarks += unread_annotations(site, not stages)
    site.remarks += split_lists(site, [pair.images.files for pair in pairs if not pair.split])
    if not stages:
        raise UserError(_nothing(site))
    for stage in stages:
        if len(stages) == 1 or not stage.name:
            stage.name = root.resolve().name
    stages.sort(key=lambda stage: stage.name)
    rename(stages)
    return stages, [*site.remarks, *remarks]


def _nothing(site: Site) -> str:
    root, groups = site.root, site.groups
    if said := site.remarks or unread_images(site):
        return "; ".join(said[:2])
    count = sum(len(group.files) for group in groups)
    if not count:
        kinds = ", ".join(sorted(ending[1:] for ending in SUFFIXES))
        return (
            f"{root} holds no images ({kinds}), volumes (nii, nii.gz, dcm) or annotations of a known tool; "
            "give the folder that holds the images and masks"
        )
    for group in groups:
        if not group.looks:
            try:
                decode_image(read_file(group.files[0]), group.files[0])
            except UserError as error:
                return str(error)
    return (
        f"{root} holds {plural(count, 'image')} ({some(str(group) for group in groups)}), but none seems "
        "to be a mask of another; write the stream file by hand, as docs/data.md shows"
    )


def _unseen(root: Path, name: str, pair: DataSet) -> StageProposal:
    """A domain that has test images only, beside others that are learned."""
    stage = StageProposal(name, home=root)
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
    stage = StageProposal(name, home=root)
    chosen = chosen_splits(by_split, stage, lambda pair: str(pair.images))
    if len(chosen) > 1:
        for split, pair in chosen.items():
            stage.splits[split] = _options(pair, root, stage, split)
            stage.counts[split] = len(pair.images.files)
        return stage
    (whole,) = chosen.values()
    options = _options(whole, root, stage, "all")
    if option := stage.unsettled.pop("all", ""):
        stage.unsettled = {"train": option, "test": option}
    hold_out(stage, options, _names(root, options), str(root / str(whole.images)))
    return stage


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
    seen = shown_by(pair.images.files)
    geo = seen.geo and not pair.several and find_spec("rasterio") is not None
    said, meaning = _meaning(pair, stage, split, shown[1], read_band if geo else read_raster)
    if geo and "kind" not in meaning:
        meaning["kind"] = "geotiff"
    meaning |= seen.options
    stage.doubts += [doubt for doubt in seen.doubts if doubt not in stage.doubts]
    stage.comments |= seen.comments
    base = common_folder(pair)
    default = "instances" if meaning.get("kind") == "instances" else "masks"
    options: Options = {"path": "/".join(base) or "."}
    places = (pair.images.folder, pair.masks.folder)
    plain = image == mask == pair.images.affix == pair.masks.affix == ("", "") and not pair.several
    if not plain or places != ((*base, "images"), (*base, default)):
        options["images"] = _pattern(pair.images, base, image)
        options["masks"] = _pattern(pair.masks, base, mask, pair.several)
    if not _literal(options["path"]):  # A glob can have a wildcard for bytes that are not text.
        front = "".join(f"{_escaped(part)}/" for part in base)
        for key in ("images", "masks"):
            options[key] = front + str(options.get(key) or f"{key if key == 'images' else default}/*")
        options["path"] = "."
    if pair.several:
        options["instances"] = "each"
        stage.doubts.append("images have several masks, each taken as an object; merged: all are one object")
    if not geo and _sizes_differ(pair):
        options["resize_masks"] = True
        stage.doubts.append(f"masks {shown[1]} are not of the size of their images and will be resized")
    bare = [seen.share == 0 for seen in pair.masks.looks]
    if any(bare) and not all(bare) and meaning.get("kind") != "instances":
        options["skip_empty"] = True
        doubt = f"some masks {shown[1]} are empty; images without an object are left out"
        stage.doubts += [] if doubt in stage.doubts else [doubt]
    stage.found.append(
        f"{split}: {plural(len(pair.images.files), 'image')} {shown[0]}, "
        f"{plural(len(pair.masks.files), 'mask')} {shown[1]}{said}"
    )
    return {**({"kind": meaning["kind"]} if "kind" in meaning else {}), **options, **meaning}


def _pattern(group: Group, base: Sequence[str], affix: tuple[str, str] | None, several: bool = False) -> str:
    folder = [
        "*" if part == ANY else ID.join(map(_escaped, part.split(EACH))) for part in group.folder[len(base) :]
    ]
    if group.name:
        name = _escaped(group.name)
    elif affix is None:
        name = "*"
    else:
        whole = [_escaped(text) for text in (group.affix[0] + affix[0], affix[1] + group.affix[1])]
        marked = "*" if ANY in group.folder else ID
        ending = f"{_escaped(group.affix[1])}*" if several else whole[1]
        name = f"{whole[0]}{marked}{ending}{group.extension}"
    return "/".join([*folder, name])


def _escaped(text: str) -> str:
    """A name as a glob that is like it alone, or like it but for bytes that are not text."""
    name = re.sub("[\udc80-\udcff]", "\0", re.sub(r"([*?\[])", r"[\1]", text)).replace("\0", "?")
    return name.replace(ID, f"[{ID[0]}]{ID[1:]}").replace("${", "[$]{")


def _literal(text: str) -> bool:
    """Whether a stream file can name a folder as it is: bytes that are not text, and what looks like a
    variable, need a pattern."""
    return "${" not in text and not any("\udc80" <= character <= "\udcff" for character in text)


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


def _meaning(
    pair: DataSet, stage: StageProposal, split: str, shown: str, read: Callable[[Path], Raster]
) -> tuple[str, Options]:
    """What the masks mean, as `data check` will say it of the split: in words and as options."""
    looks = pair.masks.looks
    named = bool({"instance", "instances", "object"} & set(words(shown)))
    if not pair.several and (_numbered(looks, named) or (named and any(seen.colour for seen in looks))):
        stage.doubts.append(
            f"the values of {shown} are taken as numbers of objects; if they are classes, run everseg data "
            "init --classes"
        )
        return ": numbers of objects", {"kind": "instances", "instances": "each"}
    said = [words(part) for part in pair.masks.folder]
    classes = any("class" in part or "classes" in part for part in said) or _named_near(stage, pair)
    if not pair.several and seem_classes((s.values for s in looks), any(s.colour for s in looks), classes):
        stage.classes = True
    try:
        return f": {settled(pair.masks.files, mask_rule(), read).words}", {}
    except Unsettled as error:
        stage.doubts.append(str(error))
        stage.unsettled[split] = error.option
        return "", {}


def _named_near(stage: StageProposal, pair: DataSet) -> bool:
    """Whether a file beside the images or above them names classes."""
    folders = [
        stage.home.joinpath(*pair.masks.folder[:depth]) for depth in range(len(pair.masks.folder), -1, -1)
    ]
    return names_near([*folders, pair.images.files[0].parent]) is not None


def _numbered(looks: Iterable[Look], named: bool) -> bool:
    """Whether maps seem to number objects: from 1 in turn, how many differs, and most are one part or the
    folder's name says so."""
    seen = [look for look in looks if any(look.values)]
    tops = [[value for value in look.values if value] for look in seen]
    in_turn = sum(top == list(range(1, len(top) + 1)) for top in tops) >= 0.8 * len(tops)
    return in_turn and len({len(top) for top in tops}) > 1 and (named or all(look.parts for look in seen))
