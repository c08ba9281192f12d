"""VOC's lists in the forms in which they are passed around, and from any system."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from everseg.data import VocReader, voc_maps
from everseg.data.samples import PartlyReadable
from everseg.errors import UserError

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a list of this text for images and class maps of these names."""

    def make(text: str | bytes, *images: str) -> Path:
        for folder in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
            (tmp_path / folder).mkdir(parents=True)
        for n, image in enumerate(images, 1):
            Image.new("RGB", (6, 4)).save(tmp_path / "JPEGImages" / image)
            labels = np.zeros((4, 6), np.uint8)
            labels[1:3, 1 : n + 1] = n
            Image.fromarray(labels).save(tmp_path / "SegmentationClassAug" / f"{Path(image).stem}.png")
        content = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "ImageSets/Segmentation/train.txt").write_bytes(content)
        return tmp_path

    return make


@pytest.mark.parametrize(
    "text",
    [
        "a\nb\n",
        "a\r\nb\r\n",
        "a\rb",
        "\ufeffa\nb\n",
        "\n a \n\tb\t\n\n",
        "a.jpg\nb.jpg\n",
        "a  1\nb -1\n",
        "/JPEGImages/a.jpg /SegmentationClassAug/a.png\n/JPEGImages/b.jpg\t/SegmentationClassAug/b.png\n",
        "JPEGImages/a.jpg SegmentationClassAug/a.png\nJPEGImages/b.jpg SegmentationClassAug/b.png\n",
        "JPEGImages\\a.jpg SegmentationClassAug\\a.png\nJPEGImages\\b.jpg SegmentationClassAug\\b.png\n",
        "a.jpg a.png\nb.jpg b.png\n",
        "/JPEGImages/a.jpg\n/JPEGImages/b.jpg\n",
        "a 0 14\nb 3\n",
        "a\na\nb 1\nb\n",
        "a\nb\n".encode("utf-16"),
    ],
)
def test_forms_of_a_line(make: Make, text: str | bytes) -> None:
    samples = VocReader(make(text, "a.jpg", "b.jpg"), "train")
    assert [(s.name, int(s.masks.sum())) for s in samples] == [("a.jpg", 2), ("b.jpg", 4)]


def test_labels_are_remarked(make: Make) -> None:
    path = make("a  1\nb -1\n", "a.jpg", "b.jpg")
    assert "has labels (1 or -1) beside 2 names" in VocReader(path, "train").notes[0]


def test_names_and_endings(make: Make) -> None:
    names = ["scan 1", "scan 1 2", "v.0.rgb", "v1 -1", "a,b;c#d", "line\x85sep", "é"]
    endings = ["jpg", "jpeg", "JPG", "png", "PNG", "tif", "bmp"]
    files = [f"{name}.{ending}" for name, ending in zip(names, endings, strict=True)]
    path = make("\n".join(names), *files)
    assert sorted(s.name for s in VocReader(path, "train")) == sorted(files)
    assert len(voc_maps(path, "train")) == len(files)


def test_spaces_in_pairs(make: Make) -> None:
    line = "/JPEGImages/scan 1.jpg /SegmentationClassAug/scan 1.png"
    assert VocReader(make(line, "scan 1.jpg"), "train")[0].name == "scan 1.jpg"


@pytest.mark.parametrize(
    ("listed", "there"),
    [
        (b"M\xfcller", b"M\xfcller.jpg"),  # latin-1 both
        (b"M\xfcller", "Müller.jpg".encode()),
        ("Müller".encode(), b"M\xfcller.jpg"),
        ("Müller".encode(), b"M\x81ller.jpg"),  # a zip file's cp437
        ("Mu\u0308ller".encode(), "Müller.jpg".encode()),
        (b"\xff\xfe.x", b"\xff\xfe.x.jpg"),
    ],
)
def test_lists_in_other_encodings(make: Make, listed: bytes, there: bytes) -> None:
    path = make(b"a\n" + listed + b"\n", "a.jpg", os.fsdecode(there))
    names = [s.name for s in VocReader(path, "train")]
    assert sorted(names) == sorted(["a.jpg", os.fsdecode(there)])


def test_faults_are_counted(make: Make) -> None:
    path = make("".join(f"gone{n}\n" for n in range(9)) + "a\n/x/b.jpg /y/b.png\n", "a.jpg", "b.jpg")
    with pytest.raises(PartlyReadable) as caught:
        VocReader(path, "train")
    assert len(caught.value.rest) == 1 and len(caught.value.problems) == 2
    assert "10 images (/x/b.jpg, " in caught.value.problems[0]
    assert "10 class maps (" in caught.value.problems[1]
    assert all("are listed but missing" in problem for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("text", "images", "says"),
    [
        ("v\n", ("v.png", "v.jpeg"), r"image v is in several files \(v.jpeg, v.png\)"),
        ("v\0w\n", ("a.jpg",), "is listed but missing"),
        ("v" * 5000, ("a.jpg",), "is listed but missing"),
    ],
)
def test_what_is_no_image(make: Make, text: str, images: tuple[str, ...], says: str) -> None:
    with pytest.raises(PartlyReadable, match=says) as caught:
        VocReader(make(text, *images), "train")
    assert all(len(problem) < 500 for problem in caught.value.problems)


def test_two_images_of_one_name(make: Make) -> None:
    path = make(
        "/JPEGImages/a.jpg /SegmentationClassAug/a.png\n/more/a.jpg /SegmentationClassAug/a.png", "a.jpg"
    )
    (path / "more").mkdir()
    Image.new("RGB", (6, 4)).save(path / "more" / "a.jpg")
    with pytest.raises(UserError, match=r"name a\.jpg is that of two images"):
        VocReader(path, "train")


def test_a_split_that_is_no_name(make: Make) -> None:
    path = make("a\n", "a.jpg")
    given: Any
    for given in ("x" * 5000, "a\0b", "trian"):
        with pytest.raises(UserError, match="unknown split") as caught:
            VocReader(path, given)
        assert len(str(caught.value)) < 500
