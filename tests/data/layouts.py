"""Data sets as they are downloaded, painted small: images of mottled ground with a dark disc, and masks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = (40, 48)
"""Height and width."""


def disc(number: int, at: float = 0.5, radius: float = 9) -> NDArray[np.bool_]:
    height, width = SIZE
    rng = np.random.default_rng(1000 + number)
    y, x = rng.uniform(16, height - 16), width * at + rng.uniform(-4, 4)
    rows, columns = np.mgrid[:height, :width]
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 < radius**2)


def paint(path: Path, number: int, mask: NDArray[np.bool_], grey: bool = False) -> None:
    rng = np.random.default_rng(number)
    ground = Image.fromarray(rng.integers(60, 230, (6, 7, 3), np.uint8)).resize(
        SIZE[::-1], Image.Resampling.BICUBIC
    )
    pixels = np.asarray(ground) // 2 * 2 + rng.integers(0, 2, (*SIZE, 3), np.uint8)
    pixels = np.where(mask[..., None], pixels // 4, pixels).astype(np.uint8)
    save(path, pixels.mean(2).astype(np.uint8) if grey else pixels)


def save(path: Path, pixels: NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    Image.fromarray(pixels).save(path)


def drive(root: Path, count: int = 5, truth_of_test: bool = True) -> Path:
    """DRIVE: two annotators of the test images, and the field of view."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    view = (rows - 20) ** 2 + (columns - 24) ** 2 < 19**2
    for split, first in (("training", 21), ("test", 1)):
        for n in range(first, first + count):
            mask, name = disc(n), f"{n:02d}"
            paint(root / split / "images" / f"{name}_{split}.tif", n, mask)
            save(root / split / "mask" / f"{name}_{split}_mask.gif", view)
            if split == "training" or truth_of_test:
                save(root / split / "1st_manual" / f"{name}_manual1.gif", mask)
            if split == "test" and truth_of_test:
                save(root / split / "2nd_manual" / f"{name}_manual2.gif", disc(n, radius=8))
    return root


def chase(root: Path, patients: int = 5) -> Path:
    """CHASE_DB1: both eyes of each patient, images and two annotators' masks in one folder."""
    for n in range(1, patients + 1):
        for eye in "LR":
            number = 2 * n + (eye == "R")
            paint(root / f"Image_{n:02d}{eye}.jpg", number, disc(number))
            for radius, end in ((9, "1stHO"), (8, "2ndHO")):
                mask = disc(number, radius=radius)
                Image.fromarray(mask).save(root / f"Image_{n:02d}{eye}_{end}.png")  # 1-bit, as the real ones
    return root


def weizmann(root: Path, images: Sequence[str] = ("horse",), masks: str = "masks", count: int = 6) -> Path:
    """Folders named after what they show, masks as JPEG."""
    for n in range(count):
        for folder in images:
            paint(root / folder / f"horse{n:03d}.jpg", n, disc(n), grey=folder == "gray")
        save(root / masks / f"horse{n:03d}.jpg", disc(n))
    return root


def kvasir(root: Path, count: int = 6) -> Path:
    """Kvasir-SEG: images, masks as JPEG, and boxes in a JSON that is not COCO's."""
    for n in range(count):
        name = f"cju{(n * 7919 + 13) % 9973:04d}qk{chr(97 + n)}"
        paint(root / "images" / f"{name}.jpg", n, disc(n))
        save(root / "masks" / f"{name}.jpg", disc(n))
    (root / "kavsir_bboxes.json").write_text('{"cju0013qka": {"height": 40, "width": 48, "bbox": []}}')
    return root


def isic(root: Path, count: int = 4) -> Path:
    """ISIC 2016: data and ground truth in folders of long names."""
    for split, first in (("Training", 0), ("Test", 50)):
        for n in range(first, first + count):
            paint(root / f"ISBI2016_ISIC_Part1_{split}_Data" / f"ISIC_{n:07d}.jpg", n, disc(n))
            truth = root / f"ISBI2016_ISIC_Part1_{split}_GroundTruth"
            save(truth / f"ISIC_{n:07d}_Segmentation.png", disc(n))
    return root


def dsb(root: Path, count: int = 5) -> Path:
    """DSB 2018: a folder for each image, a mask for each nucleus; test images have none."""
    for n in range(count):
        parts = [disc(n, at, 5) for at in (0.25, 0.75)][: 1 + n % 2]
        home = root / "stage1_train" / f"{n * 7919 + 13:06x}ab"
        paint(home / "images" / f"{home.name}.png", n, np.any(parts, axis=0))
        for k, part in enumerate(parts):
            save(home / "masks" / f"{n * 31 + k:08x}.png", part)
    for n in range(50, 53):
        home = root / "stage1_test" / f"{n * 7919 + 13:06x}ab"
        paint(home / "images" / f"{home.name}.png", n, disc(n))
    return root


def patients(root: Path, count: int = 5, slices: int = 3) -> Path:
    """Slices of volumes, of which one patient has several."""
    for n in range(count):
        for k in range(slices):
            name = f"patient{n:03d}_slice{k:02d}"
            paint(root / "images" / f"{name}.png", slices * n + k, disc(slices * n + k))
            save(root / "masks" / f"{name}_mask.png", disc(slices * n + k))
    return root
