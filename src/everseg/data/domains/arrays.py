"""Samples from images and masks in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from everseg.data.images import read_image
from everseg.data.masks import mask_rule
from everseg.data.meaning import settled
from everseg.data.names import refuse_twice, sample_name
from everseg.data.numbers import read_labels
from everseg.errors import UserError
from everseg.types import Prompts, PromptSample

Arrays = tuple[Iterable[Any], Iterable[Any]] | Iterable[PromptSample]
"""A split: images and as many masks, or samples that are ready."""


def array_samples(
    given: Arrays, what: str, *, clicks: int = 3, box: bool = False, seed: int = 0, numbered: bool = False
) -> tuple[PromptSample, ...]:
    """One sample for each object of `given`, named by its image's place or file; with `#n` for the nth of
    several. Arrays are copied, and files are read at once.

    what: names the split in messages. The other arguments are as in `PromptSample.from_mask`.

    Raises:
        UserError: not images and as many masks, or one of them is wrong; says which.
    """
    parts = _listed(given, what)
    if parts and all(isinstance(part, PromptSample) for part in parts):
        return tuple(parts)
    if len(parts) != 2:
        raise UserError(f"{what} has {len(parts)} parts; give (images, masks), or a list of PromptSample")
    if isinstance(parts[1], np.ndarray | Tensor) and parts[1].ndim < 3:
        raise UserError(f"{what} has a single mask; give lists, also for one image: ([image], [mask])")
    images, masks = (
        _listed(part, f"{what}, {of}") for part, of in zip(parts, ("images", "masks"), strict=True)
    )
    if len(images) != len(masks):
        raise UserError(
            f"{what} has {len(images)} images and {len(masks)} masks; give one mask for each image"
        )
    if not images:
        raise UserError(f"{what} has no images; give at least one")
    names = _names(images)
    refuse_twice(names, what)
    files = [Path(mask) for mask in masks if isinstance(mask, str | Path)]
    meaning = settled([] if numbered else files, mask_rule())
    found: list[PromptSample] = []
    for name, image, mask in zip(names, images, masks, strict=True):
        if isinstance(image, str | Path):
            image = read_image(Path(image))
        if isinstance(mask, str | Path):
            mask = read_labels(Path(mask)) if numbered else meaning.mask(Path(mask))
        try:
            sample = PromptSample.from_mask(
                image, mask, clicks=clicks, box=box, seed=seed, numbered=numbered, name=name
            )
        except UserError as error:
            raise UserError(f"{what}: {error}") from error
        found += _objects(sample)
    return tuple(found)


def _listed(given: Any, what: str) -> list[Any]:
    if given is None or isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        about = "None" if given is None else f"of type {type(given).__name__}"
        raise UserError(f"{what} is {about}; give lists or arrays of images and of masks")
    return list(given)


def _names(images: Sequence[Any]) -> list[str]:
    """File names, or places of images in memory. Where files of several folders have one name, it is their
    path from the folder that all of them lie in."""
    paths = [Path(x) if isinstance(x, str | Path) else None for x in images]
    flat = [f"{i:05d}" if path is None else sample_name(path, path.parent) for i, path in enumerate(paths)]
    files = [path.absolute() for path in paths if path is not None]
    if len(set(flat)) == len(flat) or not files:
        return flat
    base = Path(os.path.commonpath([file.parent for file in files]))
    return [n if p is None else sample_name(p.absolute(), base) for n, p in zip(flat, paths, strict=True)]


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
