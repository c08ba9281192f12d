"""Pairing of images and masks by their names: of any bytes, in any form, by patterns."""

import os
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from everseg.data import FolderReader, InstancesReader, Samples, Stream, check, folder_maps
from everseg.data.affixes import common_affixes
from everseg.data.globs import Glob
from everseg.data.names import is_litter
from everseg.data.pairing import pair_files
from everseg.data.samples import PartlyReadable
from everseg.errors import UserError, printable
from everseg.types import PromptSample, Stage

Make = Callable[..., Path]


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def paired(root: Path, **options: Any) -> dict[str, list[str]]:
    """What pairs without a problem: masks by the sample's name."""
    pairs, problems = pair_files(root, options.get("images"), options.get("masks"), options.get("suffix", ""))
    assert not problems, problems
    return {pair.name: [mask.relative_to(root).as_posix() for mask in pair.masks] for pair in pairs}


def said(root: Path, **options: Any) -> str:
    return "\n".join(pair_files(root, options.get("images"), options.get("masks"))[1])


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("scan.0.rgb.jpg", "scan.0.rgb.png"),
        ("im0.jpg", "im0.jpg.png"),
        ("IM0.JPG", "im0.png"),
        ("Im0.TIF", "im0.tif.PNG"),
        (" im 0 .png", " im 0 .png"),
        (unicodedata.normalize("NFD", "café.png"), unicodedata.normalize("NFC", "café.png")),
        (unicodedata.normalize("NFC", "Å1.png"), unicodedata.normalize("NFD", "å1.png")),
        ("im#0;'\"\n.png", "im#0;'\"\n.png"),
        ("x" * 246 + ".png", "x" * 246 + ".gif"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows allows fewer characters in names")
def test_names_that_pair(tmp_path: Path, image: str, mask: str) -> None:
    touch(tmp_path, f"images/{image}", f"masks/{mask}", "images/other.png", "masks/other.png")
    assert paired(tmp_path)[image] == [f"masks/{mask}"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_names_that_are_no_text(make_folder: Make) -> None:
    folder = make_folder(count=3)
    raw = os.fsencode(folder)
    for part in (b"images", b"masks"):
        for i in range(3):
            os.rename(raw + b"/%s/im%d.png" % (part, i), raw + b"/%s/M\xfcller%d.png" % (part, i))
    reader = FolderReader(folder)
    assert [s.name for s in reader] == [f"M\\xfcller{i}.png" for i in range(3)]
    assert len(reader.fingerprint()) == 64
    os.unlink(raw + b"/masks/M\xfcller1.png")
    with pytest.raises(PartlyReadable, match=r"has M\\xfcller1\.png without a mask") as caught:
        FolderReader(folder)
    caught.value.problems[0].encode()
    with pytest.raises(UserError, match=r"M\\xfcller0"):
        (folder / "images" / os.fsdecode(b"M\xfcller0.png")).write_text("broken")
        reader[0]


def test_messages_stay_on_one_line() -> None:
    assert printable("a\nb\t\x07\u2028é e\u0301 \udcfc") == "a\\nb\\t\\x07\\u2028é e\u0301 \\xfc"
    assert str(UserError("im\n0.png is damaged")) == "im\\n0.png is damaged"


def test_litter_is_passed_over(make_folder: Make) -> None:
    folder = make_folder()
    for part in ("images", "masks"):
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._im0.png"):
            (folder / part / name).write_bytes(b"\0")
        for name in ("@eaDir", "__MACOSX", ".ipynb_checkpoints"):
            touch(folder / part / name, "im0.png")
    assert len(FolderReader(folder)) == 4
    assert len(FolderReader(folder, images="images/**", masks="masks/**")) == 4
    assert is_litter("im0.png:Zone.Identifier") and is_litter("Icon\r") and is_litter("$RECYCLE.BIN")
    assert not is_litter("thumbs.png") and not is_litter("im.db")


def test_both_forms_of_a_letter_in_one_folder_are_explained(tmp_path: Path) -> None:
    forms = [unicodedata.normalize(form, "café.png") for form in ("NFC", "NFD")]
    if len(list(touch(tmp_path / "probe", *forms).iterdir())) == 1:
        pytest.skip("this file system holds one of the forms only")
    touch(tmp_path, *(f"images/{form}" for form in forms), "masks/café.png")
    problem = said(tmp_path)
    assert "two forms of Unicode" in problem and problem.count("\n") == 0


def test_a_copy_in_another_format_is_refused_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "images/im0.jpg", "images/im0.png", "images/im1.jpg", "masks/im0.png", "masks/im1.png")
    assert "im0.jpg, im0.png with the same stem; keep one of each" in said(tmp_path)
    # Masks named after the whole names leave nothing open.
    (tmp_path / "masks/im0.png").unlink()
    touch(tmp_path, "masks/im0.png.png", "masks/im0.jpg.png")
    assert paired(tmp_path)["im0.jpg"] == ["masks/im0.jpg.png"] and len(paired(tmp_path)) == 3
    touch(tmp_path, "images/IM1.jpg")
    if len(list((tmp_path / "images").iterdir())) == 4:
        assert "IM1.jpg without a mask" in said(tmp_path)


@pytest.mark.parametrize(
    ("image", "mask", "fix"),
    [
        ("im{}.png", "im{}_mask.png", "set mask_suffix: _mask"),
        ("ISIC_{}.jpg", "ISIC_{}_Segmentation.png", "set mask_suffix: _Segmentation"),
        ("im{}.png", "mask_{}.png", 'images: "images/im{id}.*" and masks: "masks/mask_{id}.*"'),
        (
            "{}_training.tif",
            "{}_manual1.gif",
            'images: "images/{id}_training.*" and masks: "masks/{id}_manual1.*"',
        ),
    ],
)
def test_what_would_pair_is_said(tmp_path: Path, image: str, mask: str, fix: str) -> None:
    for i in range(18, 23):
        touch(tmp_path, f"images/{image.format(i)}", f"masks/{mask.format(i)}")
    problem = said(tmp_path)
    assert fix in problem and "without a mask" in problem and problem.count("\n") == 0
    options = fix.split(": ", 1)[1].replace('"', "").split(" and masks: ")
    if fix.startswith("set mask_suffix"):
        assert len(paired(tmp_path, suffix=options[0])) == 5
    else:
        assert len(paired(tmp_path, images=options[0], masks=options[1])) == 5


def test_numbers_of_another_width_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "images/1.png", "images/2.png", "masks/0001.png", "masks/0002.png")
    assert "different widths (1.png and 0001.png); rename either" in said(tmp_path)
    touch(tmp_path, "images/0001.png")
    assert "different widths" not in said(tmp_path)


def test_affixes() -> None:
    found = common_affixes(["21_training", "22_training"], ["21_manual1", "22_manual1", "22_manual2"])
    assert found is not None and (found.image, found.mask) == (("", "_training"), ("", "_manual1"))
    assert common_affixes(["a", "b"], ["c", "d"]) is None and common_affixes([], ["c"]) is None
    names = [f"Image_0{i}{eye}{mask}" for i in (1, 2) for eye in "LR" for mask in ("", "_1stHO", "_2ndHO")]
    found = common_affixes(names, names)
    assert found is not None and found.mask in (("", "_1stHO"), ("", "_2ndHO")) and found.ids == 4


# ---------------------------------------------------------------- patterns

DRIVE = [
    f"training/{part.format(i)}"
    for i in (1, 2, 10)
    for part in ("images/{}_training.tif", "1st/{}_manual1.gif")
]
CHASE = [
    f"Image_0{i}{eye}{end}" for i in (1, 2) for eye in "LR" for end in (".jpg", "_1stHO.png", "_2ndHO.png")
]
DSB = ["s/a/images/a.png", "s/a/masks/1.png", "s/a/masks/2.png", "s/b/images/b.png", "s/b/masks/3.png"]
NESTED = ["images/a/im0.png", "images/b/im0.png", "masks/a/im0.png", "masks/b/im0.png"]
FLAT = ["im1.png", "im10.png", "im1_mask.png", "im10_mask.png"]


@pytest.mark.parametrize(
    ("files", "images", "masks", "expected"),
    [
        # {id} in the masks alone: the beginning of the image's name up to a separator.
        (DRIVE, "training/images/*.tif", "training/1st/{id}_manual1.gif", {
            f"{i}_training.tif": [f"training/1st/{i}_manual1.gif"] for i in (1, 2, 10)
        }),
        (DRIVE, "training/images/{id}_training.tif", "training/1st/*_manual1.gif", {
            f"{i}_training.tif": [f"training/1st/{i}_manual1.gif"] for i in (1, 2, 10)
        }),
        (CHASE, "*.JPG", "{id}_1stHO.png", {
            f"Image_0{i}{e}.jpg": [f"Image_0{i}{e}_1stHO.png"] for i in (1, 2) for e in "LR"
        }),
        (CHASE, "Image_01?.jpg", "Image_01?_2ndHO.png", {
            f"Image_01{e}.jpg": [f"Image_01{e}_2ndHO.png"] for e in "LR"
        }),
        (CHASE[:3] + CHASE[6:9], ("Image_01*.jpg", "Image_02L.jpg"), ("{id}_1stHO.png", "{id}_2ndHO.png"), {
            f"Image_0{i}L.jpg": [f"Image_0{i}L_1stHO.png", f"Image_0{i}L_2ndHO.png"] for i in (1, 2)
        }),
        (DSB, "s/{id}/images/*.png", "s/{id}/masks/*.png", {
            "a/images/a.png": ["s/a/masks/1.png", "s/a/masks/2.png"], "b/images/b.png": ["s/b/masks/3.png"]
        }),
        (DSB, "s/{id}/images/{id}.png", "s/{id}/masks/*", {
            "a/images/a.png": ["s/a/masks/1.png", "s/a/masks/2.png"], "b/images/b.png": ["s/b/masks/3.png"]
        }),
        (NESTED, "images/**/*.png", "masks/**/*.png", {f"{d}/im0.png": [f"masks/{d}/im0.png"] for d in "ab"}),
        (NESTED, "images/**", "masks/**", {f"{d}/im0.png": [f"masks/{d}/im0.png"] for d in "ab"}),
        (NESTED, "images/a", "masks/a", {"im0.png": ["masks/a/im0.png"]}),
        (FLAT, "{id}.png", "{id}_mask.png", {"im1.png": ["im1_mask.png"], "im10.png": ["im10_mask.png"]}),
        (FLAT, "*.png", "{id}_mask*.png", {"im1.png": ["im1_mask.png"], "im10.png": ["im10_mask.png"]}),
        (["i/im1.png", "i/im10.png", "m/im1a.png", "m/im1_b.png", "m/im10.png"], "i/*", "m/{id}*", {
            "im1.png": ["m/im1_b.png", "m/im1a.png"], "im10.png": ["m/im10.png"]
        }),
    ],
)  # fmt: skip
def test_patterns(
    tmp_path: Path, files: Sequence[str], images: Any, masks: Any, expected: dict[str, list[str]]
) -> None:
    touch(tmp_path, *files)
    assert paired(tmp_path, images=images, masks=masks) == expected


def test_patterns_that_do_not_fit(tmp_path: Path) -> None:
    touch(tmp_path, *FLAT, "im2.png", "im3_mask.png")
    problems = said(tmp_path, images="*.png", masks="{id}_mask.png")
    assert "the images im2.png without a mask like {id}_mask.png" in problems
    assert "the masks im3_mask.png without an image" in problems
    for images, masks, what in (
        ("*.jpg", "{id}_mask.png", "no file in .* matches '\\*.jpg'; correct images:"),
        ("*.png", "*.png", "match both images: and masks:"),
        ("none/*.png", "*.png", "none is not a folder"),
        ("", "*.png", "is empty"),
        ((), "*.png", "is empty"),
    ):
        with pytest.raises(UserError, match=what):
            pair_files(tmp_path, images, masks)
    with pytest.raises(UserError, match="in all or in none"):
        pair_files(tmp_path, "*.png", ("{id}_mask.png", "*_seg.png"))
    with pytest.raises(UserError, match="write the suffix after"):
        pair_files(tmp_path, "*.png", "{id}_mask.png", "_mask")
    touch(tmp_path, "x/p1_a.png", "x/p1_b.png", "y/p1.png")
    assert "p1_a.png, p1_b.png have the same id" in said(tmp_path, images="x/*.png", masks="y/{id}.png")


def test_what_would_pair_is_said_for_patterns_too(tmp_path: Path) -> None:
    touch(tmp_path, *(name.replace("training/", "") for name in DRIVE))
    fix = 'set images: "images/{id}_training.*" and masks: "1st/{id}_manual1.*"'
    for images, masks in (("images", "1st"), ("images/*.tif", "1st/*.gif")):
        assert fix in said(tmp_path, images=images, masks=masks)
    assert len(paired(tmp_path, images="images/{id}_training.*", masks="1st/{id}_manual1.*")) == 3


def test_patterns_may_leave_the_folder(tmp_path: Path) -> None:
    touch(tmp_path, *FLAT, "a/x.txt", "b/1_image.png", "b/1_seg.png")
    images, masks = "../im*.png", f"{tmp_path.as_posix()}/{{id}}_mask.png"
    pairs, problems = pair_files(tmp_path / "a", images, masks)
    assert [pair.name for pair in pairs] == ["im1.png", "im10.png"] and not problems
    pairs, _ = pair_files(tmp_path, "im1.png", "{id}_mask.png")
    assert [pair.name for pair in pairs] == ["im1.png"]
    with pytest.raises(UserError, match="have no folder in common"):
        pair_files(tmp_path, ("*.png", f"{tmp_path.as_posix()}/a/*"), "{id}_mask.png")
    (problem,) = pair_files(tmp_path / "a", f"{tmp_path.as_posix()}/b/*_image.png", "../b/*_se*.png")[1]
    assert "1_seg.png" in problem and "set images:" in problem


def test_a_number_is_no_beginning_of_a_longer_one() -> None:
    glob = Glob("masks/{id}*.png")
    assert list(glob.ids("im10.png", [4, 3])) == ["im10"] and list(glob.ids("im10.png", [3])) == []
    assert list(glob.ids("im1_0.png", [3])) == ["im1"] and list(glob.ids("catfish.png", [3])) == []


def draw(path: Path, mask: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(mask)).save(path)


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """An image with two masks and one with a single mask."""
    for name, columns in (("a", (2, 8)), ("b", (5,))):
        draw(tmp_path / name / "images" / f"{name}.png", np.full((12, 16, 3), 90, np.uint8))
        for column in columns:
            mask = np.zeros((12, 16), np.uint8)
            mask[2:5, column : column + 3] = 255
            draw(tmp_path / name / "masks" / f"m{column}.png", mask)
    return tmp_path


def test_several_masks_of_an_image(several: Path) -> None:
    patterns: dict[str, Any] = {"images": "{id}/images/*.png", "masks": "{id}/masks/*.png"}
    with pytest.raises(UserError, match=r"a\.png has 2 masks \(m2\.png, m8\.png\); set instances: each"):
        FolderReader(several, **patterns)
    each = FolderReader(several, **patterns, instances="each")
    assert [s.name for s in each] == ["a/images/a.png#m2", "a/images/a.png#m8", "b/images/b.png#m5"]
    assert [int(s.masks.sum()) for s in each] == [9, 9, 9]
    merged = FolderReader(several, **patterns, instances="merged")
    assert [(s.name, int(s.masks.sum())) for s in merged] == [("a/images/a.png", 18), ("b/images/b.png", 9)]
    assert len({reader.fingerprint() for reader in (each, merged)}) == 2
    draw(several / "a" / "masks" / "m8.png", np.full((5, 5), 255, np.uint8))
    with pytest.raises(UserError, match=r"m8\.png is 5x5 .* make all masks of an image the same size"):
        merged[0]
    with pytest.raises(UserError, match="has 2 maps"):
        folder_maps(several, **patterns)


def test_masks_of_another_size(make_folder: Make) -> None:
    folder = make_folder()
    full = FolderReader(folder)
    before = full[1].masks
    assert FolderReader(folder, resize_masks=True)[1].masks.equal(before)
    for i in range(4):
        path = folder / "masks" / f"im{i}.png"
        with Image.open(path) as mask:
            mask.resize((80, 60), Image.Resampling.NEAREST).save(path)
    with pytest.raises(UserError, match="its mask is 80x60"):
        full[1]
    resized = FolderReader(folder, resize_masks=True)
    assert resized[1].masks.equal(before) and resized[:2][1].masks.equal(before)
    assert resized.fingerprint() != full.fingerprint()
    draw(folder / "masks/im0.png", np.full((80, 60), 255, np.uint8))
    with pytest.raises(UserError, match="is rotated by 90 degrees"):
        resized[0]
    dot = np.zeros((300, 400), np.uint8)
    dot[1, 1] = 255
    draw(folder / "masks/im0.png", dot)
    with pytest.raises(UserError, match="vanishes"):
        resized[0]


def test_the_other_readers_take_patterns(make_maps: Make) -> None:
    root = make_maps("maps", [(1, 2), (3,)])
    (root / "masks").rename(root / "numbers")
    for i in range(2):
        (root / "numbers" / f"im{i}.png").rename(root / "numbers" / f"im{i}_map.png")
    objects = InstancesReader(root, masks="numbers/{id}_map.png")
    assert [s.name for s in objects] == ["im0.png#1", "im0.png#2", "im1.png#3"]
    maps = folder_maps(root, masks="numbers/{id}_map.png")
    assert maps.presence()[:, 1:4].tolist() == [[True, True, False], [False, False, True]]
    for part in ("images", "numbers"):
        for i, place in enumerate("xy"):
            (root / part / place).mkdir()
            (file,) = (root / part).glob(f"im{i}*")
            file.rename(root / part / place / file.name.replace("1", "0"))
    nested = folder_maps(root, images="images/**", masks="numbers/**/*_map.png")
    assert list(nested.names()) == ["x/im0.png", "y/im0.png"] and nested[1].name == "y/im0.png"
    assert nested.content(0) != nested.content(1) and len(nested[1:]) == 1
    (root / "classes.txt").write_text("x/im0 0 1\ny/im0 2\n")
    listed = folder_maps(root, images="images/**", masks="numbers/**/*_map.png", index=root / "classes.txt")
    assert (listed.presence()[:, 1:4] == nested.presence()[:, 1:4]).all()


# ---------------------------------------------------------------- names within a split


def test_names_that_occur_twice_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "twice.py").write_text(
        "import numpy as np\n"
        "from everseg import PromptSample\n"
        "image, mask = np.full((8, 8, 3), 90, np.uint8), np.eye(8, dtype=bool)\n"
        "class Lazy:\n"
        "    def __len__(self): return 2\n"
        "    def __getitem__(self, i):\n"
        "        if i > 1: raise IndexError(i)\n"
        "        return PromptSample.from_mask(image + np.uint8(i), mask, name='same.png')\n"
        "def ready(): return [Lazy()[0], Lazy()[1]]\n"
        "class Told(Lazy):\n"
        "    def names(self): return ['same.png', 'same.png']\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "stream.yaml"
    for reader in ("ready", "Told"):
        path.write_text(
            f"stages: [{{name: a, train: {{kind: 'twice:{reader}'}}, test: {{kind: 'twice:Lazy'}}}}]"
        )
        with pytest.raises(UserError, match=r"stage 'a', train: .* two samples named same\.png"):
            Stream.from_yaml(path)
        assert not check(path).ok
    path.write_text("stages: [{name: a, train: {kind: 'twice:Lazy'}, test: {kind: 'twice:Lazy'}}]")
    assert "two samples named same.png" in str(check(path))
    stream = Stream.from_yaml(path)
    with pytest.raises(UserError, match=r"two samples named same\.png"):
        stream.fingerprint(stream.stages[0])
    twice = list(stream.stages[0].test)
    with pytest.raises(UserError, match=r"stage 'a', test has two samples named same\.png"):
        Stream((Stage(0, "a", twice, twice),))


def test_files_of_one_name_in_two_folders(make_folder: Make) -> None:
    first, second = make_folder("site/a", seed=1), make_folder("site/b", seed=2)
    files = [folder / "images" / "im0.png" for folder in (first, second)]
    masks = [folder / "masks" / "im0.png" for folder in (first, second)]
    stream = Stream.from_arrays({"x": (files, masks)}, {"x": (files[:1], masks[:1])})
    assert [s.name for s in stream.stages[0].train] == ["a/images/im0.png", "b/images/im0.png"]
    assert [s.name for s in stream.stages[0].test] == ["im0.png"]
    reader = FolderReader(first.parent, images="*/images/*.png", masks="*/masks/*.png", limit=4)
    assert isinstance(reader, Samples) and len(set(reader.names())) == 4
    assert isinstance(reader[0], PromptSample)
