"""Class maps drawn from COCO JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from everseg.data import Stream, check, write_stream_for
from everseg.data.classes.coco import coco_maps
from everseg.data.samples import PartlyReadable
from everseg.errors import UserError

SIDE = 20
STREAM = (
    "train: {kind: coco, images: pictures, annotations: all.json}\n"
    "test: {kind: coco, images: pictures, annotations: all.json}\n"
    "stages: [{name: a, classes: [cat]}, {name: b, classes: [flea]}]\n"
)


def square(left: int, top: int, side: int) -> list[float]:
    return [left, top, left + side, top, left + side, top + side, left, top + side]


def write(root: Path, **changes: Any) -> Path:
    """Three pictures: a cat with a flea on it, given before the cat; a crowd of cats; nothing."""
    (root / "pictures").mkdir(exist_ok=True)
    for i in range(3):
        Image.new("RGB", (SIDE, SIDE), (i, i, i)).save(root / f"pictures/{i}.png")
    annotations = [
        {"id": 1, "image_id": 0, "category_id": 9, "segmentation": [square(4, 4, 2)]},
        {"id": 2, "image_id": 0, "category_id": 3, "segmentation": [square(2, 2, 10)]},
        {"id": 3, "image_id": 1, "category_id": 3, "iscrowd": 1, "segmentation": [square(0, 0, 5)]},
    ]
    tree = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE} for i in range(3)],
        "annotations": annotations,
        "categories": [{"id": 9, "name": "flea"}, {"id": 3, "name": "cat"}],
    }
    file = root / "all.json"
    file.write_text(json.dumps({**tree, **changes}))
    return file


def test_categories_are_classes_and_small_objects_lie_above(tmp_path: Path) -> None:
    maps = coco_maps(tmp_path / "pictures", write(tmp_path))
    assert maps.legend.names == {1: "cat", 2: "flea"}
    first, crowd, nothing = (np.asarray(sample.labels) for sample in maps)
    wanted = np.zeros((SIDE, SIDE), np.uint8)
    wanted[2:12, 2:12], wanted[4:6, 4:6] = 1, 2
    assert (first == wanted).all() and not nothing.any()
    assert crowd[:5, :5].all() and crowd.sum() == 25
    assert maps.presence()[:, :3].tolist() == [[True] * 3, [True, True, False], [True, False, False]]


def test_only_some_categories_count(tmp_path: Path) -> None:
    maps = coco_maps(tmp_path / "pictures", write(tmp_path), categories=("flea",))
    assert maps.legend.names == {1: "flea"} and int(maps[0].labels.sum()) == 4
    with pytest.raises(UserError, match=r"category in .*all\.json: .*'dog'"):
        coco_maps(tmp_path / "pictures", tmp_path / "all.json", categories=("dog",))


def test_a_stream_of_classes(tmp_path: Path, write_stream: Callable[[str], Path]) -> None:
    write(tmp_path)
    path = write_stream(STREAM + "empty_maps: use\n")
    first, second = Stream.from_yaml(path).stages
    assert [len(s.train) for s in (first, second)] == [3, 2]
    assert len(first.train.fingerprint()) == 64  # type: ignore[attr-defined]
    assert second.train[0].labels.unique().tolist() == [0, 2]


def test_a_stream_of_classes_is_proposed(tmp_path: Path) -> None:
    shapes = [square(2, 2, 10), square(4, 4, 6)]
    annotations = [
        {"id": 10 * i + k, "image_id": i, "category_id": (9, 3)[k], "segmentation": [shapes[k]]}
        for i in range(3)
        for k in range(2)
    ]
    write(tmp_path, annotations=annotations)
    write_stream_for(tmp_path, classes=True)
    stages = Stream.from_yaml(tmp_path / "stream.yaml").stages
    assert [stage.classes for stage in stages] == [("cat",), ("flea",)]


def test_what_is_wrong_is_said_with_the_row(tmp_path: Path, write_stream: Callable[[str], Path]) -> None:
    write(tmp_path, categories=[])
    with pytest.raises(UserError, match="has no categories, which are the classes"):
        coco_maps(tmp_path / "pictures", tmp_path / "all.json")
    with pytest.raises(UserError, match=r"nowhere is not a folder; set `images`"):
        coco_maps(tmp_path / "nowhere", tmp_path / "all.json")
    bad = [
        {"id": 7, "image_id": 0, "category_id": 3, "segmentation": [square(2, 2, 10)]},
        {"id": 8, "image_id": 5, "category_id": 3, "segmentation": [square(2, 2, 10)]},
    ]
    file = write(tmp_path, annotations=bad)
    with pytest.raises(PartlyReadable, match="annotation 8 is of an image that is not listed"):
        coco_maps(tmp_path / "pictures", file)
    maps = coco_maps(tmp_path / "pictures", file, skip_faulty=True)
    assert int(maps[0].labels.sum()) == 100 and any("skip_faulty leaves out" in note for note in maps.notes)
    strange = [{"id": 9, "image_id": 0, "category_id": 77, "segmentation": [square(2, 2, 10)]}]
    with pytest.raises(PartlyReadable, match="annotation 9 has a category that is not listed"):
        coco_maps(tmp_path / "pictures", write(tmp_path, annotations=strange))
    write(tmp_path, annotations=bad)
    Image.new("RGB", (9, 9)).save(tmp_path / "pictures/0.png")
    with pytest.raises(UserError, match=r"0\.png is 9x9 .* is of an image of 20x20"):
        maps[0]
    assert not check(write_stream(STREAM)).ok


@pytest.mark.parametrize(
    ("category", "what"),
    [
        ({"id": 3}, "has no 'name'"),
        ({"id": 3, "name": " "}, "has an empty name"),
        ({"id": 3, "name": None}, "has a name that is not text"),
    ],
)
def test_a_category_without_a_name_is_the_first_thing_reported(
    tmp_path: Path, write_stream: Callable[[str], Path], category: dict[str, Any], what: str
) -> None:
    """Its class would be unknown, and the rest hold one class."""
    write(tmp_path, categories=[{"id": 9, "name": "flea"}, category])
    path = write_stream(STREAM)
    assert {what in f.what and "categories[1]" in f.what for f in check(path).findings} == {True}
    with pytest.raises(UserError, match=rf"categories\[1\] .*{what}"):
        coco_maps(tmp_path / "pictures", tmp_path / "all.json")
    named = coco_maps(tmp_path / "pictures", tmp_path / "all.json", skip_faulty=True)
    assert named.legend.names == {1: "flea"}


def test_more_categories_than_a_class_map_holds(tmp_path: Path) -> None:
    file = write(tmp_path, categories=[{"id": i, "name": f"c{i}"} for i in range(1, 256)])
    with pytest.raises(UserError, match=r"all\.json has 255 classes, .* hold 254; .* \[cat, dog\]"):
        coco_maps(tmp_path / "pictures", file)
    few = coco_maps(tmp_path / "pictures", file, categories=("c3", "c9"))
    assert few.legend.names == {1: "c3", 2: "c9"}
