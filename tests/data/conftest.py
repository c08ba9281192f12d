"""Small folders of samples, and nothing kept from one test to the next."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write `images/` and `masks/` with `count` noisy pictures (40x30), each with a rectangle as its mask."""

    def make(name: str = "domain", count: int = 4, seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        (folder / "masks").mkdir()
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(
                folder / "images" / f"im{i}.png"
            )
            mask = np.zeros((30, 40), np.uint8)
            mask[5 + i : 15 + i, 8:20] = 255
            Image.fromarray(mask).save(folder / "masks" / f"im{i}.png")
        return folder

    return make


@pytest.fixture
def write_stream(tmp_path: Path) -> Callable[[str], Path]:
    """Write a stream file and return its path."""

    def write(text: str) -> Path:
        path = tmp_path / "stream.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def make_maps(tmp_path: Path) -> Callable[..., Path]:
    """Write `images/` and `masks/` (40x30): image i has the numbers listed for it, each in a column."""

    def make(name: str, numbers: Sequence[Sequence[int]], seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        (folder / "masks").mkdir()
        for i, here in enumerate(numbers):
            pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"im{i}.png")
            classes = np.zeros((30, 40), np.uint8)
            for column, number in enumerate(here):
                classes[4:20, 3 * column + 1 : 3 * column + 4] = number
            Image.fromarray(classes).save(folder / "masks" / f"im{i}.png")
        return folder

    return make
