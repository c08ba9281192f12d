"""Maps of numbers: every form in which class maps and instance maps are kept, and damage that is noticed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everseg.data import InstancesReader, check
from everseg.data.classes.presence import occurring
from everseg.data.classes.voc_colours import VOC_COLOURS, VOC_TABLE
from everseg.data.numbers import read_labels, table_of
from everseg.errors import UserError

NUMBERS = np.zeros((40, 60), np.uint8)
NUMBERS[5:20, 5:20], NUMBERS[5:20, 30:50], NUMBERS[25:38, 10:40] = 1, 2, 5
FORMS = {
    "grey": Image.fromarray(NUMBERS),
    "16 bits": Image.fromarray(NUMBERS.astype(np.uint16)),
    "equal channels": Image.fromarray(np.dstack([NUMBERS] * 3)),
    "alpha": Image.fromarray(np.dstack([*[NUMBERS] * 3, np.full_like(NUMBERS, 255)])),
    "floats": Image.fromarray(NUMBERS.astype(np.float32)),
    "colours": Image.fromarray(VOC_COLOURS[NUMBERS]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_numbers(tmp_path: Path, form: str) -> None:
    path = tmp_path / "m.tiff"
    FORMS[form].save(path)
    assert np.array_equal(read_labels(path, VOC_TABLE), NUMBERS)


def test_a_colour_without_a_number_is_refused(tmp_path: Path) -> None:
    FORMS["colours"].save(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"m\.png is in colour \(it has .*#800000.* set mask_colours"):
        read_labels(tmp_path / "m.png")
    with pytest.raises(UserError, match=r"m\.png has the colours .*stand for no number"):
        read_labels(tmp_path / "m.png", table_of({1: (128, 0, 0)}))


@pytest.mark.parametrize("ending", ["jpg", "png"])
@pytest.mark.parametrize("form", ["grey", "colours"])
def test_maps_that_were_saved_or_resized_with_loss_are_refused(
    tmp_path: Path, ending: str, form: str
) -> None:
    image = Image.fromarray(NUMBERS * np.uint8(40)) if form == "grey" else FORMS["colours"]
    if ending == "png":
        image = image.resize((30, 20), Image.Resampling.BILINEAR).resize((60, 40), Image.Resampling.BILINEAR)
    (tmp_path / "images").mkdir()
    (tmp_path / "instances").mkdir()
    Image.new("RGB", (60, 40)).save(tmp_path / "images" / "m.png")
    image.save(tmp_path / "instances" / f"m.{ending}")
    with pytest.raises(UserError, match=r"occur only along the borders .* nearest neighbour"):
        InstancesReader(tmp_path)
    faults = occurring([tmp_path / "instances" / f"m.{ending}"]).faults
    assert "borders of others" in str(faults[0])


def test_objects_that_have_the_borders_of_others(tmp_path: Path) -> None:
    """After smooth resizing the edge of object 2 has pixels of object 1, which has an area of its own."""
    for name in ("images", "instances"):
        (tmp_path / name).mkdir()
    for highest, refused in ((2, False), (4, True)):
        pixels = np.zeros((120, 160), np.uint8)
        for number, (row, column) in enumerate(((10, 10), (10, 90), (70, 10), (70, 90))[:highest], 1):
            pixels[row : row + 40, column : column + 40] = number
        for size, how in (((160, 120), 0), ((100, 75), Image.Resampling.NEAREST), ((100, 75), 2)):
            Image.new("RGB", size).save(tmp_path / "images" / "m.png")
            Image.fromarray(pixels).resize(size, how).save(tmp_path / "instances" / "m.png")
            if how == 2 and refused:
                with pytest.raises(UserError, match="has numbers such as 1, 2, 3 along the edges between"):
                    InstancesReader(tmp_path)
                continue
            notes = InstancesReader(tmp_path).notes
            assert len(notes) == (how == 2)
            assert all("m.png has the number 1 along the edges between smaller" in note for note in notes)


def test_palettes_that_number_one_colour_twice_are_refused(tmp_path: Path) -> None:
    for name, colours in {"a": [0, 0, 0, 200, 0, 0, 0, 200, 0], "b": [0, 0, 0, 0, 200, 0, 200, 0, 0]}.items():
        image = Image.fromarray(np.minimum(NUMBERS, 2))
        image.putpalette(colours)
        image.save(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match=r"colour \(0, 200, 0\) is number 2 in .*a\.png and 1 in .*b\.png"):
        occurring([tmp_path / "a.png", tmp_path / "b.png"])


@pytest.mark.parametrize(
    "colours", [[(5, 0, 0), (5, 5, 0), (0, 5, 0)], [(128, 0, 0), (0, 128, 0), (0, 0, 9)]]
)
def test_each_colour_of_an_instance_map_is_an_object(
    tmp_path: Path, colours: list[tuple[int, int, int]]
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "instances").mkdir()
    pixels = np.zeros((*NUMBERS.shape, 3), np.uint8)
    for number, colour in zip((1, 2, 5), colours, strict=True):
        pixels[NUMBERS == number] = colour
    pixels[0] = (224, 224, 192)  # VOC's border, which is no object
    Image.new("RGB", (60, 40)).save(tmp_path / "images" / "m.png")
    Image.fromarray(pixels).save(tmp_path / "instances" / "m.png")
    reader = InstancesReader(tmp_path)
    numbers = {r + 256 * g + 65536 * b: n for (r, g, b), n in zip(colours, (1, 2, 5), strict=True)}
    assert [sample.name for sample in reader] == [f"m.png#{number}" for number in sorted(numbers)]
    for number, sample in zip(sorted(numbers), reader, strict=True):
        assert np.array_equal(sample.masks[0].numpy(), numbers[number] == NUMBERS)


def test_maps_that_are_masks_or_number_their_background_are_doubted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("masks", "ground"):
        for n in range(2):
            for name, pixels in {
                "images": rng.integers(0, 256, (40, 60, 3), np.uint8),
                "instances": np.where(NUMBERS > 0, 255, 0) if split == "masks" else (NUMBERS + 1) % 6,
            }.items():
                (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / split / name / f"{n}.png")
    path = tmp_path / "stream.yaml"
    path.write_text(
        "stages: [{name: a, train: {kind: instances, path: masks}, test: {kind: instances, path: ground}}]"
    )
    masks, ground = check(path).findings
    assert masks.split == "train" and "no map has a number but 255" in masks.what
    assert (
        ground.split == "test" and "the object is all around the rest, and not in the others" in ground.what
    )
