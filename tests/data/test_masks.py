"""What counts as foreground in every kind of mask file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everseg.data import mask_rule, read_mask
from everseg.data.masks import largest_part
from everseg.errors import UserError

TRUTH = np.array([[0, 1, 1], [0, 0, 1]], bool)


def binary_masks() -> dict[str, Image.Image]:
    grey = TRUTH.astype(np.uint8) * 255
    palette = Image.fromarray(TRUTH.astype(np.uint8) * 3)
    palette.putpalette([0, 0, 0] * 3 + [200, 0, 0])
    zero = np.zeros_like(grey)
    return {
        "0 and 255": Image.fromarray(grey),
        "0 and 1": Image.fromarray(TRUTH.astype(np.uint8)),
        "1-bit": Image.fromarray(TRUTH),
        "palette": palette,
        "rgb": Image.fromarray(np.dstack([grey] * 3)),
        "blue on black": Image.fromarray(np.dstack([zero, zero, grey])),
        "rgba": Image.fromarray(np.dstack([grey, grey, grey, grey])),
        "16-bit": Image.fromarray(TRUTH.astype(np.uint16) * 65535),
        "16-bit 0 and 1": Image.fromarray(TRUTH.astype(np.uint16)),
        "grey and alpha": Image.fromarray(grey).convert("LA"),
    }


@pytest.mark.parametrize("threshold", [127, "==255"])
@pytest.mark.parametrize("kind", binary_masks())
def test_all_binary_forms_read_alike(tmp_path: Path, kind: str, threshold: int | str) -> None:
    binary_masks()[kind].save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png", mask_rule(threshold)), TRUTH)


def test_threshold_values_and_void(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    Image.fromarray(np.array([[0, 127, 128, 254, 255]], np.uint8)).save(path)
    assert read_mask(path, mask_rule()).tolist() == [[False, False, True, True, True]]
    assert read_mask(path, mask_rule("==255")).tolist() == [[False, False, False, False, True]]
    assert read_mask(path, mask_rule(10)).tolist() == [[False, True, True, True, True]]
    assert read_mask(path, mask_rule(values=[127, 254])).tolist() == [[False, True, False, True, False]]
    palette = Image.fromarray(np.array([[0, 1, 20, 255]], np.uint8))
    palette.putpalette(list(range(256)) * 3)
    palette.save(path)
    assert read_mask(path, mask_rule()).tolist() == [[False, True, True, False]]
    assert read_mask(path, mask_rule(values=[20, 255])).tolist() == [[False, False, True, True]]


def test_float_masks(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0.4, 0.6, 1.0]], np.float32)).save(tmp_path / "m.tiff")
    assert read_mask(tmp_path / "m.tiff", mask_rule()).tolist() == [[False, False, True, True]]
    Image.fromarray(np.array([[0, np.nan]], np.float32)).save(tmp_path / "m.tiff")
    with pytest.raises(UserError, match=r"m\.tiff contains NaN"):
        read_mask(tmp_path / "m.tiff", mask_rule())


def test_masks_without_an_object(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    Image.new("L", (3, 2)).save(path)
    with pytest.raises(UserError, match=r"m\.png is an empty mask"):
        read_mask(path, mask_rule())
    Image.fromarray(np.array([[0, 8]], np.uint8)).save(path)
    assert read_mask(path, mask_rule()).tolist() == [[False, True]]
    with pytest.raises(UserError, match=r"under mask_threshold: 127 \(it has the values 0, 8\).*mask_values"):
        read_mask(path, mask_rule(127))


@pytest.mark.parametrize("wrong", [255, -1, "255", "==256", "== x", 3.5, True])
def test_wrong_thresholds(wrong: object) -> None:
    with pytest.raises(UserError, match="mask_threshold"):
        mask_rule(wrong)  # type: ignore[arg-type]


def test_largest_part_is_one_connected_piece_of_one_class() -> None:
    labels = np.zeros((10, 10), np.int32)
    labels[0, 0:8] = 1  # class 1 covers more in all, in two pieces
    labels[9, 0:8] = 1
    labels[3:6, 0:3] = 2
    labels[7, :] = 255
    assert np.array_equal(largest_part(labels), labels == 2)
    assert not largest_part(np.full((3, 3), 255, np.int32)).any()
