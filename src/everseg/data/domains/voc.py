"""PASCAL VOC's layout: natural images with class maps; a sample is an image and its largest object."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from everseg.data.decoding import Bands, Decoding, Window
from everseg.data.domains.prompts import PromptKind, PromptRule, StoredClicks
from everseg.data.masks import largest_part, read_labels
from everseg.data.samples import PartlyReadable, Samples, take_evenly, take_part
from everseg.errors import UserError, unknown


@dataclass(frozen=True)
class LargestOfClasses:
    """An image and its class map; the mask is the largest connected part of one class."""

    image: Path
    path: Path
    stored: StoredClicks | None = None

    @property
    def name(self) -> str:
        return self.image.name

    def mask(self) -> NDArray[np.bool_]:
        mask = largest_part(read_labels(self.path))
        if not mask.any():
            raise UserError(f"{self.path} has no object (only 0 and 255); take the image off the list")
        return mask

    def truth(self) -> list[Any]:
        return [self.path, "largest part"]


class VocReader(Samples):
    """Samples of `JPEGImages`, `SegmentationClassAug` (or `SegmentationClass`) and a list in
    `ImageSets/Segmentation`.

    split: the list's name without ".txt". part: [start, stop] of the sorted list; limit: at most so many,
        evenly spaced. skip: leave out names like this one ("2007_*").

    Raises:
        UserError: a folder or the list is missing, or files that it names.
    """

    def __init__(
        self,
        path: str | Path,
        split: str,
        *,
        prompts: Literal["clicks", "box", "clicks+box"] = "clicks",
        clicks: int = 3,
        seed: int = 0,
        part: tuple[int, int] | None = None,
        limit: int | None = None,
        bands: Bands = None,
        window: Window = None,
        skip: str | None = None,
    ) -> None:
        pairs, problems = voc_pairs(Path(path), split, part, limit, skip)
        entries = [LargestOfClasses(image, path) for image, path in pairs]
        kind: PromptKind = prompts
        super().__init__(entries, PromptRule(kind, clicks, seed), decoding=Decoding(bands, window))
        if problems:
            raise PartlyReadable(problems, self[:])


def voc_pairs(
    path: Path, split: str, part: tuple[int, int] | None, limit: int | None, skip: str | None = None
) -> tuple[list[tuple[Path, Path]], list[str]]:
    """(image, class map) of a list, sorted by name, and a sentence for each file that is missing.

    skip: leave out names like this one ("2007_*"), before `part` and `limit` count.

    Raises:
        UserError: not VOC's layout, no such list, or nothing that `skip` would leave out.
    """
    lists = path / "ImageSets" / "Segmentation"
    folders = [path / name for name in ("SegmentationClassAug", "SegmentationClass")]
    maps = next((f for f in folders if f.is_dir()), None)
    if maps is None or not lists.is_dir():
        raise UserError(
            f"{path} is not in VOC's layout; it has JPEGImages, SegmentationClass, ImageSets/Segmentation"
        )
    file = lists / f"{split}.txt"
    if not file.is_file():
        raise unknown(f"split in {lists}:", split, [f.stem for f in lists.glob("*.txt")])
    stems = sorted(
        {line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()}
    )
    if skip is not None:
        kept = [stem for stem in stems if not fnmatchcase(stem, skip)]
        if len(kept) == len(stems):
            raise UserError(f"skip is {skip!r}, and no name in {file} is like it; mend it or leave it out")
        stems = kept
    pairs, problems = [], []
    for stem in take_evenly(take_part(stems, part), limit):
        pair = (path / "JPEGImages" / f"{stem}.jpg", maps / f"{stem}.png")
        missing = [f for f in pair if not f.is_file()]
        problems += [
            f"{f} is listed in {file} but does not exist; add it or take it off the list" for f in missing
        ]
        if not missing:
            pairs.append(pair)
    return pairs, problems
