"""Folders of images and of masks, paired by name: the plain layout, and that of SAMCL."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from everseg.data.columns import ClickColumn
from everseg.data.decoding import Bands, Decoding, Window
from everseg.data.domains.points import PointsFile
from everseg.data.domains.prompts import PromptKind, PromptRule, StoredClicks
from everseg.data.empty import LEFT_OUT, SKIP, with_object
from everseg.data.maskrule import Threshold, mask_rule
from everseg.data.masks import Meaning
from everseg.data.meaning import settled
from everseg.data.names import POINTS, sample_name, some
from everseg.data.pairing import Patterns, fixed_folder, pair_files
from everseg.data.pairs import Pair, Pairs
from everseg.data.raster import read_raster
from everseg.data.samples import PartlyReadable, Samples, take_evenly, take_part
from everseg.errors import UserError


@dataclass(frozen=True)
class MaskFile:
    """An image and the file that holds its mask."""

    image: Path
    path: Path
    meaning: Meaning
    stored: StoredClicks | None
    name: str

    def mask(self) -> NDArray[np.bool_]:
        return self.meaning.mask(self.path, SKIP)

    def truth(self) -> list[Any]:
        return [self.path, self.meaning.key]


@dataclass(frozen=True)
class MaskFiles:
    """An image and several files whose masks are one together."""

    image: Path
    paths: tuple[Path, ...]
    meaning: Meaning
    stored: StoredClicks | None
    name: str

    def mask(self) -> NDArray[np.bool_]:
        whole: NDArray[np.bool_] | None = None
        for path in self.paths:  # Any of them may be empty, but not all.
            raster = read_raster(path)
            mask = self.meaning.object_in(raster, path)
            if whole is not None and mask.shape != whole.shape:
                raise UserError(
                    f"{path} is {mask.shape[1]}x{mask.shape[0]} and {self.paths[0]} is "
                    f"{whole.shape[1]}x{whole.shape[0]}; make all masks of an image the same size"
                )
            whole = mask if whole is None else whole | mask
        if whole is None or not whole.any():
            raise self.meaning.nothing(raster, path, SKIP)
        return whole

    def truth(self) -> list[Any]:
        return [*self.paths, self.meaning.key]


class MaskEntries(Sequence[MaskFile | MaskFiles]):
    """The samples of a folder, each made when it is asked for. clicks: of each pair, or none at all."""

    def __init__(self, pairs: Pairs, meaning: Meaning, clicks: ClickColumn) -> None:
        self.pairs, self.meaning, self.clicks = pairs, meaning, clicks

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> MaskFile | MaskFiles: ...
    @overload
    def __getitem__(self, index: slice) -> MaskEntries: ...
    def __getitem__(self, index: int | slice) -> MaskFile | MaskFiles | MaskEntries:
        if isinstance(index, slice):
            return MaskEntries(self.pairs[index], self.meaning, self.clicks[index])
        pair, clicks = self.pairs[index], self.clicks[index] if len(self.clicks) else None
        if len(pair.masks) == 1:
            return MaskFile(pair.image, pair.masks[0], self.meaning, clicks, pair.name)
        return MaskFiles(pair.image, pair.masks, self.meaning, clicks, pair.name)


class FolderReader(Samples):
    """Samples of a folder of images and a folder of masks.

    path: where both are.
    images, masks: globs below it, in which `{id}` marks the part of the names that pairs, such as
        "1st_manual/{id}_manual1.gif"; see docs/data.md. Without either, `images/` and `masks/`, paired by
        stem.
    instances: what several masks of an image are: "each" a sample of its own, or "merged" in one.
    resize_masks: resize masks of another size to that of the image (nearest).
    prompts: how to prompt; None takes the stored clicks where `masks/points.json` exists and draws clicks
        where not.
    skip_empty: leave out images whose masks have no object; to find them, every mask is decoded once.
    mask_threshold, mask_values, mask_colours, void: what the object is, where the masks leave it open; see
        `everseg.data.maskrule.mask_rule`.
    mask_suffix: what the mask's stem has beyond the image's, as "_segmentation".
    part: [start, stop] of the sorted images; limit: maximum number of samples, evenly spaced over the sorted
        list.

    Raises:
        UserError: a folder is missing or empty, files without partner, two files of one stem, several masks
            of an image without `instances`, no stored clicks, or masks that may mean more than one thing.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        images: Patterns | None = None,
        masks: Patterns | None = None,
        instances: Literal["each", "merged"] | None = None,
        resize_masks: bool = False,
        skip_empty: bool = False,
        prompts: PromptKind | None = None,
        clicks: int = 3,
        seed: int = 0,
        mask_threshold: Threshold | None = None,
        mask_values: tuple[int, ...] | None = None,
        mask_colours: tuple[str | tuple[int, int, int], ...] | None = None,
        void: tuple[int, ...] = (),
        mask_suffix: str = "",
        part: tuple[int, int] | None = None,
        limit: int | None = None,
        bands: Bands = None,
        window: Window = None,
    ) -> None:
        path = Path(path)
        pairs, problems = pair_files(path, images, masks, mask_suffix)
        folder = path / fixed_folder("masks/*" if masks is None else masks)
        points = folder / POINTS
        kind: PromptKind = prompts or ("stored" if points.exists() else "clicks")
        stored = _stored_clicks(points, folder) if "stored" in kind else None
        if part is not None:
            pairs = pairs.at(take_part(range(len(pairs)), part, problems))
        if instances == "each":
            pairs = Pairs(path, (one for pair in pairs for one in _each(pair, folder)))
        elif instances is None and len(pairs.masks) > len(pairs):
            problems += [_undecided(pair) for pair in pairs if len(pair.masks) > 1]
        rule = mask_rule(mask_threshold, mask_values, mask_colours, void)
        meaning = settled(pairs.masks, rule) if skip_empty or limit is None else None
        if skip_empty and meaning is not None:
            whole, pairs = len(pairs), _with_object(pairs, meaning)
            if not len(pairs):
                raise UserError(
                    f"no mask in {folder} has an object; correct the masks, or set mask_threshold, "
                    "mask_values or mask_colours to what the object is"
                )
            if len(pairs) < whole:
                self.notes = (f"{folder}: {LEFT_OUT.format(whole - len(pairs), whole)}",)
        if limit is not None:
            pairs = pairs.at(take_evenly(range(len(pairs)), limit))
        meaning = meaning or settled(pairs.masks, rule)
        clicks_of = ClickColumn()
        if stored is not None:
            pairs, clicks_of = _clicked(pairs, stored, box="box" in kind)
            problems += stored.faults.sentences()
        prompted, decoding = PromptRule(kind, clicks, seed), Decoding(bands, window)
        super().__init__(
            MaskEntries(pairs, meaning, clicks_of),
            prompted,
            str(meaning),
            decoding=decoding,
            resize_masks=resize_masks,
        )
        if problems:
            raise PartlyReadable(problems, self[:])

    def names(self) -> Sequence[str]:
        if isinstance(self.entries, MaskEntries):
            return self.entries.pairs.names
        return super().names()  # of samples that were chosen one by one


def _clicked(pairs: Pairs, stored: PointsFile, *, box: bool) -> tuple[Pairs, ClickColumn]:
    """The pairs that have stored clicks, and these; the others are faults of the file."""
    found, clicks = array("Q"), ClickColumn()
    for place, pair in enumerate(pairs):
        # The clicks of several masks together are kept under the image's name.
        of = pair.masks[0] if len(pair.masks) == 1 else pair.image
        here = stored.of(pair.image, of, box=box)
        if here is not None:
            found.append(place)
            clicks.append(here)
    return (pairs if len(found) == len(pairs) else pairs.at(found)), clicks


def _with_object(pairs: Pairs, meaning: Meaning) -> Pairs:
    """The pairs of which a mask shows an object."""
    found = with_object(pairs.masks, meaning)
    begins = (0, *pairs.ends)
    return pairs.at(n for n, end in enumerate(pairs.ends) if any(found[begins[n] : end]))


def _undecided(pair: Pair) -> str:
    return (
        f"{pair.image} has {len(pair.masks)} masks ({some(pair.masks)}); set instances: each if each is "
        "an object of its own, or merged if they are one together"
    )


def _each(pair: Pair, folder: Path) -> Iterator[Pair]:
    """A sample for each mask of an image."""
    for mask, own in zip(pair.masks, _own_names(pair.masks, folder), strict=True):
        yield Pair(pair.image, (mask,), f"{pair.name}#{own}")


def _own_names(masks: Sequence[Path], folder: Path) -> list[str]:
    """What each of an image's masks is called: its stem where those differ, or else its path."""
    stems = [sample_name(mask, mask.parent).removesuffix(mask.suffix) for mask in masks]
    if len(set(stems)) == len(stems):
        return stems
    return [sample_name(mask, folder) for mask in masks]


def _stored_clicks(points: Path, folder: Path) -> PointsFile:
    if not points.exists():
        raise UserError(
            f"{points} does not exist; write it with `everseg data points` or set prompts: clicks"
        )
    return PointsFile(points, folder)
