"""The check finds what was planted, all of it in one go; the contact sheet is a picture whatever the data
are.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everseg.data import Report, Stream, check, contact_sheet, write_points
from everseg.errors import UserError
from everseg.pictures.palette import TRUTH

Make = Callable[..., Path]
Write = Callable[[str], Path]


@pytest.fixture
def path(make_folder: Make, write_stream: Write) -> Path:
    for i, name in enumerate(("a/train", "a/test", "b/train", "b/test")):
        make_folder(name, seed=i)
    return write_stream(
        "stages: [{name: a, train: a/train, test: a/test}, {name: b, train: b/train, test: b/test}]"
    )


def said(report: Report, severity: str) -> str:
    return "\n".join(str(f) for f in report.findings if f.severity == severity)


def test_a_clean_stream(path: Path) -> None:
    report = check(path)
    assert report.ok and not report.findings
    assert [(s.stage, s.split, s.samples, s.images) for s in report.splits] == [
        (stage, split, 4, 4) for stage in "ab" for split in ("train", "test")
    ]
    first = report.splits[0]
    assert first.width == (40, 40, 40) and first.height == (30, 30, 30) and first.prompts == "3 drawn clicks"
    assert first.foreground == pytest.approx(0.1) and "0 errors, 0 warnings" in str(report)
    assert check(Stream.from_yaml(path)) == report


def test_every_fault_is_found_at_once(path: Path) -> None:
    root = path.parent
    (root / "a/train/images/im0.png").write_bytes(b"")
    (root / "a/train/masks/im1.png").unlink()
    Image.new("L", (40, 30)).save(root / "a/train/masks/im2.png")
    Image.new("L", (40, 30), 255).save(root / "a/train/masks/im3.png")
    Image.new("L", (30, 40), 255).save(root / "a/test/masks/im0.png")
    shutil.copy(root / "a/test/images/im1.png", root / "a/test/images/im2.png")
    Image.open(root / "b/train/images/im1.png").save(root / "a/test/images/im3.png", compress_level=0)
    shutil.rmtree(root / "b/test/masks")
    report = check(path)
    assert not report.ok
    errors, warnings = said(report, "error"), said(report, "warning")
    assert "a/train/images/im0.png is empty (0 bytes)" in errors
    assert "im1.png without a mask" in errors
    assert "im2.png is an empty mask" in errors
    assert "is 40x30" in errors and "its mask is 30x40" in errors
    assert (
        "a/test/images/im3.png shows the same picture as" in errors and "which stage 'b' trains on" in errors
    )
    assert "b/test/masks is not a folder" in errors
    assert "the mask of im3.png covers the whole image" in warnings
    assert "im2.png shows the same picture as" in warnings
    assert len([f for f in report.findings if f.severity == "error"]) == 6 and len(report.findings) == 8
    assert all(f.todo for f in report.findings)
    with pytest.raises(UserError):
        Stream.from_yaml(path)


@pytest.mark.parametrize(("wrong", "severity"), [(1, "warning"), (3, "error")])
def test_clicks_off_the_mask(make_folder: Make, write_stream: Write, wrong: int, severity: str) -> None:
    folder = make_folder("d")
    make_folder("e", seed=9)
    target = write_points(folder / "masks", clicks=10)
    points = json.loads(target.read_text())
    for clicks, _ in [*points.values()][:wrong]:
        clicks[0] = [0.0, 0.0]
    target.write_text(json.dumps(points))
    report = check(write_stream("stages: [{name: a, train: d, test: e}]"))
    assert f"{wrong} of 40 stored clicks" in said(report, severity) and report.ok == (severity == "warning")


def test_nearly_grey_images_are_noticed(path: Path) -> None:
    dim = (np.arange(1200).reshape(30, 40) * 3).astype(np.uint16)  # 12-bit data in 16 bits
    Image.fromarray(dim).save(path.parent / "a/train/images/im0.png")
    assert "nearly one grey (0 to 14)" in said(check(path), "warning")


def test_images_of_very_few_pixels_are_noticed(path: Path) -> None:
    folder = path.parent / "a/train"
    mask = next((folder / "masks").glob("im1.*"))
    for file in (folder / "images/im1.png", mask):
        Image.open(file).resize((7, 40)).save(file)
    found = said(check(path), "warning")
    assert "1 of 4 images are less than 8 pixels high or wide (im1.png)" in found


def test_objects_of_one_image_are_no_duplicates(tmp_path: Path, write_stream: Write) -> None:
    for split in ("p", "q"):
        for part in ("images", "instances"):
            (tmp_path / split / part).mkdir(parents=True)
        picture = np.random.default_rng(len(split) + ord(split)).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / split / "images" / "x.png")
        Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) // 20).save(
            tmp_path / split / "instances" / "x.png"
        )
    splits = [f"{{kind: instances, path: {p}}}" for p in "pq"]
    report = check(write_stream(f"stages: [{{name: a, train: {splits[0]}, test: {splits[1]}}}]"))
    assert not report.findings and report.splits[0].samples == 3 and report.splits[0].images == 1


def test_contact_sheet(path: Path, tmp_path: Path) -> None:
    (path.parent / "a/train/images/im0.png").write_bytes(b"")
    sheet = contact_sheet(path, tmp_path / "out" / "sheet.png", columns=3)
    with Image.open(sheet) as picture:
        assert picture.format == "PNG" and picture.width > 3 * 200 and picture.height > 2 * 200
        assert TRUTH in {c for _, c in picture.getcolors(1 << 24)}
    with pytest.raises(UserError, match="columns is 1"):
        contact_sheet(path, sheet, columns=1)


@pytest.mark.realdata
def test_real_cracks_and_published_samples(data_root: Path, write_stream: Write) -> None:
    report = check(
        write_stream(
            f"""
            root: {data_root}
            stages:
              - name: cracks
                train: {{path: cracks/train, limit: 10}}
                test: {{path: cracks/test, limit: 5}}
            unseen: [{{name: camo, test: {{path: samcl_layout/Kvasir/test}}}}]
            """
        )
    )
    assert not report.findings and report.splits[-1].samples == 5


def test_a_mask_that_is_the_reverse_of_the_others(path: Path) -> None:
    file = path.parent / "a/train/masks/im2.png"
    Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    (warning,) = check(path).findings
    assert "in 1 of 4 masks the object is all around the rest, and not in the others (im2.png)" in str(
        warning
    )
