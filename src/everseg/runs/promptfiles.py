"""Read prompts of many images from one file: CSV, points.json or COCO JSON.

Every fault is found before a model is loaded. docs/predict.md has the formats.
"""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from everseg.errors import UserError
from everseg.runs.prompts import Asked, Box, ImagePrompts, Point
from everseg.text import read_text

COLUMNS = ("image", "object", "x", "y", "label", "x0", "y0", "x1", "y1")
FORMS = "image,object,x,y,label or image,object,x0,y0,x1,y1"
FRAME = 1024
"""Side of the stretched frame of points.json."""


def read_prompts(path: Path) -> tuple[dict[str, ImagePrompts], list[str]]:
    """The prompts of each image that a file names, in the file's order, and remarks about what was left out.

    Raises:
        UserError: the file cannot be read, is of no known form, or has faults; the message counts them and
            tells the first.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check --prompts") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("{", "["):
        return _json(text, path), []
    return _csv(text, path)


def category_names(path: Path) -> dict[int, str]:
    """The names of a COCO prompt file's categories by id; empty for another file."""
    try:
        tree = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return {}  # Other forms, and whatever `read_prompts` refuses.
    rows = tree.get("categories") if isinstance(tree, dict) else None
    return {
        row["id"]: row["name"]
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict) and type(row.get("id")) is int and isinstance(row.get("name"), str)
    }


@dataclass
class _Faults:
    """What is wrong with a file, reported in one sentence."""

    file: Path
    found: list[str] = field(default_factory=list)

    def add(self, where: str, what: str) -> None:
        self.found.append(f"{where} {what}")

    def tell(self) -> None:
        if self.found:
            more = f" (and {len(self.found) - 1} more faults)" if len(self.found) > 1 else ""
            raise UserError(f"{self.file}, {self.found[0]}{more}; correct the file")


# ---------------------------------------------------------------- CSV


@dataclass
class _Object:
    name: str
    where: str
    points: list[Point] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)


def _csv(text: str, path: Path) -> tuple[dict[str, ImagePrompts], list[str]]:
    if not text.strip():
        raise UserError(f"{path} is empty; write the header {FORMS} and one row per click or box")
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    faults = _Faults(path)
    images: dict[str, dict[str, _Object]] = {}
    lines: dict[str, int] = {}
    seen: set[tuple[tuple[str, str], ...]] = set()
    repeated = 0
    try:
        head = [cell.strip().lower() for cell in next(rows, [])]
        _check_head(head, path)
        for cells in rows:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"line {rows.line_num}"
            if len(cells) > len(head):
                faults.add(where, f"has {len(cells)} cells for {len(head)} columns")
                continue
            row = dict(zip(head, (cell.strip() for cell in cells), strict=False))
            name = row["image"] if "image" in row else ""
            if not name:
                faults.add(where, "names no image")
                continue
            told = tuple(row.items())
            if told in seen:
                repeated += 1
                continue
            seen.add(told)
            lines.setdefault(name, rows.line_num)
            _take_row(row, images.setdefault(name, {}), "object" in head, where, faults)
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num} is not CSV ({error}); correct the file") from error
    found = {}
    for name, objects in images.items():
        asked = []
        for one in objects.values():
            if not one.boxes and 1 not in one.labels:
                faults.add(one.where, f"gives {_called(one)} of {name} no click on it (label 1) and no box")
            asked.append(
                Asked(tuple(one.points), tuple(one.labels), one.boxes[0] if one.boxes else None, one.name)
            )
        found[name] = ImagePrompts(tuple(asked), where=f"{path}, line {lines[name]}")
    faults.tell()
    if not found:
        raise UserError(f"{path} has no row; write one per click or box below the header {FORMS}")
    unused = [column for column in head if column and column not in COLUMNS]
    remarks = [f"{path}: columns that are not read: {', '.join(unused)}"] if unused else []
    if repeated:
        remarks.append(f"{path}: rows that repeat an earlier row and are left out: {repeated}")
    return found, remarks


def _called(one: _Object) -> str:
    return f"object {one.name!r}" if one.name else "the object"


def _check_head(head: list[str], path: Path) -> None:
    points, boxes = {"x", "y"} <= set(head), {"x0", "y0", "x1", "y1"} <= set(head)
    if "image" not in head or not (points or boxes):
        raise UserError(f"{path} begins with {','.join(head)[:80]!r}; its first line must be {FORMS}")
    twice = next((name for name in COLUMNS if head.count(name) > 1), None)
    if twice:
        raise UserError(f"{path} has two columns {twice!r}; keep one")
    sizes = [name for name in ("w", "h", "width", "height") if name in head]
    if points and not boxes and len(sizes) > 1:
        raise UserError(
            f"{path} has the columns {' and '.join(sizes)} beside x and y, so its rows may be boxes, whose "
            "columns are x0, y0, x1, y1; write them so, or remove these columns if the rows are clicks"
        )


def _take_row(
    row: dict[str, str], objects: dict[str, _Object], named: bool, where: str, faults: _Faults
) -> None:
    """Add a row's click, its box, or both to its object.

    Without a name, clicks of an image are one object, and each box is an object of its own; a single box and
    clicks are one together.
    """
    name = row.get("object", "")
    if named and not name:
        faults.add(where, "names no object")
        return
    try:
        point = _cells(row, ("x", "y"))
        box = _cells(row, ("x0", "y0", "x1", "y1"))
    except ValueError as error:
        faults.add(where, str(error))
        return
    if point is None and box is None:
        faults.add(where, "has neither x and y nor x0, y0, x1 and y1")
        return
    if box is not None and (box[2] <= box[0] or box[3] <= box[1]):
        faults.add(where, "has an empty box; x1 must be larger than x0, and y1 than y0")
        return
    label = row.get("label", "") or "1"
    if label not in ("0", "1", "0.0", "1.0"):
        faults.add(where, f"has the label {label!r}; 1 is a click on the object, 0 off it")
        return
    key = name if named else ""
    if not named and box is not None and "" in objects and objects[""].boxes:
        if objects[""].points:
            faults.add(where, "has a box beside clicks; name the object of each row in a column 'object'")
            return
        key = f"#{len(objects)}"
    one = objects.setdefault(key, _Object(name, where))
    if point is not None:
        if not named and len(objects) > 1:
            faults.add(where, "has a click beside several boxes; name the objects in a column 'object'")
            return
        one.points.append((point[0], point[1]))
        one.labels.append(int(float(label)))
    if box is not None:
        if one.boxes:
            faults.add(where, f"gives a second box to object {name!r} of {row['image']}")
            return
        one.boxes.append((box[0], box[1], box[2], box[3]))


def _cells(row: dict[str, str], names: tuple[str, ...]) -> list[float] | None:
    """The numbers in these columns, None where all are empty or missing."""
    texts = [row.get(name, "") for name in names]
    if not any(texts):
        return None
    values = []
    for name, text in zip(names, texts, strict=True):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            advice = "write a decimal point" if "," in text else "give pixels"
            raise ValueError(f"has {name}={text!r}, which is not a number; {advice}")
        values.append(value)
    return values


# ---------------------------------------------------------------- JSON


def _json(text: str, path: Path) -> dict[str, ImagePrompts]:
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); restore it from a copy") from error
    if isinstance(tree, dict) and isinstance(tree.get("images"), list):
        if not isinstance(tree.get("annotations"), list):
            raise UserError(f"{path} has images but no list of annotations; give COCO's boxes or keypoints")
        return _coco(tree, path)
    if isinstance(tree, dict) and tree:
        return _points(path)
    raise UserError(
        f"{path} is neither points.json (file name: [[[x, y], ...], [1, ...]]) nor COCO (images and "
        "annotations); give one of them or a CSV file"
    )


def _points(path: Path) -> dict[str, ImagePrompts]:
    """SAMCL's clicks: one object for each image, in the 1024 x 1024 stretched frame."""
    from everseg.data.domains.points import read_points  # the one reader of this file; it loads torch

    found = {}
    for name, one in read_points(path).items():
        if 1 not in one.labels:
            raise UserError(f"{path}: entry {name!r} has no click on the object (label 1); add one")
        found[name] = ImagePrompts((Asked(one.points, one.labels),), FRAME, where=f"{path}, entry {name!r}")
    return found


def _coco(tree: dict[str, Any], path: Path) -> dict[str, ImagePrompts]:
    faults = _Faults(path)
    files: dict[Any, dict[str, Any]] = {}
    for n, image in enumerate(tree["images"]):
        where = f"image {n + 1}"
        match image:
            case {"id": int() | str() as number, "file_name": str() as name} if name:
                if number in files:
                    faults.add(where, f"has the id {number!r}, which another has, too")
                files[number] = image
            case _:
                faults.add(where, "is not an object with id and file_name")
    objects: dict[Any, list[Asked]] = {}
    for n, row in enumerate(tree["annotations"]):
        where = f"annotation {row['id'] if isinstance(row, dict) and 'id' in row else n + 1}"
        if not isinstance(row, dict) or not isinstance(row.get("image_id"), int | str):
            faults.add(where, "is not an object with image_id")
            continue
        if row["image_id"] not in files:
            faults.add(where, f"is of image {row['image_id']!r}, which is not listed")
            continue
        try:
            asked = _annotation(row, files[row["image_id"]])
        except ValueError as error:
            faults.add(where, str(error))
            continue
        objects.setdefault(row["image_id"], []).append(asked)
    faults.tell()
    names = [image["file_name"] for image in files.values()]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path} lists {twice} under two ids; keep one")
    return {
        files[number]["file_name"]: ImagePrompts(
            tuple(asked), image_id=number, where=f"{path}, image {number}"
        )
        for number, asked in objects.items()
    }


def _annotation(row: dict[str, Any], image: dict[str, Any]) -> Asked:
    """One object: its bbox, and clicks from keypoints (those that are labelled) or points.

    Raises:
        ValueError: neither, or values of another kind.
    """
    category = row.get("category_id", 1)
    if not isinstance(category, int) or isinstance(category, bool):
        raise ValueError(f"has the category_id {category!r}, which is not a whole number")
    one = Asked(name=str(row.get("id", "")), category=category)
    if row.get("bbox"):
        one = replace(one, box=_bbox(row["bbox"], image))
    if row.get("keypoints"):
        flat = _numbers(row["keypoints"], "keypoints")
        if len(flat) % 3:
            raise ValueError("has keypoints that are not x, y, v, ...")
        seen = [(x, y) for x, y, v in zip(flat[::3], flat[1::3], flat[2::3], strict=True) if v > 0]
        one = replace(one, points=tuple(seen), labels=(1,) * len(seen))
    elif row.get("points"):
        points = row["points"]
        if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
            raise ValueError("has points that are not [[x, y], ...]")
        labels = row.get("labels", [1] * len(points))
        if not isinstance(labels, list) or len(labels) != len(points) or any(v not in (0, 1) for v in labels):
            raise ValueError("has labels that are not 0 or 1 per point")
        clicks = tuple((x, y) for x, y in (_numbers(point, "points") for point in points))
        one = replace(one, points=clicks, labels=tuple(int(v) for v in labels))
    if one.box is None and 1 not in one.labels:
        raise ValueError("has no bbox, no labelled keypoint and no point on the object (label 1)")
    return one


def _bbox(given: Any, image: dict[str, Any]) -> Box:
    values = _numbers(given, "bbox")
    if len(values) != 4:
        raise ValueError(f"has the bbox {given!r}, which is not x, y, width, height")
    x, y, width, height = values
    if width <= 0 or height <= 0:
        raise ValueError(f"has the bbox {given!r}, which is empty")
    right, bottom = x + width, y + height
    # Rounding in the tools that write COCO takes corners over the border by parts of a pixel.
    for side, end in (("width", right), ("height", bottom)):
        size = image.get(side)
        if isinstance(size, int) and size < end <= size + 1:
            right, bottom = (size, bottom) if side == "width" else (right, size)
    return (max(x, 0.0) if x > -1 else x, max(y, 0.0) if y > -1 else y, right, bottom)


def _numbers(given: Any, what: str) -> list[float]:
    if not isinstance(given, list) or not all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in given
    ):
        raise ValueError(f"has {what} that are not all numbers")
    return [float(v) for v in given]
