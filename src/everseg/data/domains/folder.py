"""Folders of images and of masks, paired by name: the plain layout, and that of SAMCL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from everseg.data.decoding import Bands, Decoding, Window
from everseg.data.domains.points import PointsFile
from everseg.data.domains.prompts import PromptKind, PromptRule, StoredClicks
from everseg.data.maskrule import Threshold, mask_rule
from everseg.data.masks import Meaning
from everseg.data.meaning import settled
from everseg.data.names import POINTS, sample_name, some
from everseg.data.pairing import Pair, Patterns, fixed_folder, pair_files
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
        return self.meaning.mask(self.path)

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
        first, *others = (self.meaning.mask(path) for path in self.paths)
        for path, other in zip(self.paths[1:], others, strict=True):
            if other.shape != first.shape:
                raise UserError(
                    f"{path} is {other.shape[1]}x{other.shape[0]} and {self.paths[0]} is "
                    f"{first.shape[1]}x{first.shape[0]}; masks of one image have one size"
                )
            first = first | other
        return first

    def truth(self) -> list[Any]:
        return [*self.paths, self.meaning.key]


class FolderReader(Samples):
    """Samples of a folder of images and a folder of masks.

    path: where both are. images, masks: globs below it, in which `{id}` marks the part of the names that
        pairs, such as "1st_manual/{id}_manual1.gif"; see docs/data.md. Without either, `images/` and
        `masks/`, paired by stem.
    instances: what several masks of an image are: "each" a sample of its own, or "merged" in one.
    resize_masks: resize masks of another size to that of the image (nearest).
    prompts: how to prompt; None takes the stored clicks where `masks/points.json` exists and draws clicks
        where not.
    mask_threshold, mask_values, mask_colours, void: what the object is, where the masks leave it open; see
        `everseg.data.maskrule.mask_rule`.
    mask_suffix: what the mask's stem has beyond the image's, as "_segmentation".
    part: [start, stop] of the sorted images; limit: at most so many samples, evenly spaced over the sorted
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
        parts = [
            part for pair in take_part(pairs, part) for part in _objects(pair, instances, folder, problems)
        ]
        chosen = take_evenly(parts, limit)
        rule = mask_rule(mask_threshold, mask_values, mask_colours, void)
        meaning = settled([mask for _, files, _ in chosen for mask in files], rule)
        entries: list[MaskFile | MaskFiles] = []
        for image, files, name in chosen:
            # The clicks of several masks together are kept under the image's name.
            of = files[0] if len(files) == 1 else image
            clicks_here = stored.of(image, of, box="box" in kind) if stored else None
            if stored is not None and clicks_here is None:
                continue
            if len(files) == 1:
                entries.append(MaskFile(image, files[0], meaning, clicks_here, name))
            else:
                entries.append(MaskFiles(image, files, meaning, clicks_here, name))
        problems += stored.faults.sentences() if stored else []
        prompted, decoding = PromptRule(kind, clicks, seed), Decoding(bands, window)
        super().__init__(entries, prompted, str(meaning), decoding=decoding, resize_masks=resize_masks)
        if problems:
            raise PartlyReadable(problems, self[:])


def _objects(
    pair: Pair, instances: str | None, folder: Path, problems: list[str]
) -> Iterator[tuple[Path, tuple[Path, ...], str]]:
    """(image, masks, name) of each sample of an image."""
    several = len(pair.masks) > 1
    if several and instances is None:
        problems.append(
            f"{pair.image} has {len(pair.masks)} masks ({some(pair.masks)}); set instances: each if each is "
            "an object of its own, or merged if they are one together"
        )
    if instances != "each":
        yield pair.image, pair.masks, pair.name
        return
    for mask, own in zip(pair.masks, _own_names(pair.masks, folder), strict=True):
        yield pair.image, (mask,), f"{pair.name}#{own}"


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
