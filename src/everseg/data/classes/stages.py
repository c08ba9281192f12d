"""The stages of a stream of classes: the images of each step, and the labels that it may see."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from everseg.data.classes.legend import Classes, Legend
from everseg.data.classes.maps import CLASS_READERS, Labelled
from everseg.data.classes.steps import ClassSteps, EmptyMaps, LabelTable, UnseenAs, without_class
from everseg.data.described import Described, described
from everseg.data.readers import kind_and_options, open_samples
from everseg.data.samples import OnFault, PartlyReadable
from everseg.data.streamfile import ClassStreamSpec, SplitSpec
from everseg.errors import UserError
from everseg.types import SemanticSample, Setting, Stage


class ClassSamples(Described[SemanticSample]):
    """Some images of a source, with the labels that one step sees.

    source: samples with the labels of the files.
    places: (N,), indices into the source.
    table: maps numbers to channels.
    """

    def __init__(self, source: Labelled, places: NDArray[np.intp], table: LabelTable) -> None:
        self.source, self.places, self.table = source, places, table
        told = described(source.samples)
        self.notes, self.as_shown = told.notes, told.as_shown

    def presence(self) -> NDArray[np.bool_]:
        return self.table.channels(self.source.present[self.places])

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} of {self.source.samples!r})"

    @overload
    def __getitem__(self, index: int) -> SemanticSample: ...
    @overload
    def __getitem__(self, index: slice) -> ClassSamples: ...
    def __getitem__(self, index: int | slice) -> SemanticSample | ClassSamples:
        """Decode one sample, or take a slice without decoding.

        Raises:
            UserError: a file is unreadable, or the sizes of image and class map differ.
        """
        if isinstance(index, slice):
            return ClassSamples(self.source, self.places[index], self.table)
        raw = self.source.samples[int(self.places[index])]
        return SemanticSample(raw.image, self.table(raw.labels), raw.name, raw.key)

    def file(self, index: int) -> str:
        return str(described(self.source.samples).file(int(self.places[index])))

    def truth_file(self, index: int) -> str:
        return str(described(self.source.samples).truth_file(int(self.places[index])))

    def masks(self) -> str:
        return self.source.masks()

    def doubts(self) -> list[str]:
        return self.source.doubts()

    def image_name(self, index: int) -> str:
        return described(self.source.samples).image_name(int(self.places[index]))

    def names(self) -> list[str] | None:
        names = described(self.source.samples).names()
        return None if names is None else [names[place] for place in self.places.tolist()]

    def fingerprint(self) -> str:
        """Hash names, contents of images and maps, and the table."""
        digest, told = hashlib.sha256(self.table.values), described(self.source.samples)
        for place in self.places:
            digest.update(json.dumps(told.content(int(place))).encode() + b"\n")
        return digest.hexdigest()


class Together(Described[SemanticSample]):
    """The samples of several sources, one after the other."""

    def __init__(self, parts: Sequence[ClassSamples]) -> None:
        self.parts = tuple(parts)
        self.notes = tuple(dict.fromkeys(note for part in self.parts for note in part.notes))
        self.as_shown = all(part.as_shown for part in self.parts)
        self.ends = np.cumsum([0, *(len(part) for part in self.parts)])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def presence(self) -> NDArray[np.bool_]:
        return np.concatenate([np.zeros((0, 256), bool), *(part.presence() for part in self.parts)])

    @overload
    def __getitem__(self, index: int) -> SemanticSample: ...
    @overload
    def __getitem__(self, index: slice) -> Together: ...
    def __getitem__(self, index: int | slice) -> SemanticSample | Together:
        """Decode one sample, or take a slice, which must go forward, without decoding."""
        if isinstance(index, slice):
            chosen = np.arange(len(self))[index]
            owner = np.searchsorted(self.ends, chosen, side="right") - 1
            parts = [
                ClassSamples(part.source, part.places[chosen[owner == i] - self.ends[i]], part.table)
                for i, part in enumerate(self.parts)
            ]
            return Together(parts)
        part, place = self._find(index)
        return part[place]

    def file(self, index: int) -> str:
        part, place = self._find(index)
        return part.file(place)

    def truth_file(self, index: int) -> str:
        part, place = self._find(index)
        return part.truth_file(place)

    def masks(self) -> str:
        return "; ".join(dict.fromkeys(part.masks() for part in self.parts))

    def doubts(self) -> list[str]:
        return list(dict.fromkeys(doubt for part in self.parts for doubt in part.doubts()))

    def image_name(self, index: int) -> str:
        part, place = self._find(index)
        return part.image_name(place)

    def _find(self, index: int) -> tuple[ClassSamples, int]:
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        which = int(np.searchsorted(self.ends, place, side="right")) - 1
        return self.parts[which], place - int(self.ends[which])

    def fingerprint(self) -> str:
        """Hash the fingerprints of the sources."""
        return hashlib.sha256("|".join(part.fingerprint() for part in self.parts).encode()).hexdigest()


def class_stages(
    names: Sequence[str],
    steps: ClassSteps,
    train: Sequence[Labelled | None],
    test: Sequence[Labelled | None],
    setting: Setting,
    unseen_as: UnseenAs,
    val: Sequence[Labelled | None] = (),
    empty_maps: EmptyMaps = "skip",
) -> tuple[tuple[Stage, ...], Stage]:
    """The stages of a stream of classes, and all of them as one with every label.

    train, test: where each stage's images come from; many stages may share one source. None stands for what
        is there no more. After a stage all test images so far are scored.
    val: the same for each stage's own validation images, which are labelled as the test images are.
    empty_maps: "use" gives a stage the images of its source that show no class, as background, and scores
        those for testing. Where an image comes in one stage only, the first that has the source gets them.

    Raises:
        UserError: a source does not name a class that it is to give.
    """
    stages, empty = [], empty_maps == "use"
    for t, (name, classes) in enumerate(zip(names, steps.steps, strict=True)):
        learned: list[ClassSamples] = []
        own = val[t] if val else None
        for split, source in (("train", train[t]), ("test", test[t]), ("val", own)):
            if source is not None:
                source.legend.check(classes, f"stage {name!r}, {split}: ")
        if (source := train[t]) is not None:
            own_empty = empty and (setting == "overlapped" or source not in train[:t])
            places = steps.train_images(t, source.present, source.legend, setting, empty=own_empty)
            learned = [ClassSamples(source, places, steps.train_table(t, source.legend, setting))]
            _note_skipped(learned[0], source, train[:t], empty)
            _note_lacking(learned[0], steps, t, "so it cannot be learned; add images that show it")
        checked = () if own is None else _seen([own] * (t + 1), steps, t, unseen_as, empty)
        if own is not None and not len(checked):
            named = ", ".join(steps.seen(t))
            raise UserError(f"stage {name!r}, val: no image has one of {named}; check its options")
        tested = _seen(test, steps, t, unseen_as, empty)
        _note_skipped(tested, test[t], test[:t], empty)
        _note_lacking(tested, steps, t, "so its score will mean nothing; add test images that show it")
        stages.append(Stage(t, name, _joined(learned), tested, classes, val=checked))
    last = len(steps) - 1
    everything = _seen(train, steps, last, "background", empty)
    tested = _seen(test, steps, last, unseen_as, empty)
    checked = _seen(val, steps, last, unseen_as, empty) if val else ()
    return tuple(stages), Stage(0, "all-classes", everything, tested, steps.seen(last), val=checked)


def _note_lacking(samples: ClassSamples | Together, steps: ClassSteps, t: int, then: str) -> None:
    """Note which classes of step t occur in no map, where there are maps."""
    occurs = np.asarray(samples.presence().any(axis=0))
    lacking = [name for name in steps.steps[t] if not occurs[steps.seen(t).index(name) + 1]]
    if lacking and len(samples):
        samples.notes = (*samples.notes, f"no class map shows {' or '.join(lacking)}, {then}")


def _note_skipped(
    samples: ClassSamples | Together,
    source: Labelled | None,
    before: Sequence[Labelled | None],
    empty: bool,
) -> None:
    """Note once how many images of a source are left out because they show no class."""
    if source is None or source in before or empty:
        return
    if count := int(without_class(source.present, source.legend).sum()):
        images, show, are = ("image", "shows", "is") if count == 1 else ("images", "show", "are")
        told = (
            f"{count} {images} {show} no class and {are} left out; empty_maps: use takes them as background"
        )
        samples.notes = (*samples.notes, told)


def _seen(
    sources: Sequence[Labelled | None], steps: ClassSteps, t: int, unseen_as: UnseenAs, empty: bool
) -> ClassSamples | Together:
    """All images of the sources up to step t that have a class seen so far, with the labels of all those, and
    images of no class if `empty`."""
    return _joined(
        [
            ClassSamples(
                source,
                steps.test_images(t, source.present, source.legend, empty=empty),
                steps.test_table(t, source.legend, unseen_as),
            )
            for source in dict.fromkeys(sources[: t + 1])
            if source is not None
        ]
    )


def _joined(parts: Sequence[ClassSamples]) -> ClassSamples | Together:
    return parts[0] if len(parts) == 1 else Together(parts)


def open_class_stages(
    spec: ClassStreamSpec, root: Path, on_fault: OnFault, beside: Path
) -> tuple[tuple[Stage, ...], Stage]:
    """Open what a checked stream file of classes names; `on_fault` decides what becomes of what fails.

    Raises:
        UserError: steps or classes that do not exist, and what `on_fault` raises.
    """
    legend = None if spec.classes is None else Legend.of(spec.classes, root)
    sources = _Sources(legend, root, spec.seed, on_fault, beside)
    if spec.steps:
        assert spec.train is not None and spec.test is not None, "checked when the file was read"
        known = legend or sources.legend_of(spec.train) or sources.legend_of(spec.test)
        if known is None:
            raise sources.fault(spec.train)
        steps = ClassSteps.split(spec.steps, known, spec.order)
        names = [f"step-{t}" for t in range(len(steps))]
        given = [(name, spec.train, spec.test, spec.val) for name in names]
    else:
        names = [s.name for s in spec.stages]
        given = [
            (s.name, s.train or spec.train or {}, s.test or spec.test or {}, s.val or spec.val)
            for s in spec.stages
        ]
    train = [sources.open(split, name, "train") for name, split, _, _ in given]
    test = [sources.open(split, name, "test") for name, _, split, _ in given]
    val = [None if split is None else sources.open(split, name, "val") for name, _, _, split in given]
    if not spec.steps:
        legends = [legend if source is None else source.legend for source in train]
        listed = zip(spec.stages, legends, strict=True)
        steps = _steps([(s.name, tuple(_named(c, known, s.name) for c in s.classes)) for s, known in listed])
        train = _aware(train)
    return class_stages(names, steps, train, test, spec.setting, spec.unseen_as, val, spec.empty_maps)


def _steps(listed: Sequence[tuple[str, tuple[str, ...]]]) -> ClassSteps:
    """The steps of stages, by their names, which `ClassSteps` does not know when it reports mistakes."""
    first: dict[str, str] = {}
    for stage, classes in listed:
        if not classes:
            raise UserError(f"stage {stage!r} adds no classes; list at least one or remove the stage")
        for name in classes:
            if name in first:
                where = f"stage {stage!r} twice" if first[name] == stage else f"{first[name]!r} and {stage!r}"
                raise UserError(f"class {name!r} is in {where}; keep it in one stage")
            first[name] = stage
    return ClassSteps(tuple(classes for _, classes in listed))


def _aware(sources: Sequence[Labelled | None]) -> list[Labelled | None]:
    """The same sources; each knows which numbers occur in those that have the same legend."""
    different = list(dict.fromkeys(source for source in sources if source is not None))
    aware: dict[Labelled, Labelled] = {}
    for one in different:
        same = [other.present.any(axis=0) for other in different if other.legend == one.legend]
        aware[one] = replace(one, elsewhere=np.any(same, axis=0))
    return [None if source is None else aware[source] for source in sources]


def _named(given: str | int, legend: Legend | None, stage: str) -> str:
    place = f"stage {stage!r}: "
    if legend is not None:
        return legend.name(given, place)
    if isinstance(given, int):
        raise UserError(f"{place}the class number {given} has no name now that the images are gone; name it")
    return given


class _Sources:
    """Opens each source once, however many stages share it, and tells of its faults for each stage."""

    def __init__(self, legend: Legend | None, root: Path, seed: int, on_fault: OnFault, beside: Path) -> None:
        self.legend, self.root, self.seed, self.on_fault = legend, root, seed, on_fault
        self.beside = beside
        self.opened: dict[str, Labelled | UserError] = {}

    def open(self, given: SplitSpec, stage: str, split: str) -> Labelled | None:
        """The source, or what `on_fault` continues with; None if that is nothing."""
        while isinstance(found := self._found(given), UserError):
            rest = self.on_fault(stage, split, found)
            if not len(rest):
                return None
            self.opened[_key(given)] = _attempt(partial(Labelled.of, rest, self._legend(given)))
        return found

    def legend_of(self, given: SplitSpec) -> Legend | None:
        """What the numbers of a source are, if it can be opened."""
        found = self._found(given)
        if isinstance(found, PartlyReadable):
            return self._legend(given) or described(found.rest).legend
        return None if isinstance(found, UserError) else found.legend

    def fault(self, given: SplitSpec) -> UserError:
        found = self._found(given)
        assert isinstance(found, UserError)
        return found

    def _found(self, given: SplitSpec) -> Labelled | UserError:
        key = _key(given)
        if key not in self.opened:
            self.opened[key] = _attempt(partial(self._read, given))
        return self.opened[key]

    def _legend(self, given: SplitSpec) -> Legend | None:
        own = given.get("classes") if isinstance(given, dict) else None
        return self.legend if own is None else Legend.of(_checked_classes(own), self.root)

    def _read(self, given: SplitSpec) -> Labelled:
        kind, options = kind_and_options(given)
        legend = self._legend(given)
        options.pop("classes", None)
        samples = open_samples(kind, options, {"seed": self.seed}, self.root, CLASS_READERS, self.beside)
        if not len(samples):
            raise UserError("there are no samples; check its options")
        return Labelled.of(samples, legend)


def _key(given: SplitSpec) -> str:
    return json.dumps(given, sort_keys=True, default=str)


def _attempt(read: Callable[[], Labelled]) -> Labelled | UserError:
    try:
        return read()
    except UserError as error:
        return error


def _checked_classes(given: Any) -> Classes:
    try:
        return TypeAdapter(Classes).validate_python(given, strict=True)
    except ValidationError as error:
        raise UserError(
            f"classes is {given!r}; write a list of names, a mapping such as {{1: cat}}, a file, or voc"
        ) from error
