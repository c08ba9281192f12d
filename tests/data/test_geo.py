"""GeoTIFF: bands, pixels without data, masks that lie elsewhere, and masks written back to their place."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine

from everseg.data import Stream
from everseg.data.decoding import Decoding
from everseg.data.domains.geotiff import GeotiffReader
from everseg.data.geo import read_raster, write_mask_like
from everseg.errors import UserError

DEEP = np.random.default_rng(0).integers(1, 4096, (5, 24, 32)).astype(np.uint16)
PLACE, MOVED = (Affine(10, 0, x, 0, -10, 4600000) for x in (500000, 500060))
MASK = np.zeros((24, 32), np.uint8)
MASK[4:9, 3:9] = 1


def raster(path: Path, values: Any, transform: Affine | None = PLACE, **more: Any) -> Path:
    values = np.atleast_3d(values.T).T
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"driver": "GTiff", "count": len(values), "height": 24, "width": 32, "dtype": values.dtype}
    where = {} if transform is None else {"transform": transform, "crs": "EPSG:32633"}
    colours = more.pop("colours", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", **{**kind, **where, **more}) as made:
            made.write(values)
            if colours:
                made.colorinterp = colours
    return path


def linear(values: Any, low: float, high: float) -> torch.Tensor:
    grey = (values.astype(np.float64) - low) / (high - low) * 255
    return torch.from_numpy((grey.clip(0, 255) + 0.5).astype(np.uint8))


@pytest.mark.parametrize("compress", [None, "lzw", "zstd"])
def test_bands_and_window(tmp_path: Path, compress: str | None) -> None:
    path = raster(tmp_path / "x.tif", DEEP, compress=compress)
    found = read_raster(path, Decoding((4, 3, 2), (0, 4000)))
    assert torch.equal(found, linear(DEEP[[3, 2, 1]], 0, 4000))
    assert torch.equal(read_raster(path, Decoding((5,), (0, 4000))), linear(DEEP[[4, 4, 4]], 0, 4000))


def test_pixels_without_data_are_black_and_do_not_count(tmp_path: Path) -> None:
    values = DEEP.copy()
    values[:, :4] = 65535
    path = raster(tmp_path / "x.tif", values, nodata=65535)
    found = read_raster(path, Decoding((1, 2, 3), ("2%", "98%")))
    low, high = np.percentile(DEEP[:3, 4:], [2, 98])
    assert torch.equal(found[:, 4:], linear(DEEP[:3, 4:], low, high)) and not found[:, :4].any()
    floats = np.where(values == 65535, np.nan, values / 4096).astype(np.float32)
    path = raster(tmp_path / "y.tif", floats, nodata=np.nan)
    assert torch.equal(read_raster(path, Decoding((1, 2, 3)))[:, 4:], linear(floats[:3, 4:], 0, 1))


def test_colours_that_a_file_names_need_no_choice(tmp_path: Path) -> None:
    small = (DEEP >> 4).astype(np.uint8)
    names = [rasterio.enums.ColorInterp[n] for n in ("blue", "green", "red", "undefined", "undefined")]
    path = raster(tmp_path / "x.tif", small, colours=names)
    assert torch.equal(read_raster(path, Decoding()), torch.from_numpy(small[[2, 1, 0]]))
    path = raster(tmp_path / "y.tif", small[0])
    assert torch.equal(read_raster(path, Decoding()), torch.from_numpy(small[[0, 0, 0]]))


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A folder of two rasters and masks, one of them with a place of its own and one without."""
    for i, place in enumerate((PLACE, None)):
        raster(tmp_path / "geo" / "images" / f"x{i}.tif", np.roll(DEEP, i, 1))
        raster(tmp_path / "geo" / "masks" / f"x{i}.tif", MASK, place)
    return tmp_path / "geo"


def test_the_reader(scene: Path, write_stream: Callable[[str], Path]) -> None:
    split = "{kind: geotiff, path: geo, bands: [3, 2, 1], window: [2%, 98%], mask_values: [1]}"
    train = (
        Stream.from_yaml(write_stream(f"stages: [{{name: a, train: {split}, test: {split}}}]"))
        .stages[0]
        .train
    )
    assert [s.name for s in train] == ["x0.tif", "x1.tif"]
    assert torch.equal(train[1].masks[0], torch.from_numpy(MASK > 0))
    others = [
        GeotiffReader(scene, bands=b, window=w)
        for b, w in (((3, 2, 1), None), ((1, 2, 3), None), ((3, 2, 1), (0, 9)))
    ]
    assert len({r.fingerprint() for r in (*others, train)}) == 4 and len({r[0].key for r in others}) == 3


def test_what_masks_mean_is_said(scene: Path) -> None:
    for i in range(2):
        raster(scene / "masks" / f"x{i}.tif", MASK * 7)
    found = GeotiffReader(scene, bands=(1, 2, 3))
    assert found.masks() == "0/7, object = 7 (2 files)" and found.names() == ["x0.tif", "x1.tif"]
    assert torch.equal(found[1].masks[0], torch.from_numpy(MASK > 0))
    assert found.truth_file(0) == str(scene / "masks" / "x0.tif")
    with pytest.raises(UserError, match=r"has no object under mask_values: \[1\] \(it has the values 0, 7\)"):
        GeotiffReader(scene, bands=(1, 2, 3), mask_values=(1,))[0]


@pytest.mark.parametrize(
    ("values", "more", "said"),
    [
        (
            MASK,
            {"transform": MOVED},
            r"is shifted by up to 60 map units \(6.0 pixels\) against",
        ),
        (MASK, {"crs": "EPSG:32634"}, "is in EPSG:32634, its image .* in EPSG:32633"),
        (np.stack([MASK, MASK]), {}, "has 2 bands, and a mask has one"),
        (MASK * 7, {}, r"hold the values 0 .*1 .*7 .*mask_values: \[1, 7\]"),
        (MASK * 0, {}, "is an empty mask"),
        (MASK, {"nodata": 1}, "is an empty mask"),
    ],
)
def test_masks_that_are_refused(scene: Path, values: Any, more: Any, said: str) -> None:
    raster(scene / "masks" / "x0.tif", values, **more)
    with pytest.raises(UserError, match=said):
        GeotiffReader(scene, bands=(1, 2, 3))[0]


def test_other_faults(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"has 5 bands; say .*bands: \[3, 2, 1\]"):
        GeotiffReader(scene)[0]
    with pytest.raises(UserError, match=r"has 5 bands; correct bands: \[1, 2, 6\]"):
        GeotiffReader(scene, bands=(1, 2, 6))[0]
    (scene / "images" / "x0.tif").write_bytes(b"II*\0 and nothing more")
    with pytest.raises(UserError, match=r"x0\.tif is not a raster or is damaged"):
        GeotiffReader(scene, bands=(1, 2, 3))[0]
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(UserError, match=r"needs the package rasterio; run: pip install 'everseg\[geo\]'"):
        GeotiffReader(scene, bands=(1, 2, 3))[1]


def test_a_mask_is_written_where_its_image_lies(tmp_path: Path) -> None:
    image = raster(tmp_path / "x.tif", DEEP)
    written = write_mask_like(tmp_path / "out" / "mask.tif", MASK > 0, image)
    with rasterio.open(written) as made:
        assert (made.crs, made.transform, made.count) == (rasterio.CRS.from_epsg(32633), PLACE, 1)
        assert np.array_equal(made.read(1), MASK * 255)
    with rasterio.open(write_mask_like(written, MASK.astype(np.uint16) * 300, image)) as made:
        assert made.read(1).max() == 300
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["mask.tif"]


def test_a_mask_gets_control_points(tmp_path: Path) -> None:
    points = [GroundControlPoint(r, c, 10.0 + c / 100, 50.0 - r / 100) for r, c in ((0, 0), (0, 31), (23, 0))]
    image = raster(tmp_path / "x.tif", DEEP, None, gcps=points, crs="EPSG:4326")
    with rasterio.open(write_mask_like(tmp_path / "mask.tif", MASK > 0, image)) as made:
        assert [(p.row, p.col, p.x, p.y) for p in made.gcps[0]] == [(p.row, p.col, p.x, p.y) for p in points]


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    image, out = raster(tmp_path / "x.tif", DEEP), tmp_path / "out.tif"
    Image.fromarray(MASK).save(tmp_path / "bare.png")
    for mask, like, said in (
        (MASK[:9] > 0, image, r"has the shape \(9, 32\), but .* is 32x24"),
        (MASK / 3, image, "float64; give bool"),
        (MASK > 0, tmp_path / "bare.png", "has no georeference"),
        (MASK > 0, tmp_path / "none.tif", "none.tif is not a raster"),
    ):
        with pytest.raises(UserError, match=said):
            write_mask_like(out, mask, like)
    assert not out.exists()


def test_what_programs_for_maps_write_beside_is_passed_over(scene: Path) -> None:
    for ending in (".tif.aux.xml", ".tfw", ".tif.ovr", ".tif.msk", ".wld"):
        for part in ("images", "masks"):
            (scene / part / f"a{ending}").write_bytes(b"\0")
    assert len(GeotiffReader(scene, bands=(3, 2, 1), window=(0, 4000))) == len(
        list(scene.glob("images/*.tif"))
    )
    fine = Affine(5, 0, 500000, 0, -5, 4600000)
    raster(scene / "masks" / "x0.tif", np.kron(MASK, np.ones((2, 2), np.uint8)), fine, height=48, width=64)
    with pytest.raises(UserError, match=r"is 64x48 and its image .*, of the same place, 32x24; resample"):
        GeotiffReader(scene, bands=(3, 2, 1), window=(0, 4000))[0]
