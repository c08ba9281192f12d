"""Class maps drawn from COCO JSON: the categories are the classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from everseg.data.classes.drawn import DrawnMaps, drawn
from everseg.data.domains.annotated import Annotations
from everseg.data.domains.coco import CocoObjects, leave_out_undrawable, left_out, object_of
from everseg.data.domains.cocofile import LEAVE_OUT, Wanted, read_coco_file
from everseg.data.domains.options import MapOptions
from everseg.errors import UserError


@dataclass(frozen=True)
class CocoMap:
    """An image and the annotations that its class map is drawn from.

    path: the JSON file.
    objects: each annotation and its category.
    """

    image: Path
    path: Path
    name: str
    size: tuple[int, int]
    objects: tuple[tuple[str, CocoObjects], ...]

    def labels(self, numbers: Mapping[str, int]) -> NDArray[np.uint8]:
        """(H, W): small objects above large ones, which often contain them."""
        masks = [(numbers.get(label, 0), one.mask()) for label, one in self.objects]
        labels = np.zeros(self.size, np.uint8)
        for number, mask in sorted(masks, key=lambda pair: -int(pair[1].sum())):
            labels[mask] = number
        return labels


def coco_maps(
    images: Path,
    annotations: Path,
    *,
    categories: tuple[str, ...] | None = None,
    use_boxes: bool = False,
    skip_faulty: bool = False,
    **options: Unpack[MapOptions],
) -> DrawnMaps:
    """A COCO JSON file and the folder of its images; see `CocoReader`.

    categories: the names that are classes, in the order of their numbers; all of the file, by their ids,
        where None. Others are background. A region marked iscrowd is of its category, and an image without
        annotations is background.

    Raises:
        PartlyReadable: rows are wrong or images are missing; says all.
        UserError: the JSON is not COCO's, has no categories or some that cannot be read, or lacks one of
            those that are given.
    """
    if not images.is_dir():
        raise UserError(f"{images} is not a folder; set `images` to the folder of the images")
    found = read_coco_file(
        annotations, images, Wanted(categories, crowd=True, use_boxes=use_boxes, named=True)
    )
    classes = [name for _, name in sorted(found.categories.items(), key=lambda item: str(item[0]).zfill(20))]
    if not classes:
        raise UserError(f"{annotations} has no categories, which are the classes; add the list categories")
    for row in (row for rows in found.objects.values() for row in rows):
        if row.category not in found.categories:
            found.faults.add("annotation", row.id, "has a category that is not listed", LEAVE_OUT)
    if skip_faulty:
        leave_out_undrawable(found)
    elif found.unnamed and categories is None:  # Else an unknown class would be the first thing reported.
        raise UserError(found.unnamed[0])
    problems = found.faults.sentences()
    maps = []
    for image in sorted(found.images, key=lambda image: image.name):
        assert image.file is not None, "images without a file are left out"
        rows = [row for row in found.objects.get(image, []) if row.category in found.categories]
        objects = [
            (found.categories[row.category], object_of(image, [row], image.name, annotations))
            for row in rows
            if row.category is not None
        ]
        size = (image.height, image.width)
        maps.append(CocoMap(image.file, annotations, image.name, size, tuple(objects)))
    notes = tuple(found.notes)
    if skip_faulty and problems:
        notes, problems = (*left_out(found), *notes), []
    chosen = list(dict.fromkeys(classes if categories is None else categories))
    return drawn(Annotations(annotations, tuple(classes), maps, problems, notes), chosen, **options)
