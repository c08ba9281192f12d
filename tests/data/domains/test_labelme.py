"""labelme's JSON: the masks that its shapes are, on the image as it is shown."""

from __future__ import annotations

import base64
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from everseg.data import Stream, check
from everseg.data.domains.labelme import LabelmeReader
from everseg.data.images import shown_size
from everseg.data.samples import PartlyReadable
from everseg.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
PATCH = np.eye(4, dtype=bool)


def png(values: Any) -> str:
    kept = io.BytesIO()
    Image.fromarray(values).save(kept, "PNG")
    return base64.b64encode(kept.getvalue()).decode()


def shape(label: str, points: Any, kind: str = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


def box(x0: int, y0: int, x1: int, y1: int) -> list[list[int]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def write(folder: Path, name: str, shapes: list[Any], orientation: int = 0, **more: Any) -> None:
    folder.mkdir(exist_ok=True)
    exif = Image.Exif()
    if orientation:
        exif[274] = orientation
    # Every picture is another one, so that nothing looks like a copy.
    Image.fromarray(np.roll(PIXELS, sum(name.encode()), 0)).save(folder / f"{name}.jpg", exif=exif)
    tree = {
        "version": "5.5.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": f"{name}.jpg",
        "imageData": None,
        "imageHeight": 40 if orientation > 4 else 30,
        "imageWidth": 30 if orientation > 4 else 40,
    }
    (folder / f"{name}.json").write_text(json.dumps(tree | more))


def inside(rows: slice, columns: slice, height: int = 30, width: int = 40) -> torch.Tensor:
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[0, rows, columns] = True
    return mask


SHAPES: list[tuple[dict[str, Any], torch.Tensor]] = [
    (shape("a", box(5, 3, 15, 9)), inside(slice(3, 9), slice(5, 15))),
    (shape("a", [[15, 9], [5, 3]], "rectangle"), inside(slice(3, 9), slice(5, 15))),
    (shape("a", box(5, 3, 15, 9), "rectangle"), inside(slice(3, 9), slice(5, 15))),
    (shape("a", box(5, 3, 15, 9), "oriented_rectangle"), inside(slice(3, 9), slice(5, 15))),
    (shape("a", [[5.4, 3.4], [8.6, 6.6]], "mask", mask=png(PATCH)), inside(slice(0), slice(0))),
]
SHAPES[4][1][0, 3:7, 5:9] = torch.from_numpy(PATCH)


@pytest.mark.parametrize(
    ("given", "wanted"), SHAPES, ids=["polygon", "rectangle", "four corners", "oriented", "mask"]
)
def test_a_shape_is_the_pixels_whose_centres_it_holds(tmp_path: Path, given: Any, wanted: Any) -> None:
    write(tmp_path, "x", [given])
    assert torch.equal(LabelmeReader(tmp_path)[0].masks, wanted)


def test_a_circle_has_its_radius(tmp_path: Path) -> None:
    write(tmp_path, "x", [shape("a", [[20, 15], [23, 19]], "circle")])
    mask = LabelmeReader(tmp_path)[0].masks[0]
    rows, columns = np.mgrid[:30, :40] + 0.5
    assert torch.equal(mask, torch.from_numpy((columns - 20) ** 2 + (rows - 15) ** 2 <= 25))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_coordinates_are_on_the_turned_image(tmp_path: Path, orientation: int) -> None:
    """labelme shows and stores an image as its EXIF orientation says."""
    write(
        tmp_path, "x", [shape("a", box(2, 31, 9, 38) if orientation > 4 else box(31, 2, 38, 9))], orientation
    )
    sample = LabelmeReader(tmp_path)[0]
    size = (40, 30) if orientation > 4 else (30, 40)
    assert tuple(sample.image.shape[1:]) == tuple(sample.masks.shape[1:]) == size
    assert shown_size(tmp_path / "x.jpg") == size
    rows, columns = (slice(31, 38), slice(2, 9)) if orientation > 4 else (slice(2, 9), slice(31, 38))
    assert torch.equal(sample.masks, inside(rows, columns, *size))
    write(tmp_path, "x", [shape("a", box(2, 2, 9, 9))], orientation, imageHeight=None, imageWidth=None)
    assert tuple(LabelmeReader(tmp_path)[0].masks.shape[1:]) == size


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two cats, one of two parts, and a dog; an image without shapes; a dog on top of a cat."""
    here = tmp_path / "labelled"
    cats = [shape("cat", box(0, 0, 5, 5), group_id=1), shape("cat", box(8, 0, 12, 5), group_id=1)]
    write(here, "b", [*cats, shape("dog", box(20, 0, 25, 5), group_id=1), shape("cat", box(0, 20, 5, 25))])
    write(here, "a", [])
    write(
        here,
        "c",
        [
            shape("cat", box(0, 0, 9, 9)),
            shape("dog", box(5, 5, 12, 12)),
            shape("__ignore__", box(30, 0, 39, 9)),
        ],
    )
    return here


def test_objects_are_shapes_of_one_group(folder: Path) -> None:
    each = LabelmeReader(folder)
    assert [s.name for s in each] == ["b.jpg#1", "b.jpg#3", "b.jpg#4", "c.jpg#1", "c.jpg#2"]
    assert each[0].masks.sum() == 25 + 20 and each[0].key == each[1].key
    assert [s.name for s in LabelmeReader(folder, categories=("dog",))] == ["b.jpg#3", "c.jpg#2"]
    merged = LabelmeReader(folder, instances="merged")
    assert [(s.name, int(s.masks.sum())) for s in merged] == [("b.jpg", 95), ("c.jpg", 81 + 49 - 16)]
    assert [s.name for s in LabelmeReader(folder, part=(1, 2), limit=1)] == ["c.jpg#1"]
    assert pickle.loads(pickle.dumps(each))[4].key == each[4].key


def test_the_fingerprint_is_of_what_is_drawn(folder: Path) -> None:
    def changed(**more: Any) -> str:
        write(folder, "c", [shape("cat", box(0, 0, 9, more.pop("bottom", 9)))], **more)
        return LabelmeReader(folder).fingerprint()

    first = changed()
    assert changed(imageData=png(PIXELS), version="4") == first, "imageData is a copy that nobody reads"
    assert changed(bottom=8) != first


def test_images_elsewhere_and_paths_of_windows(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (folder / "c.jpg").rename(tmp_path / "photos" / "c.jpg")
    write(folder, "b", [shape("cat", box(0, 0, 9, 9))], imagePath="C:\\Users\\me\\b.jpg")
    with pytest.raises(UserError, match=r"c\.json belongs to the image c\.jpg, which is not at"):
        LabelmeReader(folder)
    tree = json.loads((folder / "c.json").read_text())
    (folder / "c.json").write_text(json.dumps(tree | {"imagePath": "..\\photos\\c.jpg"}))
    assert len(LabelmeReader(folder)) == 3
    for name in ("a", "b"):
        (folder / f"{name}.jpg").rename(tmp_path / "photos" / f"{name}.jpg")
    assert len(LabelmeReader(folder, images=tmp_path / "photos")) == 3


def test_classes_are_drawn_in_order(folder: Path, write_stream: Callable[[str], Path]) -> None:
    text = "train: {kind: labelme, path: labelled}\ntest: {kind: labelme, path: labelled}\n"
    stream = Stream.from_yaml(write_stream(text + "steps: 1-1\n"))
    assert [s.classes for s in stream.stages] == [("cat",), ("dog",)]
    labels = {s.name: s.labels for s in stream.stages[1].test}
    assert labels["c.jpg"][7, 7] == 2 and labels["c.jpg"][2, 2] == 1 and labels["c.jpg"][5, 35] == 255
    assert [s.name for s in stream.stages[1].train] == ["b.jpg", "c.jpg"]
    assert set(stream.stages[1].train[0].labels.unique().tolist()) == {0, 2}
    assert stream.fingerprint(stream.stages[0]) != stream.fingerprint(stream.stages[1])
    with pytest.raises(UserError, match="already name their classes; remove classes:"):
        Stream.from_yaml(write_stream(text + "steps: 1-1\nclasses: [dog, cat]\n"))
    chosen = text.replace("labelled}", "labelled, categories: [dog]}")
    only = Stream.from_yaml(write_stream(chosen + "stages: [{name: a, classes: [dog]}]\n"))
    assert set(only.stages[0].train[0].labels.unique().tolist()) == {0, 1}


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (shape("eye", [[1, 1]], "point"), {}, r"shapes\[0\] \('eye'\) is a point, which has no area"),
    (shape("a", [[1, 1], [5, 5]], "linestrip"), {}, "is a linestrip, which has no area"),
    (shape("a", [[1, 1], [5, 5]]), {}, "is a polygon of 2 points; it needs 3"),
    (shape("a", [[1, 1], [5]]), {}, r"points that are not a list of \[x, y\]"),
    (shape("a", [[1, 1], [5, None], [3, 3]]), {}, "points that are not a list"),
    (shape("a", "1 1 5 5"), {}, "points that are not a list"),
    (shape("a", [[1, 1], [1e300, 5], [3, 3]]), {}, "a corner farther than 1,000,000 pixels from the image"),
    (shape("a", [[1, 1], [3, 3]], "mask"), {}, "not base64 of a PNG"),
    (shape("a", [[1, 1], [3, 3]], "mask", mask="iVBO"), {}, "not base64 of a PNG"),
    (shape("a", box(1, 1, 4, 4), group_id=[1]), {}, r"group_id \[1\]"),
    ({"points": box(1, 1, 4, 4)}, {}, r"shapes\[0\] has no label"),
    (3, {}, r"shapes\[0\] has no label"),
    (shape("a", box(1, 1, 4, 4)), {"imagePath": ""}, "imagePath ''"),
    (shape("a", box(1, 1, 4, 4)), {"imagePath": 3}, "imagePath 3"),
    (shape("a", box(1, 1, 4, 4)), {"imageWidth": "40"}, "imageHeight and imageWidth"),
    (shape("a", box(1, 1, 4, 4)), {"imageWidth": True}, "imageHeight and imageWidth"),
    (shape("a", box(1, 1, 4, 4)), {"imageWidth": 2**60}, "more than any image can have"),
    (shape("a", box(1, 1, 4, 4)), {"imagePath": "x" * 5000}, "which is not at"),
    (shape("a", box(1, 1, 4, 4), [1]), {}, r"is a \[1\], which has no area"),
]


@pytest.mark.parametrize(("given", "more", "said"), WRONG)
def test_what_is_wrong_is_said_and_the_rest_remains(tmp_path: Path, given: Any, more: Any, said: str) -> None:
    write(tmp_path, "x", [given], **more)
    write(tmp_path, "y", [shape("a", box(1, 1, 4, 4))])
    with pytest.raises(PartlyReadable, match=said) as caught:
        LabelmeReader(tmp_path)
    assert [s.name for s in caught.value.rest] == ["y.jpg#1"] and len(caught.value.problems) == 1


def test_other_faults(tmp_path: Path, write_stream: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        LabelmeReader(tmp_path / "none")
    with pytest.raises(UserError, match="has no JSON files"):
        LabelmeReader(tmp_path)
    write(tmp_path / "a", "x", [shape("cat", box(1, 1, 4, 4))])
    with pytest.raises(UserError, match=r"unknown label in .*'cats': did you mean 'cat'"):
        LabelmeReader(tmp_path / "a", categories=("cats",))
    write(tmp_path / "a", "x", [shape("cat", box(1, 1, 4, 4))], imageHeight=20)
    with pytest.raises(UserError, match=r"x\.jpg is 40x30 .* but its mask is 40x20"):
        LabelmeReader(tmp_path / "a")[0]
    write(tmp_path / "a", "x", [shape("cat", [[1.6, 1.6], [1.9, 1.6], [1.7, 1.9]])])
    with pytest.raises(UserError, match=r"shapes\[0\] covers no pixel"):
        LabelmeReader(tmp_path / "a")[0]
    (tmp_path / "a" / "twice.json").write_text((tmp_path / "a" / "x.json").read_text())
    with pytest.raises(UserError, match=r"x\.json is of the image x\.jpg, as twice\.json is"):
        LabelmeReader(tmp_path / "a")
    (tmp_path / "a" / "twice.json").write_text('{"images": []}')
    with pytest.raises(UserError, match=r"twice\.json is not a labelme file"):
        LabelmeReader(tmp_path / "a")
    write(tmp_path / "b", "x", [shape("eye", [[1, 1]], "point")])
    report = check(
        write_stream("stages: [{name: s, train: {kind: labelme, path: b}, test: {kind: labelme, path: b}}]")
    )
    assert ["has no area" in f.what for f in report.findings] == [True, True]


def test_names_are_those_of_any_system(tmp_path: Path) -> None:
    """Folders in backslashes, accents in two forms, and two images of one name in two folders."""
    for place in ("one", "two"):
        write(tmp_path / place, "caf\u00e9", [shape("a", box(2, 2, 9, 9))])
        tree = json.loads((tmp_path / place / "caf\u00e9.json").read_text())
        tree["imagePath"] = f"..\\{place}\\cafe\u0301.jpg"
        (tmp_path / "json").mkdir(exist_ok=True)
        (tmp_path / "json" / f"{place}.json").write_text(json.dumps(tree))
    found = LabelmeReader(tmp_path / "json")
    assert [s.name for s in found] == found.names() == ["one/caf\u00e9.jpg#1", "two/caf\u00e9.jpg#1"]
    assert found.truth_file(1) == str(tmp_path / "json" / "two.json")
