"""A folder of `images/` and `instances/`, whose values number the objects of an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from everseg.data.decoding import Bands, Decoding, Window
from everseg.data.domains.prompts import PromptKind, PromptRule, StoredClicks
from everseg.data.masks import BORDER
from everseg.data.numbers import blended, labels_of, refuse_blurred
from everseg.data.pairing import Patterns, fixed_folder, one_each, pair_files
from everseg.data.raster import packed, read_raster
from everseg.data.samples import PartlyReadable, Samples, take_evenly, take_part
from everseg.errors import UserError
from everseg.text import plural
from everseg.types import VOID

Choice = Literal["each", "merged", "largest"]


@dataclass(frozen=True)
class NumberedObject:
    """Object `number` of an image's map; 0 stands for all objects merged."""

    image: Path
    path: Path
    number: int
    name: str
    stored: StoredClicks | None = None

    def mask(self) -> NDArray[np.bool_]:
        objects = _objects_in(self.path)
        mask = np.asarray(objects == self.number if self.number else objects != 0)
        if not mask.any():
            raise UserError(
                f"{self.path} has changed: object {self.number} is gone; run the same command again"
            )
        return mask

    def truth(self) -> list[Any]:
        return [self.path, self.number]


class InstancesReader(Samples):
    """Samples of `path/images` and `path/instances` (png up to 16 bits or in colour; 0 is background).

    images, masks: globs of the images and of the maps, as for `FolderReader`.
    instances: "each" object is a sample, all of an image "merged" in one, or only the "largest". Images
        without objects are passed over. To count the objects every map is read once, when the reader is made.
    part: [start, stop] of the sorted images; limit: maximum number of samples, evenly spaced.

    Raises:
        UserError: a folder is missing or empty, files without partner, or no objects at all.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        images: Patterns | None = None,
        masks: Patterns | None = None,
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
        pairs, problems = pair_files(path, images, masks, folder="instances")
        entries: list[NumberedObject] = []
        doubts: list[tuple[Path, int]] = []
        for image, file, name in one_each(take_part(pairs, part, problems), problems):
            try:
                objects = _objects_in(file)
            except UserError as error:
                problems.append(str(error))
                continue
            numbers, thin = _numbers(objects, instances), blended(objects)
            if len(thin) > 1:
                problems.append(
                    f"{file} has numbers such as {', '.join(map(str, thin[:4]))} along the edges between "
                    "smaller and larger ones, as in a map that was resized smoothly; make it again as png, "
                    "resized with the nearest neighbour"
                )
                continue
            if thin:
                doubts.append((file, thin[0]))
            for number in numbers:
                own = f"{name}#{number}" if instances == "each" else name
                entries.append(NumberedObject(image, file, number, own))
        kind: PromptKind = prompts
        maps = len({entry.path for entry in entries})
        said = f"numbers of objects, {plural(len(entries), 'sample')} in {maps} of {len(pairs)} files"
        prompted, decoding = PromptRule(kind, clicks, seed), Decoding(bands, window)
        super().__init__(take_evenly(entries, limit), prompted, said, decoding=decoding)
        if instances == "each" and {entry.number for entry in entries} == {255}:
            self.notes = (
                "no map has a number but 255, as masks of one object have it; if they show several objects, "
                "number these from 1",
            )
        if doubts:
            (file, number), more = doubts[0], f" and {len(doubts) - 1} more" if len(doubts) > 1 else ""
            self.notes += (
                f"{file}{more} has the number {number} along the edges between smaller and larger ones, as "
                "in a map that was resized smoothly; see in the contact sheet (--sheet) whether object "
                f"{number} has the borders of others",
            )
        if problems:
            raise PartlyReadable(problems, self[:])
        if not entries:
            raise UserError(
                f"the maps in {path / fixed_folder(masks or 'instances')} contain no object; give the "
                "objects the numbers 1, 2, ... (0 is background)"
            )


_BORDER = int(packed(np.array(BORDER, np.uint8)))


def _objects_in(file: Path) -> NDArray[np.int32]:
    """(H, W) int32: the number of each pixel's object, 0 for background and the border of VOC's maps.

    In a map in colour every colour is an object, with the number R + 256 G + 65536 B as in COCO's panoptic
    maps; black is background.

    Raises:
        UserError: unreadable, or it does not number anything.
    """
    raster = read_raster(file)
    refuse_blurred(raster, file)
    if raster.form == "colour":
        objects, border = np.asarray(raster.values, np.int32), _BORDER
    else:
        objects = labels_of(raster, file)
        if raster.palette is None or raster.colour(VOID) != BORDER:
            return objects
        border = VOID
    return np.asarray(np.where(objects == border, 0, objects))


def _numbers(objects: NDArray[np.int32], instances: Choice) -> list[int]:
    """Numbers of the objects to use in a map; 0 for all of them merged, empty if there are none."""
    numbers, sizes = np.unique(objects, return_counts=True)
    numbers, sizes = numbers[numbers != 0], sizes[numbers != 0]
    if not len(numbers):
        return []
    if instances == "merged":
        return [0]
    return [int(numbers[sizes.argmax()])] if instances == "largest" else numbers.tolist()
