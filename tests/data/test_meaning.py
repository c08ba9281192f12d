"""What the masks of a split mean: decided once for all files, said, or refused with what settles it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from everseg.data import FolderReader, check, mask_rule
from everseg.data import kept as kept_files
from everseg.data.levels import Levels
from everseg.data.meaning import ALL, Unsettled, settled
from everseg.errors import UserError

Bools = NDArray[np.bool_]
BLACK_WHITE, WHITE_BLACK = [0] * 3 + [255] * 3, [255] * 3 + [0] * 3


def disc(x: float, radius: float = 9) -> Bools:
    yy, xx = np.mgrid[:48, :64]
    return np.asarray((xx - x) ** 2 + (yy - 24) ** 2 < radius**2)


TRUTHS = [disc(20 + 6 * n) for n in range(4)]


def with_palette(indices: NDArray[np.generic], palette: list[int]) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(palette)
    return image


def grey(mask: Bools, value: int = 255) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * np.uint8(value))


def soft(mask: Bools) -> Image.Image:
    return grey(mask).resize((32, 24), Image.Resampling.BILINEAR).resize((64, 48), Image.Resampling.BILINEAR)


def red(mask: Bools) -> Image.Image:
    return Image.fromarray(np.where(mask[..., None], [255, 0, 0], [0, 0, 0]).astype(np.uint8))


def written(folder: Path, make: Callable[[int, Bools], Image.Image], ending: str = "png") -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for n, truth in enumerate(TRUTHS):
        files.append(folder / f"im{n}.{ending}")
        make(n, truth).save(files[-1], **({"quality": 95} if ending == "jpg" else {}))
    return files


EXACT: dict[str, tuple[Callable[[int, Bools], Image.Image], str]] = {
    "0 and 255": (lambda n, m: grey(m), "png"),
    "0 and 1": (lambda n, m: grey(m, 1), "png"),
    "0 and 38": (lambda n, m: grey(m, 38), "png"),
    "1 bit": (lambda n, m: Image.fromarray(m), "png"),
    "white first": (lambda n, m: with_palette(~m, WHITE_BLACK), "png"),
    "white last": (lambda n, m: with_palette(m, BLACK_WHITE), "png"),
    "white first or last": (
        lambda n, m: with_palette(m ^ bool(n % 2), WHITE_BLACK if n % 2 else BLACK_WHITE),
        "png",
    ),
    "white at 255": (lambda n, m: grey(m).convert("P"), "png"),
    "gif": (lambda n, m: with_palette(~m, WHITE_BLACK), "gif"),
    "quantized": (lambda n, m: grey(m).convert("RGB").quantize(2), "png"),
    "palette in colour": (lambda n, m: with_palette(m * 3, [0] * 9 + [200, 0, 0]), "png"),
    "red on black": (lambda n, m: red(m), "png"),
    "16 bits": (lambda n, m: Image.fromarray(m.astype(np.uint16) * np.uint16(65535)), "png"),
    "floats": (lambda n, m: Image.fromarray(m.astype(np.float32)), "tiff"),
    "alpha beside": (lambda n, m: grey(m).convert("RGBA"), "png"),
}


@pytest.mark.parametrize("kind", EXACT)
def test_every_two_valued_form_gives_the_object_exactly(tmp_path: Path, kind: str) -> None:
    make, ending = EXACT[kind]
    files = written(tmp_path, make, ending)
    meaning = settled(files, mask_rule())
    for file, truth in zip(files, TRUTHS, strict=True):
        assert np.array_equal(meaning.mask(file), truth)
    assert str(meaning).endswith("(4 files)") and "object = " in str(meaning)


@pytest.mark.parametrize("kind", ["jpg", "smooth", "red jpg"])
def test_soft_borders_are_cut_in_the_middle(tmp_path: Path, kind: str) -> None:
    make = {"jpg": lambda n, m: grey(m), "smooth": lambda n, m: soft(m), "red jpg": lambda n, m: red(m)}[kind]
    files = written(tmp_path, make, "png" if kind == "smooth" else "jpg")
    meaning = settled(files, mask_rule())
    assert meaning.soft and "with soft borders" in str(meaning)
    for file, truth in zip(files, TRUTHS, strict=True):
        assert (meaning.mask(file) != truth).mean() < 0.02


def three_greys(values: Sequence[int]) -> Callable[[int, Bools], Image.Image]:
    def make(n: int, mask: Bools) -> Image.Image:
        labels = np.zeros(mask.shape, np.uint8)
        for x, value in zip((10, 32, 54), values, strict=True):
            labels[disc(x, 7)] = value
        return Image.fromarray(labels)

    return make


@pytest.mark.parametrize("values", [(64, 128, 255), (1, 2, 255), (1, 2, 3)])
def test_more_than_two_greys_are_refused_until_said(tmp_path: Path, values: tuple[int, ...]) -> None:
    files = written(tmp_path, three_greys(values))
    says = rf"im0\.png hold the values 0 \(8\d\.\d% of the pixels\), {values[0]} \(.* mask_values: \["
    with pytest.raises(UserError, match=says):
        settled(files, mask_rule())
    chosen = settled(files, mask_rule(values=values[:2])).mask(files[0])
    assert np.array_equal(chosen, disc(10, 7) | disc(32, 7))
    left = settled(files, mask_rule(void=values[:2])).mask(files[0])
    assert np.array_equal(left, disc(54, 7))
    dark = settled(files, mask_rule(void=values[1:])).mask(files[0])
    assert np.array_equal(dark, disc(10, 7))


def test_files_that_disagree_are_refused(tmp_path: Path) -> None:
    files = written(tmp_path, lambda n, m: grey(m, 1 if n % 2 else 255))
    with pytest.raises(UserError, match=r"1 \(.*, in 2 of 4 files\), 255 \(.*mask_values: \[1, 255\]"):
        settled(files, mask_rule())
    files = written(tmp_path, lambda n, m: with_palette(m, [0, 0, 0, 200, n, 0]))
    with pytest.raises(UserError, match=r"palette index 1 is .*200, 0, 0.* and .*200, 1, 0.*one palette"):
        settled(files, mask_rule())
    files = written(tmp_path, lambda n, m: with_palette(m * 3, [0] * 9 + [200, 0, 0]) if n else grey(m))
    with pytest.raises(UserError, match=r"palette in colour and .*im0\.png is one without"):
        settled(files, mask_rule())


def test_colours_are_refused_until_said(tmp_path: Path) -> None:
    def two(n: int, mask: Bools) -> Image.Image:
        pixels = np.zeros((*mask.shape, 3), np.uint8)
        pixels[disc(16, 7)], pixels[disc(48, 7)] = (48, 112, 32), (176, 112, 32)
        return Image.fromarray(pixels)

    files = written(tmp_path, two)
    with pytest.raises(UserError, match=r"#307020 .*mask_colours: \[\[48, 112, 32\], \[176, 112, 32\]\]"):
        settled(files, mask_rule())
    rule = mask_rule(colours=["#307020", [176, 112, 32]])
    assert np.array_equal(settled(files, rule).mask(files[0]), disc(16, 7) | disc(48, 7))
    rule = mask_rule(colours=["#307020"])
    assert np.array_equal(settled(files, rule).mask(files[0]), disc(16, 7))


def test_deep_greys_among_colours_are_refused_as_others_are(tmp_path: Path) -> None:
    coloured = np.zeros((48, 64, 3), np.uint8)
    coloured[TRUTHS[0]] = (255, 0, 0)
    Image.fromarray(coloured).save(tmp_path / "a.png")
    Image.fromarray(TRUTHS[1].astype(np.uint16) * np.uint16(7000)).save(tmp_path / "b.png")
    with pytest.raises(Unsettled, match=r"mask_colours: \[\[255, 0, 0\], \[255, 255, 255\]\]"):
        settled([tmp_path / "a.png", tmp_path / "b.png"], mask_rule())


def test_black_of_a_palette_in_colour_is_background_and_nothing_else(tmp_path: Path) -> None:
    files = written(tmp_path, lambda n, m: with_palette(m, [68, 1, 84, 253, 231, 37]))
    with pytest.raises(UserError, match=r"palette indices 0 \(68, 1, 84\).* mask_values: \[0, 1\]"):
        settled(files, mask_rule())
    assert np.array_equal(settled(files, mask_rule(values=[1])).mask(files[0]), TRUTHS[0])


def test_every_index_that_looks_like_the_background_is_background(tmp_path: Path) -> None:
    def repeated(n: int, mask: Bools) -> Image.Image:
        return with_palette(
            np.where(mask, 1, np.where(disc(8, 4), 2 + n, 0)), [0, 0, 0, 255, 0, 0] + [0] * 12
        )

    files = written(tmp_path, repeated)
    for chosen in (files, files[:1]):  # The others are held to it, with indices that were not looked at.
        meaning = settled(chosen, mask_rule())
        for file, truth in zip(files, TRUTHS, strict=True):
            assert np.array_equal(meaning.mask(file), truth & ~disc(8, 4))


def test_black_at_another_index_than_0_has_to_be_said(tmp_path: Path) -> None:
    files = written(tmp_path, lambda n, m: with_palette(np.where(m, 9, 5), [0] * 27 + [255, 0, 0]))
    with pytest.raises(UserError, match=r"palette indices 5 \(0, 0, 0\).*mask_values: \[5, 9\]"):
        settled(files, mask_rule())


@pytest.mark.parametrize("dark", [(32, 0, 0), (7, 0, 0)])
def test_dark_colours_are_objects(tmp_path: Path, dark: tuple[int, int, int]) -> None:
    def coloured(n: int, mask: Bools, beside: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
        pixels = np.zeros((*mask.shape, 3), np.uint8)
        pixels[disc(8, 6)], pixels[mask] = beside, dark
        return Image.fromarray(pixels)

    files = written(tmp_path, coloured)
    assert np.array_equal(settled(files, mask_rule()).mask(files[0]), TRUTHS[0])
    files = written(tmp_path, lambda n, m: coloured(n, m, (128, 0, 0)))
    with pytest.raises(UserError, match=rf"#{dark[0]:02x}0000 .*mask_colours: \[\[{dark[0]}, 0, 0\], \[128"):
        settled(files, mask_rule())


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_strong_compression_leaves_two_values(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    files = [folder / f"im{n}.{ending}" for n in range(4)]
    for file, truth in zip(files, TRUTHS, strict=True):
        lossy = file.with_suffix(".jpg") if ending == "png" else file
        grey(truth).save(lossy, quality=20)
        if ending == "png":
            Image.open(lossy).save(file)
    meaning = settled(files, mask_rule())
    for file, truth in zip(files, TRUTHS, strict=True):
        assert (meaning.mask(file) != truth).mean() < 0.03


def test_numbers_that_were_said_are_not_taken_for_others(tmp_path: Path) -> None:
    swapped = written(
        tmp_path, lambda n, m: with_palette(m ^ (n == 3), WHITE_BLACK if n == 3 else BLACK_WHITE)
    )
    meaning = settled(swapped, mask_rule(values=[1]))
    assert np.array_equal(meaning.mask(swapped[0]), TRUTHS[0])
    with pytest.raises(
        UserError, match=r"im3\.png shows palette index 1 as \(0, 0, 0\), .* set mask_colours"
    ):
        meaning.mask(swapped[3])
    files = written(tmp_path, lambda n, m: red(m))  # (255, 0, 0) is no 255.
    with pytest.raises(UserError, match=r"im0\.png is in colour, .* set mask_colours"):
        settled(files, mask_rule(values=[255])).mask(files[0])
    rule = mask_rule(colours=["#ff0000"], void=[255])
    assert np.array_equal(settled(files, rule).mask(files[0]), TRUTHS[0])


def test_small_numbers_in_a_jpeg_are_not_taken_for_black(tmp_path: Path) -> None:
    both = [Image.fromarray(np.where(m, 255, disc(8, 6) * np.uint8(2)).astype(np.uint8)) for m in TRUTHS]
    files = written(tmp_path, lambda n, m: both[n], "jpg")
    with pytest.raises(Unsettled, match="more than one could be the object") as caught:
        settled(files, mask_rule())
    assert caught.value.option == "mask_threshold: 127"


def test_files_that_were_not_looked_at_are_held_to_the_meaning(tmp_path: Path) -> None:
    tmp_path.joinpath("m").mkdir()
    files = [tmp_path / "m" / f"im{n:03d}.png" for n in range(3 * ALL)]
    for file in files:
        grey(TRUTHS[0]).save(file)
    meaning = settled(files, mask_rule())
    other = files[1]
    grey(TRUTHS[0], 1).save(other)
    with pytest.raises(UserError, match=r"im001\.png has the value 1, but the masks of this split are 0/255"):
        meaning.mask(other)
    soft(TRUTHS[0]).save(other)
    assert (meaning.mask(other) != TRUTHS[0]).mean() < 0.02
    red(TRUTHS[0]).save(other)
    with pytest.raises(UserError, match=r"im001\.png is in colour, but the masks of this split are in"):
        meaning.mask(other)
    Image.new("L", (64, 48)).save(other)
    with pytest.raises(UserError, match=r"im001\.png is an empty mask"):
        meaning.mask(other)


def test_a_kind_of_file_that_is_rare_is_looked_at(tmp_path: Path) -> None:
    files = [tmp_path / f"im{n:03d}.png" for n in range(5 * ALL)]
    for n, file in enumerate(files):
        (red(TRUTHS[0]) if n == 1 else grey(TRUTHS[0])).save(file)
    with pytest.raises(UserError, match=r"#ff0000 .*in 1 of \d+ files"):
        settled(files, mask_rule())


def test_the_meaning_is_kept_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_files, "_FRESH", 0.0)
    files = written(tmp_path / "masks", lambda n, m: grey(m))
    first = settled(files, mask_rule())
    assert len(list((tmp_path / "cache" / "meaning").iterdir())) == 1
    monkeypatch.setattr("everseg.data.meaning.read_raster", lambda path: pytest.fail("read again"))
    assert settled(files, mask_rule()) == first
    monkeypatch.undo()
    written(tmp_path / "masks", lambda n, m: grey(m, 1))
    assert settled(files, mask_rule()).drawn == (0, 1)


def test_pages_and_alpha_are_refused(tmp_path: Path) -> None:
    pages = [grey(truth) for truth in TRUTHS[:3]]
    pages[0].save(tmp_path / "m.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match=r"m\.tif has 3 pages"):
        settled([tmp_path / "m.tif"], mask_rule()).mask(tmp_path / "m.tif")
    clear = Image.new("RGBA", (64, 48), (0, 0, 0, 0))
    clear.putalpha(grey(TRUTHS[0]))
    clear.save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png has one colour everywhere and its object in the alpha"):
        settled([tmp_path / "a.png"], mask_rule()).mask(tmp_path / "a.png")


def test_check_says_what_the_masks_mean(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "images").mkdir(parents=True)
        for n, file in enumerate(
            written(tmp_path / split / "masks", lambda n, m: with_palette(~m, WHITE_BLACK))
        ):
            noise = np.random.default_rng(n + 10 * (split == "test")).integers(0, 255, (48, 64, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / split / "images" / file.name)
    (tmp_path / "stream.yaml").write_text("stages: [{name: a, train: train, test: test}]")
    report = check(tmp_path / "stream.yaml")
    assert report.ok and "masks of a/train, a/test: 0/255, object = 255 (4 files)" in str(report)


def test_an_image_turned_by_exif_whose_mask_is_not_is_doubted(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split / "images").mkdir(parents=True)
        for n, file in enumerate(written(tmp_path / split / "masks", lambda n, m: grey(m))):
            noise = np.random.default_rng(n + 10 * (split == "test")).integers(0, 255, (48, 64, 3), np.uint8)
            exif = Image.Exif()
            exif[0x0112] = 3 if split == "train" else 1
            Image.fromarray(noise).save(tmp_path / split / "images" / file.name, exif=exif)
    (tmp_path / "stream.yaml").write_text("stages: [{name: a, train: train, test: test}]")
    (warning,) = check(tmp_path / "stream.yaml").findings
    assert warning.severity == "warning" and warning.what.startswith("4 images are turned by their EXIF")


def test_fingerprints_of_masks_that_read_as_before_do_not_change(tmp_path: Path) -> None:
    plain = written(tmp_path / "masks", lambda n, m: grey(m))
    (tmp_path / "images").mkdir()
    for file in plain:
        Image.new("RGB", (64, 48), (9, 9, 9)).save(tmp_path / "images" / file.name)
    assert {entry.truth()[1] for entry in FolderReader(tmp_path).entries} == {"mask_threshold: 127"}
    written(tmp_path / "masks", lambda n, m: with_palette(~m, WHITE_BLACK))
    assert {entry.truth()[1] for entry in FolderReader(tmp_path).entries} != {"mask_threshold: 127"}


def test_drawn_values_have_an_inside_and_blur_has_none() -> None:
    numbers = np.zeros((48, 64), np.uint8)
    numbers[disc(20)], numbers[disc(44)] = 40, 90
    assert Levels.of(numbers).drawn == (0, 40, 90)
    smooth = Image.fromarray(numbers).resize((32, 24), Image.Resampling.BILINEAR)
    blurred = Levels.of(np.asarray(smooth.resize((64, 48), Image.Resampling.BILINEAR)))
    assert len(blurred.pixels) > 20 and blurred.drawn == (0, 40, 90)
    line = np.zeros((48, 64), np.uint8)
    line[disc(44)], line[10, 5:40] = 255, 1  # a crack of one pixel has no inside, and is drawn
    assert Levels.of(line).drawn == (0, 1, 255)
    stray = np.where(disc(44), 255, 0)
    stray[24, 44] = 90
    assert Levels.of(stray).drawn == (0, 255)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threshold": 9, "values": [1]}, "mask_threshold and mask_values both define"),
        ({"colours": []}, "mask_colours is empty"),
        ({"colours": ["red"]}, "'red', which is not a colour"),
        ({"colours": [[1, 2, 300]]}, "which is not a colour"),
    ],
)
def test_options_that_cannot_be(options: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        mask_rule(**options)  # type: ignore[arg-type]
