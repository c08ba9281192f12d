"""A folder of `images/` and `instances/`, whose values number the objects of an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from everseg.data.decoding import Bands, Decoding, Window
from everseg.data.domains.folder import pair_by_stem
from everseg.data.domains.prompts import PromptKind, PromptRule, StoredClicks
from everseg.data.masks import read_labels
from everseg.data.samples import PartlyReadable, Samples, take_evenly, take_part
from everseg.errors import UserError

Choice = Literal["each", "merged", "largest"]


@dataclass(frozen=True)
class NumberedObject:
    """An image and the object `number` of its map; 0 stands for all objects merged."""

    image: Path
    path: Path
    number: int
    name: str
    stored: StoredClicks | None = None

    def mask(self) -> NDArray[np.bool_]:
        labels = read_labels(self.path)
        mask = np.asarray(labels == self.number if self.number else labels != 0)
        if not mask.any():
            raise UserError(
                f"{self.path} has changed: object {self.number} is gone; run the same command again"
            )
        return mask

    def truth(self) -> list[Any]:
        return [self.path, self.number]


class InstancesReader(Samples):
    """Samples of `path/images` and `path/instances` (png up to 16 bits; 0 is background).

    instances: "each" object is a sample, all of an image "merged" in one, or only the "largest". Images
    without objects are passed over. To count the objects every map is read once, when the reader is made.
    part: [start, stop] of the sorted images; limit: at most so many samples, evenly spaced.

    Raises:
        UserError: a folder is missing or empty, files without partner, or no objects at all.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        instances: Choice = "each",
        prompts: Literal["clicks", "box", "clicks+box"] = "clicks",
        clicks: int = 3,
        seed: int = 0,
        part: tuple[int, int] | None = None,
        limit: int | None = None,
        bands: Bands = None,
        window: Window = None,
    ) -> None:
        path = Path(path)
        pairs, problems = pair_by_stem(path / "images", path / "instances")
        entries: list[NumberedObject] = []
        for image, file in take_part(pairs, part):
            try:
                numbers = _numbers(file, instances)
            except UserError as error:
                problems.append(str(error))
                continue
            for number in numbers:
                name = f"{image.name}#{number}" if instances == "each" else image.name
                entries.append(NumberedObject(image, file, number, name))
        kind: PromptKind = prompts
        chosen, prompted = take_evenly(entries, limit), PromptRule(kind, clicks, seed)
        super().__init__(chosen, prompted, decoding=Decoding(bands, window))
        if problems:
            raise PartlyReadable(problems, self[:])
        if not entries:
            raise UserError(
                f"{path / 'instances'} numbers no object in any image; 0 is background, objects count from 1"
            )


def _numbers(file: Path, instances: Choice) -> list[int]:
    """Numbers of the objects to use in a map; 0 for all of them merged, nothing where there is none."""
    sizes = np.bincount(read_labels(file).ravel())
    sizes[0] = 0
    if not sizes.any():
        return []
    if instances == "merged":
        return [0]
    return [int(sizes.argmax())] if instances == "largest" else np.flatnonzero(sizes).tolist()
