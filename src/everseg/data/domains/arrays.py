"""Samples from images and masks in memory."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from everseg.data.described import Described, Plain
from everseg.data.images import decode_image, read_file
from everseg.data.maskrule import mask_rule
from everseg.data.masks import Meaning
from everseg.data.meaning import ALL, settled
from everseg.data.names import refuse_twice, sample_names
from everseg.data.numbers import read_labels
from everseg.data.samples import take_evenly
from everseg.errors import UserError
from everseg.text import plural
from everseg.types import Prompts, PromptSample


@runtime_checkable
class Indexed(Protocol):
    """What gives its items by their places, as a map-style `Dataset` of torch does."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


Arrays = tuple[Iterable[Any], Iterable[Any]] | Iterable[PromptSample] | Iterable[tuple[Any, Any]] | Indexed
"""A split: images and as many masks, (image, mask) pairs, or samples that are ready."""


def array_samples(
    given: Arrays, what: str, *, clicks: int = 3, box: bool = False, seed: int = 0, numbered: bool = False
) -> Sequence[PromptSample]:
    """One sample for each object of `given`, named by its image's place or file; with `#n` for the nth of
    several. Arrays are copied, and files are read at once. What is neither a list, a tuple nor an array, such
    as a `Dataset` of torch, is asked for its items each time they are needed; a reader is taken as it is.

    what: names the split in messages. The other arguments are as in `PromptSample.from_mask`.

    Raises:
        UserError: not images and as many masks, or one of them is wrong; says which.
    """
    drawn = _Drawn(what, clicks, box, seed, numbered)
    if isinstance(given, Described):
        return given
    whole = isinstance(given, list | tuple | str | Mapping | np.ndarray | Tensor)
    if isinstance(given, Indexed) and not whole:
        if not len(given):
            raise UserError(f"{what} has no images; give at least one")
        ready: Any = given
        first = ready[0]
        return Plain(ready) if isinstance(first, PromptSample) else PairSamples(given, drawn, first)
    parts = _listed(given, what)
    if parts and all(isinstance(part, PromptSample) for part in parts):
        return tuple(parts)
    images, masks = _pairs(given, parts, what)
    if not images:
        raise UserError(f"{what} has no images; give at least one")
    names = _names(images)
    refuse_twice(names, what)
    drawn = drawn.knowing(masks)
    each = zip(images, masks, names, strict=True)
    return tuple(one for image, mask, name in each for one in _objects(drawn.sample(image, mask, name)))


def _pairs(given: Any, parts: list[Any], what: str) -> tuple[list[Any], list[Any]]:
    """Images and masks, of which there are as many.

    A tuple of two is (images, masks). So is a list of two whose items are not tuples.
    """
    paired = all(isinstance(part, tuple | list) and len(part) == 2 for part in parts)
    if paired and parts and not isinstance(given, tuple):
        if len(parts) != 2 or all(isinstance(part, tuple) for part in parts):
            return [image for image, _ in parts], [mask for _, mask in parts]
    if len(parts) != 2:
        raise UserError(
            f"{what} has {len(parts)} parts; give (images, masks), a list of (image, mask) pairs, or a "
            "list of PromptSample"
        )
    if isinstance(parts[1], np.ndarray | Tensor) and parts[1].ndim < 3:
        raise UserError(f"{what} is a single mask; give lists, also for one image: ([image], [mask])")
    images, masks = (
        _listed(part, f"{what}, {of}") for part, of in zip(parts, ("images", "masks"), strict=True)
    )
    if len(images) != len(masks):
        raise UserError(
            f"{what} has {plural(len(images), 'image')} and {plural(len(masks), 'mask')}; give one "
            "mask per image"
        )
    return images, masks


@dataclass(frozen=True)
class _Drawn:
    """How a split's samples are made of an image and its mask; `what` names the split in messages.

    meaning: that of the split's mask files, if there are any.
    """

    what: str
    clicks: int
    box: bool
    seed: int
    numbered: bool
    meaning: Meaning | None = None

    def knowing(self, masks: Iterable[Any]) -> _Drawn:
        """With the meaning of those of the masks that are files."""
        files = [Path(mask) for mask in masks if isinstance(mask, str | Path)]
        return self if self.numbered or not files else replace(self, meaning=settled(files, mask_rule()))

    def sample(self, image: Any, mask: Any, name: str) -> PromptSample:
        if isinstance(image, str | Path):
            image = decode_image(read_file(Path(image)), Path(image))
        if isinstance(mask, str | Path):
            mask = self._read(Path(mask))
        options: dict[str, Any] = {"clicks": self.clicks, "box": self.box, "seed": self.seed}
        try:
            return PromptSample.from_mask(image, mask, **options, numbered=self.numbered, name=name)
        except UserError as error:
            raise UserError(f"{self.what}: {error}") from error

    def _read(self, mask: Path) -> NDArray[Any]:
        if self.numbered:
            return read_labels(mask)
        if self.meaning is None:
            raise UserError(
                f"{self.what}: the mask {mask} is a file, but the first one is not; give all masks as "
                "files or all as arrays"
            )
        return self.meaning.mask(mask)


class PairSamples(Described[PromptSample]):
    """The (image, mask) pairs of a `Dataset` of torch, or of anything that gives them by their places; each
    is asked for when it is needed. A mask of several objects stays one sample.

    first: the first pair, so that what is not a pair is refused at once.

    Raises:
        UserError: the first item is not a pair of an image and a mask.
    """

    def __init__(self, source: Indexed, drawn: _Drawn, first: Any) -> None:
        self.source, self.drawn, self.places = source, drawn, range(len(source))
        if isinstance(self._pair(first, 0)[1], str | Path):
            some = take_evenly(self.places, ALL)  # The others are held to what these mean.
            self.drawn = drawn.knowing([self._pair(source[i], i)[1] for i in some])
        self._sample(first, 0)

    def __len__(self) -> int:
        return len(self.places)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} of {type(self.source).__name__})"

    @overload
    def __getitem__(self, index: int) -> PromptSample: ...
    @overload
    def __getitem__(self, index: slice) -> PairSamples: ...
    def __getitem__(self, index: int | slice) -> PromptSample | PairSamples:
        """One sample, or a slice for which nothing is asked.

        Raises:
            UserError: what the source gives is not a pair of an image and a mask.
        """
        if isinstance(index, slice):
            part = copy.copy(self)
            part.places = self.places[index]
            return part
        place = self.places[index]
        return self._sample(self.source[place], place)

    def _sample(self, given: Any, place: int) -> PromptSample:
        image, mask = self._pair(given, place)
        named = isinstance(image, str | Path)
        return self.drawn.sample(image, mask, _names([image])[0] if named else f"{place:05d}")

    def _pair(self, given: Any, place: int) -> tuple[Any, Any]:
        if not (isinstance(given, tuple | list) and len(given) == 2):
            about = f"a {type(given).__name__}"
            if isinstance(given, tuple | list):
                about += f" of {len(given)}"
            raise UserError(f"{self.drawn.what}[{place}] is {about}; give (image, mask) or a PromptSample")
        return given[0], given[1]


def _listed(given: Any, what: str) -> list[Any]:
    if given is None or isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        about = "None" if given is None else f"of type {type(given).__name__}"
        raise UserError(f"{what} is {about}; give lists or arrays of images and of masks")
    return list(given)


def _names(images: Sequence[Any]) -> list[str]:
    """Names of files, or places of images in memory."""
    files = [Path(image) for image in images if isinstance(image, str | Path)]
    names = iter(sample_names(files))
    return [next(names) if isinstance(x, str | Path) else f"{i:05d}" for i, x in enumerate(images)]


def _objects(sample: PromptSample) -> Iterator[PromptSample]:
    """The objects of a sample as samples of their own, which share its image."""
    if len(sample.masks) == 1:
        yield sample
        return

    def only(n: int, part: Tensor | None) -> Tensor | None:
        return None if part is None else part[n : n + 1]

    given = sample.prompts
    for n in range(len(sample.masks)):
        prompts = Prompts(only(n, given.points), only(n, given.labels), only(n, given.boxes))
        yield replace(sample, prompts=prompts, masks=sample.masks[n : n + 1], name=f"{sample.name}#{n + 1}")
