"""YOLO's layout for segmentation: text files of normalised polygons beside the images, named by data.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from everseg.data.decoding import Bands, Decoding, Window
from everseg.data.domains.areas import fill_polygons, rectangle
from everseg.data.domains.prompts import PromptKind, PromptRule, StoredClicks
from everseg.data.images import shown_size
from everseg.data.listing import Listing
from everseg.data.names import is_litter, sample_names
from everseg.data.samples import PartlyReadable, Samples, take_evenly, take_part
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
class YoloObject:
    """An image and the lines of its label file that make up its mask, counted from 1."""

    image: Path
    name: str
    path: Path
    lines: tuple[int, ...]
    stored: StoredClicks | None = None

    def mask(self) -> NDArray[np.bool_]:
        height, width = shown_size(self.image)
        mask = np.zeros((height, width), bool)
        for line in read_lines(self.path):
            if line.number in self.lines:
                mask |= line.mask(height, width)
        if not mask.any():
            raise UserError(f"{self.path}, line {self.lines[0]} covers no pixel; enlarge or remove it")
        return mask

    def truth(self) -> list[Any]:
        return [[line.values for line in read_lines(self.path) if line.number in self.lines]]


class YoloReader(Samples):
    """Samples of a data set that Ultralytics' YOLO is trained on.

    path: the folder of data.yaml, or a YAML file of another name. split: its key, such as train, val or test.
    instances: "each" line is a sample, or all of an image "merged" in one. categories: use only these, by
    name. boxes: fill the boxes of lines that have no polygon; without it such lines are refused. Images
    without labels are passed over.
    part: [start, stop] of the sorted images; limit: at most so many samples, evenly spaced.

    Raises:
        UserError: data.yaml or a folder is missing, a category does not exist, or a label file is wrong.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        split: str = "train",
        instances: Literal["each", "merged"] = "each",
        categories: tuple[str, ...] | None = None,
        boxes: bool = False,
        prompts: Literal["clicks", "box", "clicks+box"] = "clicks",
        clicks: int = 3,
        seed: int = 0,
        part: tuple[int, int] | None = None,
        limit: int | None = None,
        bands: Bands = None,
        window: Window = None,
    ) -> None:
        data = YoloData.of(Path(path), split)
        wanted = set(data.numbers(categories))
        found, problems = data.labelled(boxes)
        having = [
            (image, labels, tuple(number for number, label in lines if label in wanted), name)
            for (image, labels, lines), name in zip(
                found, sample_names([row[0] for row in found]), strict=True
            )
        ]
        entries: list[YoloObject] = []
        for image, labels, numbers, name in take_part([row for row in having if row[2]], part):
            if instances == "merged":
                entries.append(YoloObject(image, name, labels, numbers))
            else:
                entries += [YoloObject(image, f"{name}#{n}", labels, (n,)) for n in numbers]
        kind: PromptKind = prompts
        prompted, decoding = PromptRule(kind, clicks, seed), Decoding(bands, window)
        super().__init__(take_evenly(entries, limit), prompted, decoding=decoding)
        if problems:
            raise PartlyReadable(problems, self[:])
        if not entries:
            raise UserError(
                f"{data.path}: {split} has no object to learn from; check labels and `categories`"
            )

    def truth_file(self, index: int) -> str:
        entry: Any = self.entries[index]
        return str(entry.path)


@dataclass(frozen=True)
class YoloData:
    """One split of a data.yaml. names: of the classes, counted from 0. images: sorted."""

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
        given = tree[split] if isinstance(tree[split], list) else [tree[split]]
        try:
            images = [image for one in given for image in _images(str(one), file, tree.get("path"))]
        except OSError as error:
            raise UserError(f"{file}: {split} cannot be listed ({first_line(error)}); correct it") from error
        if not images:
            raise UserError(f"{file}: {split} ({tree[split]}) has no images; correct the path")
        return cls(file, tuple(str(n) for n in names), tuple(sorted(images, key=lambda p: (p.name, str(p)))))

    def numbers(self, categories: tuple[str, ...] | None) -> list[int]:
        """The numbers of classes by name; of all where None.

        Raises:
            UserError: there is no such class.
        """
        for name in categories or ():
            if name not in self.names:
                raise unknown(f"category in {self.path}:", name, self.names)
        return [i for i, name in enumerate(self.names) if categories is None or name in categories]

    def labelled(self, boxes: bool) -> tuple[list[tuple[Path, Path, list[tuple[int, int]]]], list[str]]:
        """(image, label file, lines) of images with labels, and a sentence for each label file that is wrong.
        Of a line its number and class are kept: all polygons of a large data set would fill the memory.

        An image whose label file is empty or missing has no object, as YOLO has it.

        Raises:
            UserError: none of the images has a label file.
        """
        found, problems, missing = [], [], 0
        for image in self.images:
            labels = label_file(image)
            if not labels.is_file():
                missing += 1
                continue
            try:
                lines = read_lines(labels)
                for line in lines:
                    self._check(line, labels, boxes)
            except UserError as error:
                problems.append(str(error))
                continue
            if lines:
                found.append((image, labels, [(line.number, line.label) for line in lines]))
        if missing == len(self.images):
            where = label_file(self.images[0])
            raise UserError(f"{self.images[0]} and all others have no label file such as {where}; add them")
        return found, problems

    def _check(self, line: Line, path: Path, boxes: bool) -> None:
        if line.label >= len(self.names):
            raise UserError(
                f"{path}, line {line.number} is of class {line.label}, and {self.path} names "
                f"{len(self.names)} from 0; correct one of them"
            )
        if line.box and not boxes:
            raise UserError(
                f"{path}, line {line.number} is a box, which is no mask; draw polygons or set boxes: true"
            )


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
    beside, above = Listing(place.parent), Listing(here)
    for row in (row.strip() for row in rows):
        if row:
            image = beside.find(row) or above.find(row)
            if image is None:
                raise UserError(f"{place} lists {row}, which does not exist; add it or take it off the list")
            yield image


def label_file(image: Path) -> Path:
    """Where YOLO looks for an image's labels: the last folder `images` of its path is `labels`."""
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def read_lines(path: Path) -> list[Line]:
    """The lines of a label file that are not empty.

    Raises:
        UserError: a line that is no class and polygon (or box), or coordinates that are not normalised.
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
        raise UserError(f"{place} has a word that is no number; write a class and x y x y ...") from error
    if label < 0 or label != int(label):
        raise UserError(f"{place} begins with {label:g}; the number of a class is whole, from 0")
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise UserError(f"{place} has {len(values)} coordinates; a polygon has x y of three corners or more")
    if not all(-_OUTSIDE <= v <= 1 + _OUTSIDE for v in values):
        wrong = next(v for v in values if not -_OUTSIDE <= v <= 1 + _OUTSIDE)
        raise UserError(
            f"{place} has the coordinate {wrong:g}; divide by the image's width or height (0 to 1)"
        )
    return Line(number, int(label), tuple(values))
