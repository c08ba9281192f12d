"""A stream of classes from data sets whose masks are class maps."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everseg.data.classes.maps import CLASS_READERS
from everseg.data.described import described
from everseg.data.known.legends import CAMVID, CITYSCAPES, Named, names_near, usual
from everseg.data.known.site import Options, StageProposal
from everseg.data.raster import Colour, packed, read_raster, unpacked
from everseg.data.readers import kind_and_options, open_samples, parameters
from everseg.data.samples import PartlyReadable
from everseg.data.streamtext import as_yaml, option_lines
from everseg.errors import UserError, printable
from everseg.types import VOID

BOTH = (
    "its masks seem to hold several classes; if they do, run everseg data init --classes for a stream of "
    "classes, in which each data set adds its own"
)
"""What else several data sets may be, where some seem to have classes and all are read as domains."""

_MOST = 64
"""Colours in maps that are classes; more are what blur or JPEG left."""

_WHITE = 0xFFFFFF


@dataclass
class ClassProposal:
    """A proposed stream of classes.

    stage: the images, what was found, and what is unsure.
    names: names of the numbers, if the stream file has to give them.
    colours: colours of the numbers, for maps in colour.
    said: a comment on each number.
    steps: the classes of each step.
    apart: the images of each step, if the steps have images of their own.
    """

    stage: StageProposal
    names: dict[int, str] = field(default_factory=dict)
    colours: dict[int, str] = field(default_factory=dict)
    said: dict[int, str] = field(default_factory=dict)
    steps: list[list[str]] = field(default_factory=list)
    apart: list[StageProposal] = field(default_factory=list)


def seem_classes(values: Iterable[Iterable[int]], colour: bool, named: bool) -> bool:
    """Whether maps hold classes, by the values of a few of them.

    named: whether files or folders say that these are classes. Otherwise values must be small numbers that
        differ from map to map, or are many; or colours that recur.
    """
    ground = {0, _WHITE} if colour else {0, VOID}
    sets = [frozenset(own) - ground for own in values]
    union = frozenset().union(*sets)
    if len(union) < 2 or named:
        return len(union) >= 2
    if colour:
        return len(union) >= 4 and sum(map(len, sets)) >= 2 * len(union)
    return max(union) <= max(40, 3 * len(union)) and (len(set(sets)) > 1 or len(union) >= 4)


def class_stream(root: Path, stages: Sequence[StageProposal]) -> ClassProposal:
    """The stream of classes that one data set makes, or several, of which each adds classes.

    Raises:
        UserError: a data set has no class maps, or no class that an earlier one does not have.
    """
    if len(stages) > 1:
        return _one_after_another(root, [_of_maps(root, stage) for stage in stages])
    stage = replace(_of_maps(root, stages[0]), name="")
    proposed = ClassProposal(stage)
    opened = {split: _opened(root, options) for split, options in stage.splits.items()}
    legend = described(opened["train"]).legend
    if legend is None:
        maps = [Path(described(s).truth_file(i)) for s in opened.values() for i in range(len(s))]
        folders = _folders(root, stage, maps)
        if _in_colour(opened["train"], maps):
            _name_colours(proposed, maps, names_near(folders))
            opened = {split: _opened(root, options) for split, options in stage.splits.items()}
        present = {split: _present(samples) for split, samples in opened.items()}
        if not proposed.names:
            occurring = np.flatnonzero(np.any([p.any(axis=0) for p in present.values()], axis=0)).tolist()
            _name_numbers(proposed, occurring, names_near(folders), maps)
        names = {n: name for n, name in proposed.names.items() if name not in ("background", "void")}
    else:
        present = {split: _present(samples) for split, samples in opened.items()}
        names = dict(legend.names)
    _plan(proposed, names, present)
    return proposed


def _of_maps(root: Path, domain: StageProposal) -> StageProposal:
    """A data set that was read as a domain, as one of class maps."""
    found = [sentence.partition(": numbers of objects")[0] for sentence in domain.found]
    stage = StageProposal(domain.name, found=found, home=domain.home, comments=domain.comments)
    stage.splits = {split: _options(options, root) for split, options in domain.splits.items()}
    stage.doubts = [
        d for d in domain.doubts if not re.search(r"mask_values|mask_colours|instances|object", d)
    ]
    if any(kind_and_options(options)[0] == "instances" for options in domain.splits.values()):
        stage.doubts.append("its maps seem to number objects; if they are not classes, leave --classes out")
    if set(stage.splits) != {"train", "test"}:
        raise UserError(
            f"{root} has no images for training besides those for testing; write the stream file by hand"
        )
    return stage


def _one_after_another(root: Path, stages: list[StageProposal]) -> ClassProposal:
    """Several data sets, whose maps have one numbering: each adds the classes that no earlier one has."""
    proposed = ClassProposal(StageProposal("", home=root), apart=stages)
    maps: list[Path] = []
    present: list[dict[str, NDArray[np.bool_]]] = []
    for stage in stages:
        opened = {split: _opened(root, options) for split, options in stage.splits.items()}
        files = [Path(described(s).truth_file(i)) for s in opened.values() for i in range(len(s))]
        if described(opened["train"]).legend is not None or _in_colour(opened["train"], files):
            raise UserError(
                f"{root} contains {len(stages)} data sets ({', '.join(s.name for s in stages[:4])}), and the "
                f"maps of {stage.name!r} are not grey or palette images of numbers; give the folder of one "
                "data set, or leave --classes out"
            )
        maps += files
        present.append({split: _present(samples) for split, samples in opened.items()})
    everything = [p.any(axis=0) for own in present for p in own.values()]
    folders = [folder for stage in stages for folder in _folders(root, stage, maps)]
    if names_near(folders) is None and (objects := _single_objects(present)):
        _name_by_folders(proposed, objects)
        return proposed
    _name_numbers(proposed, np.flatnonzero(np.any(everything, axis=0)).tolist(), names_near(folders), maps)
    names = {n: name for n, name in proposed.names.items() if name not in ("background", "void")}
    for stage, own in zip(stages, present, strict=True):
        known = {name for step in proposed.steps for name in step}
        new = [name for n, name in names.items() if own["train"][:, n].any() and name not in known]
        if not new:
            lacking = " that earlier data sets lack" if known else ""
            lacking += ", because 255 means void" if own["train"][:, VOID].any() else ""
            raise UserError(
                f"the training maps of {stage.name!r} have no class{lacking}; list the classes of each stage "
                "by hand, as docs/data.md shows under Streams of classes, or leave --classes out"
            )
        proposed.steps.append(new)
    proposed.stage.doubts.append(
        "each data set adds the classes that no earlier one has, in the order of the folders' names; edit "
        "stages: if you want to learn them in another order"
    )
    return proposed


def _single_objects(present: Sequence[dict[str, NDArray[np.bool_]]]) -> list[int]:
    """The number of each data set's only object, if all have one and the numbers cannot tell them apart."""
    shown = [np.flatnonzero(np.concatenate(list(own.values())).any(axis=0)).tolist() for own in present]
    numbers = [number for own in shown for number in own if number]
    if any(len(own) != 1 + (0 in own) for own in shown):
        return []
    return numbers if VOID in numbers or len(set(numbers)) < len(numbers) else []


def _name_by_folders(proposed: ClassProposal, numbers: Sequence[int]) -> None:
    """Make the object of each data set a class, with the name of the folder."""
    for stage, number in zip(proposed.apart, numbers, strict=True):
        for options in stage.splits.values():
            options["classes"] = {number: stage.name}
        proposed.steps.append([stage.name])
    proposed.stage.doubts.append(
        "the masks of each data set show one kind of object, so it is a class with the name of the folder; "
        "rename it under every classes: if you like, and leave --classes out if two data sets show the same"
    )


def _options(options: Options, root: Path) -> Options:
    """A domain's options as those of class maps."""
    kind, given = kind_and_options(options)
    if kind in ("instances", "geotiff"):
        given = {"images": "images/*", "masks": "instances/*" if kind == "instances" else "masks/*", **given}
        kind = "folder"
    if kind not in CLASS_READERS:
        raise UserError(
            f"{root} holds data of kind {kind!r}, which has no class maps; convert it to one of the kinds "
            f"that have ({', '.join(CLASS_READERS)}), or leave --classes out"
        )
    known = parameters(kind, CLASS_READERS[kind]) or set(given)
    if kind == "hf" and "split" not in given:
        given["split"] = "train"
    kept = {key: value for key, value in given.items() if key in known and key != "mask_colours"}
    return {**({} if kind == "folder" else {"kind": kind}), **kept}


def _opened(root: Path, options: Options) -> Sequence[Any]:
    kind, given = kind_and_options(options)
    try:
        return open_samples(kind, given, {"seed": 0}, root, CLASS_READERS)
    except PartlyReadable as error:  # The check tells all that is wrong.
        return error.rest


def _present(samples: Sequence[Any]) -> NDArray[np.bool_]:
    try:
        return described(samples).presence()
    except PartlyReadable as error:
        if not len(error.rest):
            raise
        return described(error.rest).presence()


def _folders(root: Path, stage: StageProposal, maps: Sequence[Path]) -> list[Path]:
    """The folders in which a file may name the classes: from the maps up to the root."""
    start = maps[0].parent if maps and maps[0].is_relative_to(root) else stage.home
    above = [start, *start.parents]
    kept = [f for f in above if f == root or f.is_relative_to(root)]
    return [*kept, stage.home]


# ---------------------------------------------------------------- what the numbers are


def _in_colour(samples: Sequence[Any], maps: Sequence[Path]) -> bool:
    if not maps or not maps[0].is_file():
        return False
    return any(read_raster(file).form == "colour" for file in maps[:3])


def _name_colours(proposed: ClassProposal, maps: Sequence[Path], named: Named | None) -> None:
    """Number the colours in the maps: black is 0, the others count from 1.

    Raises:
        UserError: there are too many for classes.
    """
    found: set[int] = set()
    for file in maps:
        found |= set(np.unique(read_raster(file).colours()).tolist())
        if len(found) > _MOST and (named is None or not named.colours):
            raise UserError(
                f"{file} and others have more than {_MOST} colours, which are not classes; save the maps as "
                "png without smoothing, or leave --classes out"
            )
    known: dict[int, str] = {}
    if named is not None and named.colours:
        known = {
            int(packed(np.array(c, np.uint8))): name
            for c, name in zip(named.colours, named.names, strict=True)
        }
        proposed.stage.found.append(f"the classes are named by {named.file.name}")
    else:
        proposed.stage.doubts.append(
            "nothing names the colours of the maps, so they are class-1, class-2, ...; name "
            "them under classes:"
        )
    number = 0
    for colour in [*known, *sorted(found - set(known))]:
        number += colour != 0
        own = number if colour else 0
        name = known.get(colour, f"class-{own}" if own else "background")
        proposed.names[own] = _unique(usual(name), proposed.names.values())
        proposed.colours[own] = _hex(unpacked(colour))
    for options in proposed.stage.splits.values():
        options["mask_colours"] = dict(sorted(proposed.colours.items()))


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _name_numbers(
    proposed: ClassProposal, occurring: Sequence[int], named: Named | None, maps: Sequence[Path]
) -> None:
    stage = proposed.stage
    known: dict[int, str] = {}
    where = maps[0].as_posix() if maps else ""
    if named is not None:
        known = named.by_number(occurring)
        stage.found.append(f"the classes are named by {named.file.name}")
    elif where.endswith("_labelIds.png"):
        known = dict(enumerate(CITYSCAPES))
        stage.found.append(
            "the classes are those of Cityscapes' labelIds; those that it does not score are void"
        )
    elif "annot/" in where and max(occurring, default=0) == len(CAMVID) - 1 and 0 in occurring:
        known = dict(enumerate(CAMVID))
        stage.doubts.append("the classes are taken to be those of CamVid; correct classes: if they are not")
    else:
        real = [n for n in occurring if n not in (0, VOID)]
        stage.doubts.append(
            f"nothing names the numbers {', '.join(map(str, real[:8]))}{', ...' if len(real) > 8 else ''} of "
            "the maps, so they are class-1, ...; name them under classes:"
        )
        if 0 in occurring:
            stage.doubts.append("0 is taken as the background; if it is a class, name it under classes:")
    defaults = {0: "background", VOID: "void"}
    for number in sorted({*known, *occurring}):
        if number > VOID:
            continue
        name = usual(known.get(number) or defaults.get(number, f"class-{number}"))
        proposed.names[number] = _unique(name, proposed.names.values())


def _unique(name: str, taken: Iterable[str]) -> str:
    if name in ("background", "void"):
        return name
    other, number = name, 2
    while other in taken:
        other, number = f"{name}-{number}", number + 1
    return other


# ---------------------------------------------------------------- which classes come when


def _plan(proposed: ClassProposal, names: dict[int, str], present: dict[str, NDArray[np.bool_]]) -> None:
    """Put the classes into steps: half of them first, the others in up to three steps.

    Raises:
        UserError: fewer than two classes occur in training maps.
    """
    stage = proposed.stage
    counts = {n: (int(present["train"][:, n].sum()), int(present["test"][:, n].sum())) for n in names}
    for number, (train, test) in counts.items():
        proposed.said[number] = f"in {train} of {len(present['train'])} training and {test} test maps"
    learned = [name for number, name in names.items() if counts[number][0]]
    absent = [name for number, name in names.items() if not counts[number][0]]
    if absent:
        shown = ", ".join(absent[:6]) + (f" and {len(absent) - 6} more" if len(absent) > 6 else "")
        stage.doubts.append(f"no training map has {shown}, so no step adds them")
    if len(learned) < 2:
        what = f"one class ({learned[0]})" if learned else "no class"
        if not learned and present["train"].size:
            occur = np.flatnonzero(present["train"].any(axis=0)).tolist()
            named = [f"{n} ({'background' if n == 0 else 'void' if n == VOID else 'unnamed'})" for n in occur]
            what = f"no class but {' and '.join(named)}"
        raise UserError(
            f"the training maps hold {what}, and a stream of classes needs two; leave --classes out to "
            "learn a stream of domains"
        )
    untested = [name for number, name in names.items() if counts[number][0] and not counts[number][1]]
    if untested:
        stage.doubts.append(f"no test map has {', '.join(untested[:6])}; move the border of part:")
    # A step whose classes have no test images would be scored on nothing.
    learned.sort(key=lambda name: name in untested)
    first = math.ceil(len(learned) / 2)
    rest = learned[first:]
    size = math.ceil(len(rest) / 3)
    proposed.steps = [learned[:first], *(rest[i : i + size] for i in range(0, len(rest), size))]
    stage.doubts.append(
        "which classes come in which step is a guess: half of them first, in the order of their numbers; "
        "edit stages: to what you want to learn when"
    )


# ---------------------------------------------------------------- the text


def class_stream_text(proposed: ClassProposal, name: str, root: str, remarks: Sequence[str]) -> str:
    """The stream file, with a comment on everything that was found or is unsure."""
    stage = proposed.stage
    lines = [
        "# Written by `everseg data init`. Edit it, look at it with `everseg data check`, then learn it with",
        "# `everseg learn`. Every option is explained in docs/data.md, under Streams of classes.",
        *(f"# Note: {printable(remark)}" for remark in remarks),
        *(f"# {printable(sentence)}" for sentence in stage.found),
        *(f"# Unsure: {printable(sentence)}" for sentence in stage.doubts),
        f"name: {as_yaml(printable(name))}",
        f"root: {as_yaml(root)}  # paths below start here",
        "seed: 0",
    ]
    if proposed.names:
        lines.append("classes:  # what the numbers in the maps are; background and void are not classes")
        for number, called in sorted(proposed.names.items()):
            said = proposed.said.get(number)
            lines.append(f"  {number}: {as_yaml(called)}{f'  # {said}' if said else ''}")
    for split, options in stage.splits.items():
        lines += [f"{split}:", *option_lines(options, stage, "  ")]
    lines += [
        "setting: overlapped  # or disjoint, sequential: which images a step may see",
        "stages:  # unsure: which classes come in which step; a class that is not listed is never learned",
    ]
    for number, step in enumerate(proposed.steps):
        own = proposed.apart[number] if proposed.apart else StageProposal(f"step-{number}")
        lines += [f"  # Unsure: {printable(sentence)}" for sentence in own.doubts]
        lines.append(f"  - name: {as_yaml(own.name)}")
        lines.append(f"    classes: [{', '.join(as_yaml(called) for called in step)}]")
        for split, options in own.splits.items():
            lines += [f"    {split}:", *option_lines(options, own, "      ")]
    return "\n".join(lines) + "\n"
