"""Read every file of a stream and report everything that is wrong with it, before any training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everseg.data.described import Described, described
from everseg.data.findings import Finding, counted
from everseg.data.images import orientation
from everseg.data.names import some, twice
from everseg.data.stream import Stream, open_leniently
from everseg.data.views import Severity, View, view_of
from everseg.errors import UserError, printable
from everseg.text import plural
from everseg.types import VOID

OFF_MASK_ERROR = 0.05
"""Share of stored clicks off their masks above which they are an error. Resizing puts under 1 % there."""

FLAT = 24
"""Images whose grey values span less than this are reported: most likely 12-bit data in a 16-bit file."""

TINY = 8
"""Images of which a side has fewer pixels than this are reported: no place of a backbone is smaller."""


@dataclass(frozen=True)
class SplitSummary:
    """Summary of one split. Sizes are (smallest, median, largest), in pixels.

    foreground: mean share of the masks' pixels that belong to an object.
    masks: meaning of the values in their files, in words.
    """

    stage: str
    split: str
    samples: int
    images: int
    width: tuple[int, int, int]
    height: tuple[int, int, int]
    foreground: float
    prompts: str
    masks: str = ""


@dataclass(frozen=True)
class Report:
    """What `check` found. `ok` means no errors; warnings may remain."""

    findings: tuple[Finding, ...]
    splits: tuple[SplitSummary, ...]

    @property
    def ok(self) -> bool:
        return not any(f.severity == "error" for f in self.findings)

    def __str__(self) -> str:
        """A table of the splits and a line for each kind of finding, errors first."""
        name_width = max((len(f"{s.stage}/{s.split}") for s in self.splits), default=5)
        lines = [
            f"{'split':{name_width}}  samples  images  {'width':>16}  {'height':>16}  object  prompts",
        ]
        for s in self.splits:
            name, width, height = (
                f"{s.stage}/{s.split}",
                "/".join(map(str, s.width)),
                "/".join(map(str, s.height)),
            )
            counts = f"{s.samples:7}  {s.images:6}"
            lines.append(
                f"{name:{name_width}}  {counts}  {width:>16}  {height:>16}  {s.foreground:6.1%}  {s.prompts}"
            )
        alike: dict[str, list[str]] = {}
        for s in self.splits:
            alike.setdefault(s.masks, []).append(f"{s.stage}/{s.split}")
        lines += [f"masks of {', '.join(names)}: {masks}" for masks, names in alike.items() if masks]
        lines += counted(sorted(self.findings, key=lambda f: f.severity))
        errors = sum(f.severity == "error" for f in self.findings)
        warnings = len(self.findings) - errors
        lines.append(f"{plural(errors, 'error')}, {plural(warnings, 'warning')}")
        return "\n".join(lines)


@dataclass
class _Split:
    """Notes on one split: the classes of its stage, and how many are known up to it."""

    stage: str
    name: str
    samples: Described[Any]
    classes: tuple[str, ...] = ()
    known: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    prompts: set[str] = field(default_factory=set)
    clicks: int = 0
    off_mask: list[tuple[str, int]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)  # image file -> hash of its decoded pixels
    turned: list[str] = field(default_factory=list)
    around: list[str] = field(default_factory=list)  # image files whose object is all around the rest
    tiny: list[str] = field(default_factory=list)  # image files
    names: list[str] = field(default_factory=list)
    labels: set[int] = field(default_factory=set)
    faulty: bool = False

    def finding(self, severity: Severity, file: str, sentence: str) -> Finding:
        what, _, todo = printable(sentence).partition("; ")
        self.faulty |= severity == "error"
        return Finding(severity, self.stage, self.name, file, what, todo)

    def summary(self) -> SplitSummary:
        heights, widths = ([s[i] for s in self.sizes] or [0] for i in (0, 1))
        return SplitSummary(
            self.stage,
            self.name,
            len(self.samples),
            len(self.files),
            (min(widths), median_low(widths), max(widths)),
            (min(heights), median_low(heights), max(heights)),
            float(np.mean(self.shares)) if self.shares else 0.0,
            ", ".join(sorted(self.prompts)),
            self.samples.masks(),
        )


def check(stream: Stream | str | Path) -> Report:
    """Decode every sample of a stream and report all faults; never stops at the first.

    Given a path, folders that cannot be paired or opened are findings, too, and whatever is readable is still
    read.

    - error: whatever `learn` refuses about data: unreadable files, missing partners, image and mask of
      different size, empty masks, splits without samples, names that two test samples share; also more than
      5 % of a split's stored clicks off their masks; the same pixels in a train and a test split of any
      stages; a stage none of whose pixels is of its classes.
    - warning: masks that cover the whole image or vanish at SAM's resolution, fewer clicks off their masks,
      the same pixels twice in a split, images of nearly one grey or of very few pixels.

    Raises:
        UserError: the stream file itself cannot be understood.
    """
    findings: list[Finding] = []
    if not isinstance(stream, Stream):
        stream, faults = open_leniently(Path(stream))
        findings += [_Split(s, n, described(())).finding("error", "", sentence) for s, n, sentence in faults]
    known = list(accumulate(len(s.classes) for s in stream.stages)) + [0] * len(stream.unseen)
    splits = [
        _Split(stage.name, split, described(samples), stage.classes, known[stage.index])
        for stage, split, samples in stream.splits()
    ]
    view = view_of(stream)
    told = {(finding.stage, finding.split) for finding in findings}
    empty = {(stage.name, name): what for stage, name, what in stream.empty_splits()}
    doubted: set[str] = set()
    for split in splits:
        place = (split.stage, split.name)
        if place in empty and place not in told and split.stage not in stream.gone:
            findings.append(split.finding("error", "", empty[place]))
        findings += [split.finding("warning", "", note) for note in split.samples.notes]
        findings += _read(split, view)
        findings += _clicks_off_mask(split)
        findings += _turned(split)
        partly = [share for share in split.shares if share < 1]  # The others are findings of their own.
        if partly:
            doubts = view.doubts(float(np.mean(partly)))
            findings += [split.finding("warning", "", doubt) for doubt in doubts]
        if split.name == "train":  # A test split may be too small to show everything.
            new = [doubt for doubt in split.samples.doubts() if doubt not in doubted]
            doubted.update(new)  # Stages that share images or classes have the same doubts.
            findings += [split.finding("warning", "", doubt) for doubt in new]
        findings += _inverted(split)
        findings += _tiny(split)
        findings += _duplicates(split)
        findings += _wrong_classes(split)
        if split.samples.names() is None and view.scored_by_name:  # Else they were compared before.
            findings += (split.finding("error", "", sentence) for sentence in twice(split.names, "the split"))
        findings += _unfit_for_fingerprint(split)
    findings += _leaks(splits)
    order = {name: i for i, name in enumerate(dict.fromkeys(s.stage for s in splits))}
    summaries = sorted((s.summary() for s in splits), key=lambda s: order[s.stage])
    return Report(tuple(findings), tuple(summaries))


def _read(split: _Split, view: View) -> Iterator[Finding]:
    """Decode a split, take notes, and yield what is wrong with single samples."""
    for index in range(len(split.samples)):
        file = str(split.samples.file(index))
        try:
            sample = split.samples[index]
        except UserError as error:
            yield split.finding("error", file, str(error))
            continue
        split.labels |= view.labels(sample)
        masks = view.foreground(sample)
        split.sizes.append((masks.shape[1], masks.shape[2]))
        split.shares.append(float(masks.mean()))
        if len(masks) == 1 and _is_around(masks[0]):
            split.around.append(file)
        split.names.append(sample.name)
        split.prompts.add(view.prompts(split.samples, sample))
        if file not in split.files:
            shape = str(tuple(sample.image.shape)).encode()
            split.files[file] = hashlib.sha256(shape + sample.image.numpy().tobytes()).hexdigest()
            if min(sample.image.shape[1:]) < TINY:
                split.tiny.append(file)
            if int(sample.image.max()) - int(sample.image.min()) < FLAT:
                yield split.finding(
                    "warning",
                    file,
                    f"{file} is nearly one grey ({int(sample.image.min())} to {int(sample.image.max())}); "
                    "if it is 12-bit data in a 16-bit file, scale it to the full range",
                )
            if _may_be_turned(split.samples, index, masks.shape[1] == masks.shape[2]):
                split.turned.append(file)
        for severity, sentence in view.faults(sample):
            yield split.finding(severity, file, sentence)
        if (stored := split.samples.stored_clicks(index)) is not None:
            on = stored.on(masks[0])
            split.clicks += len(on)
            if not on.all():
                split.off_mask.append((sample.name, int((~on).sum())))


def _may_be_turned(samples: Described[Any], index: int, square: bool) -> bool:
    """Whether an image is turned by EXIF and its mask is not, where their sizes cannot tell if that is
    right."""
    image, mask = (Path(samples.file(index)), Path(samples.truth_file(index)))
    if samples.as_shown or not image.is_file():  # Painted, or in memory.
        return False
    turn = orientation(image)
    if turn == 1 or (turn > 4 and not square):
        return False
    return not (mask != image and mask.is_file() and orientation(mask) == turn)


def _turned(split: _Split) -> Iterator[Finding]:
    if not split.turned:
        return
    names = some(Path(file).name for file in split.turned)
    yield split.finding(
        "warning",
        split.turned[0],
        f"{len(split.turned)} images are turned by their EXIF orientation and their masks are not ({names}); "
        "see in the contact sheet (--sheet) whether the masks lie on the objects; if not, turn the masks, "
        "too",
    )


def _is_around(mask: NDArray[np.bool_]) -> bool:
    """Whether the object covers most of the image and its whole border, but not everything."""
    border = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    return bool(0.5 <= mask.mean() < 1) and all(side.all() for side in border)


def _inverted(split: _Split) -> Iterator[Finding]:
    """Some masks that are the reverse of the others; whether all are follows from their mean share."""
    if split.classes or not 0 < len(split.around) < len(split.shares):
        return
    yield split.finding(
        "warning",
        split.around[0],
        f"in {len(split.around)} of {len(split.shares)} masks the object is all around the rest, and not in "
        f"the others ({some(Path(file).name for file in split.around)}); if it is the background, correct "
        "these masks or maps",
    )


def _tiny(split: _Split) -> Iterator[Finding]:
    """Images of so few pixels that hardly anything is seen in them."""
    if split.tiny:
        yield split.finding(
            "warning",
            split.tiny[0],
            f"{len(split.tiny)} of {len(split.files)} images are less than {TINY} pixels high or wide "
            f"({some(Path(file).name for file in split.tiny)}); remove them if they are thumbnails or scraps",
        )


def _clicks_off_mask(split: _Split) -> Iterator[Finding]:
    if not split.off_mask:
        return
    count = sum(n for _, n in split.off_mask)
    share = count / split.clicks
    names = ", ".join(name for name, _ in split.off_mask[:3])
    more = f" and {len(split.off_mask) - 3} more" if len(split.off_mask) > 3 else ""
    todo = (
        "they belong to other masks or have x and y swapped; rewrite them with `everseg data points`"
        if share > OFF_MASK_ERROR
        else "resizing masks does that to a few; write them again with `everseg data points` if it matters"
    )
    yield split.finding(
        "error" if share > OFF_MASK_ERROR else "warning",
        split.off_mask[0][0],
        f"{count} of {split.clicks} stored clicks ({share:.2%}) are off their masks ({names}{more}); {todo}",
    )


def _duplicates(split: _Split) -> Iterator[Finding]:
    first: dict[str, str] = {}
    for file, pixels in split.files.items():
        if pixels in first:
            yield split.finding(
                "warning",
                file,
                f"{file} shows the same picture as {first[pixels]}; remove one if that is not intended",
            )
        first.setdefault(pixels, file)


def _wrong_classes(split: _Split) -> Iterator[Finding]:
    """Labels beyond the classes so far, and a stage that would train on background and void alone."""
    if not split.classes or not split.names:
        return
    numbers = sorted(split.labels - {VOID})
    if strange := [number for number in numbers if number > split.known]:
        yield split.finding(
            "error",
            "",
            f"the labels hold {strange[0]}, and there are {split.known} classes up to this stage; correct "
            "the labels or list the class",
        )
    own = range(split.known - len(split.classes) + 1, split.known + 1)
    if split.name == "train" and not split.labels & set(own):
        found = ["background"] * (0 in numbers) + ["void"] * (VOID in split.labels)
        yield split.finding(
            "error",
            "",
            f"no pixel is {' or '.join(split.classes)}, only {' and '.join(found) or 'other classes'}; see "
            "whether the class maps or their list are those of these images",
        )
    if split.name == "train" and len(numbers) == 1 and numbers[0] in own:
        name = split.classes[own.index(numbers[0])]
        yield split.finding(
            "warning",
            "",
            f"every labelled pixel is {name}, which teaches that everything is; see whether the maps are "
            "inverted, or add images that show something else",
        )


def _unfit_for_fingerprint(split: _Split) -> Iterator[Finding]:
    """What hinders `learn` from noting which data it saw, where nothing else does."""
    if split.faulty:
        return
    try:
        split.samples.fingerprint()
    except UserError as error:
        yield split.finding("error", "", str(error))


def _leaks(splits: Sequence[_Split]) -> Iterator[Finding]:
    """Pictures that one split trains on and another, of any stage, tests on or chooses its epoch by."""
    trained: dict[str, tuple[_Split, str]] = {}
    for split in splits:
        if split.name == "train":
            for file, pixels in split.files.items():
                trained.setdefault(pixels, (split, file))
    for split in splits:
        if split.name in ("test", "val"):
            for file, pixels in split.files.items():
                if pixels in trained:
                    source, twin = trained[pixels]
                    taught = f"stage {source.stage!r} trains on"
                    what = f"{file} shows the same picture as {twin}, which {taught}; remove one of them"
                    if file == twin:
                        what = f"{file} is an image that {taught}; take other images"
                    nothing = f"a {split.name} on trained pictures measures nothing"
                    yield split.finding("error", file, f"{what}: {nothing}")
