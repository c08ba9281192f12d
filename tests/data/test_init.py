"""Data sets as they are downloaded get a stream file that opens, checks and learns without an edit."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from everseg.data import Stream, check, write_stream_for
from everseg.data.proposal import boundary, groups_in
from everseg.errors import UserError

_spec = util.spec_from_file_location("layouts", Path(__file__).with_name("layouts.py"))
assert _spec is not None and _spec.loader is not None
layouts: Any = util.module_from_spec(_spec)
_spec.loader.exec_module(layouts)

disc, paint, save = layouts.disc, layouts.paint, layouts.save


def begun(root: Path) -> tuple[dict[str, Any], str]:
    """The stages of the file that is written, by name, once it has passed the check, and what was unsure."""
    written = write_stream_for(root)
    report = check(written.path)
    assert report.ok, report
    assert all(split.foreground < 0.5 for split in report.splits)
    tree = yaml.safe_load(written.path.read_text(encoding="utf-8"))
    stages = {stage["name"]: stage for key in ("stages", "unseen") for stage in tree.get(key, [])}
    return stages, "\n".join(written.doubts)


def names(root: Path, split: str) -> list[str]:
    stream = Stream.from_yaml(root / "stream.yaml")
    return [sample.name for stage in stream.stages for sample in getattr(stage, split)]


def test_drive(tmp_path: Path) -> None:
    stages, unsure = begun(layouts.drive(tmp_path / "DRIVE"))
    assert stages["drive"]["train"] == {
        "path": "training",
        "images": "images/{id}_training.tif",
        "masks": "1st_manual/{id}_manual1.gif",
    }
    assert stages["drive"]["test"]["path"] == "test"
    assert "training/mask/*.gif is not used: it seems to hold the field of view" in unsure
    assert "test/2nd_manual/*.gif is not used: it seems to hold other masks" in unsure


def test_drive_whose_test_images_have_no_truth(tmp_path: Path) -> None:
    """The field of view is all there is beside them, and it is not a mask of vessels."""
    stages, unsure = begun(layouts.drive(tmp_path / "DRIVE", truth_of_test=False))
    train, test = stages["drive"]["train"], stages["drive"]["test"]
    assert train["masks"] == test["masks"] == "1st_manual/{id}_manual1.gif"
    assert (train["part"], test["part"]) == ([0, 4], [4, 5])
    assert "test/mask/*.gif is not used: it seems to hold the field of view of test/images" in unsure


def test_what_is_no_mask_in_one_split_is_none_in_the_other(tmp_path: Path) -> None:
    """Fields of view that differ are told by the folder that was passed over beside the masks."""
    root = layouts.drive(tmp_path / "DRIVE", count=2, truth_of_test=False)
    for k, file in enumerate(sorted(root.glob("*/mask/*.gif"))):
        view = np.zeros((40, 48), bool)
        view[: 10 + 8 * k] = True
        save(file, view)
    stages, unsure = begun(root)
    assert stages["drive"]["test"]["path"] == "training" and "test/mask/*.gif is not used" in unsure


def test_a_split_of_one_image_is_no_folder_of_an_image(tmp_path: Path) -> None:
    stages, _ = begun(layouts.drive(tmp_path / "DRIVE", count=1))
    assert stages["drive"]["test"]["path"] == "test"


def test_chase_keeps_both_eyes_of_a_patient_together(tmp_path: Path) -> None:
    root = layouts.chase(tmp_path / "CHASEDB1", patients=7)
    stages, unsure = begun(root)
    train = stages["chasedb1"]["train"]
    assert (train["images"], train["masks"]) == ("{id}.jpg", "{id}_1stHO.png")
    assert "{id}_2ndHO" in unsure or "*_2ndHO.png is not used" in unsure
    trained, tested = ({name[:8] for name in names(root, split)} for split in ("train", "test"))
    assert trained and tested and not trained & tested


@pytest.mark.parametrize(
    ("make", "train"),
    [
        (lambda p: layouts.weizmann(p), {"images": "horse/{id}.jpg", "masks": "masks/{id}.jpg"}),
        (
            lambda p: layouts.weizmann(p, ("gray", "rgb"), "figure_ground"),
            {"images": "rgb/{id}.jpg", "masks": "figure_ground/{id}.jpg"},
        ),
        (lambda p: layouts.kvasir(p), {}),
        (
            lambda p: layouts.isic(p),
            {
                "images": "ISBI2016_ISIC_Part1_Training_Data/{id}.jpg",
                "masks": "ISBI2016_ISIC_Part1_Training_GroundTruth/{id}_Segmentation.png",
            },
        ),
        (lambda p: layouts.dsb(p), {"images": "{id}/images/*", "masks": "{id}/masks/*", "instances": "each"}),
        (lambda p: layouts.patients(p), {"images": "images/{id}.png", "masks": "masks/{id}_mask.png"}),
    ],
)
def test_layouts(tmp_path: Path, make: Callable[[Path], Path], train: dict[str, str]) -> None:
    (stage,) = begun(make(tmp_path / "set"))[0].values()
    given = {k: v for k, v in stage["train"].items() if k not in ("path", "part")}
    assert stage["name"] == "set" and given == train


def test_slices_of_one_patient_are_not_split(tmp_path: Path) -> None:
    root = layouts.patients(tmp_path / "slices", count=4, slices=5)
    begun(root)
    trained, tested = ({name[:10] for name in names(root, split)} for split in ("train", "test"))
    assert trained == {"patient000", "patient001", "patient002"} and tested == {"patient003"}


def test_folders_of_patients_are_one_stage(tmp_path: Path) -> None:
    for patient in range(4):
        for n in range(3):
            home = tmp_path / f"patient{patient:02d}"
            paint(home / "images" / f"s{n}.png", 10 * patient + n, disc(n))
            save(home / "masks" / f"s{n}_seg.png", disc(n))
    (stage,) = begun(tmp_path)[0].values()
    assert stage["train"]["images"] == "*/images/*.png" and stage["train"]["masks"] == "*/masks/*_seg.png"
    assert {name[:9] for name in names(tmp_path, "test")} == {"patient03"}


def test_folders_of_images_whose_names_are_repeated_below(tmp_path: Path) -> None:
    """As PH2 keeps images of skin."""
    for n in range(6):
        name = f"IMD{n:03d}"
        paint(tmp_path / name / f"{name}_Dermoscopic_Image" / f"{name}.bmp", n, disc(n))
        save(tmp_path / name / f"{name}_lesion" / f"{name}_lesion.bmp", disc(n))
    (stage,) = begun(tmp_path)[0].values()
    assert stage["train"]["masks"] == "*/{id}_lesion/*_lesion.bmp"
    assert len(names(tmp_path, "train")) == 5 and len(names(tmp_path, "test")) == 1


def test_several_data_sets_are_several_stages(tmp_path: Path) -> None:
    layouts.kvasir(tmp_path / "Kvasir-SEG")
    layouts.isic(tmp_path / "isic")
    layouts.drive(tmp_path / "DRIVE")
    for site in range(3):
        for n in range(4):
            paint(tmp_path / f"site{site}" / "images" / f"{n}.png", 100 + 10 * site + n, disc(n))
            save(tmp_path / f"site{site}" / "masks" / f"{n}.png", disc(n))
    assert set(begun(tmp_path)[0]) == {"kvasir-seg", "isic", "drive", "site0", "site1", "site2"}


def test_domains_with_test_images_only_are_unseen(tmp_path: Path) -> None:
    for n in range(5):
        paint(tmp_path / "TrainDataset" / "image" / f"{n}.png", n, disc(n))
        save(tmp_path / "TrainDataset" / "mask" / f"{n}.png", disc(n))
        paint(tmp_path / "TestDataset" / "ETIS" / "images" / f"{n}.png", 50 + n, disc(n))
        save(tmp_path / "TestDataset" / "ETIS" / "masks" / f"{n}.png", disc(n))
    stages, _ = begun(tmp_path)
    assert set(stages["etis"]) == {"name", "test"} and len(stages) == 2


def test_side_by_side(tmp_path: Path) -> None:
    for n in range(5):
        paint(tmp_path / "a" / f"s{n}.jpg", n, disc(n))
        save(tmp_path / "a" / f"s{n}.png", disc(n))
        paint(tmp_path / "b" / f"img_{n}.png", 10 + n, disc(n))
        save(tmp_path / "b" / f"mask_{n}.png", disc(n))
        paint(tmp_path / "c" / f"case{n}" / "image.png", 20 + n, disc(n))
        save(tmp_path / "c" / f"case{n}" / "label.png", disc(n).astype(np.uint8))
    stages, _ = begun(tmp_path)
    found = [(s["train"]["images"], s["train"]["masks"]) for s in stages.values()]
    assert found == [
        ("{id}.jpg", "{id}.png"),
        ("img_{id}.png", "mask_{id}.png"),
        ("{id}/image.png", "{id}/label.png"),
    ]


def test_categories_with_several_masks_side_by_side(tmp_path: Path) -> None:
    for name in ("benign", "malignant"):
        for n in range(1, 5):
            paint(tmp_path / name / f"{name} ({n}).png", n + 10 * len(name), disc(n))
            save(tmp_path / name / f"{name} ({n})_mask.png", disc(n))
        save(tmp_path / name / f"{name} (2)_mask_1.png", disc(2, 0.2, 5))
    stages, unsure = begun(tmp_path)
    train = stages["benign"]["train"]
    assert (train["images"], train["masks"]) == ("{id}.png", "{id}_mask*.png")
    assert "not used" not in unsure and set(stages) == {"benign", "malignant"}


def test_splits_that_the_names_of_files_tell(tmp_path: Path) -> None:
    for name in ("testA_1", "testA_2", "testB_1", "train_1", "train_2", "train_3"):
        number = sum(map(ord, name))
        paint(tmp_path / f"{name}.bmp", number, disc(number))
        save(tmp_path / f"{name}_anno.bmp", disc(number))
    begun(tmp_path)
    assert names(tmp_path, "train") == ["train_1.bmp", "train_2.bmp", "train_3.bmp"]
    assert names(tmp_path, "test") == ["testA_1.bmp", "testA_2.bmp", "testB_1.bmp"]


def test_what_masks_mean(tmp_path: Path) -> None:
    for n in range(5):
        numbers = np.zeros((40, 48), np.uint8)
        for k in range(1 + n % 3):
            numbers[5:12, 4 + 12 * k : 12 + 12 * k] = k + 1
        large = np.kron(disc(n), np.ones((2, 2), bool))
        for k, (name, mask) in enumerate(
            {"objects": numbers, "hundred": disc(n) * np.uint8(100), "large": large}.items()
        ):
            paint(tmp_path / name / "images" / f"{n}.png", 10 * k + n, disc(n))
            save(tmp_path / name / "masks" / f"{n}.png", mask)
    stages, unsure = begun(tmp_path)
    train = {name: stage["train"] for name, stage in stages.items()}
    assert train["objects"]["kind"] == "instances" and train["objects"]["instances"] == "each"
    assert "numbers of objects; if they are classes" in unsure
    assert "mask_values" not in train["hundred"]
    found = write_stream_for(tmp_path, force=True).found
    assert any("masks hundred/masks/{id}.png: 0/100, object = 100" in sentence for sentence in found)
    assert train["large"]["resize_masks"] is True and "will be resized" in unsure


def test_coco_of_three_splits_is_one_stage(tmp_path: Path) -> None:
    """As Roboflow writes it: a file beside the images of each split."""
    for k, split in enumerate(("train", "valid", "test")):
        for n in range(1, 4):
            paint(tmp_path / "plants" / split / f"{n}.png", 10 * k + n, disc(n))
        coco(tmp_path / "plants" / split / "_annotations.coco.json", 3)
    file = tmp_path / "plants" / "test" / "_annotations.coco.json"
    file.write_text(re.sub(r'"(\d\.png)"', r'".\\\\\1"', file.read_text()))  # as Windows tools write paths
    stages, unsure = begun(tmp_path)
    (stage,) = stages.values()
    assert [stage[split]["images"] for split in ("train", "test")] == ["plants/train", "plants/test"]
    assert "plants/valid/_annotations.coco.json is not used: it seems to be the validation split" in unsure


def test_files_that_cannot_be_read_are_the_reason_why_nothing_pairs(tmp_path: Path) -> None:
    for n in range(3):
        paint(tmp_path / "images" / f"{n}.png", n, disc(n))
        (tmp_path / "masks").mkdir(exist_ok=True)
        pages = [Image.fromarray(disc(n, at)) for at in (0.3, 0.7)]
        pages[0].save(tmp_path / "masks" / f"{n}.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match=r"masks.0\.tif has 2 pages, and reading one would drop the others"):
        write_stream_for(tmp_path)


@pytest.mark.parametrize("form", ["colours", "trimap", "palettes"])
def test_the_option_that_settles_masks_is_a_commented_line(tmp_path: Path, form: str) -> None:
    for n in range(30):
        inner, outer = disc(n), disc(n, radius=12)
        paint(tmp_path / "img" / f"{n}.jpg", n, inner)
        file = Image.fromarray(np.uint8(3) - inner - outer)
        if form == "colours":
            pixels = np.zeros((*inner.shape, 3), np.uint8)
            pixels[outer], pixels[inner] = (176, 112, 32), (48, 112, 32)
            file = Image.fromarray(pixels)
        if form == "palettes":
            file = Image.fromarray(inner.astype(np.uint8))
            file.putpalette([0, 0, 0, 200, 0, 0] if n % 2 else [0, 0, 0, 0, 200, 0])
        (tmp_path / "gt").mkdir(exist_ok=True)
        file.save(tmp_path / "gt" / f"{n}.png")
    doubts = write_stream_for(tmp_path).doubts
    option = {
        "colours": "mask_colours: [[48, 112, 32], [176, 112, 32]]",
        "trimap": "mask_values: [1, 2, 3]",
        "palettes": "mask_colours: [[0, 200, 0], [200, 0, 0]]",
    }[form]
    path = tmp_path / "stream.yaml"
    assert path.read_text().count(f"      # {option}  # unsure: ") == 2
    assert sum("set mask_colours" in doubt or "list those that are" in doubt for doubt in doubts) == 1
    assert not check(path).ok
    path.write_text(path.read_text().replace(f"# {option}", option))
    assert check(path).ok


def test_maps_of_objects_in_colour_are_known_by_their_folder(tmp_path: Path) -> None:
    for n in range(5):
        pixels = np.zeros((*disc(n).shape, 3), np.uint8)
        for k in range(1 + n % 2):
            pixels[disc(n, 0.25 + 0.5 * k, 6)] = (50 + 40 * n, 200 * k, 90)
        paint(tmp_path / "images" / f"{n}.png", n, pixels.any(-1))
        save(tmp_path / "SegmentationObject" / f"{n}.png", pixels)
    (stage,) = begun(tmp_path)[0].values()
    assert stage["train"]["kind"] == "instances" and len(names(tmp_path, "train")) == 6


def test_masks_that_are_all_alike_are_used_where_there_are_no_others(tmp_path: Path) -> None:
    square = np.zeros((40, 48), bool)
    square[4:36, 4:26] = True
    for n in range(5):
        paint(tmp_path / "images" / f"{n}.png", n, square)
        save(tmp_path / "masks" / f"{n}.png", square)
    stages, unsure = begun(tmp_path)
    assert len(stages) == 1 and "nearly the same for all images" in unsure


def test_several_masks_in_one_folder(tmp_path: Path) -> None:
    for n in range(5):
        paint(tmp_path / "img" / f"im{n}.png", n, disc(n))
        for k in range(1 + n % 2):
            save(tmp_path / "gt" / f"im{n}_{k}.png", disc(n, 0.3 + 0.3 * k, 5))
    (stage,) = begun(tmp_path)[0].values()
    assert stage["train"]["masks"] == "gt/{id}*.png" and stage["train"]["instances"] == "each"
    assert names(tmp_path, "train")[:3] == ["im0.png#im0_0", "im1.png#im1_0", "im1.png#im1_1"]


def coco(path: Path, count: int) -> None:
    square = [[10, 10, 20, 10, 20, 20, 10, 20]]
    tree = {
        "images": [
            {"id": n, "file_name": f"{n}.png", "height": 40, "width": 48} for n in range(1, count + 1)
        ],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "segmentation": square, "area": 100, "iscrowd": 0}
            for n in range(1, count + 1)
        ],
        "categories": [{"id": 1, "name": "square"}],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree))


def test_layouts_with_readers_of_their_own(tmp_path: Path) -> None:
    for n in range(1, 6):
        paint(tmp_path / "one" / "images" / f"{n}.png", n, disc(n))
        for k, split in enumerate(("train2017", "val2017")):
            paint(tmp_path / "two" / split / f"{n}.png", 100 * (k + 1) + n, disc(n))
        voc = tmp_path / "VOCdevkit" / "VOC2012"
        paint(voc / "JPEGImages" / f"{n}.jpg", 50 + n, disc(n))
        save(voc / "SegmentationClass" / f"{n}.png", disc(n) * np.uint8(3))
    coco(tmp_path / "one" / "annotations.json", 5)
    for split in ("train2017", "val2017"):
        coco(tmp_path / "two" / "annotations" / f"instances_{split}.json", 5)
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, listed in (("train", "1\n2\n3\n"), ("val", "4\n5\n")):
        (voc / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(listed)
    stages, _ = begun(tmp_path)
    assert {name: stage["train"]["kind"] for name, stage in stages.items()} == {
        "voc2012": "voc",
        "one": "coco",
        "two": "coco",
    }
    assert stages["one"]["test"]["part"] == [4, 5]
    with pytest.raises(UserError, match=r"hold one class \(square\), and a stream of classes needs two"):
        write_stream_for(tmp_path / "one", classes=True)
    assert [stages["two"][split]["images"] for split in ("train", "test")] == ["two/train2017", "two/val2017"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_folders_whose_names_are_no_text(tmp_path: Path) -> None:
    home = tmp_path / os.fsdecode(b"M\xfcller [1] *")
    for n in range(5):
        paint(home / "images" / f"{n}.png", n, disc(n))
        save(home / "masks" / f"{n}.png", disc(n))
    (stage,) = begun(tmp_path)[0].values()
    assert stage["train"]["images"] == "M?ller [[]1] [*]/images/*"


def test_what_is_refused_and_what_is_kept(tmp_path: Path) -> None:
    root = layouts.kvasir(tmp_path / "set")
    out = tmp_path / "files" / "mine.yaml"
    written = write_stream_for(root, out)
    assert written.path == out and not (root / "stream.yaml").exists() and check(out).ok
    text = out.read_text()
    assert 'root: "../set"' in text
    out.write_text("mine")
    with pytest.raises(UserError, match="exists and may have been edited"):
        write_stream_for(root, out)
    assert out.read_text() == "mine"
    write_stream_for(root, out, force=True)
    assert out.read_text() == text and [*out.parent.iterdir()] == [out]
    for n in range(5):
        paint(tmp_path / "photos" / f"{n}.jpg", n, disc(n))
    with pytest.raises(UserError, match=r"holds 5 images .* none seems to be a mask"):
        write_stream_for(tmp_path / "photos")
    (tmp_path / "none").mkdir()
    for folder, said in (("none", "holds no images"), ("absent", "is not a folder")):
        with pytest.raises(UserError, match=said):
            write_stream_for(tmp_path / folder)
    assert not (tmp_path / "none" / "stream.yaml").exists() and not (tmp_path / "absent").exists()
    (root / "masks" / sorted(os.listdir(root / "masks"))[0]).unlink()
    assert any("without a mask" in doubt for doubt in write_stream_for(root).doubts)
    for file in [*(root / "images").iterdir()][1:]:
        file.unlink()
    with pytest.raises(UserError, match="until there are two"):
        write_stream_for(layouts.kvasir(tmp_path / "single", count=1))


def test_groups_and_the_border_between_them() -> None:
    def groups(*stems: str) -> int:
        return len(set(groups_in([f"{stem}.png" for stem in stems])[0]))

    assert groups("01L", "01R", "02L", "02R") == 2 and groups("a_01_left", "a_01_right", "a_02_left") == 2
    assert groups("p1_s1", "p1_s2", "p2_s1", "p2_s2") == 2
    assert groups("study_patient1_1", "study_patient1_2", "study_patient2_1") == 2
    assert groups("2007_1", "2007_2", "2008_1", "2008_2", "2009_1", "2009_2") == 6
    assert (
        groups("ISIC_1", "ISIC_2", "ISIC_3") == 3 and groups("benign (1)", "benign (2)", "malignant (1)") == 3
    )
    assert boundary(list("aabbccddee")) == 8 and boundary(list("aaaaaaaaab")) == 9
    assert boundary(list("aaaa")) is None and boundary(list("abab")) is None and boundary(["a"]) is None
    assert boundary(list("abcde")) == 4


@pytest.mark.slow
@pytest.mark.parametrize("make", ["drive", "chase", "dsb"])
def test_from_a_download_to_predictions(tmp_path: Path, make: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """init, check, learn and predict, without an edit between them."""
    from everseg.cli import main

    def everseg(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["everseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code

    root, run = getattr(layouts, make)(tmp_path / make), tmp_path / "run"
    everseg("data", "init", root)
    everseg("data", "check", root / "stream.yaml")
    everseg("learn", root / "stream.yaml", "--set", "tune.fit.steps=2", "--no-baseline", "--out", run)
    image = Stream.from_yaml(root / "stream.yaml").stages[0].test.file(0)  # type: ignore[attr-defined]
    everseg("predict", run, image, "--point", "24,20", "--out", tmp_path / "masks")
    assert len(list((tmp_path / "masks").glob("*_mask.png"))) == 1


@pytest.mark.slow
def test_killed_at_any_moment_leaves_no_file_or_a_whole_one(tmp_path: Path) -> None:
    root, out = layouts.kvasir(tmp_path / "set"), tmp_path / "files" / "stream.yaml"
    write_stream_for(root, out)
    whole = out.read_bytes()
    code = (
        "import sys, pathlib; from everseg.data import write_stream_for\n"
        "root, out = map(pathlib.Path, sys.argv[1:])\n"
        "print('ready', flush=True)\n"
        "while True:\n    write_stream_for(root, out)\n    out.unlink()\n"
    )
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(8):
        out.unlink(missing_ok=True)
        with subprocess.Popen(
            [sys.executable, "-c", code, str(root), str(out)], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(rng.uniform(0, 0.5))
            child.kill()
        found.add(out.read_bytes() if out.exists() else b"")
    assert found <= {b"", whole}
    write_stream_for(root, out, force=True)  # What a killed process left beside does not hinder the next.
    assert out.read_bytes() == whole
