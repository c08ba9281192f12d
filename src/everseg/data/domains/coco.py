"""COCO JSON: images with polygons or run lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
from numpy.typing import NDArray

from everseg.data.domains.areas import fill_polygons
from everseg.data.domains.cocofile import Annotation, CocoFile, CocoImage, Wanted, read_coco_file
from everseg.data.domains.options import Options, SampleOptions
from everseg.data.domains.prompts import StoredClicks
from everseg.data.domains.rle import decode_rle
from everseg.data.samples import PartlyReadable, Samples, take_evenly, take_part
from everseg.errors import UserError


@dataclass(frozen=True)
class CocoObjects:
    """An image and the annotations that make up its mask: one, or all of them merged.

    segmentations: lists of polygons or {"counts", "size"}, see `shapes`.
    ids: the annotations' ids, for messages.
    """

    image: Path
    name: str
    height: int
    width: int
    segmentations: tuple[Any, ...]
    ids: tuple[Any, ...]
    source: Path
    stored: StoredClicks | None = None

    def mask(self) -> NDArray[np.bool_]:
        mask = np.zeros((self.height, self.width), bool)
        for segmentation, number in zip(self.segmentations, self.ids, strict=True):
            try:
                mask |= self._decode(segmentation)
            except ValueError as error:
                raise UserError(
                    f"{self.source}: annotation {number} of {self.image.name} cannot be drawn: {error}; "
                    "correct or remove it, or set skip_faulty: true"
                ) from error
        if not mask.any():
            raise UserError(
                f"{self.source}: annotation {self.ids[0]} of {self.image.name} covers no pixel; "
                "remove it, or set min_area: 1 or skip_faulty: true"
            )
        return mask

    def _decode(self, segmentation: Any) -> NDArray[np.bool_]:
        parts = [segmentation] if isinstance(segmentation, dict) else segmentation
        mask = np.zeros((self.height, self.width), bool)
        for part in parts:
            if isinstance(part, dict):
                mask |= decode_rle(part["counts"], self.height, self.width)
            else:
                mask |= fill_polygons([part], self.height, self.width)
        return mask

    def truth(self) -> list[Any]:
        return [self.height, self.width, list(self.segmentations)]


class CocoReader(Samples):
    """Samples of a COCO JSON file.

    images: the folder of the images.
    annotations: the JSON file.
    instances: "each" object is a sample, or all of an image "merged" in one.
    categories: use only these, by name.
    crowd: use regions marked iscrowd, too.
    min_area: leave out annotations whose `area` (square pixels) is smaller.
    use_boxes: where an annotation has no segmentation, its bbox is the mask.
    skip_faulty: leave out rows that are wrong, and images that are missing, and say how many; to find them,
        every mask is decoded once. `part` is of the images sorted by file name; for other options see
        `SampleOptions`.

    Raises:
        PartlyReadable: rows are wrong or images are missing; says all.
        UserError: the JSON is not COCO's, or a category does not exist.
    """

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        *,
        instances: Literal["each", "merged"] = "each",
        categories: tuple[str, ...] | None = None,
        crowd: bool = False,
        min_area: float = 0,
        use_boxes: bool = False,
        skip_faulty: bool = False,
        **options: Unpack[SampleOptions],
    ) -> None:
        source, folder, given = Path(annotations), Path(images), Options(**options)
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; set `images` to the folder of the images")
        found = read_coco_file(source, folder, Wanted(categories, crowd, min_area, use_boxes))
        if skip_faulty:
            leave_out_undrawable(found)
        problems = found.faults.sentences()
        present = sorted(found.objects, key=lambda image: image.name)
        entries = []
        for image in take_part(present, given.part, [] if skip_faulty else problems):
            rows = sorted(found.objects[image], key=lambda row: (str(type(row.id)), row.id))
            if instances == "each":
                names = _names(image, rows)
                entries += [
                    object_of(image, [row], name, source) for row, name in zip(rows, names, strict=True)
                ]
            else:
                entries.append(object_of(image, rows, image.name, source))
        super().__init__(take_evenly(entries, given.limit), given.rule, decoding=given.decoding)
        self.notes = tuple(found.notes)
        if skip_faulty and problems:
            self.notes = (*left_out(found), *self.notes)
        elif problems:
            raise PartlyReadable(problems, self[:])
        if not entries:
            why = f": {problems[0]}" if problems else ""
            raise UserError(f"{source} has no annotation to learn from; {_NOTHING}{why}")


_NOTHING = "check `categories`, or set crowd: true if all of them have iscrowd: 1"


def leave_out_undrawable(found: CocoFile) -> None:
    """Note masks that cannot be drawn as faults, and leave them out."""
    for image, rows in found.objects.items():
        kept = []
        for row in rows:
            try:
                object_of(image, [row], "", found.source).mask()
            except UserError:
                found.faults.add("annotation", row.id, "has a mask that cannot be drawn or is empty", "")
            else:
                kept.append(row)
        rows[:] = kept
    for image in [image for image, rows in found.objects.items() if not rows]:
        del found.objects[image]


def left_out(found: CocoFile) -> tuple[str, ...]:
    used = sum(len(rows) for rows in found.objects.values())
    total = (
        f"{found.source}: skip_faulty leaves out what is wrong, and {used} of {found.rows} annotations are "
        "used; correct the file if these are too few"
    )
    return (total, *found.faults.sentences("left out"))


def _names(image: CocoImage, rows: Sequence[Annotation]) -> list[str]:
    """A name for each annotation of an image: by its id, and by a count where ids are not unique."""
    names: list[str] = []
    for row in rows:
        name, count = f"{image.name}#{row.id}", 1
        while name in names:
            count += 1
            name = f"{image.name}#{row.id}-{count}"
        names.append(name)
    return names


def object_of(image: CocoImage, rows: Sequence[Annotation], name: str, source: Path) -> CocoObjects:
    assert image.file is not None, "images without a file are left out"
    return CocoObjects(
        image=image.file,
        name=name,
        height=image.height,
        width=image.width,
        segmentations=tuple(row.segmentation for row in rows),
        ids=tuple(row.id for row in rows),
        source=source,
    )
