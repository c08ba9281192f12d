"""Predicting on GeoTIFF, DICOM and NIfTI files, and on chosen bands."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import rasterio
import torch
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from rasterio.transform import Affine

from everseg import cli
from everseg.classes.problem import Classes
from everseg.data.imagefiles import read_image
from everseg.errors import UserError
from everseg.models.promptable.load import load_base
from everseg.pictures.drawn import Wanted
from everseg.runs import folder
from everseg.runs.inputs import find_images
from everseg.runs.outputs import OutputFolder
from everseg.runs.run import Run

EARLIER = Path(__file__).parents[1] / "assets" / "earlier_run"
RUN = EARLIER / "runs" / "samcl"
PLACE = Affine(10, 0, 500000, 0, -10, 4600000)
DEEP = np.random.default_rng(0).integers(1, 4096, (5, 40, 48)).astype(np.uint16)
VOLUME = np.random.default_rng(1).integers(-900, 900, (32, 24, 3)).astype(np.int16)


@pytest.fixture(scope="module")
def micro_earlier() -> Any:
    return load_base(str(EARLIER / "base"))


@pytest.fixture(scope="module")
def learned(micro_earlier: Any) -> Run:
    return folder.load(RUN, micro_earlier)


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def predict(
    learned: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Command:
    """The command in this process, which loads no run: its exit code and what it says of errors."""
    monkeypatch.setattr(folder, "load", lambda *_: learned)

    def call(*arguments: object) -> tuple[int, str]:
        words = ("predict", RUN, "--base", EARLIER / "base", "--out", tmp_path / "out", *arguments)
        monkeypatch.setattr(sys, "argv", ["everseg", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
            sys.exit(0)
        code = ended.value.code
        return int(code or 0), capsys.readouterr().err

    return call


def scene(path: Path, values: Any = DEEP, **more: Any) -> Path:
    kind = {"driver": "GTiff", "count": len(values), "dtype": values.dtype}
    kind |= {"height": values.shape[1], "width": values.shape[2]}
    where = {"crs": "EPSG:32633", "transform": PLACE}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", **{**kind, **where, **more}) as raster:
            raster.write(values)
    return path


def frames(path: Path, count: int) -> Path:
    made = pydicom.Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3"
    values = np.random.default_rng(count).integers(0, 2000, (count, 24, 32)).astype(np.uint16)
    made.Rows, made.Columns, made.NumberOfFrames, made.SamplesPerPixel = 24, 32, count, 1
    made.PhotometricInterpretation, made.PixelRepresentation = "MONOCHROME2", 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 16, 15
    made.PixelData = values.tobytes()
    made.save_as(path, enforce_file_format=True)
    return path


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


CLICK = ("--point", "20,12")
BANDS = ("--bands", "4,3,2", "--window", "0,4000")


def test_a_georeferenced_image_gets_a_georeferenced_mask(
    predict: Command, learned: Run, tmp_path: Path
) -> None:
    path, out = scene(tmp_path / "x.tif", compress="lzw"), tmp_path / "out"
    assert predict(path, *CLICK, *BANDS) == (0, "")
    found = learned.predict(path, points=[(20, 12)], bands=[4, 3, 2], window=[0, 4000])
    with rasterio.open(out / "x_mask.tif") as mask:
        assert (mask.crs.to_epsg(), mask.transform, mask.dtypes) == (32633, PLACE, ("uint8",))
        assert np.array_equal(mask.read(1), found.masks[0] * np.uint8(255))
    record = json.loads((out / "x.json").read_text())
    assert record["masks"][0]["file"] == "x_mask.tif"
    linear = (DEEP[[3, 2, 1]] / 4000 * 255 + 0.5).clip(0, 255.5).astype(np.uint8)
    assert torch.equal(read_image(path, bands=(4, 3, 2), window=(0, 4000)), torch.from_numpy(linear))
    # In one go or again, the same bytes; other bands are another prediction.
    once = content(out)
    assert "1 finished before" in predict(path, *CLICK, *BANDS)[1] and content(out) == once
    assert predict(path, *CLICK, "--bands", "4,3,2", "--window", "2%,98%") == (0, "")
    assert predict(path, *CLICK, *BANDS) == (0, "") and content(out) == once
    # A label map has the georeference too, and takes the place of the mask, which we wrote.
    assert predict(path, *CLICK, *BANDS, "--format", "labels", "--no-overlay") == (0, "")
    assert sorted(content(out)) == ["x.json", "x_labels.tif"]
    with rasterio.open(out / "x_labels.tif") as labels:
        assert labels.transform == PLACE and np.array_equal(labels.read(1), found.masks[0].astype(np.uint8))
    # So has a class map, whose numbers are channels.
    channels = (DEEP[0] % 3).astype(np.uint8)
    drawn = Classes().draw(
        torch.zeros(3, 40, 48), channels, Wanted("x", classes=("a", "b", "c"), suffix=".tif")
    )
    OutputFolder(out, Classes.outputs).write("x", drawn, drawn.record, path)
    with rasterio.open(out / "x_classes.tif") as classes:
        assert classes.crs.to_epsg() == 32633 and np.array_equal(classes.read(1), channels)


def test_a_mask_of_somebody_else_is_not_replaced(predict: Command, tmp_path: Path) -> None:
    path = scene(tmp_path / "x.tif", (DEEP[:3] >> 4).astype(np.uint8), photometric="RGB")
    (tmp_path / "out").mkdir()
    theirs = scene(tmp_path / "out" / "x_mask.tif", DEEP[:1]).read_bytes()
    code, said = predict(path, *CLICK)
    assert code == 3 and "x_mask.tif already exists and was not written by everseg" in said
    assert content(tmp_path / "out") == {"x_mask.tif": theirs}


def test_files_that_leave_their_picture_open_are_refused_with_the_option(
    predict: Command, tmp_path: Path
) -> None:
    paths = (scene(tmp_path / "x.tif"), scene(tmp_path / "y.tif", crs=None, transform=None))
    for path in paths:
        code, said = predict(path, *CLICK)
        assert code == 3 and "has 5 bands" in said and "as in --bands 3,2,1" in said, said
    code, said = predict(paths[0], *CLICK, "--bands", "7,2,1")
    assert code == 3 and "has 5 bands; correct --bands 7,2,1" in said
    assert predict(paths[1], *CLICK, *BANDS)[0] == 0 and (tmp_path / "out" / "y_mask.png").exists()
    for words, expected in (
        (("--bands", "4,3"), "give one band or three"),
        (("--bands", "red"), "--bands is 'red'; give numbers"),
        (("--window", "9"), "--window is '9'; give two values"),
        (("--window", "9,x"), "window contains 'x'"),
        (("--window", "9,1"), "the lower one first"),
    ):
        code, said = predict(paths[0], *CLICK, *words)
        assert code == 2 and expected in said and len(said.splitlines()) == 1, said


def test_without_rasterio_a_georeferenced_image_fails_alone(
    predict: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = scene(tmp_path / "x.tif")
    Image.fromarray((DEEP[0] >> 4).astype(np.uint8)).save(tmp_path / "y.png")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    code, said = predict(path, tmp_path / "y.png", *CLICK, "--bands", "1")
    assert code == 3 and "x.tif needs the package rasterio; run: pip install 'everseg[geo]'" in said
    assert (tmp_path / "out" / "y_mask.png").exists()


def test_a_tiff_that_gives_no_place_is_answered_in_png(predict: Command, tmp_path: Path) -> None:
    grey = (DEEP[:1] >> 4).astype(np.uint8)
    paths = (
        scene(tmp_path / "x.tif", grey, crs=None, transform=None),
        scene(tmp_path / "big.tif", grey, BIGTIFF="YES"),
    )
    (tmp_path / "cut.tif").write_bytes(paths[1].read_bytes()[:40])
    code, said = predict(*paths, tmp_path / "cut.tif", *CLICK)
    assert code == 3 and "cut.tif is" in said and len(said.splitlines()) == 2
    assert {p.name for p in (tmp_path / "out").glob("*_mask*")} == {"x_mask.png", "big_mask.tif"}


def test_slices_of_a_volume(predict: Command, learned: Run, tmp_path: Path) -> None:
    path, out = tmp_path / "scan.nii.gz", tmp_path / "out"
    nibabel.save(nibabel.Nifti1Image(VOLUME, np.eye(4)), path)
    code, said = predict(path, *CLICK)
    assert code == 3 and said.count("as in --window -160,240") == 3
    assert predict(tmp_path, *CLICK, "--window", "-160,240") == (0, "")
    assert {p.name for p in out.glob("*_mask.png")} == {f"scan@{n}_mask.png" for n in range(3)}
    image = read_image(path, window=(-160, 240), frame=1)
    grey = (np.rot90(VOLUME[:, :, 1]) + 160) / 400 * 255
    assert np.array_equal(image[0], (grey.clip(0, 255) + 0.5).astype(np.uint8))
    found = learned.predict(image, points=[(20, 12)])
    assert np.array_equal(np.array(Image.open(out / "scan@1_mask.png")) > 0, found.masks[0])
    record = json.loads((out / "scan@1.json").read_text())
    assert (record["frame"], record["axis"]) == (1, "axial")
    assert "3 finished before" in predict(path, *CLICK, "--window", "-160,240")[1]
    # Prompts name a slice as samples are named.
    (tmp_path / "p.csv").write_text("image,x,y\nscan.nii.gz@2,4,1\nscan@0,3,2\n")
    words = ("--window", "-160,240", "--axis", "coronal", "--prompts", tmp_path / "p.csv", "--format", "coco")
    code, said = predict(path, *words)
    assert code == 3 and "24 images: 2 predicted, 0 finished before, 0 failed, 22 without prompts" in said
    entries = json.loads((out / "predictions.coco.json").read_text())
    assert [e["file_name"] for e in entries] == [f"{path}@0", f"{path}@2"]


def test_frames_of_a_dicom_file(predict: Command, tmp_path: Path) -> None:
    frames(tmp_path / "one.dcm", 1)
    frames(tmp_path / "IM7", 2)
    (tmp_path / "bad.dcm").write_bytes(b"x" * 200)
    given = (tmp_path / "one.dcm", tmp_path / "IM7", tmp_path / "bad.dcm")
    code, said = predict(*given, *CLICK, "--window", "1%,99%")
    assert code == 3 and "bad.dcm is not an image" in said and "4 images: 3 predicted" in said
    assert {p.name for p in (tmp_path / "out").glob("*_mask.png")} == {
        "one_mask.png",
        "IM7@0_mask.png",
        "IM7@1_mask.png",
    }
    assert [s.place for s in find_images(given[1:2], tmp_path)] == [f"{tmp_path / 'IM7'}@{n}" for n in (0, 1)]


def test_reading_one_picture_of_a_file(learned: Run, tmp_path: Path) -> None:
    path = frames(tmp_path / "x.dcm", 2)
    assert read_image(path, window=("1%", "99%"), frame=1).shape == (3, 24, 32)
    with pytest.raises(UserError, match="has 2 frames; choose one, as in frame=0"):
        read_image(path)
    with pytest.raises(UserError, match="has 2 frames and no frame 2"):
        read_image(path, frame=2)
    Image.new("L", (9, 9)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="no frame 1"):
        read_image(tmp_path / "x.png", frame=1)
    with pytest.raises(UserError, match="give two values"):
        read_image(tmp_path / "x.png", window=(1,))
    with pytest.raises(UserError, match="apply to files only"):
        learned.predict(np.zeros((9, 9), np.uint8), points=[(1, 1)], bands=(1,))
