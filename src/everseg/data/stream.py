"""A stream: stages in the order they are learned, the background that is none of them, and domains never
learned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from everseg.data.classes.legend import Classes, Legend
from everseg.data.classes.maps import Labelled
from everseg.data.classes.stages import class_stages, open_class_stages
from everseg.data.classes.steps import ClassSteps, UnseenAs
from everseg.data.described import described
from everseg.data.domains.arrays import Arrays, array_samples
from everseg.data.readers import kind_and_options, open_samples, parameters, reader
from everseg.data.samples import OnFault, PartlyReadable
from everseg.data.streamfile import (
    ClassStreamSpec,
    SplitSpec,
    StageSpec,
    StreamSpec,
    UnseenSpec,
    is_name,
    read_stream_file,
)
from everseg.errors import UserError, unknown
from everseg.types import PLAIN, PromptSample, SemanticSample, Setting, Stage


@dataclass(frozen=True)
class Stream:
    """Stages to learn in order, and domains only ever tested.

    stages: in order; a background stage, if any, is the last. unseen: train is empty. Indices count on
        through both.
    source: the file it was read from, or None. gone: stages whose data, learned before, cannot be opened any
    more.

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
            if stage.name == PLAIN:
                raise UserError(
                    f"{where}the stage name {PLAIN!r} stands for the untouched base; choose another"
                )
            if stage.name.lower() in seen:
                raise UserError(
                    f"{where}two stages are named {stage.name!r}; names must differ, not only in case"
                )
            seen.add(stage.name.lower())
            if stage.index != index:
                raise UserError(
                    f"{where}stage {stage.name!r} has index {stage.index}, not {index}; count on into unseen"
                )

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
        splits = [(s, "train", s.train) for s in stream.stages]
        splits += [(s, "test", s.test) for s in (*stream.stages, *stream.unseen)]
        for stage, split, samples in splits:
            if not len(samples) and stage.name not in gone:
                what = "there are no samples; check its options"
                if stage.classes:
                    what = f"no image has one of {', '.join(stage.classes)}; check its options"
                raise UserError(f"{path}: stage {stage.name!r}, {split}: {what}")
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
        name: str = "stream",
    ) -> Stream:
        """A stream of classes from images with class maps whose labels are the numbers in `classes`.

        steps: as "15-1", over `order`, or the classes of each step. classes: what the numbers are; the
        reader's own where None. unseen_as: what classes not seen yet are in the test labels.

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
        stages, joint = class_stages(
            names, plan, [images] * len(plan), [scored] * len(plan), setting, unseen_as
        )
        return Stream(stages, name=name, joint=joint)

    @staticmethod
    def from_arrays(
        train: Mapping[str, Arrays | None],
        test: Mapping[str, Arrays],
        *,
        background: str | None = None,
        clicks: int = 3,
        box: bool = False,
        seed: int = 0,
        numbered: bool = False,
        name: str = "stream",
    ) -> Stream:
        """A stream of domains from images and masks in memory.

        train: each domain's (images, masks), in the order to learn them; None for a domain that a run has
        learned and whose images are gone. Images are (H, W, 3) or (H, W) uint8 arrays, tensors (3, H, W), PIL
        images or paths; masks are (H, W), or (N, H, W) for N objects: bool, 0 and 1, or 0 and 255. A list of
        (image, mask) pairs, a map-style `Dataset` of torch that gives such pairs, or samples that are ready
        (`PromptSample`) may take the place of both. What a dataset gives is not kept in memory.
        test: the same for each domain; those that `train` does not have are only ever tested.
        background: the last domain of `train`, if its images are natural ones (see `Stage`).
        clicks, box, seed, numbered: how objects are prompted and masks read, as in `PromptSample.from_mask`.

        Raises:
            UserError: an image or a mask of another kind, lists of two lengths, or a domain without test
                images.
        """
        for given, what in ((train, "train"), (test, "test")):
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
            )
            for index, domain in enumerate(domains)
        ]
        gone = frozenset(domain for domain, images in train.items() if images is None)
        return Stream(tuple(stages[: len(train)]), tuple(stages[len(train) :]), name, gone=gone)

    def fingerprint(self, stage: Stage) -> str:
        """Hex digest of what a stage's data are: file names, contents, prompts and options, of train and
        test.

        It does not depend on where files lie, so a stream may be moved. Any sequence that does not tell its
        own fingerprint is decoded and hashed.
        """
        train, test = (described(samples).fingerprint() for samples in (stage.train, stage.test))
        return hashlib.sha256(f"{train}|{test}".encode()).hexdigest()


def open_stream(spec: StreamSpec | ClassStreamSpec, path: Path, on_fault: OnFault) -> Stream:
    """Open every split of a checked stream file; `on_fault` decides what becomes of those that fail."""
    root = path.parent / Path(spec.root).expanduser()
    if isinstance(spec, ClassStreamSpec):
        try:
            of_classes, joint = open_class_stages(spec, root, on_fault, path.parent)
        except UserError as error:
            raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from error
        return Stream(of_classes, (), spec.name or path.stem, path, joint=joint)

    def opened(stage: StageSpec | UnseenSpec, split: str) -> Sequence[Any]:
        try:
            return _open_split(getattr(stage, split), split, stage, spec, root, path.parent)
        except UserError as error:
            return on_fault(stage.name, split, error)

    learned = [*spec.stages, *([spec.background] if spec.background else [])]
    if not spec.stages:
        raise UserError(f"{path}: the stream has no stages; list at least one under stages:")
    stages = tuple(
        Stage(i, s.name, opened(s, "train"), opened(s, "test"), background=s is spec.background)
        for i, s in enumerate(learned)
    )
    unseen = tuple(Stage(len(stages) + i, s.name, (), opened(s, "test")) for i, s in enumerate(spec.unseen))
    return Stream(stages, unseen, spec.name or path.stem, path)


def _open_split(
    given: SplitSpec, split: str, stage: StageSpec | UnseenSpec, spec: StreamSpec, root: Path, beside: Path
) -> Sequence[Any]:
    kind, options = kind_and_options(given)
    for key in stage.given():
        known = parameters(reader(kind, beside=beside))
        if known is not None and key not in known:
            raise UserError(f"kind {kind!r} has no option {key!r}, which the stage gives; remove it")
    defaults: dict[str, Any] = {"seed": spec.seed, "split": split}
    if spec.mask_threshold is not None:
        defaults["mask_threshold"] = spec.mask_threshold
    return open_samples(kind, {**stage.given(), **options}, defaults, root, beside=beside)


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
