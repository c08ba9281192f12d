"""What the readers of all annotation tools have in common, and a new one in a few lines."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from everseg.data import Stream, check
from everseg.data.classes.maps import CLASS_READERS
from everseg.data.domains.annotated import AnnotationReader, Annotations, Mark
from everseg.data.readers import open_samples
from everseg.data.samples import PartlyReadable
from everseg.errors import UserError

H, W = 30, 40
Square = tuple[str, int, int]
"""A label, and the left and top of a square of 8 pixels."""

COLOURS = {"cat": (250, 50, 83), "dog": (0, 106, 53)}


def picture(path: Path, seed: int, orientation: int = 1, side: int | None = None) -> None:
    """Write noise as an image, `side` wide and high if that is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[274] = orientation
    size = (H, W, 3) if side is None else (side, side, 3)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, np.uint8)).save(path, exif=exif)


def corners(x: int, y: int) -> list[list[int]]:
    return [[x, y], [x + 8, y], [x + 8, y + 8], [x, y + 8]]


def labelme(root: Path, images: dict[str, list[Square]]) -> dict[str, Any]:
    for seed, (name, squares) in enumerate(images.items()):
        picture(root / f"{name}.jpg", seed)
        shapes = [{"label": label, "points": corners(x, y)} for label, x, y in squares]
        tree = {"shapes": shapes, "imagePath": f"{name}.jpg", "imageHeight": H, "imageWidth": W}
        (root / f"{name}.json").write_text(json.dumps(tree))
    return {"kind": "labelme", "path": str(root)}


def yolo(root: Path, images: dict[str, list[Square]]) -> dict[str, Any]:
    names = list(COLOURS)
    for seed, (name, squares) in enumerate(images.items()):
        picture(root / "images" / f"{name}.jpg", seed)
        lines = [
            " ".join(map(str, [names.index(label), *(v for a, b in corners(x, y) for v in (a / W, b / H))]))
            for label, x, y in squares
        ]
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{name}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text(f"train: images\nnames: {names}\n")
    return {"kind": "yolo", "path": str(root), "split": "train"}


def cvat(root: Path, images: dict[str, list[Square]]) -> dict[str, Any]:
    for folder in ("SegmentationClass", "SegmentationObject"):
        (root / folder).mkdir(parents=True)
    for seed, (name, squares) in enumerate(images.items()):
        picture(root / "JPEGImages" / f"{name}.jpg", seed)
        classes, objects = np.zeros((2, H, W, 3), np.uint8)
        for number, (label, x, y) in enumerate(squares, 1):
            classes[y : y + 8, x : x + 8] = COLOURS[label]
            objects[y : y + 8, x : x + 8] = (number, 0, 0)
        Image.fromarray(classes).save(root / "SegmentationClass" / f"{name}.png")
        Image.fromarray(objects).save(root / "SegmentationObject" / f"{name}.png")
    lines = [f"{name}:{','.join(map(str, colour))}::" for name, colour in COLOURS.items()]
    (root / "labelmap.txt").write_text("\n".join(lines))
    return {"kind": "cvat", "path": str(root)}


TOOLS: dict[str, Callable[[Path, dict[str, list[Square]]], dict[str, Any]]] = {
    "labelme": labelme,
    "yolo": yolo,
    "cvat": cvat,
}
"""Each writes images with squares below a new folder, and gives the options of a split."""

IMAGES = {
    "a": [("cat", 2, 2), ("dog", 12, 2), ("cat", 22, 2)],
    "b": [("dog", 5, 9)],
    "c": [],
    "d": [("cat", 30, 20)],
}


@pytest.fixture(params=TOOLS)
def given(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    return TOOLS[request.param](tmp_path / "data", IMAGES)


def read(given: dict[str, Any], **options: Any) -> Any:
    rest = {key: value for key, value in given.items() if key != "kind"}
    return open_samples(given["kind"], rest | options, {}, Path())


def test_objects_and_images(given: dict[str, Any]) -> None:
    each = read(given)
    assert [s.name for s in each] == each.names()
    assert each.names() == ["a.jpg#1", "a.jpg#2", "a.jpg#3", "b.jpg#1", "d.jpg#1"]
    assert all(s.masks.shape == (1, H, W) and s.masks.sum() == 64 for s in each)
    assert each[3].masks[0, 9:17, 5:13].all() and each[0].key == each[1].key
    merged = read(given, instances="merged")
    assert [(s.name, int(s.masks.sum())) for s in merged] == [("a.jpg", 192), ("b.jpg", 64), ("d.jpg", 64)]
    dogs = read(given, categories=["dog"], instances="merged")
    assert [(s.name, int(s.masks.sum())) for s in dogs] == [("a.jpg", 64), ("b.jpg", 64)]
    assert read(given, part=[1, 3]).names() == ["b.jpg#1", "d.jpg#1"]
    assert read(given, limit=2).names() == ["a.jpg#1", "a.jpg#3"]
    assert len({r.fingerprint() for r in (each, merged, dogs)}) == 3
    assert pickle.loads(pickle.dumps(each))[4].key == each[4].key


def test_prompts_are_those_of_all_readers(given: dict[str, Any]) -> None:
    sample = read(given, prompts="clicks+box", clicks=2, seed=3)[0]
    assert sample.prompts.points.shape == (1, 2, 2) and sample.prompts.boxes.shape == (1, 4)
    with pytest.raises(UserError, match=r"unknown option of kind .*'click': did you mean 'clicks'"):
        read(given, click=2)
    with pytest.raises(UserError, match="option 'clicks' is 'two'"):
        read(given, clicks="two")
    with pytest.raises(UserError, match=r"unknown label in .*'cow'"):
        read(given, categories=["cow"])


def test_classes(given: dict[str, Any], write_stream: Callable[[str], Path]) -> None:
    text = json.dumps({"train": given, "test": given, "steps": "1-1"})
    stream = Stream.from_yaml(write_stream(text))
    assert [s.classes for s in stream.stages] == [("cat",), ("dog",)]
    labels = {s.name: s.labels for s in stream.stages[1].test}
    assert labels["a.jpg"][5, [5, 15, 25, 39]].tolist() == [1, 2, 1, 0]
    only = json.dumps({"train": given, "test": given, "stages": [{"name": "s", "classes": ["dog"]}]})
    (dog,) = Stream.from_yaml(write_stream(only.replace('"kind"', '"categories": ["dog"], "kind"'))).stages
    assert [s.labels.unique().tolist() for s in dog.train] == [[0, 1], [0, 1]]
    assert set(CLASS_READERS) >= set(TOOLS)


@pytest.mark.parametrize("wing", ["domains", "classes"])
def test_coordinates_are_of_the_image_as_it_is_shown(
    tmp_path: Path, write_stream: Callable[[str], Path], wing: str
) -> None:
    """labelme and Ultralytics apply EXIF turns before anybody draws; CVAT's masks are files of their own."""
    for tool, doubts in (("labelme", False), ("yolo", False), ("cvat", True)):
        splits = {}
        for split, names in (("train", "ab"), ("test", "cd")):
            root = tmp_path / tool / split
            splits[split] = TOOLS[tool](root, {name: [("cat", 2, 2), ("dog", 20, 12)] for name in names})
            for seed, file in enumerate(root.rglob("*.jpg")):
                picture(file, 10 * seed + len(split), orientation=3)
        stages = {"stages": [{"name": "s", **splits}]} if wing == "domains" else splits | {"steps": "1-1"}
        found = check(write_stream(json.dumps(stages))).findings
        assert any("turned by their EXIF" in f.what for f in found) == doubts, tool


@pytest.mark.parametrize("tool", ["labelme", "yolo"])
def test_outlines_that_cross_themselves_and_leave_the_image(tmp_path: Path, tool: str) -> None:
    given = TOOLS[tool](tmp_path, IMAGES)
    assert not read(given).notes
    if tool == "labelme":
        file = tmp_path / "b.json"
        tree = json.loads(file.read_text())
        eight, far = [[5, 5], [15, 15], [15, 5], [5, 15]], [[30, 20], [60, 20], [60, 50]]
        tree["shapes"] = [{"label": "cat", "points": points} for points in (eight, far)]
        file.write_text(json.dumps(tree))
        outside, crossed = read(given).notes
        assert (
            "shape b.json: shapes[1] is partly or wholly outside of the image, by up to 20 pixels" in outside
        )
        assert "shape b.json: shapes[0] has an outline that crosses itself" in crossed
        right = [[32, 2], [39, 2], [39, 9]]
        for name in IMAGES:
            tree["shapes"] = [{"label": "cat", "points": [[y, x] for x, y in right]}]
            tree["imagePath"] = f"{name}.jpg"
            (tmp_path / f"{name}.json").write_text(json.dumps(tree))
        with pytest.raises(
            UserError, match=r"4 shapes .* would be inside with x and y swapped; write x before y"
        ):
            read(given)
    else:
        file = tmp_path / "labels" / "b.txt"
        file.write_text("0 .1 .1 .4 .4 .4 .1 .1 .4\n")
        (crossed,) = read(given).notes
        assert "line b.txt:1 has an outline that crosses itself" in crossed
        file.write_text("0 .7 .7 .9 .95\n1 .1 .1 .2 .2\n")
        with pytest.raises(UserError, match=r"the boxes of line b\.txt:1 extend beyond .* left, top, right"):
            read(given, boxes=True)
        file.write_text("0 .5 .5 .8 .9\n1 .7 .7 .2 .2\n")
        assert not read(given, boxes=True).notes


@dataclass(frozen=True)
class Dot:
    """An image of which a text file of the same stem says where its only object is."""

    image: Path
    path: Path
    name: str
    marks: tuple[Mark, ...]

    def draw(self, parts: Sequence[int]) -> NDArray[np.bool_]:
        mask = np.zeros((H, W), bool)
        mask[tuple(map(int, self.path.read_text().split()))] = True
        return mask

    def place(self, part: int) -> str:
        return str(self.path)

    def truth(self, parts: Sequence[int]) -> list[Any]:
        return [self.path]

    def labels(self, numbers: Mapping[str, int]) -> NDArray[np.uint8]:
        return self.draw([0]).astype(np.uint8) * np.uint8(numbers["dot"])


def test_a_format_of_ones_own(tmp_path: Path) -> None:
    for n, name in enumerate(("x", "y")):
        picture(tmp_path / f"{name}.png", n)
        (tmp_path / f"{name}.txt").write_text(f"{3 + n} 5")
    dots = [
        Dot(file.with_suffix(".png"), file, f"{file.stem}.png", (Mark(1, "dot", (0,)),))
        for file in sorted(tmp_path.glob("*.txt"))
    ]
    found = Annotations(tmp_path, ("dot",), dots, ["z.txt has no image; add it"], ("a note; look",))
    with pytest.raises(PartlyReadable, match=r"z\.txt has no image; add it") as caught:
        AnnotationReader(found, "each", ("dot",), clicks=1)
    rest = caught.value.rest
    assert [(s.name, s.masks.nonzero().tolist()) for s in rest] == [
        ("x.png#1", [[0, 3, 5]]),
        ("y.png#1", [[0, 4, 5]]),
    ]
    with pytest.raises(UserError, match=r"has no object to learn from; add some, or check `categories`"):
        AnnotationReader(Annotations(tmp_path, ("dot",), []), "merged", None)
