"""A stream: stages in the order they are learned, a background stage, and domains that are only tested."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from everseg.data.classes.legend import Classes, Legend
from everseg.data.classes.maps import Labelled
from everseg.data.classes.stages import class_stages, open_class_stages
from everseg.data.classes.steps import ClassSteps, EmptyMaps, UnseenAs
from everseg.data.described import described
from everseg.data.domains.arrays import Arrays, array_samples
from everseg.data.names import refuse_twice
from everseg.data.pile import Opened, PileStage, pile_stages
from everseg.data.readers import kind_and_options, open_samples, parameters, reader
from everseg.data.samples import OnFault, PartlyReadable
from everseg.data.streamfile import (
    BatchSpec,
    ClassStreamSpec,
    PileSpec,
    SplitSpec,
    StageSpec,
    StreamSpec,
    UnseenSpec,
    is_name,
    read_stream_file,
)
from everseg.errors import UserError, unknown
from everseg.files import path_from
from everseg.progress import remark
from everseg.text import plural
from everseg.types import RESERVED, PromptSample, SemanticSample, Setting, Stage


class Fingerprints(NamedTuple):
    """Hex digests of a stage's training data, of its test data, and of both together (the only one in runs of
    earlier versions).
    """

    train: str
    test: str
    both: str

    @classmethod
    def joined(cls, parts: Sequence[Fingerprints]) -> Fingerprints:
        """Of several stages as one."""
        return cls(
            *(hashlib.sha256("|".join(kind).encode()).hexdigest() for kind in zip(*parts, strict=True))
        )


@dataclass(frozen=True, repr=False)
class Stream:
    """Stages to learn in order, and domains that are only tested.

    stages: in order; a background stage, if any, is the last.
    unseen: domains without training samples; their indices continue those of the stages.
    source: file that the stream was read from, or None.
    gone: names of learned stages whose data cannot be opened any more.

    Raises:
        UserError: no stages, a name twice or unfit for a file name, wrong indices, or a split without
            samples.
    """

    stages: tuple[Stage, ...]
    unseen: tuple[Stage, ...] = ()
    name: str = "stream"
    source: Path | None = None
    gone: frozenset[str] = frozenset()
    joint: Stage | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages))
        object.__setattr__(self, "unseen", tuple(self.unseen))
        where = f"{self.source}: " if self.source else ""
        if not any(not s.background for s in self.stages):
            raise UserError(f"{where}the stream has no stages; list at least one under stages:")
        if any(s.background for s in self.stages[:-1]):
            raise UserError(f"{where}the background stage must be the last and the only one")
        seen: set[str] = set()
        for index, stage in enumerate((*self.stages, *self.unseen)):
            if not is_name(stage.name):
                raise UserError(
                    f"{where}stage name {stage.name!r} cannot be a file name on every system; use letters, "
                    "digits, . _ -, no dot at the end, and no name of a device such as con or nul"
                )
            if stage.name in RESERVED:
                raise UserError(
                    f"{where}the stage name {stage.name!r} stands for the untouched base; choose another"
                )
            if stage.name.lower() in seen:
                raise UserError(
                    f"{where}two stages are named {stage.name!r}; names must differ, not only in case"
                )
            seen.add(stage.name.lower())
            if stage.index != index:
                raise UserError(
                    f"{where}stage {stage.name!r} has index {stage.index}, not {index}; number the stages "
                    "from 0, and continue in unseen"
                )
            if (names := described(stage.test).names()) is not None:
                refuse_twice(names, f"{where}stage {stage.name!r}, test")

    def __repr__(self) -> str:
        lines = [f"Stream({self.name!r}) of {plural(len(self.stages), 'stage')}"]
        for index, stage in enumerate((*self.stages, *self.unseen)):
            unseen = index >= len(self.stages)
            kind = " (background)" if stage.background else " (unseen)" if unseen else ""
            lines.append(
                f"  {stage.name}{kind}: {len(stage.train)} training, {plural(len(stage.test), 'test image')}"
            )
        return "\n".join(lines)

    @staticmethod
    def from_yaml(path: str | Path, learned: Sequence[str] = ()) -> Stream:
        """Read a stream file and open its readers; nothing is decoded yet.

        learned: stages whose data are wanted no more. What of them cannot be opened is empty, and `gone`
            names them.

        Raises:
            UserError: anything wrong with the file or with the folders it names, saying where.
        """
        path = Path(path)
        gone: set[str] = set()
        refuse = _refuse(path)

        def forgive(stage: str, split: str, error: UserError) -> Sequence[Any]:
            if stage not in learned:
                return refuse(stage, split, error)
            gone.add(stage)
            return ()

        stream = replace(open_stream(read_stream_file(path), path, forgive), gone=frozenset(gone))
        for stage, split, what in stream.empty_splits():
            if stage.name not in gone:
                raise UserError(f"{path}: stage {stage.name!r}, {split}: {what}")
        for stage, split, samples in stream.splits():
            for note in described(samples).notes:
                remark(f"{stage.name}, {split}: {note}")
        return stream

    @staticmethod
    def of_classes(
        train: Sequence[SemanticSample],
        test: Sequence[SemanticSample],
        steps: str | Sequence[Sequence[str | int]],
        *,
        classes: Classes | None = None,
        order: Sequence[str | int] | None = None,
        setting: Setting = "overlapped",
        unseen_as: UnseenAs = "background",
        empty_maps: EmptyMaps = "skip",
        val: Sequence[SemanticSample] = (),
        name: str = "stream",
    ) -> Stream:
        """A stream of classes from images with class maps whose labels are the numbers in `classes`.

        steps: as "15-1", over `order`, or the classes of each step.
        classes: what the numbers are; the reader's own where None.
        unseen_as: what classes not seen yet are in the test labels.
        empty_maps: "use" also takes images that show no class, as background.
        val: images by which each step chooses its best epoch.

        Raises:
            UserError: a class or number that does not exist, or a split that does not come out even.
        """
        legend = None if classes is None else Legend.of(classes)
        images, scored = Labelled.of(train, legend), Labelled.of(test, legend)
        if isinstance(steps, str):
            plan = ClassSteps.split(steps, images.legend, order)
        else:
            plan = ClassSteps.of(steps, images.legend)
        names = [f"step-{t}" for t in range(len(plan))]
        checked = [Labelled.of(val, legend)] * len(plan) if len(val) else []
        stages, joint = class_stages(
            names, plan, [images] * len(plan), [scored] * len(plan), setting, unseen_as, checked, empty_maps
        )
        return Stream(stages, name=name, joint=joint)

    @staticmethod
    def from_arrays(
        train: Mapping[str, Arrays | None],
        test: Mapping[str, Arrays],
        *,
        val: Mapping[str, Arrays] | None = None,
        background: str | None = None,
        clicks: int = 3,
        box: bool = False,
        seed: int = 0,
        numbered: bool = False,
        name: str = "stream",
    ) -> Stream:
        """A stream of domains from images and masks in memory.

        train: each domain's (images, masks), in the order to learn them; None for a domain that a run has
            learned and whose images are gone. Images are (H, W, 3) or (H, W) uint8 arrays, tensors (3, H, W),
            PIL images or paths; masks are (H, W), or (N, H, W) for N objects: bool, 0 and 1, or 0 and 255. A
            list of (image, mask) pairs, a map-style `Dataset` of torch that gives such pairs, or samples that
            are ready (`PromptSample`) may take the place of both. What a dataset gives is not kept in memory.
        val: the same for domains that choose their best epoch by images of their own.
        test: the same for each domain; those that `train` does not have are only ever tested.
        background: the last domain of `train`, if its images are natural ones (see `Stage`).
        clicks, box, seed, numbered: how objects are prompted and masks read, as in `PromptSample.from_mask`.

        Raises:
            UserError: an image or a mask of another kind, lists of two lengths, or a domain without test
                images.
        """
        for given, what in ((train, "train"), (test, "test"), ({} if val is None else val, "val")):
            if not isinstance(given, Mapping):
                raise UserError(
                    f"{what} is of type {type(given).__name__}; give a dict such as "
                    '{"site-a": (images, masks), "site-b": (images, masks)}'
                )
        if not train:
            raise UserError("train has no domains; give at least one")
        for domain in train:
            if domain not in test:
                raise UserError(f"train has the domain {domain!r} and test does not; give it test images")
        for domain in val or ():
            if train.get(domain) is None or domain == background:
                raise UserError(f"val has the domain {domain!r}, on which nothing is trained; remove it")
        if background is not None and background not in train:
            raise unknown("background", background, train)

        def opened(domain: str, split: str, given: Arrays) -> Sequence[PromptSample]:
            what = f"{split}[{domain!r}]"
            return array_samples(given, what, clicks=clicks, box=box, seed=seed, numbered=numbered)

        domains = [*train, *(domain for domain in test if domain not in train)]
        stages = [
            Stage(
                index,
                domain,
                () if (images := train.get(domain)) is None else opened(domain, "train", images),
                opened(domain, "test", test[domain]),
                background=domain == background,
                val=opened(domain, "val", val[domain]) if val and domain in val else (),
            )
            for index, domain in enumerate(domains)
        ]
        gone = frozenset(domain for domain, images in train.items() if images is None)
        return Stream(tuple(stages[: len(train)]), tuple(stages[len(train) :]), name, gone=gone)

    def fingerprints(self, stage: Stage) -> Fingerprints:
        """What a stage's data are: file names, contents, prompts and options. Validation images count as
        training data.

        They do not depend on where files lie, so a stream may be moved. Any sequence that does not tell its
        own fingerprint is decoded and hashed.
        """
        train, test = (described(samples).fingerprint() for samples in (stage.train, stage.test))
        if len(stage.val):
            train = hashlib.sha256(f"{train}|{described(stage.val).fingerprint()}".encode()).hexdigest()
        return Fingerprints(train, test, hashlib.sha256(f"{train}|{test}".encode()).hexdigest())

    def fingerprint(self, stage: Stage) -> str:
        """One hex digest of a stage's training and test data; see `fingerprints`."""
        return self.fingerprints(stage).both

    def splits(self) -> Iterator[tuple[Stage, str, Sequence[Any]]]:
        """Every split: (stage, "train", "val" or "test", samples), what is trained on first."""
        for stage in self.stages:
            yield stage, "train", stage.train
            if len(stage.val):
                yield stage, "val", stage.val
        for stage in (*self.stages, *self.unseen):
            yield stage, "test", stage.test

    def empty_splits(self) -> Iterator[tuple[Stage, str, str]]:
        """Stages without training or test samples: (stage, split, sentence)."""
        for stage, split, samples in self.splits():
            if not len(samples):
                what = "there are no samples; check its options"
                if stage.classes:
                    what = f"no image has one of {', '.join(stage.classes)}; check its options"
                yield stage, split, what


def open_stream(spec: StreamSpec | PileSpec | ClassStreamSpec, path: Path, on_fault: OnFault) -> Stream:
    """Open every split of a checked stream file; `on_fault` decides what becomes of those that fail."""
    root = path_from(path.parent, spec.root, f"{path}: root")
    if isinstance(spec, ClassStreamSpec):
        try:
            of_classes, joint = open_class_stages(spec, root, on_fault, path.parent)
        except UserError as error:
            raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from error
        return Stream(of_classes, (), spec.name or path.stem, path, joint=joint)

    def opened(stage: StageSpec | UnseenSpec, split: str) -> Sequence[Any]:
        try:
            found = _open_split(getattr(stage, split), split, stage, spec, root, path.parent)
            if split == "val" and not len(found):
                raise UserError("there are no samples; check its options")
            return found
        except UserError as error:
            return on_fault(stage.name, split, error)

    learned: list[StageSpec] = [spec.background] if spec.background else []
    found: list[PileStage] = []
    if isinstance(spec, PileSpec):
        found = pile_stages(spec, path, open_batches(spec, path), on_fault)
    elif not spec.stages:
        raise UserError(f"{path}: the stream has no stages; list at least one under stages:")
    else:
        learned = [*spec.stages, *learned]
    discovered = [Stage(i, s.name, s.train, s.test, later_of=s.later_of) for i, s in enumerate(found)]
    stages = (
        *discovered,
        *(
            Stage(
                i,
                s.name,
                opened(s, "train"),
                opened(s, "test"),
                background=s is spec.background,
                val=() if s.val is None else opened(s, "val"),
                later_of=s.later_of or "",
            )
            for i, s in enumerate(learned, len(discovered))
        ),
    )
    unseen = tuple(Stage(len(stages) + i, s.name, (), opened(s, "test")) for i, s in enumerate(spec.unseen))
    return Stream(stages, unseen, spec.name or path.stem, path)


def open_batches(spec: PileSpec, path: Path) -> Opened:
    """What opens a split of a batch of a stream file whose domains are discovered."""
    root = path_from(path.parent, spec.root, f"{path}: root")

    def opened(batch: BatchSpec, split: str) -> Sequence[Any]:
        try:
            return _open_split(getattr(batch, split), split, batch, spec, root, path.parent)
        except UserError as error:
            raise UserError(f"{path}: batch {batch.name!r}, {split}: {error}") from error

    return opened


def _open_split(
    given: SplitSpec,
    split: str,
    stage: StageSpec | UnseenSpec | BatchSpec,
    spec: StreamSpec | PileSpec,
    root: Path,
    beside: Path,
) -> Sequence[Any]:
    kind, options = kind_and_options(given)
    for key in stage.given():
        known = parameters(kind, reader(kind, beside=beside))
        if known is not None and key not in known:
            raise UserError(f"kind {kind!r} has no option {key!r}, which the stage gives; remove it")
    defaults: dict[str, Any] = {"seed": spec.seed, "split": split}
    said = stage.given()
    if _OBJECT & set(options):  # What the split says goes before what its stage says, in whichever form.
        said = {key: value for key, value in said.items() if key not in _OBJECT}
    if spec.mask_threshold is not None and not _OBJECT & {*said, *options}:
        defaults["mask_threshold"] = spec.mask_threshold
    return open_samples(kind, {**said, **options}, defaults, root, beside=beside)


_OBJECT = {"mask_threshold", "mask_values", "mask_colours"}
"""Options that say what the object is: one of them decides."""


def _refuse(path: Path) -> OnFault:
    def refuse(stage: str, split: str, error: UserError) -> Sequence[Any]:
        raise UserError(f"{path}: stage {stage!r}, {split}: {error}") from error

    return refuse


def open_leniently(path: Path) -> tuple[Stream, list[tuple[str, str, str]]]:
    """A stream with whatever of it can be opened, and (stage, split, sentence) for what cannot.

    Raises:
        UserError: the stream file itself is wrong.
    """
    faults: list[tuple[str, str, str]] = []

    def note(stage: str, split: str, error: UserError) -> Sequence[Any]:
        if isinstance(error, PartlyReadable):
            faults.extend((stage, split, problem) for problem in error.problems)
            return error.rest
        faults.append((stage, split, str(error)))
        return ()

    return open_stream(read_stream_file(path), path, note), faults
