"""YOLO's layout for segmentation: polygons of shares, classes by data.yaml."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from everseg.data import Stream
from everseg.data.domains.yolo import YoloReader, label_file
from everseg.data.samples import PartlyReadable
from everseg.errors import UserError

CAT = "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5"
DOG = "1 0.6 0.6 0.9 0.6 0.9 0.9 0.6 0.9"
NAMES = "names: {0: cat, 1: dog}\n"


def image(path: Path, seed: int = 0, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[274] = orientation
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Write a data set with one label file for each text given; None writes no file."""

    def write(*texts: str | None, yaml: str = "train: images/train\nval: images/val\n" + NAMES) -> Path:
        root = tmp_path / "yolo"
        for i, text in enumerate(texts):
            for split in ("train", "val"):
                picture = root / "images" / split / f"x{i}.jpg"
                image(picture, seed=i + 10 * (split == "val"))
                if text is not None:
                    label_file(picture).parent.mkdir(parents=True, exist_ok=True)
                    label_file(picture).write_text(text)
        (root / "data.yaml").write_text(yaml)
        return root

    return write


def test_polygons_are_shares_of_width_and_height(make: Callable[..., Path]) -> None:
    root = make(f"{CAT}\n\n{DOG}\n", "", None)
    each = YoloReader(root)
    assert [s.name for s in each] == ["x0.jpg#1", "x0.jpg#3"], "empty and missing files have no object"
    wanted = torch.zeros(1, 30, 40, dtype=torch.bool)
    wanted[0, 3:15, 4:20] = True
    assert torch.equal(each[0].masks, wanted)
    assert [s.name for s in YoloReader(root, categories=("dog",), split="val")] == ["x0.jpg#3"]
    (merged,) = YoloReader(root, instances="merged")
    assert merged.name == "x0.jpg" and merged.masks.sum() == 12 * 16 + 9 * 12
    assert pickle.loads(pickle.dumps(each))[1].key == each[1].key == each[0].key


def test_sizes_are_those_of_the_turned_image(make: Callable[..., Path]) -> None:
    root = make(CAT)
    image(root / "images" / "train" / "x0.jpg", orientation=6)
    sample = YoloReader(root)[0]
    assert sample.masks.shape == (1, 40, 30) and sample.masks[0, 4:20, 3:15].all()


def test_a_box_is_no_mask_unless_it_is_said_to_be(make: Callable[..., Path]) -> None:
    root = make(f"{CAT}\n1 0.5 0.5 0.5 0.2\n", CAT)
    with pytest.raises(PartlyReadable, match=r"x0\.txt, line 2 is a box.*boxes: true") as caught:
        YoloReader(root)
    assert [s.name for s in caught.value.rest] == ["x1.jpg#1"]
    mask = YoloReader(root, boxes=True)[1].masks
    assert mask[0, 12:18, 10:30].all() and mask.sum() == 6 * 20


@pytest.mark.parametrize(
    "yaml",
    [
        "path: ../datasets/elsewhere\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n",
        "train: ../images/train\nval: ../images/val\nnc: 2\nnames: [cat, dog]\n",
        "path: images\ntrain: train\nval: [val]\n" + NAMES,
        "train: list.txt\nval: images/val\n" + NAMES,
    ],
    ids=["stale path", "roboflow", "path", "list"],
)
def test_paths_as_downloads_write_them(make: Callable[..., Path], yaml: str) -> None:
    root = make(CAT, DOG, yaml=yaml)
    (root / "list.txt").write_text("./images/train/x0.jpg\nimages/train/x1.jpg\n")
    assert [s.name for s in YoloReader(root)] == ["x0.jpg#1", "x1.jpg#1"]
    assert len(YoloReader(root / "data.yaml", split="val")) == 2


def test_labels_lie_beside_the_last_folder_of_images() -> None:
    assert label_file(Path("images/a/images/b/x.jpeg")) == Path("images/a/labels/b/x.txt")


def test_the_fingerprint_is_of_the_labels(make: Callable[..., Path]) -> None:
    first = YoloReader(make(CAT, DOG)).fingerprint()
    assert YoloReader(make(f"\n{CAT}", DOG)).fingerprint() != first, "a line's number names the sample"
    assert YoloReader(make(CAT, DOG)).fingerprint() == first
    assert YoloReader(make(CAT, DOG.replace("0.9", "0.8"))).fingerprint() != first


def test_classes_are_those_of_the_yaml(
    make: Callable[..., Path], write_stream: Callable[[str], Path]
) -> None:
    make(f"{DOG}\n{CAT}\n", "0 0.1 0.1 0.9 0.1 0.9 0.9 0.1 0.9\n" + DOG)
    split = "{kind: yolo, path: yolo, split: %s}"
    text = f"train: {split % 'train'}\ntest: {split % 'val'}\nsteps: 1-1\n"
    stream = Stream.from_yaml(write_stream(text))
    assert [s.classes for s in stream.stages] == [("cat",), ("dog",)]
    labels = stream.stages[1].test[1].labels
    assert labels[20, 30] == 2 and labels[10, 10] == 1 and labels[0, 0] == 0
    only = text.replace("path: yolo", "path: yolo, categories: [dog]").replace(
        "steps: 1-1", "stages: [{name: a, classes: [dog]}]"
    )
    assert set(Stream.from_yaml(write_stream(only)).stages[0].train[0].labels.unique().tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2 0.1 0.1 0.5 0.1 0.5 0.5", "line 1 is of class 2, and .*names 2 from 0"),
        ("cat 0.1 0.1 0.5 0.1 0.5 0.5", "a word that is not a number"),
        ("0.5 0.1 0.1 0.5 0.1 0.5 0.5", "begins with 0.5"),
        ("-1 0.1 0.1 0.5 0.1 0.5 0.5", "begins with -1"),
        ("1e999 0.1 0.1 0.5 0.1 0.5 0.5", "begins with inf"),
        ("nan 0.1 0.1 0.5 0.1 0.5 0.5", "begins with nan"),
        ("0 0.1 0.1 0.5 0.1 0.5", "has 5 coordinates"),
        ("0", "has 0 coordinates"),
        ("0 12 14 50 14 50 60", r"the coordinate 12; divide"),
        ("0 nan 0.1 0.5 0.1 0.5 0.5", r"the coordinate nan"),
        ("0 0.5 0.1 0.5 0.1 0.5 -0.5", r"the coordinate -0.5"),
    ],
)
def test_wrong_lines(make: Callable[..., Path], text: str, said: str) -> None:
    with pytest.raises(
        PartlyReadable, match=r"labels/train/x0\.txt, line 1.*" + said.removeprefix("line 1 ")
    ):
        YoloReader(make(text, CAT))


@pytest.mark.parametrize(
    ("yaml", "how", "said"),
    [
        ("train: images/train\n", {}, "has no names: of classes"),
        ("train: images/train\nkpt_shape: [17, 3]\n" + NAMES, {}, "describes key points"),
        ("train: images/train\nnames: {1: cat, 2: dog}\n", {}, "does not number the classes from 0"),
        ("names: [a", {}, r"^[^\n]*is not valid YAML in line 1 [^\n]*$"),
        (f"train: {'x' * 5000}\n" + NAMES, {}, "which is not at"),
        ("train: images/train\n" + NAMES, {"split": "test"}, "unknown split in .*'test'"),
        ("train: images/trian\n" + NAMES, {}, "names images/trian, which is not at"),
        ("train: labels\n" + NAMES, {}, "has no images"),
        ("train: images/train\n" + NAMES, {"categories": ("cow",)}, "unknown label"),
        ("train: list.txt\n" + NAMES, {}, r"lists images/none\.jpg, which does not exist"),
    ],
)
def test_wrong_data_yaml(make: Callable[..., Path], yaml: str, how: Any, said: str) -> None:
    root = make(CAT, yaml=yaml)
    (root / "list.txt").write_text("images/none.jpg\n")
    with pytest.raises(UserError, match=said):
        YoloReader(root, **how)


def test_other_faults(make: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*give the folder of data\.yaml"):
        YoloReader(tmp_path / "none")
    with pytest.raises(UserError, match="and all others have no label file such as"):
        YoloReader(make(None, None))
    root = make("", "")
    with pytest.raises(UserError, match="train has no object to learn from"):
        YoloReader(root)
    with pytest.raises(UserError, match="line 1 covers no pixel"):
        YoloReader(make("0 0.101 0.101 0.102 0.101 0.102 0.102"))[0]


def test_images_of_one_name_in_two_folders(make: Callable[..., Path], write_stream: Any) -> None:
    root = make(CAT, yaml="train: [images/train, images/val]\nval: images/val\n" + NAMES)
    found = YoloReader(root)
    assert [s.name for s in found] == found.names() == ["train/x0.jpg#1", "val/x0.jpg#1"]
    assert found.truth_file(0) == str(root / "labels" / "train" / "x0.txt")
    split = "{kind: yolo, path: yolo, split: train, categories: [cat]}"
    text = f"train: {split}\ntest: {split}\nstages: [{{name: s, classes: [cat]}}]\n"
    classes = Stream.from_yaml(write_stream(text))
    assert [s.name for s in classes.stages[0].test] == ["train/x0.jpg", "val/x0.jpg"]


def test_lists_are_of_any_system(make: Callable[..., Path]) -> None:
    root = make(CAT, yaml="train: list.txt\n" + NAMES)
    (root / "list.txt").write_bytes("images\\train\\x0.jpg\r\n".encode("utf-16"))
    assert [s.name for s in YoloReader(root)] == ["x0.jpg#1"]
