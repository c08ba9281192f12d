"""PASCAL VOC's layout: natural images with class maps; a sample is an image and its largest object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from everseg.data.classes.voc_colours import VOC_TABLE
from everseg.data.decoding import Bands, Decoding, Window
from everseg.data.domains.prompts import PromptKind, PromptRule, StoredClicks
from everseg.data.domains.voclist import read_voc_list
from everseg.data.masks import largest_part
from everseg.data.numbers import read_labels
from everseg.data.samples import PartlyReadable, Samples
from everseg.errors import UserError


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
        mask = largest_part(read_labels(self.path, VOC_TABLE))
        if not mask.any():
            raise UserError(f"{self.path} has no object (only 0 and 255); remove the image from the list")
        return mask

    def truth(self) -> list[Any]:
        return [self.path, "largest part"]


class VocReader(Samples):
    """Samples of `JPEGImages`, `SegmentationClassAug` (or `SegmentationClass`) and a list in
    `ImageSets/Segmentation`; see `voclist` for what a line may be.

    split: the list's name without ".txt".
    part: [start, stop] of the sorted list; limit: at most so many, evenly spaced.
    skip: leave out names like this one ("2007_*").

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
        listed = read_voc_list(Path(path), split, part, limit, skip)
        entries = [LargestOfClasses(image, path) for image, path in listed.pairs]
        kind: PromptKind = prompts
        super().__init__(entries, PromptRule(kind, clicks, seed), decoding=Decoding(bands, window))
        self.notes = listed.notes
        if listed.problems:
            raise PartlyReadable(listed.problems, self[:])
