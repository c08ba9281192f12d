"""Small folders of samples, and the place of the real data."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def data_root() -> Path:
    """The folder of real data; tests that ask for it are skipped where EVERSEG_DATA is not set."""
    root = os.environ.get("EVERSEG_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("EVERSEG_DATA is not set")
    return Path(root).resolve()


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
