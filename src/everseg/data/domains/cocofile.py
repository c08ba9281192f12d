"""Read and check the rows of a COCO file: the usable ones, and every fault."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from PIL import Image

from everseg.data.domains.cocoextents import CocoExtents
from everseg.data.domains.extents import SAMPLED
from everseg.data.domains.faults import Faults, places
from everseg.data.domains.shapes import NoShape, Shape, number, rectangle, shape_of, whole
from everseg.data.images import shown_size
from everseg.data.listing import Listing, begin_with, folders_and_name
from everseg.data.names import sample_name
from everseg.errors import UserError, brief, unknown
from everseg.files import read_json
from everseg.text import is_file_name

Id = int | str
LEAVE_OUT = "correct or remove it, or set skip_faulty: true"
MISSING = "is listed but missing", "add it, correct `images`, or set skip_faulty: true"
BOXES = "set use_boxes: true to take the bbox as the mask, or skip_faulty: true to leave such rows out"


@dataclass(frozen=True)
class CocoImage:
    """A row of `images`, and the file that it means. `file` is None if it does not exist."""

    name: str
    file: Path | None
    height: int
    width: int


@dataclass(frozen=True)
class Annotation:
    """A usable row of `annotations`. `category` is None where it has none that is an id."""

    id: Id
    image: CocoImage
    segmentation: Shape
    category: Id | None = None


@dataclass(frozen=True)
class Wanted:
    """Which annotations to use; the fields are options of `CocoReader`, but for `named`: whether every
    annotation must have a category that is listed."""

    categories: tuple[str, ...] | None = None
    crowd: bool = False
    min_area: float = 0
    use_boxes: bool = False
    named: bool = False


@dataclass
class CocoFile:
    """The usable part of a COCO file.

    objects: annotations by image, in the order of the file.
    images: all images that are listed and there.
    categories: the name of each category's id, if categories are wanted.
    rows: number of annotations in the file.
    unnamed: sentences on categories without a usable name, which are among the faults.
    notes: sentences on how contradictions were resolved.
    """

    source: Path
    objects: dict[CocoImage, list[Annotation]]
    images: list[CocoImage]
    categories: dict[Id, str]
    rows: int
    faults: Faults
    unnamed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_coco_file(source: Path, folder: Path, wanted: Wanted) -> CocoFile:
    """Check every row of a COCO file whose images are in `folder`.

    Raises:
        UserError: it is not a COCO file, or has no category of a wanted name.
    """
    tree = read_json(source, names=True)
    faults = Faults(source)
    listed = _rows(tree, "images", source)
    above = begin_with(row["file_name"] for row in listed if is_named(row))
    images = _Images(listed, Listing(folder, above), faults)
    named, unnamed = dict[Id, str](), Faults(source)
    if wanted.categories is not None or wanted.named:
        named = _category_names(_rows(tree, "categories", source), unnamed)
        faults.take(unnamed)
    categories = None if wanted.categories is None else _ids_of(wanted.categories, named, source)
    rows = _rows(tree, "annotations", source)
    objects: dict[CocoImage, list[Annotation]] = defaultdict(list)
    extents = CocoExtents(source, step=max(1, len(rows) // SAMPLED))
    for annotation in _annotations(rows, images, categories, wanted, faults, extents):
        objects[annotation.image].append(annotation)
    extents.refuse(wanted.use_boxes)
    for image in objects:
        if image.file is None:
            faults.add("image", folder / brief(image.name), *MISSING)
    present = {image: found for image, found in objects.items() if image.file is not None}
    notes = [f"{source}: {sentence}" for sentence in (*images.notes, *_notes(present))]
    notes += extents.notes()
    there = [image for image in dict.fromkeys(images.by_id.values()) if image.file is not None]
    return CocoFile(source, present, there, named, len(rows), faults, unnamed.sentences(), notes)


def _rows(tree: Any, part: str, source: Path) -> list[Any]:
    rows = tree.get(part) if isinstance(tree, dict) else None
    if not isinstance(rows, list):
        raise UserError(
            f"{source} has no list {part!r}; give a COCO file, which has the lists images, annotations "
            "and categories"
        )
    return rows


def _id(given: Any) -> Id | None:
    """An id as a number where it is one, also as text or with a decimal point; None for what no id can be.
    Any other text, such as "007" or "1e3", stays what it is.
    """
    if isinstance(given, str):
        plain = given.isascii() and given.isdecimal() and len(given) < 20 and str(int(given)) == given
        return int(given) if plain else given or None
    return whole(given)


def _complete(
    rows: list[Any], part: str, fields: tuple[str, ...], faults: Faults
) -> Iterator[tuple[str, Id, dict[str, Any]]]:
    """(place, id, row) of the rows that have all of these fields and a usable id.

    Where no annotation has an id, they are numbered from 1: nothing refers to an annotation's id.
    """
    numbered = part == "annotations" and not any(isinstance(row, dict) and "id" in row for row in rows)
    for index, row in enumerate(rows):
        place = f"{part}[{index}]"
        if not isinstance(row, dict):
            faults.add("row", place, "is not a mapping", LEAVE_OUT)
            continue
        if numbered:
            row = {"id": index + 1, **row}
        missing = next((name for name in ("id", *fields) if name not in row), None)
        if missing is not None:
            faults.add(
                "row", place, f"has no {missing!r}", "add it, remove the row, or set skip_faulty: true"
            )
            continue
        known = _id(row["id"])
        if known is None:
            faults.add("row", place, "has an id that is neither a number nor text", LEAVE_OUT, row["id"])
            continue
        yield place, known, row


class _Images:
    """Rows of `images` by id. One file listed twice is one image."""

    def __init__(self, rows: list[Any], listing: Listing, faults: Faults) -> None:
        self.by_id: dict[Id, CocoImage] = {}
        self.faulty: set[Id] = set()
        self.notes: list[str] = []
        by_file: dict[Path | str, CocoImage] = {}
        again: dict[str, None] = {}
        for place, known, row in _complete(rows, "images", ("file_name",), faults):
            image = _image(place, row, listing, faults)
            if image is None:
                self.faulty.add(known)
                continue
            first = by_file.setdefault(image.file or image.name, image)
            if (first.height, first.width) != (image.height, image.width):
                faults.add("image", image.name, "is listed with two sizes", "keep one row of it")
                self.faulty.add(known)
                continue
            if first is not image or known in self.by_id:
                again[first.name] = None
            if self.by_id.setdefault(known, first) != first:
                todo = "give each image an id of its own"
                faults.add("image id", known, "is that of two files, used twice", todo, image.name)
                self.faulty.add(known)
        if again:
            verb = "is" if len(again) == 1 else "are"
            self.notes.append(
                f"{places('image', [*again])} {verb} listed more than once; all annotations are those of one "
                "image"
            )


def is_named(row: Any) -> bool:
    """Whether a row of `images` has a name that a file can have."""
    name = row.get("file_name") if isinstance(row, dict) else None
    return isinstance(name, str) and is_file_name(name) and bool(PurePath(name).name)


def _image(place: str, row: Mapping[str, Any], listing: Listing, faults: Faults) -> CocoImage | None:
    name = row["file_name"]
    if not is_named(row):
        faults.add("row", place, "has a file_name that names no file", LEAVE_OUT, repr(name))
        return None
    file = listing.find(name)
    if file is not None and file.is_relative_to(listing.folder):
        inside = sample_name(file, listing.folder)
        if len(folders_and_name(inside)) < len(folders_and_name(name)):
            name = inside  # The folders of another machine are left out.
    if row.get("height") is None and row.get("width") is None:
        if file is None:
            faults.add("image", listing.folder / brief(name), *MISSING)
            return None
        try:
            return CocoImage(name, file, *shown_size(file))
        except UserError:
            faults.add("image", listing.folder / brief(name), "is damaged, or no image", LEAVE_OUT)
            return None
    height, width = whole(row.get("height")), whole(row.get("width"))
    if height is None or width is None or height < 1 or width < 1:
        faults.add("row", place, "has no proper height and width, which are numbers from 1", LEAVE_OUT)
        return None
    most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    if height * width > most:
        faults.add("row", place, f"has more than {most // 10**6} million pixels", LEAVE_OUT)
        return None
    return CocoImage(name, file, height, width)


def _category_names(rows: list[Any], faults: Faults) -> dict[Id, str]:
    names: dict[Id, str] = {}
    for place, known, row in _complete(rows, "categories", ("name",), faults):
        if isinstance(row["name"], str) and not row["name"].strip():
            faults.add("row", place, "has an empty name", LEAVE_OUT)
        elif isinstance(row["name"], str):
            names.setdefault(known, row["name"])
        else:
            faults.add("row", place, "has a name that is not text", LEAVE_OUT, row["name"])
    return names


def _ids_of(wanted: tuple[str, ...], names: Mapping[Id, str], source: Path) -> set[Id]:
    for name in wanted:
        if name not in names.values():
            raise unknown(f"category in {source}:", name, list(names.values()))
    return {known for known, name in names.items() if name in wanted}


def _is_empty(segmentation: Any) -> bool:
    if isinstance(segmentation, list):
        return all(part in (None, [], {}) for part in segmentation)
    return segmentation in (None, {}, "")


_CROWD = {"": False, "0": False, "0.0": False, "false": False, "none": False} | dict.fromkeys(
    ("1", "1.0", "true"), True
)


def _annotations(
    rows: list[Any],
    images: _Images,
    categories: set[Id] | None,
    wanted: Wanted,
    faults: Faults,
    extents: CocoExtents,
) -> Iterator[Annotation]:
    for _, known, row in _complete(rows, "annotations", ("image_id",), faults):

        def fault(what: str, todo: str = LEAVE_OUT, value: object = None, at: Id = known) -> None:
            faults.add("annotation", at, what, todo, value)

        if categories is not None:
            category = _id(row.get("category_id"))
            if category is None:
                what = "has a category_id that is neither a number nor text"
                fault(what, value=repr(row.get("category_id")))
                continue
            if category not in categories:
                continue
        crowd = _CROWD.get(str(row.get("iscrowd") if row.get("iscrowd") is not None else "").strip().lower())
        if crowd is None:
            fault("has an iscrowd that is neither 0 nor 1", value=repr(row["iscrowd"]))
            continue
        if crowd and not wanted.crowd:
            continue
        if wanted.min_area:
            area = number(row.get("area"))
            if area is None:
                fault("has no area that is a number", f"{LEAVE_OUT}, or leave out min_area")
                continue
            if area < wanted.min_area:
                continue
        of = _id(row["image_id"])
        if of is not None and of in images.faulty:
            continue  # Its image is a fault already.
        if of is None or of not in images.by_id:
            fault("is of an image that is not listed", value=f"image_id {row['image_id']!r}")
            continue
        image = images.by_id[of]
        try:
            segmentation = row.get("segmentation")
            if not _is_empty(segmentation):
                shape = shape_of(segmentation, image.height, image.width)
                extents.add_shape(known, shape, row.get("bbox"), image.height, image.width)
            elif "bbox" not in row:
                fault("has no segmentation")
                continue
            elif not wanted.use_boxes:
                fault("has no segmentation, only a bbox", BOXES)
                continue
            else:
                shape = rectangle(row["bbox"], image.height, image.width)
                extents.add_box(known, row["bbox"], image.height, image.width)
        except NoShape as error:
            fault(f"{error}")
            continue
        yield Annotation(known, image, shape, _id(row.get("category_id")))


def _notes(objects: Mapping[CocoImage, list[Annotation]]) -> Iterator[str]:
    twice: dict[str, None] = {}
    for found in objects.values():
        for known, count in Counter(annotation.id for annotation in found).items():
            if count > 1:
                twice[str(known)] = None
    if twice:
        verb = "is" if len(twice) == 1 else "are"
        yield (
            f"{places('annotation id', [*twice])} {verb} used more than once on an image; all such "
            "annotations are used, the later ones as #1-2, #1-3 and so on"
        )
