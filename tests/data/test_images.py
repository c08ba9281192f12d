"""Every format and depth decodes to (3, H, W) uint8; every damaged file is a sentence that names it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from everseg.data import read_image
from everseg.errors import UserError

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def modes() -> dict[str, tuple[Image.Image, str]]:
    rgb = Image.fromarray(np.stack([GREY, GREY, GREY], axis=2))
    palette = Image.fromarray(GREY)
    palette = palette.convert("P")
    clear = palette.copy()
    clear.info["transparency"] = bytes(range(256))
    return {
        "grey": (Image.fromarray(GREY), "png"),
        "rgb": (rgb, "png"),
        "rgba": (Image.fromarray(np.dstack([GREY, GREY, GREY, 255 - GREY])), "png"),
        "la": (Image.fromarray(GREY).convert("LA"), "png"),
        "palette": (palette, "png"),
        "palette with transparency": (clear, "png"),
        "deep": (Image.fromarray(GREY.astype(np.uint16) * 257), "png"),
        "deep tiff": (Image.fromarray(GREY.astype(np.uint16) * 257), "tiff"),
        "int32": (Image.fromarray(GREY.astype(np.int32) * 257), "tiff"),
        "float 0..255": (Image.fromarray(GREY.astype(np.float32)), "tiff"),
        "float 0..1": (Image.fromarray(GREY.astype(np.float32) / 255), "tiff"),
        "8-bit values in 16 bits": (Image.fromarray(GREY.astype(np.uint16)), "png"),
        "bmp": (rgb, "bmp"),
        "webp": (rgb, "webp"),
        "gif": (Image.fromarray(GREY), "gif"),
    }


@pytest.mark.parametrize("kind", modes())
def test_lossless_forms_of_one_picture_decode_alike(tmp_path: Path, kind: str) -> None:
    image, extension = modes()[kind]
    path = tmp_path / f"picture.{extension}"
    image.save(path, **({"lossless": True} if extension == "webp" else {}))
    decoded = read_image(path)
    assert decoded.dtype == torch.uint8 and decoded.is_contiguous()
    assert torch.equal(decoded, torch.from_numpy(GREY)[None].expand(3, 3, 4))


def test_cmyk_one_bit_and_a_single_pixel(tmp_path: Path) -> None:
    Image.new("CMYK", (5, 4), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=100)
    red = read_image(tmp_path / "red.jpg").float().mean(dim=(1, 2))
    assert red[0] > 200 and red[1] < 60 and red[2] < 60
    Image.fromarray(GREY > 100).save(tmp_path / "bits.png")
    assert torch.equal(
        read_image(tmp_path / "bits.png")[0], torch.from_numpy(np.where(GREY > 100, 255, 0).astype(np.uint8))
    )
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "pixel.png")
    assert read_image(tmp_path / "pixel.png").tolist() == [[[1]], [[2]], [[3]]]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(GREY)
    exif = image.getexif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png")[0].numpy(), np.rot90(GREY, -1))


def damaged(folder: Path) -> dict[str, tuple[Path, str]]:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "whole.png")
    Image.fromarray(noise).save(folder / "whole.jpg")
    (folder / "cut.png").write_bytes((folder / "whole.png").read_bytes()[:4000])
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:1500])
    (folder / "zero.png").write_bytes(b"")
    (folder / "text.png").write_text("not an image")
    for name, value in (("nan", np.nan), ("inf", np.inf), ("negative", -5.0), ("huge", 1e6)):
        Image.fromarray(np.array([[0, 1], [2, value]], np.float32)).save(folder / f"{name}.tiff")
    says = {
        "cut.png": "damaged or truncated",
        "cut.jpg": "damaged or truncated",
        "zero.png": "0 bytes",
        "text.png": "not an image",
        "nan.tiff": "NaN",
        "inf.tiff": "infinite",
        "negative.tiff": "scale them",
        "huge.tiff": "scale them",
        "absent.png": "cannot read",
    }
    return {name: (folder / name, what) for name, what in says.items()}


def test_damaged_files_are_sentences_naming_the_file(tmp_path: Path) -> None:
    for path, what in damaged(tmp_path).values():
        with pytest.raises(UserError, match=what) as caught:
            read_image(path)
        assert str(path) in str(caught.value)


def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("L", (10, 15)).save(tmp_path / "large.png")
    assert read_image(tmp_path / "large.png").shape == (3, 15, 10)  # Pillow only warns: no warning leaks
    Image.new("L", (50, 50)).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match=r"bomb\.png has more than"):
        read_image(tmp_path / "bomb.png")
