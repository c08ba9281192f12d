"""labelme's JSON: one file per image, with its shapes."""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from everseg.data.domains.annotated import AnnotationReader, Annotations, Instances, Mark
from everseg.data.domains.areas import circle, fill_polygons, paste, rectangle
from everseg.data.domains.extents import SAMPLED, Extents, extent
from everseg.data.domains.options import SampleOptions
from everseg.data.domains.shapes import FARTHEST
from everseg.data.images import shown_size
from everseg.data.listing import Listing
from everseg.data.names import is_litter, sample_names
from everseg.data.tiff import MOST_PIXELS
from everseg.errors import UserError, brief
from everseg.files import read_json
from everseg.types import VOID

BACKGROUND, IGNORE = "_background_", "__ignore__"
"""labelme's own labels: no object, and pixels that do not count."""

_CORNERS = {"polygon": 3, "rectangle": 2, "oriented_rectangle": 4, "rotation": 4, "circle": 2, "mask": 2}
"""How many points a kind of shape has at least. Kinds that are not listed have no area."""


@dataclass(frozen=True)
class Shape:
    """One shape of a file.

    points: ((x, y), ...), in pixels of the image as it is shown.
    patch: PNG as base64 text, for a shape of type "mask".
    object: shapes with the same number belong together.
    """

    label: str
    kind: str
    points: tuple[tuple[float, float], ...]
    object: int
    patch: str | None = None

    def mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """(height, width), drawn where pixels' centres lie inside.

        Raises:
            ValueError: the shape cannot be drawn; says why.
        """
        points = np.array(self.points, np.float64)
        if self.kind == "circle":
            return circle(points[0], points[1], height, width)
        if self.kind == "rectangle" and len(points) == 2:  # Some tools write all four corners.
            return rectangle(points, height, width)
        if self.kind == "mask":
            left, top = (int(v) for v in points[0].round())
            return paste(_patch(self.patch), left, top, height, width)
        return fill_polygons([points.ravel().tolist()], height, width)


@dataclass(frozen=True)
class LabelmeFile:
    """What a file says: where its image is, and its shapes.

    height, width: of the image as it is shown.
    """

    path: Path
    image: Path
    height: int
    width: int
    shapes: tuple[Shape, ...]

    def draw(self, numbers: Sequence[int]) -> NDArray[np.bool_]:
        """The union of some shapes, by their places.

        Raises:
            UserError: one of them cannot be drawn.
        """
        mask = np.zeros((self.height, self.width), bool)
        for number in numbers:
            try:
                mask |= self.shapes[number].mask(self.height, self.width)
            except ValueError as error:
                raise UserError(f"{_of(self.path, number)} {error}; correct or remove it") from error
        return mask


def _of(path: Path, number: int) -> str:
    return f"{path}: shapes[{number}]"


@dataclass(frozen=True)
class LabelmeImage:
    """An image and its JSON file.

    folder: where the image lies, if not beside it. A part is the place of a shape in the file.
    """

    image: Path
    path: Path
    folder: Path | None
    name: str
    marks: tuple[Mark, ...]

    def draw(self, parts: Sequence[int]) -> NDArray[np.bool_]:
        return read_labelme(self.path, self.folder).draw(parts)

    def place(self, part: int) -> str:
        return _of(self.path, part)

    def truth(self, parts: Sequence[int]) -> list[Any]:
        file = read_labelme(self.path, self.folder)
        drawn = [file.shapes[part] for part in sorted(parts)]
        return [file.height, file.width, [[s.kind, s.points, s.patch] for s in drawn]]

    def labels(self, numbers: Mapping[str, int]) -> NDArray[np.uint8]:
        file = read_labelme(self.path, self.folder)
        labels = np.zeros((file.height, file.width), np.uint8)
        for part, shape in enumerate(file.shapes):
            labels[file.draw([part])] = VOID if shape.label == IGNORE else numbers.get(shape.label, 0)
        return labels


class LabelmeReader(AnnotationReader):
    """Samples of a folder with labelme's JSON files, each beside its image; of a folder without any, those in
    the folders below it.

    images: the folder of the images, where they do not lie beside the JSON files. Shapes of one label and
        group_id are one object. `imageData` is not read. For other options see `AnnotationReader`.

    Raises:
        UserError: no JSON files, files that are not labelme's, missing images, or an unknown label.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        images: Path | None = None,
        instances: Instances = "each",
        categories: tuple[str, ...] | None = None,
        **options: Unpack[SampleOptions],
    ) -> None:
        super().__init__(labelme(Path(path), images, categories), instances, categories, **options)


def labelme(
    path: Path, images: Path | None, categories: Sequence[str] | None = None
) -> Annotations[LabelmeImage]:
    """Parse the JSON files of a folder; see `LabelmeReader`.

    categories: the labels that are objects; all but labelme's own two where None.

    Raises:
        UserError: the folder is missing or has no JSON file, or x and y are swapped in most of them.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; give the folder that holds labelme's JSON files")
    sources = sorted(f for f in path.glob("*.json") if not is_litter(f.name))
    nested = not sources  # A folder of folders, such as one for each patient.
    if nested:
        sources = sorted(f for f in path.rglob("*.json") if not is_litter(f.name))
    if not sources:
        raise UserError(f"{path} has no JSON files; give the folder that holds labelme's JSON files")
    found: dict[str, LabelmeImage] = {}  # by the images' paths
    problems: list[str] = []
    names: dict[str, None] = {}
    extents = Extents(path, "shape", step=max(1, len(sources) // SAMPLED))
    for source in sources:
        try:
            file = read_labelme(source, images)
        except UserError as error:
            problems.append(str(error))
            continue
        image = os.path.abspath(file.image)
        if image in found:
            other = found[image].path
            problems.append(f"{source} is of the image {file.image.name}, as {other.name} is; remove one")
            continue
        names |= dict.fromkeys(shape.label for shape in file.shapes)
        _note(extents, file)
        # Without the points: those of all files of a large data set would fill the memory.
        found[image] = LabelmeImage(file.image, source, images, "", _marks(file, categories))
    extents.refuse_swapped()

    def order(file: LabelmeImage) -> tuple[str, str]:
        return "" if nested else file.image.name, str(file.image)

    listed = sorted(found.values(), key=order)
    named = zip(listed, sample_names([one.image for one in listed]), strict=True)
    annotated = [replace(one, name=name) for one, name in named]
    return Annotations(path, tuple(names), annotated, problems, tuple(extents.notes()), as_shown=True)


def _marks(file: LabelmeFile, categories: Sequence[str] | None) -> tuple[Mark, ...]:
    groups: dict[int, list[int]] = {}
    for place, shape in enumerate(file.shapes):
        if shape.label not in (BACKGROUND, IGNORE) or shape.label in (categories or ()):
            groups.setdefault(shape.object, []).append(place)
    return tuple(Mark(n + 1, file.shapes[n].label, tuple(places)) for n, places in groups.items())


def _note(extents: Extents, file: LabelmeFile) -> None:
    for place, shape in enumerate(file.shapes):
        flat = [v for point in shape.points for v in point]
        name = f"{file.path.name}: shapes[{place}]"
        if shape.kind in ("polygon", "rectangle", "oriented_rectangle", "rotation"):
            extents.add(name, extent([flat]), file.height, file.width)
        if shape.kind == "polygon":
            extents.add_polygon(name, flat)


def read_labelme(path: Path, images: Path | None = None) -> LabelmeFile:
    """Read one JSON file.

    images: the folder of its image, where that is not the file's own.

    Raises:
        UserError: it is not labelme's, a shape cannot be read, or its image is missing.
    """
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    return _read(path, images, changed)


@lru_cache(maxsize=64)
def _read(path: Path, images: Path | None, changed: int) -> LabelmeFile:
    """As `read_labelme`, once for the objects of an image that follow each other."""
    tree = read_json(path)
    if not isinstance(tree, dict) or not isinstance(tree.get("shapes"), list):
        raise UserError(
            f"{path} is not a labelme file (it has no list 'shapes'); remove it or correct `path`"
        )
    given = tree.get("imagePath")
    if not isinstance(given, str) or not given:
        raise UserError(f"{path} has the imagePath {given!r}; set it to the name of the image")
    # Written on Windows, the path has backslashes; of another machine's path only the name is of use.
    name = Path(given.replace("\\", "/")).name
    folder = Listing(path.parent if images is None else images)
    image = (folder.find(given) if images is None else None) or folder.find(name)
    if image is None:
        raise UserError(
            f"{path} belongs to the image {given}, which is not at {folder.folder / name}; add the "
            "image, or name its folder with images:"
        )
    size: tuple[Any, Any] = tree.get("imageHeight"), tree.get("imageWidth")
    if not all(type(n) is int and n > 0 for n in size):
        if any(n is not None for n in size):
            raise UserError(
                f"{path} has the imageHeight and imageWidth {size}; correct them to numbers from 1"
            )
        size = shown_size(image)
    if size[0] * size[1] > MOST_PIXELS:
        raise UserError(
            f"{path} has the imageHeight and imageWidth {size}, more than any image can have; correct them"
        )
    shapes: list[Shape] = []
    objects: dict[tuple[str, Any], int] = {}
    for number, row in enumerate(tree["shapes"]):
        shape = _shape(row, number, path)
        group = (shape.label, row["group_id"]) if row.get("group_id") is not None else ("", -number)
        first = objects.setdefault(group, number)
        shapes.append(Shape(shape.label, shape.kind, shape.points, first, shape.patch))
    return LabelmeFile(path, image, size[0], size[1], tuple(shapes))


def _shape(row: Any, number: int, path: Path) -> Shape:
    place = _of(path, number)
    if not isinstance(row, dict) or not isinstance(row.get("label"), str):
        raise UserError(f"{place} has no label; add one or remove the shape")
    named = f"{place} ({brief(row['label'], 60)!r})"
    kind = row.get("shape_type") or "polygon"
    if not isinstance(kind, str) or kind not in _CORNERS:
        areas = ", ".join(_CORNERS)
        raise UserError(f"{named} is a {kind}, which has no area; remove it or draw one of {areas}")
    given = row.get("points")
    try:
        points = np.array(given, np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise UserError(f"{named} has points that are not a list of [x, y]; correct it")
    if abs(points).max(initial=0) > FARTHEST:
        raise UserError(
            f"{named} has a corner farther than {FARTHEST:,.0f} pixels from the image; correct it"
        )
    if len(points) < _CORNERS[kind]:
        raise UserError(f"{named} is a {kind} of {len(points)} points; it needs {_CORNERS[kind]}")
    if not isinstance(row.get("group_id"), int | str | None):
        raise UserError(f"{place} has the group_id {row['group_id']!r}; set it to a number or null")
    patch = row.get("mask") if kind == "mask" else None
    if kind == "mask":
        try:
            _patch(patch)
        except ValueError as error:
            raise UserError(f"{named} {error}; correct or remove it") from error
    return Shape(row["label"], kind, tuple((float(x), float(y)) for x, y in points), number, patch)


def _patch(given: Any) -> NDArray[np.bool_]:
    """(h, w) of a mask that is written as base64 of a PNG."""
    try:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(given)))).astype(bool)
    except (TypeError, binascii.Error, OSError, SyntaxError, ValueError) as error:
        raise ValueError("has a mask that is not base64 of a PNG") from error
