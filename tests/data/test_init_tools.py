"""Data sets as annotation tools and archives write them get a stream file that opens and checks unedited."""

import json
import shutil
import sys
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from everseg.data import Stream, check, write_stream_for
from everseg.errors import UserError

_spec = util.spec_from_file_location("toolsets", Path(__file__).with_name("toolsets.py"))
assert _spec is not None and _spec.loader is not None
made: Any = util.module_from_spec(_spec)
_spec.loader.exec_module(made)


def begun(root: Path, classes: bool | None = None) -> tuple[dict[str, Any], str]:
    """The stream file's tree once it has passed the check, and what was unsure."""
    written = write_stream_for(root, force=True, classes=classes)
    report = check(written.path)
    assert report.ok, report
    return yaml.safe_load(written.path.read_text(encoding="utf-8")), "\n".join(written.doubts)


def counts(root: Path) -> list[tuple[int, int]]:
    """Training and test samples of each stage."""
    return [(len(s.train), len(s.test)) for s in Stream.from_yaml(root / "stream.yaml").stages]


DOMAINS: dict[str, tuple[Callable[[Path], object], dict[str, Any], tuple[int, int], str]] = {
    "labelme": (
        made.labelme,
        {"kind": "labelme", "instances": "each", "part": [0, 5]},
        (7, 2),
        "labels polyp, instrument",
    ),
    "labelme-apart": (
        lambda root: made.labelme(root / "pictures", apart="../annotations"),
        {"kind": "labelme", "path": "annotations", "images": "pictures", "instances": "each", "part": [0, 5]},
        (7, 2),
        "",
    ),
    "labelme-splits": (
        lambda root: (made.labelme(root / "train"), made.labelme(root / "val", first=20)),
        {"kind": "labelme", "path": "train", "instances": "each"},
        (9, 9),
        "there is no test split, so labelme: val is tested on",
    ),
    "labelme-patients": (
        lambda root: [made.labelme(root / f"patient{k}", 3, 10 * k) for k in range(4)],
        {"kind": "labelme", "instances": "each", "part": [0, 9]},
        (12, 4),
        "",
    ),
    "roboflow": (
        made.roboflow,
        {"kind": "yolo", "split": "train", "instances": "each"},
        (10, 10),
        "split val is not used",
    ),
    "roboflow-train-only": (
        lambda root: made.roboflow(root, ("train",)),
        {"kind": "yolo", "split": "train", "instances": "each", "part": [0, 4]},
        (8, 2),
        "",
    ),
    "yolo-boxes": (
        lambda root: made.roboflow(root, box=True),
        {"kind": "yolo", "split": "train", "instances": "each", "boxes": True},
        (10, 10),
        "each box is filled",
    ),
    "yolo-without-yaml": (
        made.coco8,
        {"kind": "yolo", "split": "train", "instances": "each"},
        (8, 8),
        "class-0, class-1, class-2",
    ),
    "label-studio": (
        made.label_studio,
        {"kind": "yolo", "split": "train", "instances": "each", "part": [0, 5]},
        (5, 1),
        "",
    ),
    "cvat": (made.cvat, {"kind": "cvat", "instances": "each", "part": [0, 4]}, (8, 2), "labels cat, dog"),
    "cvat-without-images": (
        lambda root: made.cvat(root / "export", images=False),
        {"kind": "cvat", "path": "export", "instances": "each", "images": "pictures", "part": [0, 4]},
        (8, 2),
        "",
    ),
    "cvat-subsets": (
        lambda root: made.cvat(root, subsets=("train", "val")),
        {"kind": "cvat", "instances": "each", "subset": "train"},
        (10, 10),
        "subset val is tested on",
    ),
    "hf": (
        made.hf_saved,
        {"kind": "hf", "split": "train", "mask": "label"},
        (5, 5),
        "split validation is tested on",
    ),
    "hf-one": (
        lambda r: made.hf_saved(r, False),
        {"kind": "hf", "mask": "label", "part": [0, 4]},
        (4, 1),
        "",
    ),
    "decathlon": (
        made.decathlon,
        {
            "kind": "nifti",
            "images": "imagesTr",
            "masks": "labelsTr",
            "window": [-160, 240],
            "instances": "each",
            "part": [0, 4],
        },
        (16, 4),
        "1 liver, 2 cancer; each is taken as an object",
    ),
    "decathlon-4d": (
        lambda root: made.decathlon(root, channels=4),
        {
            "kind": "nifti",
            "images": "imagesTr",
            "masks": "labelsTr",
            "bands": [1],
            "window": [-160, 240],
            "instances": "each",
            "part": [0, 4],
        },
        (16, 4),
        "4 channels (CT), of which the first is shown",
    ),
    "nnunet": (
        made.nnunet,
        {
            "kind": "nifti",
            "images": "imagesTr",
            "masks": "labelsTr",
            "image_suffix": "_0000",
            "window": ["1%", "99%"],
        },
        (8, 4),
        "_0000 is used, not _0001",
    ),
    "kits": (
        made.kits,
        {
            "kind": "nifti",
            "images": ".",
            "masks": ".",
            "image_suffix": "imaging",
            "mask_suffix": "segmentation",
            "window": [-160, 240],
            "instances": "each",
            "part": [0, 3],
        },
        (12, 4),
        "",
    ),
    "brats": (
        made.brats,
        {
            "kind": "nifti",
            "images": ".",
            "masks": ".",
            "image_suffix": "_flair",
            "mask_suffix": "_seg",
            "window": ["1%", "99%"],
            "instances": "each",
            "part": [0, 3],
        },
        (12, 4),
        "_flair is used, not _t1, _t1ce, _t2",
    ),
    "dicom": (
        made.dicoms,
        {"kind": "dicom", "images": "dicom", "masks": "ground_truth", "window": [-160, 240], "part": [0, 4]},
        (4, 2),
        "the files give no window",
    ),
    "dicom-without-endings": (
        lambda root: made.dicoms(root, "images", "masks", ""),
        {"kind": "dicom", "window": [-160, 240], "part": [0, 4]},
        (4, 2),
        "",
    ),
    "dicom-patients": (
        lambda root: [made.dicoms(root / f"pat{k}", "scans", "Ground", first=10 * k) for k in range(3)],
        {"kind": "dicom", "images": "*/scans", "masks": "*/Ground", "window": [-160, 240], "part": [0, 12]},
        (12, 6),
        "",
    ),
    "geotiff": (
        made.geotiff,
        {"kind": "geotiff", "bands": [3, 2, 1], "window": ["2%", "98%"], "part": [0, 5]},
        (5, 1),
        "bands: [3, 2, 1] is a guess",
    ),
    "geotiff-elsewhere": (
        lambda root: made.geotiff(root, "scenes", "labels", bands=13),
        {
            "kind": "geotiff",
            "images": "scenes/{id}.tif",
            "masks": "labels/{id}.tif",
            "bands": [4, 3, 2],
            "window": ["2%", "98%"],
            "part": [0, 5],
        },
        (5, 1),
        "",
    ),
    "deep-tiff": (
        made.deep_tiff,
        {"images": "raw/{id}.tif", "masks": "masks/{id}.png", "window": [0, 4095], "part": [0, 5]},
        (5, 1),
        "seem to be 12-bit data",
    ),
}


SELDOM = {
    "labelme-splits",
    "roboflow-train-only",
    "yolo-boxes",
    "cvat-subsets",
    "hf-one",
    "decathlon-4d",
    "dicom-without-endings",
    "geotiff-elsewhere",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SELDOM)) for name in DOMAINS]
)
def test_domains(tmp_path: Path, name: str) -> None:
    make, train, samples, unsure = DOMAINS[name]
    make(tmp_path)
    tree, doubts = begun(tmp_path)
    (stage,) = tree["stages"]
    assert {"path": ".", **train} == stage["train"]
    assert counts(tmp_path) == [samples]
    assert unsure in doubts


CLASSES: dict[str, tuple[Callable[[Path], Path], dict[int, str], list[list[str]]]] = {
    "camvid": (
        made.segnet_camvid,
        {0: "sky", 8: "car", 11: "void"},
        [
            ["sky", "building", "pole", "road", "pavement", "tree"],
            ["sign", "fence"],
            ["car", "pedestrian"],
            ["bicyclist"],
        ],
    ),
    "colours": (made.kaggle_camvid, {0: "void", 3: "Car"}, [["Animal", "Bicyclist"], ["Car"]]),
    "roboflow": (made.roboflow_maps, {0: "background", 1: "roof", 2: "tree"}, [["roof"], ["tree"]]),
    "cityscapes": (made.cityscapes, {6: "void", 7: "road", 26: "car"}, [["road", "sidewalk"], ["car"]]),
    "voc": (made.voc_classes, {}, [["aeroplane", "bicycle"], ["bird"]]),
}


@pytest.mark.parametrize("name", CLASSES)
def test_classes(tmp_path: Path, name: str) -> None:
    make, names, steps = CLASSES[name]
    tree, unsure = begun(make(tmp_path / name))
    assert names.items() <= tree.get("classes", {}).items()
    assert [stage["classes"] for stage in tree["stages"]] == steps
    assert "which classes come in which step is a guess" in unsure


def test_classes_that_nothing_names(tmp_path: Path) -> None:
    for n in range(6):
        made.save(tmp_path / "img" / f"{n}.png", made.picture(n, 2))
        made.save(tmp_path / "gt" / f"{n}.png", made.labels(n, ((1, 5), (1, 3))[n % 2]))
    tree, unsure = begun(tmp_path)
    assert tree["classes"] == {0: "background", 1: "class-1", 3: "class-3", 5: "class-5"}
    assert "nothing names the numbers 1, 3, 5" in unsure and "0 is taken as the background" in unsure


@pytest.mark.parametrize("make", ["labelme", "roboflow", "cvat"])
def test_annotations_that_name_classes_may_be_either(tmp_path: Path, make: str) -> None:
    root = getattr(made, make)(tmp_path / make)
    assert "train" in begun(root)[0]["stages"][0]
    stages = begun(root, classes=True)[0]["stages"]
    assert [len(stage["classes"]) for stage in stages] == [1, 1]


def test_rows_of_two_values_are_objects_or_classes(tmp_path: Path) -> None:
    root = made.hf_saved(tmp_path / "rows", values=(1, 2))
    written = write_stream_for(root)
    text = written.path.read_text()
    assert text.count("# mask_values: [1, 2]  # unsure") == 2
    assert written.found[0] == (
        "stage 'rows': 5 training images (not readable yet) and 5 test images (not readable yet)"
    )
    assert any("--classes writes a stream of classes" in doubt for doubt in written.doubts)
    assert not check(written.path).ok
    written.path.write_text(text.replace("# mask_values", "mask_values"))
    assert check(written.path).ok
    assert begun(root, classes=True)[0]["classes"] == {0: "background", 1: "class-1", 2: "class-2"}


def test_parquet_files_as_the_hub_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (stage,) = begun(made.hf_parquet(tmp_path / "set"))[0]["stages"]
    assert stage["test"] == {"kind": "hf", "path": ".", "split": "test", "mask": "label"}


def test_data_sets_that_are_not_of_classes_alone_are_domains(tmp_path: Path) -> None:
    made.segnet_camvid(tmp_path / "roads")
    made.labelme(tmp_path / "clinic")
    written = write_stream_for(tmp_path)
    assert any("run everseg data init --classes" in doubt for doubt in written.doubts)
    with pytest.raises(
        UserError, match=r"contains 2 data sets \(clinic, roads\), and the maps of 'clinic' are not"
    ):
        write_stream_for(tmp_path, force=True, classes=True)
    assert "# mask_values: [1, 2" in written.path.read_text()
    with pytest.raises(UserError, match="the training maps hold one class"):
        write_stream_for(made.label_studio(tmp_path / "one"), classes=True)


def test_each_data_set_of_class_maps_adds_the_classes_that_earlier_ones_lack(tmp_path: Path) -> None:
    for name, values in (("one", (1, 2)), ("two", (3, 4))):
        for n in range(6):
            made.save(tmp_path / name / f"images/{name}-{n}.png", made.picture(n))
            made.save(tmp_path / name / f"masks/{name}-{n}.png", made.labels(n, values))
    tree, _ = begun(tmp_path, classes=True)
    assert [(s["name"], s["classes"]) for s in tree["stages"]] == [
        ("one", ["class-1", "class-2"]),
        ("two", ["class-3", "class-4"]),
    ]
    assert [s["train"]["path"] for s in tree["stages"]] == ["one", "two"]
    for n in range(6):
        made.save(tmp_path / f"two/masks/two-{n}.png", made.labels(n, (1, 2)))
    with pytest.raises(UserError, match="maps of 'two' have no class that earlier data sets lack; list"):
        write_stream_for(tmp_path, force=True, classes=True)


def test_masks_of_one_object_are_classes_with_the_names_of_their_folders(tmp_path: Path) -> None:
    for name in ("polyps", "tools"):
        for n in range(6):
            made.save(tmp_path / name / f"images/{name}-{n}.png", made.picture(n + 9 * len(name)))
            made.save(tmp_path / name / f"masks/{name}-{n}.png", made.labels(n, (255,)))
    tree, unsure = begun(tmp_path, classes=True)
    assert [(s["name"], s["classes"]) for s in tree["stages"]] == [(n, [n]) for n in ("polyps", "tools")]
    assert [s["test"]["classes"] for s in tree["stages"]] == [{255: "polyps"}, {255: "tools"}]
    assert "classes" not in tree and "a class with the name of the folder" in unsure
    assert not check(tmp_path / "stream.yaml").findings
    made.save(tmp_path / "tools/masks/tools-0.png", made.labels(0, (1, 2)))
    with pytest.raises(UserError, match="maps of 'polyps' have no class, because 255 means void; list"):
        begun(tmp_path, classes=True)


def test_maps_that_number_objects_are_doubted_as_classes(tmp_path: Path) -> None:
    for name, most in (("one", 3), ("two", 7)):
        for n in range(6):
            maps = np.zeros((made.HEIGHT, made.WIDTH), np.uint16)
            for k in range(most - n % 2):
                maps[4:20, 6 * k : 6 * k + 4] = k + 1
            made.save(tmp_path / name / f"images/{name}-{n}.png", made.picture(n))
            made.save(tmp_path / name / f"instances/{name}-{n}.png", maps)
    _, unsure = begun(tmp_path, classes=True)
    assert "stage 'one': its maps seem to number objects; if they are not classes, leave" in unsure


def test_two_formats(tmp_path: Path) -> None:
    made.labelme(tmp_path / "a")
    made.label_studio(tmp_path / "b")
    tree, _ = begun(tmp_path)
    assert [stage["train"]["kind"] for stage in tree["stages"]] == ["labelme", "yolo"]
    for n in range(6):
        made.labelme_json(tmp_path / "b" / "images" / f"a{n}.json", f"a{n}.png", n, ["x"])
    tree, unsure = begun(tmp_path)
    assert len(tree["stages"]) == 2 and "its images are used with other annotations" in unsure


@pytest.mark.parametrize(
    ("images", "masks"), [("im[1]", "ma?k{id}"), ("{id}", "ma*ks"), ("${HOME}/images", "${HOME}/masks")]
)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows allows no such names")
def test_names_that_look_like_patterns(tmp_path: Path, images: str, masks: str) -> None:
    for n in range(5):
        made.save(tmp_path / "a{id}*" / images / f"{n}.png", made.picture(n))
        made.save(tmp_path / "a{id}*" / masks / f"{n}.png", made.labels(n, (255,)))
    made.save(tmp_path / "a{id}*" / "maskX" / "77.png", made.labels(7, (255,)))  # ma?k{id} would match it
    begun(tmp_path)
    assert counts(tmp_path) == [(4, 1)]


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no shapes": (
        lambda root: [made.labelme(root), [_emptied(file) for file in root.glob("*.json")]],
        r"its files have no shapes; draw some",
    ),
    "no images": (
        lambda root: [made.labelme(root), [file.unlink() for file in root.glob("*.jpg")]],
        r"its images, such as im 00\.jpg, are not in",
    ),
    "one image": (
        lambda root: made.labelme(root, 1),
        "it has 1 image with a mask; add some until there are two",
    ),
    "bad yaml": (
        lambda root: (made.roboflow(root) / "data.yaml").write_text("names: [a\n"),
        r"data\.yaml is not valid YAML",
    ),
    "elsewhere": (
        lambda root: (made.roboflow(root) / "data.yaml").write_text("names: [a]\ntrain: /else\nval: /else\n"),
        r"names /else, which is not at",
    ),
    "volumes alone": (
        lambda root: [made.volume(root / f"p{n}.nii.gz", n) for n in range(2)],
        "its volumes have no partners",
    ),
    "scans alone": (
        lambda root: shutil.rmtree(made.dicoms(root) / "ground_truth"),
        "6 files without masks",
    ),
    "no pictures": (lambda root: _numbers(root), "no two of them hold images and masks"),
}


def _emptied(file: Path) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), "shapes": []}))


def _numbers(root: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"image": [1, 2], "label": [0, 1]}).save_to_disk(root)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_proposed_is_said(tmp_path: Path, name: str) -> None:
    make, said = REFUSED[name]
    make(tmp_path)
    with pytest.raises(UserError, match=said):
        write_stream_for(tmp_path)
    assert not (tmp_path / "stream.yaml").exists()


def test_a_damaged_file_does_not_hide_the_others(tmp_path: Path) -> None:
    volume = made.decathlon(tmp_path / "ct") / "labelsTr" / "liver_000.nii.gz"
    volume.write_bytes(b"nonsense")
    (made.labelme(tmp_path / "shots") / "im 00.json").write_text('{"shapes": [')
    doubts = "\n".join(write_stream_for(tmp_path).doubts)
    assert "stage 'ct', train: " in doubts and "liver_000.nii.gz is not a NIfTI file" in doubts
    assert "im 00.json is not valid JSON" in doubts and counts_leniently(tmp_path) == 18


def counts_leniently(root: Path) -> int:
    from everseg.data.stream import open_leniently

    stream, _ = open_leniently(root / "stream.yaml")
    return sum(len(stage.train) for stage in stream.stages)


def test_rows_without_an_object(tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    images = [made.Image.fromarray(made.picture(n)) for n in range(6)]
    masks = [made.Image.fromarray(made.labels(n, (255 * (n % 2),))) for n in range(6)]
    datasets.Dataset.from_dict({"image": images, "mask": masks}).save_to_disk(tmp_path)
    assert begun(tmp_path)[0]["stages"][0]["train"]["skip_empty"] is True


def test_a_table_beside_images_is_passed_over(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    for n in range(5):
        made.save(tmp_path / "images" / f"{n}.png", made.picture(n))
        made.save(tmp_path / "masks" / f"{n}.png", made.labels(n, (255,)))
    pyarrow.parquet.write_table(pyarrow.table({"age": [1, 2]}), tmp_path / "patients.parquet")
    tree, unsure = begun(tmp_path)
    assert len(tree["stages"]) == 1 and "no two of them hold images and masks" in unsure


def test_class_maps_that_lie_on_a_map(tmp_path: Path) -> None:
    root = made.geotiff(tmp_path, classes=(1, 2, 4))
    tree, _ = begun(root)
    assert tree["train"]["masks"] == "masks/*" and tree["train"]["bands"] == [3, 2, 1]
    assert [stage["classes"] for stage in tree["stages"]] == [["class-2", "class-4"], ["class-1"]]


def test_maps_that_train_one_class_stay_domains(tmp_path: Path) -> None:
    """Class maps are guessed; where no stream of classes comes of it, one of domains does."""
    for n in range(10):
        made.save(tmp_path / "img" / f"{n}.png", made.picture(n, 2))
        made.save(tmp_path / "gt" / f"{n}.png", made.labels(n, (5,) if n < 8 else (5, 3)))
    written = write_stream_for(tmp_path)
    assert any(
        "its masks seem to hold classes, but the training maps hold one class" in d for d in written.doubts
    )
    assert not written.classes and "# mask_values: [3, 5]" in written.path.read_text()


def test_faults_are_counted(tmp_path: Path) -> None:
    (made.roboflow(tmp_path) / "data.yaml").write_text("names: [a]\ntrain: train/images\nval: valid/images\n")
    written = write_stream_for(tmp_path)
    assert "5 training images (not readable yet)" in written.found[0]
    assert sum("line 2 is of class 1" in doubt for doubt in written.doubts) == 6
    assert any(doubt.endswith("train: and 2 more; everseg data check lists all") for doubt in written.doubts)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["labelme", "roboflow", "cvat", "hf", "kits", "dicom-patients", "geotiff"])
def test_from_a_tool_to_predictions(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """init, check, learn and predict, without an edit between them."""
    from everseg.cli import main

    def everseg(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["everseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code

    DOMAINS[name][0](tmp_path)
    stream, run = tmp_path / "stream.yaml", tmp_path.parent / f"{tmp_path.name}-run"
    everseg("data", "init", tmp_path)
    everseg("data", "check", stream)
    everseg("learn", stream, "--set", "tune.fit.steps=2", "--no-baseline", "--out", run)
    image = tmp_path.parent / f"{tmp_path.name}.png"
    made.save(image, made.picture(3))
    everseg("predict", run, image, "--point", "12,14", "--out", run / "masks")
    assert np.asarray(made.Image.open(run / "masks" / f"{image.stem}_mask.png")).shape == (40, 48)


def test_dicom_that_is_no_scan(tmp_path: Path) -> None:
    made.dicoms(tmp_path)
    begun(tmp_path)
    (tmp_path / "dicom" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    begun(tmp_path)
    shutil.rmtree(tmp_path / "ground_truth")
    made.dicom(tmp_path / "objects", 1, "lesion.dcm", Modality="SEG")
    with pytest.raises(
        UserError, match=r"objects/lesion\.dcm is a segmentation object \(SEG\), which is not read"
    ):
        write_stream_for(tmp_path, force=True)


@pytest.mark.parametrize("form", ["described", "bytes and a path", "bytes"])
def test_one_parquet_file_is_parted(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many data sets of the hub have a split "train" alone, and some tables do not say what is an image."""
    parquet, table = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow").Table
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def file(pixels: Any) -> Any:
        made.save(tmp_path / "one.png", pixels)
        content = (tmp_path / "one.png").read_bytes()
        return content if form == "bytes" else {"bytes": content, "path": "one.png"}

    rows = [{"image": file(made.picture(n)), "label": file(made.labels(n, (255,)))} for n in range(5)]
    (tmp_path / "one.png").unlink()
    made_of = table.from_pylist(rows)
    if form == "described":
        features = {name: {"_type": "Image"} for name in ("image", "label")}
        described = json.dumps({"info": {"features": features}}).encode()
        made_of = made_of.replace_schema_metadata({b"huggingface": described})
    root = tmp_path / "set"
    (root / "data").mkdir(parents=True)
    parquet.write_table(made_of, root / "data" / "train-00000-of-00001.parquet")
    tree, _ = begun(root)
    (stage,) = tree["stages"]
    assert stage["test"] == {
        "kind": "hf", "path": ".", "split": "train", "mask": "label", "part": [4, 5],
    }  # fmt: skip
    (stream,) = Stream.from_yaml(root / "stream.yaml").stages
    assert np.array_equal(stream.test[0].masks[0], made.labels(4, (255,)) > 0)


def test_class_maps_that_train_nothing_say_what_they_hold(tmp_path: Path) -> None:
    for n in range(6):
        made.save(tmp_path / f"images/{n}.png", made.picture(n))
        made.save(tmp_path / f"labels/{n}.png", made.labels(n, (255,)))
    with pytest.raises(UserError, match=r"hold no class but 0 \(background\) and 255 \(void\), and a stream"):
        write_stream_for(tmp_path, classes=True)
    for n in range(6):
        made.save(tmp_path / f"labels/{n}.png", made.labels(n, (1, 2)).astype(np.uint16) * 300)
    with pytest.raises(UserError, match=r"0\.png has numbers up to 600, and class maps hold 0 to 255"):
        write_stream_for(tmp_path, classes=True)
