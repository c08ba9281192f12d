"""COCO JSON: images with polygons or run lengths."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from everseg.data.decoding import Bands, Decoding, Window
from everseg.data.domains.prompts import PromptKind, PromptRule, StoredClicks
from everseg.data.domains.rle import decode_rle, fill_polygons
from everseg.data.samples import PartlyReadable, Samples, take_evenly, take_part
from everseg.errors import UserError, unknown
from everseg.files import read_json


@dataclass(frozen=True)
class CocoObjects:
    """An image and the annotations that make up its mask: one, or all of them merged.

    segmentations: as in the JSON: lists of polygons or {"counts", "size"}. ids: the annotations' ids, for
        messages.
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
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(
                    f"{self.source}: annotation {number} of {self.image.name} is no polygon or run "
                    f"length ({error}); correct or remove it"
                ) from error
        if not mask.any():
            raise UserError(
                f"{self.source}: annotation {self.ids[0]} of {self.image.name} covers no pixel; "
                "remove it or set min_area: 1"
            )
        return mask

    def _decode(self, segmentation: Any) -> NDArray[np.bool_]:
        if isinstance(segmentation, dict):
            if list(segmentation["size"]) != [self.height, self.width]:
                raise ValueError(
                    f"its size {segmentation['size']} is not the image's {[self.height, self.width]}"
                )
            return decode_rle(segmentation["counts"], self.height, self.width)
        return fill_polygons(segmentation, self.height, self.width)

    def truth(self) -> list[Any]:
        return [self.height, self.width, list(self.segmentations)]


class CocoReader(Samples):
    """Samples of a COCO JSON file.

    images: the folder of the images. annotations: the JSON file. instances: "each" object is a sample, or all
    of an image "merged" in one. categories: use only these, by name. crowd: use regions marked iscrowd, too.
    min_area: leave out annotations whose `area` (square pixels) is smaller.
    part: [start, stop] of the images sorted by file name; limit: at most so many samples, evenly spaced.

    Raises:
        UserError: the JSON is not COCO's, images are missing, or a category does not exist.
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
        prompts: Literal["clicks", "box", "clicks+box"] = "clicks",
        clicks: int = 3,
        seed: int = 0,
        part: tuple[int, int] | None = None,
        limit: int | None = None,
        bands: Bands = None,
        window: Window = None,
    ) -> None:
        source, folder = Path(annotations), Path(images)
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; `images` is the folder that holds the images")
        tree = read_json(source)
        files = _index(tree, "images", ("id", "file_name", "height", "width"), source)
        wanted = _category_ids(tree, categories, source)
        objects = _objects(tree, files, wanted, crowd, min_area, source)

        problems = [
            f"{folder / files[i]['file_name']} is in {source} but does not exist; add it or correct `images`"
            for i in objects
            if not (folder / files[i]["file_name"]).is_file()
        ]
        present = [i for i in objects if (folder / files[i]["file_name"]).is_file()]
        present.sort(key=lambda i: (files[i]["file_name"], str(i)))
        entries = []
        for i in take_part(present, part):
            groups = [[a] for a in objects[i]] if instances == "each" else [objects[i]]
            for group in groups:
                entries.append(_entry(files[i], group, instances == "each", folder, source))
        kind: PromptKind = prompts
        chosen, prompted = take_evenly(entries, limit), PromptRule(kind, clicks, seed)
        super().__init__(chosen, prompted, decoding=Decoding(bands, window))
        if problems:
            raise PartlyReadable(problems, self[:])
        if not entries:
            raise UserError(f"{source} has no annotation to learn from; check `categories` and `crowd`")


def _entry(
    file: dict[str, Any], group: Sequence[dict[str, Any]], each: bool, folder: Path, source: Path
) -> CocoObjects:
    ids = tuple(a["id"] for a in group)
    return CocoObjects(
        image=folder / file["file_name"],
        name=f"{file['file_name']}#{ids[0]}" if each else file["file_name"],
        height=file["height"],
        width=file["width"],
        segmentations=tuple(a["segmentation"] for a in group),
        ids=ids,
        source=source,
    )


def _rows(tree: Any, part: str, fields: tuple[str, ...], source: Path) -> list[dict[str, Any]]:
    rows = tree.get(part) if isinstance(tree, dict) else None
    if not isinstance(rows, list):
        raise UserError(
            f"{source} has no list {part!r}; a COCO file has the lists images, annotations and categories"
        )
    for number, row in enumerate(rows):
        missing = [f for f in fields if not isinstance(row, dict) or f not in row]
        if missing:
            raise UserError(f"{source}: {part}[{number}] has no {missing[0]!r}; add it or remove the entry")
    return rows


def _index(tree: Any, part: str, fields: tuple[str, ...], source: Path) -> dict[Any, dict[str, Any]]:
    rows = _rows(tree, part, fields, source)
    for number, row in enumerate(rows):
        if not isinstance(row["id"], int | str):
            raise UserError(f"{source}: {part}[{number}] has the id {row['id']!r}; ids are numbers")
        if not isinstance(row["file_name"], str):
            raise UserError(
                f"{source}: {part}[{number}] has the file_name {row['file_name']!r}; it must be text"
            )
        if not all(isinstance(row[f], int) and row[f] > 0 for f in ("height", "width")):
            raise UserError(
                f"{source}: {part}[{number}] has no proper height and width; they are numbers from 1"
            )
    indexed = {row["id"]: row for row in rows}
    if len(indexed) < len(rows):
        raise UserError(f"{source} uses an id of {part!r} twice; ids must differ")
    return indexed


def _category_ids(tree: Any, names: tuple[str, ...] | None, source: Path) -> set[Any] | None:
    if names is None:
        return None
    known = {row["name"]: row["id"] for row in _rows(tree, "categories", ("id", "name"), source)}
    for name in names:
        if name not in known:
            raise unknown(f"category in {source}:", name, known)
    return {known[name] for name in names}


def _objects(
    tree: Any,
    files: dict[Any, dict[str, Any]],
    wanted: set[Any] | None,
    crowd: bool,
    min_area: float,
    source: Path,
) -> dict[Any, list[dict[str, Any]]]:
    """Annotations to use, for each image id, in order of their ids."""
    objects: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in _rows(tree, "annotations", ("id", "image_id"), source):
        if wanted is not None and row.get("category_id") not in wanted:
            continue
        if row.get("iscrowd") and not crowd:
            continue
        if min_area and "area" not in row:
            raise UserError(f"{source}: annotation {row['id']} has no area; add it or leave out min_area")
        if min_area and row["area"] < min_area:
            continue
        if not isinstance(row["image_id"], int | str) or row["image_id"] not in files:
            raise UserError(
                f"{source}: annotation {row['id']} is of image {row['image_id']!r}, not listed; remove it"
            )
        if not row.get("segmentation"):
            raise UserError(
                f"{source}: annotation {row['id']} has no segmentation; boxes alone cannot be learned from"
            )
        objects[row["image_id"]].append(row)
    for rows in objects.values():
        rows.sort(key=lambda a: (str(type(a["id"])), a["id"]))
    return dict(objects)
