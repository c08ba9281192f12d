"""Annotations as people have them after a move, a merge or an accident.

They are proposed and read right, or a sentence says what is there and what to do."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from everseg.data import FolderReader, Stream, check, write_stream_for
from everseg.errors import UserError

W, H = 48, 40
Names = Callable[[int], str]


def square(x: int, y: int = 10, side: int = 12) -> list[int]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (H, W, 3), np.uint8)
    Image.fromarray(pixels).save(path, format="PNG")


def coco(root: Path, file: str, listed: Names, lies: Names, count: int = 6, **fields: Any) -> Path:
    """`count` images that lie under one name and are listed under another; each has its own square."""
    for n in range(count):
        picture(root / lies(n), n)
    images = [{"id": n, "file_name": listed(n), "width": W, "height": H} for n in range(count)]
    rows = [
        {
            "id": n,
            "image_id": n,
            "category_id": 1,
            "segmentation": [square(4 + 3 * n)],
            "bbox": [4 + 3 * n, 10, 12, 12],
        }
        for n in range(count)
    ]
    for row in images:
        row.update(fields)
        for key in [key for key, value in row.items() if value is None]:
            del row[key]
    tree = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cat"}]}
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(tree))
    return root / file


def begun(root: Path) -> tuple[dict[str, list[int]], str]:
    """The left edge, top edge and area of each sample's mask, and what was unsure."""
    written = write_stream_for(root, force=True)
    report = check(written.path)
    assert report.ok, report
    (stage,) = Stream.from_yaml(written.path).stages
    found = {}
    for split in (stage.train, stage.test):
        for sample in split:
            rows, columns = np.nonzero(np.asarray(sample.masks[0]))
            found[sample.name.split("#")[0]] = [int(columns.min()), int(rows.min()), len(rows)]
    return found, "\n".join((*written.doubts, written.path.read_text()))


def expected(name: Names, count: int = 6) -> dict[str, list[int]]:
    return {name(n): [4 + 3 * n, 10, 144] for n in range(count)}


ELSEWHERE = {
    "folders of another machine": (
        lambda n: f"/mnt/bob/{n}.png",
        lambda n: f"images/{n}.png",
        "{}.png",
    ),
    "Windows": (lambda n: f"C:\\data\\img\\{n}.png", lambda n: f"images/{n}.png", "{}.png"),
    "an address": (lambda n: f"https://x.org/upload/{n}.png", lambda n: f"images/{n}.png", "{}.png"),
    "above": (lambda n: f"../../media/upload/1/{n}.png", lambda n: f"images/{n}.png", "{}.png"),
    "folders that are here": (lambda n: f"images/{n}.png", lambda n: f"images/{n}.png", "images/{}.png"),
    "folders below": (lambda n: f"{n // 3}/p/{n}.png", lambda n: f"images/{n // 3}/p/{n}.png", ""),
    "some of both": (lambda n: f"/data/{n // 3}/{n % 3}.png", lambda n: f"img/{n // 3}/{n % 3}.png", ""),
}


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_coco_lists_images_as_another_machine_had_them(tmp_path: Path, kind: str) -> None:
    listed, lies, form = ELSEWHERE[kind]
    coco(tmp_path, "annotations/train.json", listed, lies)
    found, _ = begun(tmp_path)
    named = {"folders below": listed, "some of both": lambda n: f"{n // 3}/{n % 3}.png"}.get(kind)
    assert found == expected(named or form.format)


def test_names_that_differ_in_a_folder_are_not_taken_for_each_other(tmp_path: Path) -> None:
    file = coco(tmp_path, "a.json", lambda n: f"{'ab'[n % 2]}/{n // 2}.png", lambda n: f"{n // 2}.png")
    with pytest.raises(
        UserError, match=r"a\.json is not used: the images that it lists, such as a/0\.png, are"
    ):
        write_stream_for(tmp_path)
    assert file.exists() and not (tmp_path / "stream.yaml").exists()


def test_coco_without_sizes_has_those_of_the_files(tmp_path: Path) -> None:
    coco(tmp_path, "a.json", lambda n: f"{n}.png", lambda n: f"images/{n}.png", width=None, height=None)
    assert begun(tmp_path)[0] == expected("{}.png".format)
    (tmp_path / "images/2.png").write_bytes(b"")
    said = str(check(tmp_path / "stream.yaml"))
    assert "2.png is damaged, or no image; correct or remove it" in said, said


def test_coco_of_boxes_fills_them_and_says_so(tmp_path: Path) -> None:
    file = coco(tmp_path, "a.json", lambda n: f"{n}.png", lambda n: f"images/{n}.png")
    tree = json.loads(file.read_text())
    for row in tree["annotations"]:
        row["segmentation"] = []
    file.write_text(json.dumps(tree))
    found, unsure = begun(tmp_path)
    assert found == expected("{}.png".format)
    assert "annotations are boxes without outlines" in unsure and "use_boxes: true" in unsure


def test_images_that_count_for_nothing_do_not_move_the_border(tmp_path: Path) -> None:
    file = coco(tmp_path, "a.json", lambda n: f"{n}.png", lambda n: f"images/{n}.png")
    tree = json.loads(file.read_text())
    tree["annotations"][2]["iscrowd"] = 1
    file.write_text(json.dumps(tree))
    found, unsure = begun(tmp_path)
    assert len(found) == 5 and "part: [0, 4]" in unsure and "part: [4, 5]" in unsure


def test_faults_are_said_before_a_part_that_does_not_fit(tmp_path: Path) -> None:
    file = coco(tmp_path, "a.json", lambda n: f"{n}.png", lambda n: f"images/{n}.png")
    begun(tmp_path)
    tree = json.loads(file.read_text())
    for row in tree["annotations"][2:]:
        del row["id"]
    file.write_text(json.dumps(tree))
    faults = str(check(tmp_path / "stream.yaml")).partition("error: ")[2].splitlines()
    assert "4 rows (annotations[2], annotations[3], annotations[4], ...) have no 'id'" in faults[0]
    assert "part: [0, 5] is not within the 2 that can be read; correct the files first" in faults[1]


def labels(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shares = [v / size for v, size in zip(square(4 + 3 * number), (W, H) * 4, strict=True)]
    path.write_text("0 " + " ".join(f"{v:.6f}" for v in shares) + "\n")


YOLO = {
    "list of another machine": (
        "images/{}.png",
        "labels/{}.txt",
        "train: list.txt",
        "/content/data/images/{}.png",
    ),
    "CVAT's list": (
        "images/train/{}.png",
        "labels/train/{}.txt",
        "path: .\ntrain: list.txt",
        "data/images/train/{}.png",
    ),
    "capitals": ("Images/{}.png", "Labels/{}.txt", "train: Images", ""),
    "capitals without data.yaml": ("Images/{}.png", "Labels/{}.txt", "", ""),
    "one folder": ("{}.png", "{}.txt", "", ""),
    "one folder below": ("set/{}.png", "set/{}.txt", "", ""),
    "beside images in a folder of that name": ("images/{}.png", "images/{}.txt", "", ""),
}


@pytest.mark.parametrize("kind", YOLO)
def test_yolo_as_tools_and_other_machines_lay_it_out(tmp_path: Path, kind: str) -> None:
    image, label, tree, listed = YOLO[kind]
    for n in range(6):
        picture(tmp_path / image.format(n), n)
        labels(tmp_path / label.format(n), n)
    if tree:
        (tmp_path / "data.yaml").write_text(f"{tree}\nnames: [cat]\n")
    if listed:
        (tmp_path / "list.txt").write_text("".join(f"{listed.format(n)}\n" for n in range(6)))
    assert begun(tmp_path)[0] == expected("{}.png".format)


def test_a_split_of_yolo_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    for n in range(6):
        picture(tmp_path / f"images/{'train' if n < 4 else 'val'}/{n}.png", n)
        labels(tmp_path / f"labels/{'train' if n < 4 else 'val'}/{n}.txt", n)
    (tmp_path / "data.yaml").write_text("train: lost.txt\nval: images/val\nnames: [cat]\n")
    doubts = "\n".join(write_stream_for(tmp_path).doubts)
    assert "YOLO: ., split train is not used: " in doubts and "names lost.txt, which is not at" in doubts
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: cat\n")
    with pytest.raises(UserError, match=r"names: is not a list of classes, as in names: \[cat, dog\]"):
        write_stream_for(tmp_path, force=True)


def labelme(path: Path, number: int, kind: str = "polygon") -> None:
    corners = np.reshape(square(4 + 3 * number), (4, 2)).tolist()
    shape = {"label": "cat", "points": corners, "shape_type": kind, "group_id": None}
    tree = {"shapes": [shape], "imagePath": f"{number}.png", "imageHeight": H, "imageWidth": W}
    path.write_text(json.dumps(tree))


def test_labelme_with_turned_rectangles(tmp_path: Path) -> None:
    for n in range(6):
        picture(tmp_path / f"{n}.png", n)
        labelme(tmp_path / f"{n}.json", n, "rotation" if n % 2 else "oriented_rectangle")
    assert begun(tmp_path)[0] == expected("{}.png".format)


def test_half_of_the_files_damaged_is_still_labelme(tmp_path: Path) -> None:
    for n in range(6):
        picture(tmp_path / f"{n}.png", n)
        labelme(tmp_path / f"{n}.json", n)
    for n in (0, 2, 4):
        (tmp_path / f"{n}.json").write_bytes((tmp_path / f"{n}.json").read_bytes()[: 20 * n])
    written = write_stream_for(tmp_path)
    assert "0.json is not valid JSON" in "\n".join(written.doubts)
    assert "kind: labelme" in written.path.read_text()


UNREAD: dict[str, tuple[dict[str, str], str]] = {
    "VIA": (
        {"via.json": '{"0.png1": {"filename": "0.png", "regions": []}}'},
        r"via\.json is not used: it is VIA's, for which there is no reader; export it as COCO JSON",
    ),
    "Supervisely": (
        {f"ann/{n}.png.json": '{"size": {"height": 40}, "objects": []}' for n in range(6)},
        r"ann/0\.png\.json, ann/1\.png\.json, .* and 3 more are not used: these are Supervisely's",
    ),
    "CVAT XML": (
        {"annotations.xml": "<?xml?><annotations><version>1.1</version><meta/></annotations>"},
        r"annotations\.xml is not used: it is CVAT's XML.*'Segmentation mask 1\.1' or 'COCO 1\.0'",
    ),
    "VOC boxes": (
        {"Annotations/0.xml": "<annotation><object><bndbox></bndbox></object></annotation>"},
        "these are VOC's boxes, and a box is not a mask",
    ),
    "run lengths": (
        {"train.csv": "ImageId,EncodedPixels\n0.png,1 5\n"},
        r"train\.csv is not used: it lists masks",
    ),
    "pairs": ({"train.csv": "image,mask\na.png,b.png\n"}, "say how they pair by images: and masks:"),
    "results": (
        {"r.json": '[{"image_id": 1, "segmentation": []}]'},
        "a list of COCO results, without the images",
    ),
    "Label Studio": ({"p.json": '[{"data": {}, "annotations": []}]'}, "export as COCO, YOLO or PNG masks"),
    "GeoJSON": ({"q.geojson": '{"type": "FeatureCollection", "features": []}'}, "it is GeoJSON"),
    "cut off": ({"train.json": '{"images": [{"id": 1'}, r"train\.json is not valid JSON"),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_annotations_without_a_reader_are_named_with_a_way_out(tmp_path: Path, kind: str) -> None:
    files, said = UNREAD[kind]
    for n in range(6):
        picture(tmp_path / f"images/{n}.png", n)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        write_stream_for(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("images.zip", "unpack"),
        ("a/0.nrrd", "convert them to NIfTI"),
        ("a/0.npy", r"Stream\.from_arrays"),
        ("a/0.HEIC", "convert them to png"),
        ("a/0.svs", "cut them into tiles"),
        ("clip.mp4", "save their frames"),
    ],
)
def test_images_of_other_kinds_are_named_with_a_way_out(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"\0")
    with pytest.raises(UserError, match=rf"holds {name}, which everseg does not read; .*{said}"):
        write_stream_for(tmp_path)


def pairs(root: Path, empty: tuple[int, ...] = (), count: int = 8, name: Names = "{}".format) -> Path:
    """Images and masks of a square each, some of them empty; the masks' stems end with _mask."""
    for n in range(count):
        picture(root / f"{name(n)}.png", crc32(f"{root.name}{n}".encode()))
        mask = np.zeros((H, W), np.uint8)
        mask[10:22, 4 + 3 * n : 16 + 3 * n] = 0 if n in empty else 255
        Image.fromarray(mask).save(root / f"{name(n)}_mask.png")
    return root


def test_masks_of_healthy_images_are_left_out_where_it_is_said(tmp_path: Path) -> None:
    pairs(tmp_path, empty=(2, 7))
    found, said = begun(tmp_path)
    assert found == {f"{n}.png": [4 + 3 * n, 10, 144] for n in (0, 1, 3, 4, 5, 6)}
    assert "some masks {id}_mask.png are empty; images without an object are left out" in said
    assert "skip_empty leaves out 1 of 6 images, whose masks" in str(check(tmp_path / "stream.yaml"))
    options = {"images": "{id}.png", "masks": "{id}_mask.png"}
    assert [s.name for s in FolderReader(tmp_path, **options, skip_empty=True, limit=3)] == [
        "0.png", "3.png", "5.png",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"2_mask\.png is an empty mask .* or set skip_empty: true"):
        FolderReader(tmp_path, **options)[2]
    (tmp_path / "3_mask.png").write_bytes(b"")
    left = FolderReader(tmp_path, **options, skip_empty=True)
    assert "3.png" in left.names(), "what cannot be read is reported, not left out"
    for n in range(8):
        Image.new("L", (W, H)).save(tmp_path / f"{n}_mask.png")
    with pytest.raises(UserError, match="has an object"):
        FolderReader(tmp_path, **options, skip_empty=True)


def test_one_of_several_masks_may_be_empty(tmp_path: Path) -> None:
    for part, empty in (("a", ()), ("b", (1,))):
        pairs(tmp_path / part, empty, 2)
    options = {"images": "a/{id}.png", "masks": "*/{id}_mask.png", "instances": "merged"}
    both = FolderReader(tmp_path, **options)
    assert [int(sample.masks.sum()) for sample in both] == [144, 144]
    pairs(tmp_path / "a", (1,), 2)
    with pytest.raises(UserError, match=r"1_mask\.png is an empty mask"):
        FolderReader(tmp_path, **options)[1]


def test_patients_of_any_names_that_their_files_repeat_are_one_stage(tmp_path: Path) -> None:
    """As the brain scans of the Cancer Genome Atlas are published."""
    for patient in ("TCGA_CS_4941", "TCGA_DU_5849", "TCGA_FG_8189"):
        pairs(tmp_path / "scans" / patient, count=4, name=lambda n, own=patient: f"{own}_{n}")
    found, unsure = begun(tmp_path)
    assert len(found) == 12 and 'images: "*/*.png"' in unsure and "part: [0, 8]" in unsure
    for folder in ("cats", "dogs", "owls"):
        pairs(tmp_path / "other" / folder, name=lambda n, own=folder: f"{own}_{n}")
    assert len(write_stream_for(tmp_path / "other").found) > 6, "words are no patients"


def test_a_link_to_itself_hides_nothing(tmp_path: Path) -> None:
    pairs(tmp_path)
    begun(tmp_path)
    (tmp_path / "9.png").symlink_to("9.png")
    (tmp_path / "9_mask.png").symlink_to("nowhere.png")
    assert "8 samples" not in str(write_stream_for(tmp_path, force=True).found)
    report = str(check(tmp_path / "stream.yaml"))
    assert "cannot read" in report and "9.png" in report


def test_lists_of_splits_are_told(tmp_path: Path) -> None:
    pairs(tmp_path)
    (tmp_path / "train.txt").write_text("0\n2\n4\n6\n1\n")
    (tmp_path / "test.txt").write_text("3.png\n5.png\n7.png\n")
    (tmp_path / "test_notes.txt").write_text("which scanner it was\n")
    _, unsure = begun(tmp_path)
    assert "train.txt seems to list the images of a split" in unsure
    assert "test.txt seems to list" in unsure and "notes" not in unsure


def test_parts_that_count_what_can_be_read_are_told(tmp_path: Path) -> None:
    for n in range(6):
        picture(tmp_path / f"{n}.png", n)
        labelme(tmp_path / f"{n}.json", n, "linestrip" if n > 2 else "polygon")
    assert "write the file again (--force)" in "\n".join(write_stream_for(tmp_path).doubts)


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    pairs(tmp_path)
    for name in ("a.json", "data.yaml", "train.txt", "via.xml"):
        os.mkfifo(tmp_path / name)
    assert len(begun(tmp_path)[0]) == 8
