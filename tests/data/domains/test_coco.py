"""COCO files as exporters write them: the right square, or one sentence for every kind of fault."""

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from everseg.data import CocoReader, Stream, check
from everseg.data.samples import PartlyReadable
from everseg.errors import UserError

W, H = 24, 16
SQUARE = [4, 4, 12, 4, 12, 12, 4, 12]
PAIRS = [[4, 4], [12, 4], [12, 12], [4, 12]]
RUNS = [4 * H + 4, *([8, H - 8] * 7), 8]
RUNS.append(W * H - sum(RUNS))

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a COCO file of two images with an annotation each; returns the file."""

    def write(change: Callable[[Any], object] = lambda tree: None, encoding: str = "utf-8") -> Path:
        (tmp_path / "img").mkdir(exist_ok=True)
        for name in ("a.png", "b.png"):
            Image.new("RGB", (W, H)).save(tmp_path / "img" / name)
        tree = {
            "images": [
                {"id": i, "file_name": name, "height": H, "width": W}
                for i, name in ((1, "a.png"), (2, "b.png"))
            ],
            "annotations": [
                {"id": 10 * i, "image_id": i, "category_id": 1, "area": 64.0, "segmentation": [SQUARE]}
                for i in (1, 2)
            ],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        }
        change(tree)
        path = tmp_path / "a.json"
        path.write_bytes(json.dumps(tree, ensure_ascii=False).encode(encoding, "surrogateescape"))
        return path

    return write


def read(path: Path, **options: Any) -> CocoReader:
    return CocoReader(path.parent / "img", path, **options)


def first(**fields: Any) -> Callable[[Any], object]:
    """Change the first annotation."""
    return lambda tree: tree["annotations"][0].update(fields)


def image(**fields: Any) -> Callable[[Any], object]:
    """Change the first image."""
    return lambda tree: tree["images"][0].update(fields)


@pytest.mark.parametrize(
    "segmentation",
    [
        SQUARE,
        PAIRS,
        [PAIRS],
        [[str(v) for v in SQUARE]],
        [[{"x": x, "y": y} for x, y in PAIRS]],
        [{"x": x, "y": y} for x, y in PAIRS],
        [SQUARE + SQUARE[:2]],
        [SQUARE, []],
        {"counts": RUNS, "size": [H, W]},
        {"counts": RUNS, "size": [str(H), str(W)]},
        {"counts": [float(v) for v in RUNS], "size": [float(H), W]},
        {"counts": [str(v) for v in RUNS], "size": [H, W]},
        [{"counts": RUNS, "size": [H, W]}],
        [{"counts": RUNS, "size": [H, W]}, SQUARE],
        {"counts": RUNS},
    ],
    ids=str,
)
def test_one_square_in_many_forms(write: Write, segmentation: Any) -> None:
    samples = read(write(first(segmentation=segmentation)))
    assert [int(s.masks.sum()) for s in samples] == [64, 64]
    assert samples[0].masks[0, 4:12, 4:12].all()


def test_annotations_of_which_none_has_an_id_are_numbered(write: Write) -> None:
    def no_ids(tree: Any) -> None:
        for row in tree["annotations"]:
            del row["id"]

    samples = read(write(no_ids))
    assert [s.name for s in samples] == ["a.png#1", "b.png#2"]
    assert [int(s.masks.sum()) for s in samples] == [64, 64]


@pytest.mark.parametrize(
    ("segmentation", "says"),
    [
        ("4,4,12,4", "is text"),
        (True, "is true or false"),
        (7, "is a number"),
        ([SQUARE[:-1] + [None]], "three corners"),
        ([[float("nan")] * 8], "three corners"),
        ([[1, 2, 3, 4]], "three corners"),
        ([[1e308, 1e308, -1e308, 1e308, 0, -1e308]], "farther than"),
        ([10**400] * 6, "three corners"),
        ([0.1, 0.1, 0.4, 0.1, 0.4, 1.0], "as shares of the image's size"),
        ([SQUARE, "text"], "text among its polygons"),
        ({"size": [H, W]}, "without counts"),
        ({"counts": RUNS, "size": [W, H]}, "not the image's"),
        ({"counts": RUNS, "size": H}, "not the image's"),
        ({"counts": [RUNS[0] + 0.4, *RUNS[1:]], "size": [H, W]}, "not whole numbers"),
        ({"counts": [-1, 1], "size": [H, W]}, "not whole numbers"),
        ({"counts": {"a": 1}, "size": [H, W]}, "not whole numbers"),
        ({"counts": [10**30], "size": [H, W]}, "do not add up"),
        ({"counts": "é€", "size": [H, W]}, "letters that are none of theirs"),
        ({"counts": "b'abc'", "size": [H, W]}, "do not add up"),
        ({"counts": "", "size": [H, W]}, "do not add up"),
        ([[500, 500, 520, 500, 520, 520]], "covers no pixel"),
    ],
    ids=str,
)
def test_what_is_no_shape_is_named_and_can_be_skipped(write: Write, segmentation: Any, says: str) -> None:
    path = write(first(segmentation=segmentation))
    with pytest.raises(UserError, match=says) as caught:
        list(read(path))
    assert "annotation 10 " in str(caught.value) and "skip_faulty: true" in str(caught.value)
    left = read(path, skip_faulty=True)
    assert [s.name for s in left] == ["b.png#20"]
    assert "1 of 2 annotations are used" in left.notes[0] and "annotation 10 " in left.notes[1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (first(id=None), r"row annotations\[0\] has an id"),
        (first(id=[1]), r"row annotations\[0\] has an id"),
        (first(id={"$oid": "5f"}), r"row annotations\[0\] has an id"),
        (first(image_id=[1]), "an image that is not listed"),
        (first(image_id=99), r"an image that is not listed \(image_id 99\)"),
        (first(iscrowd="maybe"), "iscrowd that is neither 0 nor 1"),
        (lambda t: t["annotations"].insert(0, None), r"row annotations\[0\] is not a mapping"),
        (image(id=True), r"row images\[0\] has an id"),
        (image(width=None), "no proper height and width"),
        (image(height=0), "no proper height and width"),
        (image(width=True), "no proper height and width"),
        (image(width=10**6, height=10**6), "million pixels"),
        (image(file_name=None), "names no file"),
        (image(file_name=""), "names no file"),
        (image(file_name="."), "names no file"),
        (image(file_name="a\0b.png"), "names no file"),
        (image(file_name="x" * 5000), "names no file"),
        (image(file_name="x" * 250 + "/" + "y" * 250), "listed but missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_faulty_rows_are_named_and_can_be_skipped(
    write: Write, change: Callable[[Any], object], says: str
) -> None:
    path = write(change)
    with pytest.raises(PartlyReadable, match=says) as caught:
        read(path)
    assert all(len(problem) < 500 for problem in caught.value.problems)
    assert [s.name for s in read(path, skip_faulty=True)][-1] == "b.png#20"


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (first(id="10"), {}),
        (first(image_id="1"), {}),
        (first(image_id=1.0), {}),
        (first(area="64"), {"min_area": 1}),
        (first(category_id="1"), {"categories": ("cat",)}),
        (first(category_id=[1]), {}),
        (image(width=float(W), height=str(H)), {}),
        (first(iscrowd="0"), {}),
        (first(iscrowd="false"), {}),
        (first(iscrowd=None), {}),
        (first(bbox="text"), {}),
        (lambda t: t["annotations"].append({"id": 5, "image_id": 1, "iscrowd": "1"}), {}),
        (lambda t: t["annotations"].append({"id": 5, "image_id": 1, "iscrowd": True}), {}),
    ],
)
def test_numbers_may_be_written_as_text(
    write: Write, change: Callable[[Any], object], options: dict[str, Any]
) -> None:
    assert [s.name for s in read(write(change), **options)] == ["a.png#10", "b.png#20"]


def test_two_files_of_one_id_are_both_left_out(write: Write) -> None:
    path = write(image(id=2))
    with pytest.raises(UserError, match=r"image id 2 is that of two files, used twice \(b.png\)"):
        read(path)
    with pytest.raises(UserError, match=r"no annotation to learn from; .* set crowd: true if .*used twice"):
        read(path, skip_faulty=True)


def test_used_fields_of_the_wrong_type(write: Write) -> None:
    with pytest.raises(UserError, match="annotation 10 has no area that is a number"):
        read(write(first(area=None)), min_area=1)
    with pytest.raises(UserError, match="annotation 10 has a category_id that is neither"):
        read(write(first(category_id=[1])), categories=("cat",))
    with pytest.raises(UserError, match=r"row categories\[1\] has a name that is not text"):
        read(write(lambda t: t["categories"][1].update(name=[1])), categories=("cat",))


def test_equal_faults_are_one_sentence_and_all_kinds_are_listed(write: Write) -> None:
    def change(tree: Any) -> None:
        row = tree["annotations"][0]
        tree["annotations"] += [{**row, "id": i, "segmentation": []} for i in range(100, 140)]
        tree["annotations"] += [{**row, "id": i, "image_id": 9} for i in (200, 201)]
        tree["annotations"].append({"id": 300, "image_id": 1})

    with pytest.raises(PartlyReadable) as caught:
        read(write(change))
    assert [problem.partition(": ")[2].partition(";")[0] for problem in caught.value.problems] == [
        "41 annotations (100, 101, 102, ...) have no segmentation",
        "annotations 200 and 201 are of an image that is not listed (image_id 9)",
    ]


def test_one_fault_in_several_lists_is_one_sentence(write: Write) -> None:
    def change(tree: Any) -> None:
        for part in ("images", "categories"):
            tree[part].append({"name": "x", "file_name": "x.png"})

    with pytest.raises(PartlyReadable) as caught:
        read(write(change), categories=("cat",))
    (problem,) = caught.value.problems
    assert "rows images[2] and categories[2] have no 'id'" in problem


def test_rectangles_among_polygons(write: Write) -> None:
    path = write(first(segmentation=[], bbox=[2, 3, 5, 4]))
    with pytest.raises(
        UserError, match=r"has no segmentation, only a bbox; set use_boxes: true .* skip_faulty"
    ):
        read(path)
    assert int(read(path, use_boxes=True)[0].masks.sum()) == 20
    assert [s.name for s in read(path, skip_faulty=True)] == ["b.png#20"]
    with pytest.raises(UserError, match=r"annotation 10 has a bbox that is not \[x, y, width, height\]"):
        read(write(first(segmentation=[], bbox=[2, 3, 0, 4])), use_boxes=True)


def test_ids_that_come_twice(write: Write) -> None:
    def twice(tree: Any) -> None:
        tree["annotations"].append(
            {**tree["annotations"][0], "segmentation": [[14, 4, 20, 4, 20, 12, 14, 12]]}
        )

    samples = read(write(twice))
    assert [s.name for s in samples] == ["a.png#10", "a.png#10-2", "b.png#20"]
    assert [int(s.masks.sum()) for s in samples] == [64, 48, 64]
    assert "annotation id 10 is used more than once" in samples.notes[0]

    def listed(tree: Any) -> None:
        tree["images"].append({**tree["images"][0], "id": 3})
        tree["annotations"].append(
            {"id": 30, "image_id": 3, "segmentation": [[14, 4, 20, 4, 20, 12, 14, 12]]}
        )

    merged = read(write(listed), instances="merged")
    assert [(s.name, int(s.masks.sum())) for s in merged] == [("a.png", 112), ("b.png", 64)]
    assert "image a.png is listed more than once" in merged.notes[0]


def test_ids_are_not_rounded_and_other_texts_are_not_numbers(write: Write) -> None:
    def change(tree: Any) -> None:
        for row, known in zip(tree["images"], (2**60 + 1, 2**60), strict=True):
            row["id"] = known
        for row, known, name in zip(tree["annotations"], (2**60 + 1, 2**60), ("1e1", "010"), strict=True):
            row.update(id=name, image_id=known)
        tree["annotations"].append({**tree["annotations"][0], "id": 10})

    assert [s.name for s in read(write(change))] == ["a.png#10", "a.png#1e1", "b.png#010"]


def test_a_category_under_two_ids(write: Write) -> None:
    def change(tree: Any) -> None:
        tree["categories"].append({"id": 3, "name": "cat"})
        tree["annotations"][1]["category_id"] = 3

    assert len(read(write(change), categories=("cat",))) == 2


@pytest.mark.parametrize("listed, there", [("NFC", "NFD"), ("NFD", "NFC")])
def test_composed_and_decomposed_letters(write: Write, listed: str, there: str) -> None:
    name = "café.png"
    path = write(image(file_name=unicodedata.normalize(listed, name)))
    os.rename(path.parent / "img" / "a.png", path.parent / "img" / unicodedata.normalize(there, name))
    assert read(path)[1].name == unicodedata.normalize(listed, "café.png#10")


def test_backslashes_and_names_that_are_not_utf8(write: Write) -> None:
    path = write(image(file_name="site\\sub\\a.png"))
    (path.parent / "img/site/sub").mkdir(parents=True)
    os.rename(path.parent / "img/a.png", path.parent / "img/site/sub/a.png")
    assert len(read(path)) == 2
    path = write(image(file_name="Müller.png"), "latin-1")
    name = os.fsdecode(b"M\xfcller.png")
    os.rename(path.parent / "img/a.png", path.parent / "img" / name)
    assert read(path)[0].name == f"{name}#10"
    assert read(write(image(file_name="Müller.png")))[0].image.shape == (3, H, W)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings_of_windows(write: Write, encoding: str) -> None:
    assert len(read(write(encoding=encoding))) == 2


def test_check_and_the_stream_say_what_was_left_out(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(first(segmentation=[]))
    split = "{kind: coco, images: img, annotations: a.json, skip_faulty: true}"
    stream = tmp_path / "stream.yaml"
    stream.write_text(f"stages: [{{name: one, train: {split}, test: {split}}}]")
    said = [str(f) for f in check(stream).findings if f.severity == "warning"]
    assert any("1 of 2 annotations are used" in line for line in said)
    assert any("annotation 10 has no segmentation; left out" in line for line in said)
    Stream.from_yaml(stream)
    assert "one, train:" in capsys.readouterr().err


def _turned(tree: Any, *, bbox: bool = False) -> None:
    """Swap x and y, as tools do that count rows and columns."""
    for row in tree["annotations"]:
        (polygon,) = row["segmentation"]
        row["segmentation"] = [[v for x, y in zip(polygon[::2], polygon[1::2], strict=True) for v in (y, x)]]
        if bbox:
            x, y, w, h = row.pop("bbox")
            row |= {"segmentation": [], "bbox": [y, x, h, w]}


def _wide(tree: Any) -> None:
    """A polygon in the right part of an image that is wider than high, with its bbox."""
    right = [16, 4, 23, 4, 23, 10, 16, 10]
    for row in tree["annotations"]:
        row |= {"segmentation": [right], "bbox": [16, 4, 7, 6]}


def test_x_and_y_in_the_wrong_order(write: Write) -> None:
    def swapped(tree: Any) -> None:
        _wide(tree)
        _turned(tree)
        for row in tree["annotations"]:
            del row["bbox"]

    def swapped_boxes(tree: Any) -> None:
        _wide(tree)
        _turned(tree, bbox=True)

    says = "annotations 10 and 20 are outside of the image, and would be inside with x and y swapped; write x"
    for skip in (False, True):
        with pytest.raises(UserError, match=says):
            read(write(swapped), skip_faulty=skip)
        with pytest.raises(UserError, match=says):
            read(write(swapped_boxes), use_boxes=True, skip_faulty=skip)
    assert not read(write(_wide)).notes


def test_polygons_and_bbox_that_disagree(write: Write) -> None:
    square = {"segmentation": [[16, 4, 23, 4, 23, 10, 16, 10]]}
    (note,) = read(write(first(**square, bbox=[4, 16, 6, 7]))).notes
    assert "annotation 10 has a segmentation and a bbox that agree only with x and y swapped" in note
    (note,) = read(write(first(**square, bbox=[0, 4, 8, 6]))).notes
    assert "annotation 10 has a bbox that is not around the segmentation, which is used" in note
    for near in ([16, 4, 7, 6], [15, 3, 8, 7], [16.4, 4.4, 6.1, 5.2], "none", [0, 0, 0, 0], None):
        assert not read(write(first(**square, bbox=near))).notes
    by_rows = {"counts": [16 + 4 * W, *([7, W - 7] * 5), 7, 1 + W * 6]}
    (note,) = read(write(first(segmentation=by_rows, bbox=[16, 4, 7, 6]))).notes
    assert "annotation 10 has a bbox that is not around the segmentation" in note, "counted along rows"
    assert not read(write(first(segmentation={"counts": RUNS}, bbox=[4, 4, 8, 8]))).notes
    cut = [[16, 4, 25, 4, 25, 17, 16, 17]]
    assert not read(write(first(segmentation=cut, bbox=[16, 4, 8, 12]))).notes, "cut off at the border"


def test_a_bbox_of_corners_where_it_is_the_mask(write: Write) -> None:
    def corners(tree: Any) -> None:
        tree["annotations"][0] |= {"segmentation": [], "bbox": [10, 6, 22, 15]}
        tree["annotations"][1] |= {"segmentation": [], "bbox": [2, 6, 22, 12]}

    with pytest.raises(
        UserError, match=r"annotation 10 has a bbox that fits as \[left, top, right, bottom\]"
    ):
        read(write(corners), use_boxes=True)
    with pytest.raises(UserError, match="has a bbox farther than 1,000,000 pixels from the image"):
        read(write(first(segmentation=[], bbox=[4, 4, 1e300, 5])), use_boxes=True)
    shares = first(segmentation=[], bbox=[0.1, 0.2, 0.5, 0.5])
    with pytest.raises(UserError, match="has a bbox within 0 and 1, as shares of the image's size"):
        read(write(shares), use_boxes=True)


def test_annotations_beyond_their_image(write: Write) -> None:
    def of_a_larger_image(tree: Any) -> None:
        for row in tree["annotations"]:
            row["segmentation"] = [[v * 2 for v in SQUARE]]
        tree["annotations"][0]["segmentation"] = [[2, 10, 8, 10, 8, 20, 2, 20]]

    (note,) = read(write(of_a_larger_image)).notes
    assert "annotations 10 and 20 are partly or wholly outside" in note, "swapping would not help"
    (note,) = read(write(first(segmentation=[[4, 4, 40, 4, 40, 30, 4, 30]]))).notes
    assert (
        "annotation 10 is partly or wholly outside of the image, by up to 16 pixels, and cut off there"
        in note
    )
    assert not read(write(first(segmentation=[[4, 4, 25.5, 4, 25.5, 17, -1, 17]]))).notes


JOINED = [2, 2, 8, 2, 8, 8, 14, 8, 14, 2, 20, 2, 20, 8, 14, 8, 8, 8, 2, 8]
"""Two squares that go round in opposite directions, with a line between them to and fro."""


def test_an_outline_that_crosses_itself(write: Write, write_stream: Callable[[str], Path]) -> None:
    eight = [4, 4, 12, 12, 12, 4, 4, 12]
    path = write(lambda tree: [row.update(segmentation=[eight]) for row in tree["annotations"]])
    split = "{kind: coco, images: img, annotations: a.json}"
    warned = [
        f.what for f in check(write_stream(f"stages: [{{name: a, train: {split}, test: {split}}}]")).findings
    ]
    says = f"{path}: annotations 10 and 20 have an outline that crosses itself (what it goes round twice is"
    assert sum(what.startswith(says) for what in warned) == 2, "in both splits"
    for fine in (SQUARE, SQUARE + SQUARE[:2], [4, 4, 12, 4, 8, 6, 12, 12, 4, 12], JOINED):
        assert not read(write(first(segmentation=[fine]))).notes
