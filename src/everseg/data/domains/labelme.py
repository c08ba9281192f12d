"""labelme's JSON: one file per image, with its shapes."""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from everseg.data.decoding import Bands, Decoding, Window
from everseg.data.domains.areas import circle, fill_polygons, paste, rectangle
from everseg.data.domains.prompts import PromptKind, PromptRule, StoredClicks
from everseg.data.images import shown_size
from everseg.data.listing import Listing
from everseg.data.names import is_litter, sample_names
from everseg.data.samples import PartlyReadable, Samples, take_evenly, take_part
from everseg.data.tiff import MOST_PIXELS
from everseg.errors import UserError, unknown
from everseg.files import read_json

BACKGROUND, IGNORE = "_background_", "__ignore__"
"""labelme's own labels: no object, and pixels that do not count."""

_CORNERS = {"polygon": 3, "rectangle": 2, "oriented_rectangle": 4, "circle": 2, "mask": 2}
"""How many points a kind of shape has at least. Kinds that are not listed have no area."""


@dataclass(frozen=True)
class Shape:
    """One shape of a file. points: ((x, y), ...) on the image as it is shown. patch: of a "mask", a PNG as
    base64 text. object: shapes of the same number belong together."""

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
        if self.kind == "rectangle":
            return rectangle(points[:2], height, width)
        if self.kind == "mask":
            left, top = (int(v) for v in points[0].round())
            return paste(_patch(self.patch), left, top, height, width)
        return fill_polygons([points.ravel().tolist()], height, width)


@dataclass(frozen=True)
class LabelmeFile:
    """What a file says: where its image is, and its shapes. height, width: of the image as it is shown."""

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
class LabelmeObject:
    """An image and the shapes that make up its mask, by their places in the file."""

    image: Path
    name: str
    path: Path
    folder: Path | None
    shapes: tuple[int, ...]
    stored: StoredClicks | None = None

    def mask(self) -> NDArray[np.bool_]:
        mask = read_labelme(self.path, self.folder).draw(self.shapes)
        if not mask.any():
            raise UserError(f"{_of(self.path, self.shapes[0])} covers no pixel; enlarge or remove it")
        return mask

    def truth(self) -> list[Any]:
        file = read_labelme(self.path, self.folder)
        drawn = [file.shapes[number] for number in self.shapes]
        return [file.height, file.width, [[s.kind, s.points, s.patch] for s in drawn]]


class LabelmeReader(Samples):
    """Samples of a folder with labelme's JSON files, each beside its image.

    images: the folder of the images, where they do not lie beside the JSON files. instances: "each" object is
    a sample (shapes of one label and group_id are one object), or all of an image "merged" in one.
    categories: use only these labels. Images without such objects are passed over; `imageData` is not read.
    part: [start, stop] of the sorted files; limit: at most so many samples, evenly spaced.

    Raises:
        UserError: no JSON files, files that are not labelme's, missing images, or an unknown label.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        images: Path | None = None,
        instances: Literal["each", "merged"] = "each",
        categories: tuple[str, ...] | None = None,
        prompts: Literal["clicks", "box", "clicks+box"] = "clicks",
        clicks: int = 3,
        seed: int = 0,
        part: tuple[int, int] | None = None,
        limit: int | None = None,
        bands: Bands = None,
        window: Window = None,
    ) -> None:
        files, problems = labelme_files(Path(path), images)
        known = dict.fromkeys(s.label for file in files for s in file.shapes)
        for name in categories or ():
            if name not in known:
                raise unknown(f"label in {path}:", name, known)
        wanted = set(categories or known) - ({BACKGROUND, IGNORE} - set(categories or ()))
        entries: list[LabelmeObject] = []
        named = zip(files, sample_names([f.image for f in files]), strict=True)
        having = [(f, name) for f, name in named if any(s.label in wanted for s in f.shapes)]
        for file, name in take_part(having, part):
            groups: dict[int, list[int]] = {}
            for number, shape in enumerate(file.shapes):
                if shape.label in wanted:
                    groups.setdefault(shape.object if instances == "each" else 0, []).append(number)
            for number, shapes in groups.items():
                own = f"{name}#{number + 1}" if instances == "each" else name
                entries.append(LabelmeObject(file.image, own, file.path, images, tuple(shapes)))
        kind: PromptKind = prompts
        prompted, decoding = PromptRule(kind, clicks, seed), Decoding(bands, window)
        super().__init__(take_evenly(entries, limit), prompted, decoding=decoding)
        if problems:
            raise PartlyReadable(problems, self[:])
        if not entries:
            raise UserError(f"{path} has no shape to learn from; draw some, or check `categories`")

    def truth_file(self, index: int) -> str:
        entry: Any = self.entries[index]
        return str(entry.path)


def labelme_files(path: Path, images: Path | None) -> tuple[list[LabelmeFile], list[str]]:
    """The JSON files of a folder, sorted by their images' names, with the labels of shapes but not their
    points, and a sentence for each that cannot be used.

    Raises:
        UserError: the folder is missing or has no JSON file.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a folder; give the folder that holds labelme's JSON files")
    found: dict[str, LabelmeFile] = {}  # by the images' paths
    problems: list[str] = []
    sources = sorted(f for f in path.glob("*.json") if not is_litter(f.name))
    if not sources:
        raise UserError(f"{path} has no JSON files; give the folder that holds labelme's JSON files")
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
        else:
            # Without the points: those of all files of a large data set would fill the memory.
            bare = tuple(replace(shape, points=(), patch=None) for shape in file.shapes)
            found[image] = replace(file, shapes=bare)
    return sorted(found.values(), key=lambda file: (file.image.name, str(file.image))), problems


def read_labelme(path: Path, images: Path | None = None) -> LabelmeFile:
    """Read one JSON file. images: the folder of its image, where that is not the file's own.

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
        raise UserError(f"{path} is not of labelme (it has no list 'shapes'); remove it or correct `path`")
    given = tree.get("imagePath")
    if not isinstance(given, str) or not given:
        raise UserError(f"{path} has the imagePath {given!r}; it must name the image")
    # Written on Windows, the path has backslashes; of another machine's path only the name is of use.
    name = Path(given.replace("\\", "/")).name
    folder = Listing(path.parent if images is None else images)
    image = (folder.find(given) if images is None else None) or folder.find(name)
    if image is None:
        raise UserError(
            f"{path} is of the image {given}, which is not at {folder.folder / name}; add it or give images:"
        )
    size: tuple[Any, Any] = tree.get("imageHeight"), tree.get("imageWidth")
    if not all(type(n) is int and n > 0 for n in size):
        if any(n is not None for n in size):
            raise UserError(f"{path} has the imageHeight and imageWidth {size}; they are numbers from 1")
        size = shown_size(image)
    if size[0] * size[1] > MOST_PIXELS:
        raise UserError(f"{path} has the imageHeight and imageWidth {size}; no image is as large")
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
    kind = row.get("shape_type") or "polygon"
    if not isinstance(kind, str) or kind not in _CORNERS:
        areas = ", ".join(_CORNERS)
        raise UserError(
            f"{place} ({row['label']!r}) is a {kind}, which has no area; remove it or draw one of {areas}"
        )
    given = row.get("points")
    try:
        points = np.array(given, np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise UserError(f"{place} ({row['label']!r}) has points that are no list of [x, y]; correct it")
    if len(points) < _CORNERS[kind]:
        raise UserError(
            f"{place} ({row['label']!r}) is a {kind} of {len(points)} points; it needs {_CORNERS[kind]}"
        )
    if not isinstance(row.get("group_id"), int | str | None):
        raise UserError(f"{place} has the group_id {row['group_id']!r}; it is a number or null")
    patch = row.get("mask") if kind == "mask" else None
    if kind == "mask":
        try:
            _patch(patch)
        except ValueError as error:
            raise UserError(f"{place} ({row['label']!r}) {error}; correct or remove it") from error
    return Shape(row["label"], kind, tuple((float(x), float(y)) for x, y in points), number, patch)


def _patch(given: Any) -> NDArray[np.bool_]:
    """(h, w) of a mask that is written as base64 of a PNG."""
    try:
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(given)))).astype(bool)
    except (TypeError, binascii.Error, OSError, SyntaxError, ValueError) as error:
        raise ValueError("has a mask that is no base64 of a PNG") from error
