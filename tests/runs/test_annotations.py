"""Predictions as files of annotation tools, read back by the readers of those formats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from everseg.data.domains.coco import CocoReader
from everseg.data.domains.coco_results import coco_entry
from everseg.data.domains.cvat import CvatReader
from everseg.data.domains.labelme import LabelmeReader
from everseg.errors import UserError
from everseg.pictures.drawn import Region, numbered
from everseg.pictures.outline import outlines, simplified
from everseg.runs.annotations import Annotated, Tool, check_free, write_annotations
from everseg.runs.inputs import Source
from everseg.runs.outputs import OutputFolder

SIZE = (40, 50)


def disc(x: float, y: float, radius: float, hole: float = 0) -> np.ndarray[Any, Any]:
    yy, xx = np.mgrid[: SIZE[0], : SIZE[1]]
    far = np.hypot(xx - x, yy - y)
    return (far <= radius) & (far >= hole)


MASKS = {
    "a/one": {"cell": disc(12, 12, 8), "ring": disc(32, 22, 13, 5)},
    "two": {"cell": disc(20, 20, 3) | disc(40, 8, 5)},
}


@pytest.fixture
def images(tmp_path: Path) -> list[Annotated]:
    """Two images with three objects, as if they had been predicted."""
    return annotated(tmp_path / "scans", MASKS)


def annotated(folder: Path, masks: Mapping[str, Mapping[str, Any]]) -> list[Annotated]:
    """Images and objects, as if they had been predicted."""
    found = []
    for number, (name, objects) in enumerate(masks.items(), 1):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(path)
        entries = [
            {"predicted_iou": 0.5, "category_id": 1, "object": label}
            | coco_entry(Region.of(mask, 0, 0, SIZE))
            for label, mask in objects.items()
        ]
        record = {"size": {"height": SIZE[0], "width": SIZE[1]}, "masks": entries}
        found.append(Annotated(Source(path, name), number, record))
    return found


def written(
    tool: Tool, images: list[Annotated], out: Path, categories: Mapping[int, str] | None = None
) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    return write_annotations(tool, OutputFolder(out, ""), images, categories or {})


def truths(reader: Any) -> dict[str, list[np.ndarray[Any, Any]]]:
    """The masks of each image, by its file's stem."""
    found: dict[str, list[np.ndarray[Any, Any]]] = {}
    for n in range(len(reader)):
        sample = reader[n]
        found.setdefault(Path(sample.name.split("#")[0]).stem, []).extend(sample.masks.numpy())
    return found


def same(found: dict[str, list[np.ndarray[Any, Any]]], least: float = 1.0) -> None:
    wanted = {Path(name).stem: list(objects.values()) for name, objects in MASKS.items()}
    assert {k: len(v) for k, v in found.items()} == {k: len(v) for k, v in wanted.items()}
    for name, masks in wanted.items():
        for mask in masks:
            assert max((m & mask).sum() / (m | mask).sum() for m in found[name]) >= least


def test_coco_is_read_back_to_the_pixel(images: list[Annotated], tmp_path: Path) -> None:
    path = written("coco", images, tmp_path / "out")
    same(truths(CocoReader(images=tmp_path / "scans", annotations=path)))
    tree = json.loads(path.read_text())
    assert [image["file_name"] for image in tree["images"]] == ["a/one.png", "two.png"]
    assert {row["name"]: row["id"] for row in tree["categories"]} == {"cell": 1, "ring": 2}


def test_coco_loads_in_the_api_that_evaluates_it(images: list[Annotated], tmp_path: Path) -> None:
    from faster_coco_eval import COCO

    coco = COCO(str(written("coco", images, tmp_path / "out")))
    drawn = [np.asarray(coco.annToMask(coco.anns[i])).astype(bool) for i in sorted(coco.anns)]
    wanted = [mask for objects in MASKS.values() for mask in objects.values()]
    assert all(np.array_equal(a, b) for a, b in zip(drawn, wanted, strict=True))


def test_names_of_a_coco_prompt_file_come_back(images: list[Annotated], tmp_path: Path) -> None:
    tree = json.loads(written("coco", images, tmp_path / "out", {1: "nucleus", 7: "ring"}).read_text())
    assert tree["categories"] == [{"id": 1, "name": "nucleus"}]


def test_cvat_is_read_back_to_the_pixel(images: list[Annotated], tmp_path: Path) -> None:
    root = written("cvat", images, tmp_path / "out")
    same(truths(CvatReader(root, images=tmp_path / "scans")))
    listed = (root / "ImageSets" / "Segmentation" / "default.txt").read_text().split()
    assert listed == ["a/one", "two"]
    only = truths(CvatReader(root, images=tmp_path / "scans", subset="default", categories=("ring",)))
    assert list(only) == ["one"]


def test_labelme_is_read_back_within_the_tolerance(images: list[Annotated], tmp_path: Path) -> None:
    root = written("labelme", images, tmp_path / "out")
    same(truths(LabelmeReader(root / "a")) | truths(LabelmeReader(root)), least=0.93)
    (ring,) = [s for s in json.loads((root / "a" / "one.json").read_text())["shapes"] if s["label"] == "ring"]
    assert ring["shape_type"] == "mask"
    parts = json.loads((root / "two.json").read_text())["shapes"]
    assert [s["shape_type"] for s in parts] == ["polygon"] * 2 and len({s["group_id"] for s in parts}) == 1


def test_what_was_edited_in_labelme_is_never_replaced(images: list[Annotated], tmp_path: Path) -> None:
    root = written("labelme", images, tmp_path / "out")
    written("labelme", images, tmp_path / "out")
    path = root / "two.json"
    tree = json.loads(path.read_text())
    tree["shapes"][0]["points"][0][0] += 1
    path.write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"two\.json already exists and was edited since"):
        written("labelme", images, tmp_path / "out")


@pytest.mark.parametrize(
    ("tool", "name"),
    [
        ("coco", "annotations.coco.json"),
        ("cvat", "cvat/labelmap.txt"),
        ("cvat", "cvat/SegmentationClass/two.png"),
        ("labelme", "labelme/two.json"),
    ],
)
def test_what_others_wrote_stays(tool: Tool, name: str, images: list[Annotated], tmp_path: Path) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(UserError, match="was not written by everseg"):
        written(tool, images, tmp_path / "out")
    assert path.read_text() == "{}"


AWKWARD = {
    "a b/scan 1.v2": {"left kidney": disc(12, 12, 8, 3) | disc(36, 30, 6), "é": disc(30, 10, 4)},
    "c/scan 1.v2": {"gone": np.zeros(SIZE, bool)},
    "ö": {},
}


@pytest.fixture
def awkward(tmp_path: Path) -> list[Annotated]:
    """Names with blanks, dots and accents; an object with a hole and two parts; one without pixels; none."""
    return annotated(tmp_path / "my scans", AWKWARD)


def test_awkward_names_and_masks_come_back_from_coco(awkward: list[Annotated], tmp_path: Path) -> None:
    from faster_coco_eval import COCO

    path = written("coco", awkward, tmp_path / "out")
    coco = COCO(str(path))
    by_name = {image["file_name"]: number for number, image in coco.imgs.items()}
    assert list(by_name) == [f"{name}.png" for name in AWKWARD]
    for name, objects in AWKWARD.items():
        found = coco.loadAnns(coco.getAnnIds(imgIds=[by_name[f"{name}.png"]]))
        seen = {label: mask for label, mask in objects.items() if mask.any()}
        assert [coco.cats[one["category_id"]]["name"] for one in found] == list(seen)
        assert all(
            np.array_equal(coco.annToMask(a).astype(bool), m)
            for a, m in zip(found, seen.values(), strict=True)
        )
    reader = CocoReader(images=tmp_path / "my scans", annotations=path)
    assert len(truths(reader)["scan 1.v2"]) == 2


def test_awkward_names_and_masks_come_back_from_cvat(awkward: list[Annotated], tmp_path: Path) -> None:
    root = written("cvat", awkward, tmp_path / "out")
    listed = (root / "ImageSets" / "Segmentation" / "default.txt").read_text(encoding="utf-8").splitlines()
    assert listed == list(AWKWARD)
    assert all((root / "SegmentationObject" / f"{name}.png").is_file() for name in listed)
    found = truths(CvatReader(root, images=tmp_path / "my scans"))["scan 1.v2"]
    wanted = [mask for mask in AWKWARD["a b/scan 1.v2"].values()]
    assert len(found) == 2 and all(any(np.array_equal(a, b) for b in found) for a in wanted)


def test_awkward_names_and_masks_come_back_from_labelme(awkward: list[Annotated], tmp_path: Path) -> None:
    root = written("labelme", awkward, tmp_path / "out")
    for name, objects in AWKWARD.items():
        tree = json.loads((root / f"{name}.json").read_text(encoding="utf-8"))
        assert ((root / f"{name}.json").parent / tree["imagePath"]).resolve() == (
            tmp_path / "my scans" / f"{name}.png"
        )
        assert {s["label"] for s in tree["shapes"]} == {k for k, mask in objects.items() if mask.any()}
    same_masks = truths(LabelmeReader(root / "a b"))["scan 1.v2"]
    assert any(np.array_equal(m, AWKWARD["a b/scan 1.v2"]["left kidney"]) for m in same_masks)


def test_cvat_has_one_map_for_each_name(tmp_path: Path) -> None:
    sources = [Source(tmp_path / name, name) for name in ("x.jpg", "x.png")]
    with pytest.raises(UserError, match=r"x\.jpg and .*x\.png differ by their suffixes alone"):
        check_free("cvat", tmp_path / "out", sources)
    check_free("coco", tmp_path / "out", sources)


@pytest.mark.parametrize("label", ["left: kidney", "#1", "background", "two\nlines"])
def test_labels_that_cvat_cannot_name_are_refused(label: str, tmp_path: Path) -> None:
    images = annotated(tmp_path / "scans", {"one": {label: disc(12, 12, 8)}})
    with pytest.raises(UserError, match=r"labelmap\.txt has no such label"):
        written("cvat", images, tmp_path / "out")
    assert not (tmp_path / "out" / "cvat").exists()


def test_labelme_has_no_slices(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="labelme opens image files"):
        check_free("labelme", tmp_path, [Source(tmp_path / "x.nii", "x@3", 3)])


def test_an_exact_outline_has_just_the_pixels_inside() -> None:
    from everseg.data.domains.areas import fill_polygons

    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = disc(*rng.uniform(8, 32, 2), rng.uniform(1, 7)) | disc(*rng.uniform(8, 32, 2), 4)
        rings, holes = outlines(Region.of(mask, 0, 0, SIZE), tolerance=0)
        assert not holes
        assert np.array_equal(fill_polygons([ring.ravel().tolist() for ring in rings], *SIZE), mask)


def test_an_outline_of_a_square_has_few_points() -> None:
    mask = np.zeros(SIZE, bool)
    mask[5:25, 10:30] = True
    (ring,), holes = outlines(Region.of(mask, 0, 0, SIZE))
    assert not holes and len(ring) <= 8
    assert ring.min(0).tolist() == [10, 5] and ring.max(0).tolist() == [30, 25]


def test_no_ring_is_simplified_to_a_line() -> None:
    ring = np.array([[0, 0], [1, 0.1], [2, 0], [1, -0.1], [0, 0]], np.float64)
    assert len(simplified(ring, 5.0)) >= 3


def test_objects_of_one_number_have_one_colour() -> None:
    from everseg.runs.annotations import _numbered

    colours = {tuple(_numbered(n).tolist()) for n in range(1, 300)}
    assert len(colours) == 299 and (0, 0, 0) not in colours
    assert numbered([], SIZE).max() == 0
