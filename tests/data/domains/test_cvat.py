"""CVAT's maps in colours: labels and objects by labelmap.txt, in files with a palette and without."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from everseg.data import Stream
from everseg.data.domains.cvat import CvatReader
from everseg.data.samples import PartlyReadable
from everseg.errors import UserError

LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\ndog:0,106,53::\n"
CAT, DOG = (250, 50, 83), (0, 106, 53)
FIRST, SECOND, THIRD = (128, 0, 0), (0, 128, 0), (128, 128, 0)


def painted(parts: list[tuple[int, tuple[int, int, int]]], palette: bool) -> Image.Image:
    """Columns of 6 pixels in the given colours, on black."""
    pixels = np.zeros((30, 40, 3), np.uint8)
    for column, colour in parts:
        pixels[4:20, column : column + 6] = colour
    made = Image.fromarray(pixels)
    return made.convert("P", palette=Image.Palette.ADAPTIVE) if palette else made


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Path]:
    """Two cats and a dog; a dog alone, by a palette; nothing."""

    def write(labelmap: str = LABELMAP) -> Path:
        root = tmp_path / "cvat"
        for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        maps = {
            "a": ([(2, CAT), (10, CAT), (20, DOG)], [(2, FIRST), (10, SECOND), (20, THIRD)]),
            "b": ([(5, DOG)], [(5, FIRST)]),
            "c": ([], []),
        }
        for seed, (name, (classes, objects)) in enumerate(maps.items()):
            pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg")
            painted(classes, name == "b").save(root / "SegmentationClass" / f"{name}.png")
            painted(objects, name == "b").save(root / "SegmentationObject" / f"{name}.png")
        (root / "ImageSets" / "Segmentation" / "default.txt").write_text("a\nb\n")
        (root / "labelmap.txt").write_text(labelmap)
        return root

    return write


def test_objects_and_labels_are_colours(export: Callable[..., Path]) -> None:
    root = export()
    each = CvatReader(root)
    assert [(s.name, int(s.masks.sum())) for s in each] == [(f"a.jpg#{n}", 96) for n in (1, 2, 3)] + [
        ("b.jpg#1", 96)
    ]
    columns = [s.masks[0].any(0).nonzero()[0].item() for s in each]
    assert sorted(columns[:3]) == [2, 10, 20] and columns[3] == 5
    merged = CvatReader(root, instances="merged")
    assert [(s.name, int(s.masks.sum())) for s in merged] == [("a.jpg", 288), ("b.jpg", 96)]
    cats = CvatReader(root, categories=("cat",), instances="merged", subset="default")
    assert [(s.name, int(s.masks.sum())) for s in cats] == [("a.jpg", 192)]
    assert len(CvatReader(root, categories=("dog",))) == 2
    assert len({r.fingerprint() for r in (each, merged, cats)}) == 3
    assert pickle.loads(pickle.dumps(each))[3].key == each[3].key


def test_classes_are_labels(export: Callable[..., Path], write_stream: Callable[[str], Path]) -> None:
    export()
    split = "{kind: cvat, path: cvat}"
    stream = Stream.from_yaml(write_stream(f"train: {split}\ntest: {split}\nsteps: 1-1\n"))
    assert [s.classes for s in stream.stages] == [("cat",), ("dog",)]
    test = {s.name: s.labels for s in stream.stages[1].test}
    assert test["a.jpg"][5].unique().tolist() == [0, 1, 2] and test["b.jpg"][5, 5] == 2
    assert [s.name for s in stream.stages[0].train] == ["a.jpg"]
    split = "{kind: cvat, path: cvat, categories: [dog]}"
    only = f"train: {split}\ntest: {split}\nstages: [{{name: s, classes: [dog]}}]\n"
    assert Stream.from_yaml(write_stream(only)).stages[0].train[0].labels.unique().tolist() == [0, 1]


def test_a_background_of_another_colour(export: Callable[..., Path]) -> None:
    root = export("cat:250,50,83::\nbackground:0,106,53::\n")
    assert [s.name for s in CvatReader(root)] == ["a.jpg#1", "a.jpg#2"]


def test_images_elsewhere_and_folders_of_images(export: Callable[..., Path], tmp_path: Path) -> None:
    root = export()
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject"):
        (root / folder / "day").mkdir()
        for file in (root / folder).glob("[ab].*"):
            file.rename(root / folder / "day" / file.name)
    (root / "JPEGImages").rename(tmp_path / "photos")
    with pytest.raises(UserError, match=r"JPEGImages is not a folder; .*images:"):
        CvatReader(root)
    found = CvatReader(root, images=tmp_path / "photos")
    assert [s.name for s in found] == found.names()
    assert len(found) == 4 and found.names()[0] == "a.jpg#1"
    assert found.masks() == "colours of labelmap.txt, 4 samples in 2 of 3 files"
    assert found.truth_file(0) == str(root / "SegmentationObject" / "day" / "a.png")


def _spoil(root: Path, what: str) -> None:
    stray = {
        "colour": lambda: painted([(2, (9, 8, 7))], False).save(root / "SegmentationClass" / "a.png"),
        "black": lambda: painted([], False).convert("L").save(root / "SegmentationObject" / "a.png"),
        "blur": lambda: (
            painted([(2, FIRST), (20, (9, 99, 200))], False)
            .resize((20, 15))
            .resize((40, 30), Image.Resampling.BILINEAR)
            .save(root / "SegmentationObject" / "a.png")
        ),
        "size": lambda: painted([], False).resize((9, 9)).save(root / "SegmentationObject" / "a.png"),
        "image": lambda: (root / "JPEGImages" / "a.jpg").unlink(),
        "object": lambda: (root / "SegmentationObject" / "a.png").unlink(),
        "map": lambda: (root / "SegmentationClass" / "a.png").unlink(),
    }
    stray[what]()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (
            "colour",
            r"a\.png has the colour 9,8,7 in 8\.0% of its pixels, which .*labelmap\.txt does not name",
        ),
        ("black", r"SegmentationObject/a\.png has no object where .*SegmentationClass/a\.png has labels"),
        ("size", "differ in size"),
        ("blur", r"SegmentationObject/a\.png has \d+ colours, .* resized smoothly"),
        ("image", r"a\.png has no image in"),
        ("object", "cannot read .*SegmentationObject"),
        ("map", "a of subset default has no map"),
    ],
)
def test_wrong_files(export: Callable[..., Path], what: str, said: str) -> None:
    root = export()
    _spoil(root, what)
    with pytest.raises(PartlyReadable, match=said) as caught:
        CvatReader(root, subset="default")
    assert [s.name for s in caught.value.rest] == ["b.jpg#1"]


@pytest.mark.parametrize(
    ("labelmap", "how", "said"),
    [
        ("cat 250 50 83\n", {}, r"labelmap\.txt, line 1: .*does not have the form cat:128,0,0::"),
        ("cat:250,50,830::\n", {}, "line 1"),
        ("cat:250,50,83::\ndog:250,50,83::\n", {}, "line 2: .*of an earlier line"),
        ("background:0,0,0::\n", {}, "names no label"),
        (LABELMAP, {"categories": ("cow",)}, "unknown label in"),
        (LABELMAP, {"subset": "train"}, "unknown subset in"),
    ],
)
def test_wrong_options_and_labelmaps(export: Callable[..., Path], labelmap: str, how: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        CvatReader(export(labelmap), **how)


def test_other_layouts(export: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not an export from CVAT"):
        CvatReader(tmp_path)
    root = export()
    (root / "SegmentationObject").rename(root / "away")
    with pytest.raises(UserError, match="instances: merged"):
        CvatReader(root)
    assert len(CvatReader(root, instances="merged")) == 2
