"""TIFFs beyond Pillow, bands and windows: values decoded by hand are what comes out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

from everseg.data import ClassSamples, FolderReader, Stream
from everseg.data.decoding import PLAIN, Decoding
from everseg.data.imagefiles import read_image
from everseg.errors import UserError

DEEP = np.random.default_rng(0).integers(0, 4096, (5, 24, 32)).astype(np.uint16)
"""Five bands of 12 bits."""


def linear(values: NDArray[Any], low: float, high: float) -> torch.Tensor:
    grey = (values.astype(np.float64) - low) / (high - low) * 255
    return torch.from_numpy((grey.clip(0, 255) + 0.5).astype(np.uint8))


FORMS: dict[str, tuple[Callable[[NDArray[Any]], NDArray[Any]], dict[str, Any]]] = {
    "pages": (lambda v: v, {}),
    "planes": (lambda v: v, {"planarconfig": "separate", "photometric": "minisblack"}),
    "pixels": (lambda v: v.transpose(1, 2, 0), {"planarconfig": "contig", "photometric": "minisblack"}),
    "rows of no name": (lambda v: v.transpose(1, 2, 0), {}),
    "big": (lambda v: v, {"bigtiff": True}),
    "big-endian": (lambda v: v, {"byteorder": ">", "planarconfig": "separate", "photometric": "minisblack"}),
    "deflate": (lambda v: v, {"compression": "zlib", "predictor": 2}),
    "imagej": (lambda v: v, {"imagej": True}),
    "float": (lambda v: v.astype(np.float32), {}),
    "double": (lambda v: v.astype(np.float64), {}),
    "signed": (lambda v: v.astype(np.int32), {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_bands_and_window_are_those_of_the_values(tmp_path: Path, form: str) -> None:
    change, how = FORMS[form]
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, change(DEEP), **how)
    decode = Decoding(bands=(4, 2, 1), window=(100, 4000)).decode
    found = decode(path.read_bytes(), path)
    assert found.dtype == torch.uint8
    assert torch.equal(found, linear(DEEP[[3, 1, 0]], 100, 4000))
    grey = Decoding(bands=(5,), window=(0, 4095)).decode(path.read_bytes(), path)
    assert torch.equal(grey, linear(DEEP[[4, 4, 4]], 0, 4095))


def test_percentiles_are_of_the_bands_that_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    values = DEEP.copy()
    values[4] = 60000
    tifffile.imwrite(path, values)
    low, high = np.percentile(values[:3], [2, 98])
    found = Decoding((1, 2, 3), ("2%", "98%")).decode(path.read_bytes(), path)
    assert torch.equal(found, linear(values[:3], low, high))
    flat = tmp_path / "flat.tif"
    tifffile.imwrite(flat, np.full((24, 32), 7, np.uint16))
    assert not Decoding(window=("0%", "100%")).decode(flat.read_bytes(), flat).any()


def test_what_says_what_it_shows_needs_no_options(tmp_path: Path) -> None:
    """Float colour and double grey, which Pillow cannot open; colour of 16 bits stays as Pillow reads it."""
    path = tmp_path / "x.tif"
    colour = (DEEP[:3].transpose(1, 2, 0) / 4095).astype(np.float32)
    tifffile.imwrite(path, colour, photometric="rgb")
    assert torch.equal(read_image(path), linear(colour.transpose(2, 0, 1), 0, 1))
    tifffile.imwrite(path, colour[..., 0].astype(np.float64))
    assert torch.equal(read_image(path), linear(np.repeat(colour[None, ..., 0], 3, 0), 0, 1))
    tifffile.imwrite(path, DEEP[:3].transpose(1, 2, 0), photometric="rgb")
    assert torch.equal(read_image(path), torch.from_numpy((DEEP[:3] >> 8).astype(np.uint8)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_tag_turns_as_pillow_does(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "x.tif"
    small = (DEEP[:3] >> 4).astype(np.uint8).transpose(1, 2, 0)
    tifffile.imwrite(path, small, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    assert torch.equal(Decoding((1, 2, 3)).decode(path.read_bytes(), path), read_image(path))


def test_other_files_have_bands_and_windows_too(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(DEEP[0]).save(path)
    found = Decoding(window=(0, 4095)).decode(path.read_bytes(), path)
    assert torch.equal(found, linear(DEEP[[0, 0, 0]], 0, 4095))
    colours = (DEEP[:4] >> 4).astype(np.uint8)
    Image.fromarray(colours.transpose(1, 2, 0), "RGBA").save(path)
    content = path.read_bytes()
    assert torch.equal(Decoding((3, 2, 1)).decode(content, path), torch.from_numpy(colours[[2, 1, 0]]))
    assert torch.equal(Decoding(window=(0, 100)).decode(content, path), linear(colours[:3], 0, 100))


@pytest.fixture
def deep_folder(tmp_path: Path) -> Path:
    """Images of five bands, and masks that are class maps as well."""
    for part in ("images", "masks"):
        (tmp_path / "deep" / part).mkdir(parents=True)
    for i in range(2):
        tifffile.imwrite(tmp_path / "deep" / "images" / f"x{i}.tif", np.roll(DEEP, i, 1))
        mask = np.zeros((24, 32), np.uint8)
        mask[4:9, 3:9] = 1
        Image.fromarray(mask).save(tmp_path / "deep" / "masks" / f"x{i}.png")
    return tmp_path / "deep"


def test_options_are_part_of_keys_and_fingerprints(deep_folder: Path) -> None:
    options: list[dict[str, Any]] = [
        {"bands": (1, 2, 3)},
        {"bands": (3, 2, 1)},
        {"bands": (1, 2, 3), "window": (0, 4000)},
        {"bands": (1, 2, 3), "window": (0, 3000)},
    ]
    readers = [FolderReader(deep_folder, **o) for o in options]
    assert len({r[0].key for r in readers}) == len({r.fingerprint() for r in readers}) == 4
    assert readers[2][1:][0].key == readers[2][1].key and readers[2][1:].fingerprint()
    assert PLAIN.name == "pixels-1", "what was kept of images without options stays valid"


def test_a_stream_file_says_bands_and_window(deep_folder: Path, write_stream: Callable[[str], Path]) -> None:
    split = "{path: deep, bands: [3, 2, 1], window: [2%, 98%]}"
    path = write_stream(f"stages: [{{name: a, train: {split}, test: {split}}}]")
    low, high = np.percentile(DEEP[:3], [2, 98])
    sample = Stream.from_yaml(path).stages[0].train[0]
    assert torch.equal(sample.image, linear(DEEP[[2, 1, 0]], low, high))
    path = write_stream(
        f"classes: [thing]\nstages: [{{name: a, classes: [thing], train: {split}, test: {split}}}]"
    )
    train = Stream.from_yaml(path).stages[0].train
    assert isinstance(train, ClassSamples) and torch.equal(train[0].image, sample.image)
    assert train[0].key == sample.key


@pytest.mark.parametrize(
    ("bands", "window", "said"),
    [
        ((1, 2), None, r"bands is \[1, 2\]; give one band or three"),
        ((0,), None, "counted from 1"),
        ((1, 2, 6), None, r"has 5 bands and no band 6"),
        (None, (0, 9), r"has 5 bands; say which .*bands: \[3, 2, 1\]"),
        (None, None, r"has 5 bands; say .*bands: \[3, 2, 1\]"),
        ((1,), (9, 9), r"window is \[9.*the lower one first"),
        ((1,), ("2%", 98.0), "two values, as in .*or two percentiles"),
        ((1,), ("two", "3"), "window contains 'two'"),
        ((1,), ("-1%", "3%"), "from 0% to 100%"),
        ((1,), (float("nan"), 3.0), "window contains nan"),
    ],
)
def test_wrong_options(tmp_path: Path, bands: Any, window: Any, said: str) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, DEEP, planarconfig="separate", photometric="minisblack")
    with pytest.raises(UserError, match=said):
        Decoding(bands, window).decode(path.read_bytes(), path)


def test_pages_are_bands_only_where_some_are_chosen(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, DEEP[:3], photometric="minisblack")
    assert torch.equal(
        Decoding((3,), (0, 4095)).decode(path.read_bytes(), path), linear(DEEP[[2, 2, 2]], 0, 4095)
    )
    for window in (None, (0, 4095)):
        with pytest.raises(UserError, match="has 3 pages, and reading one would drop the others"):
            Decoding(None, window).decode(path.read_bytes(), path)
    with tifffile.TiffWriter(path) as file:
        file.write(DEEP[0])
        file.write(DEEP[1][:9])
    with pytest.raises(UserError, match=r"has 2 pages, .* as a file of its own$"):
        Decoding((1,)).decode(path.read_bytes(), path)
    with tifffile.TiffWriter(path) as file:
        file.write(DEEP[0])
        file.write(DEEP[0][::2, ::2], subfiletype=1)
    assert Decoding(window=(0, 4095)).decode(path.read_bytes(), path).shape == (3, 24, 32), "a thumbnail"


def test_wrong_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(said: str, **options: Any) -> None:
        with pytest.raises(UserError, match=said):
            Decoding(**options).decode(path.read_bytes(), path)

    path = tmp_path / "x.tif"
    tifffile.imwrite(path, DEEP, planarconfig="separate", photometric="minisblack")
    path.write_bytes(path.read_bytes()[:200])
    refused("is damaged or truncated", bands=(1,))
    tifffile.imwrite(path, DEEP.reshape(5, 2, 12, 32), imagej=True, metadata={"axes": "ZCYX"})
    refused("has the axes ZCYX .*one plane", bands=(1,))
    holed = np.where(DEEP > 4000, np.nan, DEEP).astype(np.float32)
    tifffile.imwrite(path, holed)
    refused("NaN", bands=(1,), window=(0, 9))
    refused("NaN", bands=(1,), window=("1%", "9%"))
    Image.fromarray(DEEP[0].astype(np.uint8)).save(path, compression="tiff_lzw")
    refused("only with imagecodecs; pip install imagecodecs", bands=(1,))
    assert read_image(path).shape == (3, 24, 32), "Pillow reads it"
    path = tmp_path / "x.png"
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0 \0\0\0\x18\x10\x02\0\0\0"
    path.write_bytes(header)
    refused("PNG of 16-bit colours", window=(0, 9))
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, DEEP, planarconfig="separate", photometric="minisblack")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    refused(r"needs the package tifffile; run: pip install 'everseg\[tiff\]'")
