"""Prompt files: what they say, which image they mean, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from everseg.errors import UserError
from everseg.runs.inputs import Source
from everseg.runs.promptfiles import read_prompts
from everseg.runs.prompts import Asked, ImagePrompts, assign


def table(path: Path, text: str) -> dict[str, tuple[Asked, ...]]:
    path.write_bytes(text.encode())
    return {name: prompts.objects for name, prompts in read_prompts(path)[0].items()}


def test_a_table_of_clicks_and_boxes(tmp_path: Path) -> None:
    found = table(
        tmp_path / "p.csv",
        "\ufeffImage;Object;X;Y;Label;x0;y0;x1;y1\r\n"
        "a.png;nucleus;3;4.5;1;;;;\r\na.png;cell;9;9;0;1;2;30;40\r\na.png;nucleus;5;6;0;;;;\r\n\r\n"
        "b/c d.png;one;;;;0;0;7;8\r\n",
    )
    assert found == {
        "a.png": (
            Asked(((3.0, 4.5), (5.0, 6.0)), (1, 0), None, "nucleus"),
            Asked(((9.0, 9.0),), (0,), (1.0, 2.0, 30.0, 40.0), "cell"),
        ),
        "b/c d.png": (Asked(box=(0.0, 0.0, 7.0, 8.0), name="one"),),
    }


def test_without_names_clicks_are_one_object_and_boxes_are_several(tmp_path: Path) -> None:
    clicks = table(tmp_path / "p.csv", "image,x,y\na.png,1,2\na.png,3,4\nb.png,5,6\n")
    assert clicks == {"a.png": (Asked(((1, 2), (3, 4)), (1, 1)),), "b.png": (Asked(((5, 6),), (1,)),)}
    boxes = table(tmp_path / "p.csv", "image,x0,y0,x1,y1\na.png,0,0,5,5\na.png,1,1,9,9\n")
    assert [one.box for one in boxes["a.png"]] == [(0, 0, 5, 5), (1, 1, 9, 9)]
    head = "image,x,y,label,x0,y0,x1,y1\n"
    for rows in ("a.png,3,3,,,,,\na.png,,,,0,0,5,5\n", "a.png,,,,0,0,5,5\na.png,3,3,,,,,\n"):
        assert table(tmp_path / "p.csv", head + rows) == {"a.png": (Asked(((3, 3),), (1,), (0, 0, 5, 5)),)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "p.csv is empty; write the header image,object,x,y,label"),
        ("image;x;y\na;1,5;2\n", "line 2 has x='1,5', which is not a number; write a decimal point"),
        ("a.png,1,2\n", "begins with 'a.png,1,2'; its first line must be"),
        ("image,x,y\n", "has no row"),
        ("image,x,x,y\na,1,2,3\n", "two columns 'x'"),
        ("image,x,y,w,h\na,1,2,3,4\n", "columns w and h beside x and y, so its rows may be boxes"),
        ("image,x,y\na,1\n", "line 2 has y='', which is not a number"),
        ("image,x,y\na,1,nan\n", "line 2 has y='nan', which is not a number"),
        ("image,x,y\na,1,2,3\n", "line 2 has 4 cells for 3 columns"),
        ("image,x,y\n,1,2\n", "line 2 names no image"),
        ("image,object,x,y\na,,1,2\n", "line 2 names no object"),
        ("image,x,y,label\na,1,2,7\n", "line 2 has the label '7'"),
        ("image,x,y,label\na,1,2,0\n", "no click on it"),
        ("image,x0,y0,x1,y1\na,5,5,5,9\n", "line 2 has an empty box"),
        ("image,x0,y0,x1,y1\na,5,5,6\na,x,1,2,3\n", r"line 2 .* \(and 1 more faults\)"),
        (
            "image,object,x0,y0,x1,y1\na,o,0,0,5,5\na,o,1,1,6,6\n",
            "line 3 gives a second box to object 'o' of a",
        ),
        ("image,x,y,x0,y0,x1,y1\na,1,1,0,0,5,5\na,,,1,1,6,6\n", "a box beside clicks; name the object"),
        ("image,x,y,x0,y0,x1,y1\na,,,0,0,5,5\na,,,1,1,6,6\na,1,1,,,,\n", "a click beside several boxes"),
        ("image,x,y\na,,\n", "neither x and y nor x0"),
    ],
)
def test_faults_of_a_table(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        table(tmp_path / "p.csv", text)


def test_columns_that_are_not_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("image,x,y,who\na.png,1,2,me\n")
    assert read_prompts(tmp_path / "p.csv")[1] == [f"{tmp_path / 'p.csv'}: columns that are not read: who"]


def test_rows_that_repeat_another_are_read_once_and_told(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("image,x,y\na.png,1,2\na.png, 1,2\na.png,3,4\na.png,1,2\n")
    found, remarks = read_prompts(path)
    assert found["a.png"].objects == (Asked(((1, 2), (3, 4)), (1, 1)),)
    assert remarks == [f"{path}: rows that repeat an earlier row and are left out: 2"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_tables_of_any_encoding_of_unicode(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "p.csv").write_bytes("image\tx\ty\r\né.png\t1\t2\r\n".encode(encoding))
    assert list(read_prompts(tmp_path / "p.csv")[0]) == ["é.png"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a.png": [[[1, 2]], [1]], "a.png": [[[3, 4]], [1]]}', "has the key 'a.png' twice; remove one"),
        ('{"a.png": [[[1, 2]], [0]]}', r"entry 'a.png' has no click on the object \(label 1\); add one"),
    ],
)
def test_faults_of_stored_clicks(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "points.json").write_text(text)
    with pytest.raises(UserError, match=said):
        read_prompts(tmp_path / "points.json")


def test_stored_clicks_are_in_the_stretched_frame(tmp_path: Path) -> None:
    path = tmp_path / "points.json"
    path.write_text(json.dumps({"a.png": [[[512, 256], [0, 0]], [1, 0]]}))
    (one,) = read_prompts(path)[0]["a.png"].tensors(100, 200)
    assert one.points is not None and one.points.tolist() == [[[100.0, 25.0], [0.0, 0.0]]]
    assert one.labels is not None and one.labels.tolist() == [[1, 0]]


IMAGES = [{"id": 7, "file_name": "a.png", "width": 50, "height": 40}]


def coco(path: Path, *rows: Any, images: Any = IMAGES) -> ImagePrompts:
    path.write_text(json.dumps({"images": images, "annotations": list(rows)}))
    return read_prompts(path)[0]["a.png"]


def test_coco(tmp_path: Path) -> None:
    found = coco(
        tmp_path / "c.json",
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 49.01, 8]},
        {"id": 2, "image_id": 7, "keypoints": [5, 6, 2, 0, 0, 0, 7, 8, 1]},
        {"id": 3, "image_id": 7, "points": [[1, 2], [3, 4]], "labels": [1, 0]},
        {"id": 4, "image_id": 7, "bbox": [0, 0, 5, 5], "keypoints": [1, 1, 2]},
    )
    assert found.image_id == 7
    assert found.objects == (
        Asked(box=(1, 2, 50, 10), name="1", category=3),
        Asked(((5, 6), (7, 8)), (1, 1), name="2"),
        Asked(((1, 2), (3, 4)), (1, 0), name="3"),
        Asked(((1, 1),), (1,), (0, 0, 5, 5), "4"),
    )


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (5, "annotation 1 is not an object"),
        ({"id": 1, "image_id": 8, "bbox": [0, 0, 1, 1]}, "image 8, which is not listed"),
        ({"id": 1, "image_id": 7}, "no bbox, no labelled keypoint and no point"),
        ({"id": 1, "image_id": 7, "points": [[1, 2]], "labels": [0]}, r"no point on the object \(label 1\)"),
        ({"id": 1, "image_id": 7, "bbox": [0, 0, 0, 1]}, "which is empty"),
        ({"id": 1, "image_id": 7, "bbox": [0, 0, 1]}, "not x, y, width, height"),
        ({"id": 1, "image_id": 7, "bbox": "x"}, "not all numbers"),
        ({"id": 1, "image_id": 7, "bbox": [True, 0, 1, 1]}, "not all numbers"),
        ({"id": 1, "image_id": 7, "keypoints": [1, 2]}, "not x, y, v"),
        ({"id": 1, "image_id": 7, "points": [[1, 2]], "labels": [3]}, "labels that are not 0 or 1"),
        ({"id": 1, "image_id": 7, "category_id": "a", "bbox": [0, 0, 1, 1]}, "category_id 'a'"),
        ({"id": 1, "image_id": [7], "bbox": [0, 0, 1, 1]}, "is not an object with image_id"),
    ],
)
def test_faults_of_coco(tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        coco(tmp_path / "c.json", row)


@pytest.mark.parametrize("text", ["[]", "{}", "{", "[1]", '{"images": []}', '{"a": 1}', '"x"'])
def test_json_of_another_kind(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json"):
        read_prompts(tmp_path / "x.json")


# ---------------------------------------------------------------- which image an entry means


def assigned(paths: list[str], entries: list[str], folder: str = "/data") -> tuple[list[str | None], int]:
    """The entry of each path, and how many are of none."""
    given = {name: ImagePrompts((), where=name) for name in entries}
    sources = [Source(Path(path), path) for path in paths]
    found, strange = assign(given, sources, Path(folder) / "p.csv")
    return [None if one is None else one.where for one in found], len(strange)


def test_an_entry_names_its_image_by_as_much_of_the_path_as_it_takes() -> None:
    paths = ["/data/a/1.png", "/data/b/1.png", "/data/b/2.jpg"]
    assert assigned(paths, ["a/1.png", "/data/b/1.png", "2.jpg"]) == (
        ["a/1.png", "/data/b/1.png", "2.jpg"],
        0,
    )
    assert assigned(paths, ["a\\1.png", "./b/2.jpg"]) == (["a\\1.png", None, "./b/2.jpg"], 0)
    assert assigned(paths, ["2.png", "3.png"]) == ([None, None, "2.png"], 1)
    # A path below the prompt file's folder is this image, whatever else ends like it.
    assert assigned(["/data/1.png", "/data/a/1.png"], ["1.png"]) == (["1.png", None], 0)


def test_composed_and_decomposed_letters_are_one_name() -> None:
    assert assigned(["/data/e\u0301.png"], ["\u00e9.png"]) == (["\u00e9.png"], 0)


def test_entries_that_may_mean_several_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"1\.png, which may be /data/a/1\.png or /data/b/1\.png"):
        assigned(["/data/a/1.png", "/data/b/1.png"], ["1.png"])
    with pytest.raises(UserError, match=r"1\.png and a/1\.png are both"):
        assigned(["/data/a/1.png"], ["1.png", "a/1.png"])
