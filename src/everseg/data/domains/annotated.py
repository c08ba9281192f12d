"""The frame of readers of annotation tools.

To add a format, write a parser that gives `Annotations`, and a reader that calls it: `labelme`, `yolo` and
`cvat` are such files. The same parsers serve streams of classes, see `everseg.data.classes.drawn`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from everseg.data.domains.options import Options, SampleOptions
from everseg.data.domains.prompts import StoredClicks
from everseg.data.samples import PartlyReadable, Samples, take_evenly, take_part
from everseg.errors import UserError, unknown
from everseg.text import plural

Instances = Literal["each", "merged"]
"""Whether "each" object is a sample, or all of an image are "merged" in one."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One object of an image.

    number: number that names the sample.
    parts: parts of the file that draw it: numbers of shapes or lines, or colours.
    """

    number: int
    label: str
    parts: tuple[int, ...]


class Drawable(Protocol):
    """An image and what its class map is drawn from: small and picklable."""

    @property
    def image(self) -> Path: ...

    @property
    def path(self) -> Path:
        """The file of the annotations."""

    def labels(self, numbers: Mapping[str, int]) -> NDArray[np.uint8]:
        """(H, W): the class map, by the number of each label; 0 for others. Raises UserError, naming the
        file."""


class Annotated(Drawable, Protocol):
    """An image and what is annotated on it, drawn when asked; later parts lie above earlier ones."""

    @property
    def name(self) -> str:
        """What the image is called, unique among those of the parser."""

    @property
    def marks(self) -> tuple[Mark, ...]:
        """The objects, in the order of their numbers."""

    def draw(self, parts: Sequence[int]) -> NDArray[np.bool_]:
        """(H, W): the union of some parts. Raises UserError, naming the file."""

    def place(self, part: int) -> str:
        """Where a part stands in its file, for messages."""

    def truth(self, parts: Sequence[int]) -> list[Any]:
        """What decides how some parts are drawn: for fingerprints; see `Entry.truth`."""


A_co = TypeVar("A_co", bound=Drawable, covariant=True)


@dataclass(frozen=True)
class Annotations(Generic[A_co]):
    """Result of a parser.

    source: what was read, for messages.
    names: labels that occur.
    images: annotated images.
    problems: one sentence per file that cannot be used.
    notes, as_shown: see `Described`.
    said: what the masks are, in words.
    """

    source: object
    names: tuple[str, ...]
    images: Sequence[A_co]
    problems: Sequence[str] = ()
    notes: tuple[str, ...] = ()
    said: str = ""
    as_shown: bool = False

    def check(self, categories: Sequence[str] | None) -> None:
        """Raise `UserError` unless all of these are labels here."""
        for name in categories or ():
            if name not in self.names:
                raise unknown(f"label in {self.source}:", name, self.names)


@dataclass(frozen=True, slots=True)
class AnnotatedObject:
    """One object of an image, or all in one: the sample that `annotated` draws of `parts`."""

    annotated: Annotated
    name: str
    parts: tuple[int, ...]
    stored: StoredClicks | None = None

    @property
    def image(self) -> Path:
        return self.annotated.image

    def mask(self) -> NDArray[np.bool_]:
        mask = self.annotated.draw(self.parts)
        if not mask.any():
            raise UserError(
                f"{self.annotated.place(self.parts[0])} covers no pixel of its image; correct or remove it"
            )
        return mask

    def truth(self) -> list[Any]:
        return self.annotated.truth(self.parts)


class AnnotationReader(Samples):
    """Samples of what a parser found: each object, or all of an image merged.

    categories: use only these labels; images without such objects are passed over. Further options: see
        `SampleOptions`.

    Raises:
        PartlyReadable: files cannot be used.
        UserError: an unknown label, or no object at all.
    """

    def __init__(
        self,
        found: Annotations[Any],
        instances: Instances,
        categories: Sequence[str] | None,
        **options: Unpack[SampleOptions],
    ) -> None:
        found.check(categories)
        given = Options(**options)
        wanted = [(one, _wanted(one, categories)) for one in found.images]
        entries: list[AnnotatedObject] = []
        drawn = [(one, marks) for one, marks in wanted if marks]
        for one, marks in take_part(drawn, given.part, found.problems):
            if instances == "merged":
                parts = tuple(part for mark in marks for part in mark.parts)
                entries.append(AnnotatedObject(one, one.name, parts))
            else:
                entries += [AnnotatedObject(one, f"{one.name}#{m.number}", m.parts) for m in marks]
        said = ""
        if found.said:
            files = len({entry.image for entry in entries})
            said = f"{found.said}, {plural(len(entries), 'sample')} in {files} of {len(found.images)} files"
        super().__init__(take_evenly(entries, given.limit), given.rule, said, decoding=given.decoding)
        self.notes, self.as_shown = found.notes, found.as_shown
        if found.problems:
            raise PartlyReadable(found.problems, self[:])
        if not entries:
            raise UserError(f"{found.source} has no object to learn from; add some, or check `categories`")

    def truth_file(self, index: int) -> str:
        entry: Any = self.entries[index]
        return str(entry.annotated.path)


def _wanted(one: Annotated, categories: Sequence[str] | None) -> list[Mark]:
    return [mark for mark in one.marks if categories is None or mark.label in categories]
