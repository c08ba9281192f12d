"""YOLO's layout for segmentation: text files of normalised polygons beside the images, named by data.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import yaml
from numpy.typing import NDArray

from everseg.data.domains.annotated import AnnotationReader, Annotations, Instances, Mark
from everseg.data.domains.areas import fill_polygons, rectangle
from everseg.data.domains.extents import FAR, SAMPLED, Extents, beyond
from everseg.data.domains.faults import places
from everseg.data.domains.options import SampleOptions
from everseg.data.domains.yolobare import bare_names, bare_split, inside, is_bare
from everseg.data.images import shown_size
from everseg.data.listing import Listing, begin_with
from everseg.data.names import is_litter, sample_names
from everseg.errors import UserError, first_line, unknown
from everseg.text import is_file_name, lines_of, read_text

_IMAGES = frozenset(".avif .bmp .dng .heic .jp2 .jpeg .jpg .mpo .pfm .png .tif .tiff .webp".split())
"""What counts as an image, in small letters."""

_OUTSIDE = 0.01
"""How far coordinates may lie outside 0..1, where they are cut off: tools round beyond the border."""


@dataclass(frozen=True)
class Line:
    """One line of a label file: the number of a class, and x, y, x, y, ... as shares of width and height; or
    centre x, centre y, width, height of a box."""

    number: int
    label: int
    values: tuple[float, ...]

    @property
    def box(self) -> bool:
        return len(self.values) == 4

    def mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """(height, width), drawn where pixels' centres lie inside."""
        scale = np.array([width, height], np.float64)
        if self.box:
            centre, half = np.array(self.values[:2]), np.array(self.values[2:]) / 2
            return rectangle(np.array([centre - half, centre + half]) * scale, height, width)
        corners = np.array(self.values).reshape(-1, 2).clip(0, 1) * scale
        return fill_polygons([corners.ravel().tolist()], height, width)


@dataclass(frozen=True)
class YoloImage:
    """An image and its label file.

    classes: the names of the numbers. A part is the number of a line, from 1.
    """

    image: Path
    path: Path
    name: str
    marks: tuple[Mark, ...]
    classes: tuple[str, ...]

    def draw(self, parts: Sequence[int]) -> NDArray[np.bool_]:
        mask = np.zeros(shown_size(self.image), bool)
        for line in read_lines(self.path):
            if line.number in parts:
                mask |= line.mask(*mask.shape)
        return mask

    def place(self, part: int) -> str:
        return f"{self.path}, line {part}"

    def truth(self, parts: Sequence[int]) -> list[Any]:
        return [[line.values for line in read_lines(self.path) if line.number in parts]]

    def labels(self, numbers: Mapping[str, int]) -> NDArray[np.uint8]:
        labels = np.zeros(shown_size(self.image), np.uint8)
        for line in read_lines(self.path):
            labels[line.mask(*labels.shape)] = numbers.get(self.classes[line.label], 0)
        return labels


class YoloReader(AnnotationReader):
    """Samples of a data set that Ultralytics' YOLO is trained on.

    path: the folder of data.yaml, or a YAML file of another name.
    split: its key, such as train, val or test.
    boxes: fill the boxes of lines that have no polygon; without it such lines are refused. Images without
        labels are passed over. For other options see `AnnotationReader`.

    Raises:
        UserError: data.yaml or a folder is missing, a category does not exist, or a label file is wrong.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        split: str = "train",
        instances: Instances = "each",
        categories: tuple[str, ...] | None = None,
        boxes: bool = False,
        **options: Unpack[SampleOptions],
    ) -> None:
        super().__init__(yolo(Path(path), split, boxes), instances, categories, **options)


def yolo(path: Path, split: str, boxes: bool) -> Annotations[YoloImage]:
    """Parse the label files of a split; see `YoloReader`.

    An image whose label file is empty or missing has no object, as YOLO has it.

    Raises:
        UserError: data.yaml or a folder is missing, none of the images has a label file, or the boxes are
            written as corners.
    """
    data = YoloData.of(path, split)
    found: list[YoloImage] = []
    problems: list[str] = []
    missing = 0
    notes = _Notes(data.path, "line", step=max(1, len(data.images) // SAMPLED))
    for image in data.images:
        labels = label_file(image)
        if not labels.is_file():
            missing += 1
            continue
        try:
            lines = read_lines(labels)
            for line in lines:
                data.check(line, labels, boxes)
        except UserError as error:
            problems.append(str(error))
            continue
        for line in lines:
            notes.of_line(labels, line)
        if lines:  # Of a line its number and class: all polygons of a large data set would fill the memory.
            marks = tuple(Mark(line.number, data.names[line.label], (line.number,)) for line in lines)
            found.append(YoloImage(image, labels, "", marks, data.names))
    if missing == len(data.images):
        where = label_file(data.images[0])
        raise UserError(f"{data.images[0]} and all others have no label file such as {where}; add them")
    notes.refuse_corners()
    named = zip(found, sample_names([one.image for one in found]), strict=True)
    annotated = [replace(one, name=name) for one, name in named]
    return Annotations(
        f"{data.path}, {split}", data.names, annotated, problems, tuple(notes.notes()), as_shown=True
    )


@dataclass
class _Notes(Extents):
    """As `Extents`, of label files.

    as_corners, as_centres: how many boxes fit an image only as two corners, or only as centre and size.
    """

    as_corners: list[str] = field(default_factory=list)
    as_centres: int = 0

    def of_line(self, path: Path, line: Line) -> None:
        place = f"{path.name}:{line.number}"
        if not line.box:
            self.add_polygon(place, line.values)
            return
        x, y, width, height = line.values
        if width <= x or height <= y:
            self.as_centres += 1
        elif beyond((x - width / 2, y - height / 2, x + width / 2, y + height / 2), 1, 1) > FAR:
            self.as_corners.append(place)

    def refuse_corners(self) -> None:
        """Raise `UserError` where most boxes that tell are written as corners."""
        if len(self.as_corners) > self.as_centres:
            raise UserError(
                f"{self.source}: the boxes of {places(self.noun, self.as_corners)} extend beyond their "
                "images, but would fit as left, top, right and bottom; write the centre, width and height "
                "of each box"
            )


@dataclass(frozen=True)
class YoloData:
    """One split of a data.yaml.

    names: names of the classes, counted from 0.
    images: image files, sorted.
    """

    path: Path
    names: tuple[str, ...]
    images: tuple[Path, ...]

    @classmethod
    def of(cls, path: Path, split: str) -> YoloData:
        """Read data.yaml and find the images of a split.

        Raises:
            UserError: the file is missing or wrong, it has no such split, or the split has no images.
        """
        file = path / "data.yaml" if path.is_dir() else path
        if path.is_dir() and not file.exists() and is_bare(path):
            given = bare_split(path, split)
            images = [f for f in _images(given, file, None) if given != "." or f.parent == path]
            return cls(file, tuple(bare_names(path)), _sorted(images))
        try:
            tree = yaml.safe_load(read_text(file))
        except OSError as error:
            raise UserError(
                f"cannot read {file}: {error.strerror}; give the folder of data.yaml, or the YAML file"
            ) from error
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            mark = getattr(error, "problem_mark", None)
            place = f" in line {mark.line + 1}" if mark else ""
            what = getattr(error, "problem", None) or first_line(error)
            raise UserError(f"{file} is not valid YAML{place} ({what}); correct it") from error
        if not isinstance(tree, dict) or not isinstance(tree.get("names"), list | dict):
            raise UserError(f"{file} has no names: of classes; a data.yaml has names:, train: and val:")
        if "kpt_shape" in tree:
            raise UserError(
                f"{file} describes key points (it has kpt_shape), whose label files hold no masks; give a "
                "data set with polygons"
            )
        names = tree["names"]
        if isinstance(names, dict):
            if sorted(names, key=str) != sorted(range(len(names)), key=str):
                raise UserError(
                    f"{file}: names: does not number the classes from 0 without a gap; correct it"
                )
            names = [names[i] for i in range(len(names))]
        splits = [k for k in ("train", "val", "test") if tree.get(k)]
        if split not in splits:
            raise unknown(f"split in {file}:", split, splits)
        listed = tree[split] if isinstance(tree[split], list) else [tree[split]]
        try:
            images = [image for one in listed for image in _images(str(one), file, tree.get("path"))]
        except OSError as error:
            raise UserError(f"{file}: {split} cannot be listed ({first_line(error)}); correct it") from error
        if not images:
            raise UserError(f"{file}: {split} ({tree[split]}) has no images; correct the path")
        return cls(file, tuple(str(n) for n in names), _sorted(images))

    def check(self, line: Line, path: Path, boxes: bool) -> None:
        """Raise `UserError` if a line has no known class, or is a box and `boxes` is not set."""
        if line.label >= len(self.names):
            raise UserError(
                f"{path}, line {line.number} is of class {line.label}, and {self.path} names "
                f"{len(self.names)} from 0; correct one of them"
            )
        if line.box and not boxes:
            raise UserError(
                f"{path}, line {line.number} is a box, which is not a mask; draw polygons or set boxes: true"
            )


def _sorted(images: list[Path]) -> tuple[Path, ...]:
    return tuple(sorted(images, key=lambda path: (path.name, str(path))))


def _images(given: str, file: Path, root: Any) -> Iterator[Path]:
    """The images of one entry of data.yaml: a folder, or a text file that lists images.

    Paths in downloaded files start at many places: at the file's folder, at its `path`, or one folder too
    high, as Roboflow writes them.
    """
    here = file.parent
    starts = [here, *([here / str(root)] if root else [])]
    written = given.replace("\\", "/")
    places = [start / written for start in starts] + [here / written.removeprefix("../")]
    place = next((p for p in places if is_file_name(str(p)) and p.exists()), None)
    if place is None:
        raise UserError(f"{file} names {given}, which is not at {places[0]}; correct the path")
    if place.is_dir():
        yield from (f for f in place.rglob("*") if f.suffix.lower() in _IMAGES and not is_litter(f.name))
        return
    try:
        rows = lines_of(read_text(place, names=True))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} names {given}, which is neither a folder nor a list of images") from error
    listed = [row.strip() for row in rows if row.strip()]
    above = begin_with(listed)
    found = [Listing(where, names) for names in ((), above) for where in dict.fromkeys((place.parent, here))]
    for row in listed:
        image = next((image for listing in found if (image := listing.find(row))), None)
        if image is None:
            raise UserError(f"{place} lists {row}, which does not exist; add the file or remove the line")
        yield image


def label_file(image: Path) -> Path:
    """Where YOLO looks for an image's labels: the last folder `images` of its path is `labels`. Where there
    is no such folder, they may lie beside the image."""
    parts, beside = image.parts, image.with_suffix(".txt")
    for place in range(len(parts) - 2, -1, -1):
        if parts[place].lower() == "images":
            home = Path(*parts[:place])
            labels = inside(home, "labels")
            if labels is None and beside.is_file():
                break
            return (labels or home / "labels").joinpath(*parts[place + 1 :]).with_suffix(".txt")
    return beside


def read_lines(path: Path) -> list[Line]:
    """The lines of a label file that are not empty.

    Raises:
        UserError: a line that is not a class and polygon (or box), or coordinates that are not normalised.
    """
    try:
        rows = lines_of(read_text(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text; a label file has lines of a class and x y x y ...") from error
    return [_line(row, number, path) for number, row in enumerate(rows, 1) if row.strip()]


def _line(row: str, number: int, path: Path) -> Line:
    place = f"{path}, line {number}"
    try:
        label, *values = (float(word) for word in row.split())
    except ValueError as error:
        raise UserError(f"{place} has a word that is not a number; write a class and x y x y ...") from error
    if not 0 <= label < np.inf or label != int(label):
        raise UserError(f"{place} begins with {label:g}; write the number of a class, a whole number from 0")
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise UserError(
            f"{place} has {len(values)} coordinates; a polygon needs x y of three corners or more"
        )
    if not all(-_OUTSIDE <= v <= 1 + _OUTSIDE for v in values):
        wrong = next(v for v in values if not -_OUTSIDE <= v <= 1 + _OUTSIDE)
        if not np.isfinite(wrong):
            raise UserError(f"{place} has the coordinate {wrong:g}, not a number; correct or remove it")
        raise UserError(
            f"{place} has the coordinate {wrong:g}; divide by the image's width or height (0 to 1)"
        )
    return Line(number, int(label), tuple(values))
