"""Streams of classes: what a stage gets to see, and one sentence for every mistake."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from everseg.data import Stream, check, contact_sheet, folder_maps, kept
from everseg.data.classes import presence
from everseg.data.classes.stages import Together
from everseg.errors import UserError
from everseg.pictures.palette import COLOURS
from everseg.types import SemanticSample

Make = Callable[..., Path]
Write = Callable[[str], Path]

EXAMPLES = Path(__file__).parents[3] / "examples"
NAMES = "classes: [cat, dog, cow]\n"
STEPS = "stages: [{name: a, classes: [dog]}, {name: b, classes: [cat, cow]}]\n"
# Which images have which numbers: 0 is cat, dog, both with void, cow and dog, background only, and all three.
TRAIN = [[1], [2], [1, 2, 255], [3, 2], [], [1, 2, 3]]
TEST = [[1], [2, 3], []]


@pytest.fixture
def two(make_maps: Make) -> None:
    make_maps("train", TRAIN)
    make_maps("test", TEST, seed=1)


def names(samples: Sequence[SemanticSample]) -> list[int]:
    return [int(s.name[2:-4]) for s in samples]


def values(sample: SemanticSample) -> list[int]:
    return sample.labels.unique().tolist()


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("setting", ["overlapped", "disjoint", "sequential"])
def test_images_without_a_class_come_if_they_are_wanted(
    write_stream: Write, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = f"{NAMES}train: train\ntest: test\nsetting: {setting}\n{STEPS}"
    plain = Stream.from_yaml(write_stream(text)).stages
    assert "1 image shows no class and is left out; empty_maps: use" in capsys.readouterr().err
    first, second = Stream.from_yaml(write_stream(f"{text}empty_maps: use\n")).stages
    assert "left out" not in capsys.readouterr().err
    for stage, before, comes in ((first, plain[0], True), (second, plain[1], setting == "overlapped")):
        assert set(names(stage.train)) - set(names(before.train)) == ({4} if comes else set())
        assert set(names(stage.test)) - set(names(before.test)) == {2}
    assert values(first.train[names(first.train).index(4)]) == [0]


@pytest.mark.usefixtures("two")
def test_each_stage_gets_the_empty_images_of_its_own_folder(make_maps: Make, write_stream: Write) -> None:
    make_maps("more", [[1], []])
    stages = (
        "stages: [{name: a, classes: [dog]}, {name: b, classes: [cat], train: more}]\n"
        "setting: disjoint\nempty_maps: use\n"
    )
    first, second = Stream.from_yaml(write_stream(f"{NAMES}train: train\ntest: test\n{stages}")).stages
    assert (4 in names(first.train), names(second.train)) == (True, [0, 1])


@pytest.mark.usefixtures("two")
def test_what_the_stages_of_each_setting_see(write_stream: Write) -> None:
    seen = {}
    for setting in ("overlapped", "disjoint", "sequential"):
        text = f"{NAMES}train: train\ntest: test\nsetting: {setting}\n{STEPS}"
        first, second = Stream.from_yaml(write_stream(text)).stages
        assert (first.classes, second.classes) == (("dog",), ("cat", "cow"))
        seen[setting] = [[(i, values(s)) for i, s in zip(names(t), t, strict=True)]
                         for t in (first.train, second.train)]  # fmt: skip
        assert [(i, values(s)) for i, s in zip(names(first.test), first.test, strict=True)] == [(1, [0, 1])]
        assert [values(s) for s in second.test] == [[0, 2], [0, 1, 3]]
    # Channels in the order of the steps: dog 1, cat 2, cow 3.
    assert seen["overlapped"] == [
        [(1, [0, 1]), (2, [0, 1, 255]), (3, [0, 1]), (5, [0, 1])],
        [(0, [0, 2]), (2, [0, 2, 255]), (3, [0, 3]), (5, [0, 2, 3])],
    ]
    assert seen["disjoint"] == [[(1, [0, 1])], seen["overlapped"][1]]
    assert seen["sequential"] == [
        [(1, [0, 1])],
        [(0, [0, 2]), (2, [0, 1, 2, 255]), (3, [0, 1, 3]), (5, [0, 1, 2, 3])],
    ]


@pytest.mark.usefixtures("two")
def test_a_sample_is_its_files_pixel_by_pixel(write_stream: Write, tmp_path: Path) -> None:
    stage = Stream.from_yaml(write_stream(f"{NAMES}train: train\ntest: test\n{STEPS}")).stages[1]
    sample = stage.train[3]
    raw = np.asarray(Image.open(tmp_path / "train/masks/im5.png"))
    pixels = np.asarray(Image.open(tmp_path / "train/images/im5.png"))
    expected = np.where(raw == 1, 2, np.where(raw == 3, 3, 0))
    assert np.array_equal(sample.labels.numpy(), expected) and sample.labels.dtype == torch.uint8
    assert np.array_equal(sample.image.numpy(), pixels.transpose(2, 0, 1))
    query = sample.query()
    assert query.image is sample.image and query.key == sample.key and not hasattr(query, "labels")
    assert [s.name for s in stage.train[1:3]] == ["im2.png", "im3.png"]
    present = [np.flatnonzero(row).tolist() for row in stage.train.presence()]
    assert present == [values(s) for s in stage.train]
    assert torch.equal(pickle.loads(pickle.dumps(stage)).train[3].labels, sample.labels)


@pytest.mark.usefixtures("two")
def test_steps_over_an_order_and_what_is_unseen(write_stream: Write) -> None:
    text = f"{NAMES}train: train\ntest: test\nsteps: 1-1\norder: [3, cat, dog]\nunseen_as: ignore\n"
    stream = Stream.from_yaml(write_stream(text))
    assert [(s.name, s.classes) for s in stream.stages] == [
        ("step-0", ("cow",)),
        ("step-1", ("cat",)),
        ("step-2", ("dog",)),
    ]
    (sample,) = stream.stages[0].test
    assert values(sample) == [0, 1, 255]
    by_hand = Stream.of_classes(
        folder_maps(stream.source.parent / "train"),
        folder_maps(stream.source.parent / "test"),
        "1-1",
        classes=["cat", "dog", "cow"],
        order=["cow", "cat", "dog"],
        unseen_as="ignore",
    )
    for ours, theirs in zip(stream.stages, by_hand.stages, strict=True):
        assert stream.fingerprint(ours) == by_hand.fingerprint(theirs) and ours.classes == theirs.classes


@pytest.mark.usefixtures("two")
def test_samples_in_memory_make_the_same_stream_as_files(tmp_path: Path) -> None:
    files = [folder_maps(tmp_path / split) for split in ("train", "test")]
    memory = [list(f) for f in files]
    steps = [["dog"], ["cat", "cow"]]
    a, b = (Stream.of_classes(*source, steps, classes=["cat", "dog", "cow"]) for source in (files, memory))
    for x, y in zip(a.stages, b.stages, strict=True):
        assert names(x.train) == names(y.train) and names(x.test) == names(y.test)
        assert all(torch.equal(s.labels, t.labels) for s, t in zip(x.train, y.train, strict=True))
        assert b.fingerprint(y) != b.fingerprint(b.stages[1 - y.index])


@pytest.mark.usefixtures("two")
def test_the_joint_stage_has_every_label(write_stream: Write) -> None:
    stream = Stream.from_yaml(write_stream(f"{NAMES}train: train\ntest: test\n{STEPS}"))
    joint = stream.joint
    assert joint is not None and joint.classes == ("dog", "cat", "cow")
    assert names(joint.train) == [0, 1, 2, 3, 5]
    assert [values(s) for s in joint.train] == [[0, 2], [0, 1], [0, 1, 2, 255], [0, 1, 3], [0, 1, 2, 3]]
    assert len(joint.test) == len(stream.stages[-1].test)


def test_a_stage_with_images_and_numbers_of_its_own(make_maps: Make, write_stream: Write) -> None:
    make_maps("old", TRAIN)
    make_maps("new", [[255], [255]], seed=2)
    make_maps("test", TEST)
    make_maps("new_test", [[255], []], seed=3)
    own = "classes: {255: bird, 9: void}"
    text = f"""
        {NAMES}
        train: old
        test: test
        stages:
          - {{name: a, classes: [dog, cat]}}
          - {{name: b, classes: [bird], train: {{path: new, {own}}}, test: {{path: new_test, {own}}}}}
        """
    stream = Stream.from_yaml(write_stream(text))
    first, second = stream.stages
    assert [values(s) for s in second.train] == [[0, 3], [0, 3]]
    assert isinstance(second.test, Together) and len(second.test) == len(first.test) + 1
    assert [values(s) for s in second.test] == [[0, 2], [0, 1], [0, 3]]
    assert [values(s) for s in second.test[1:]] == [[0, 1], [0, 3]]
    assert [values(s) for s in second.test[::2]] == [[0, 2], [0, 3]]
    assert values(second.test[-1]) == [0, 3] and second.test.presence().shape == (3, 256)
    with pytest.raises(IndexError):
        second.test[3]
    assert stream.joint is not None and len(stream.joint.train) == 5 + 2
    assert stream.fingerprint(first) != stream.fingerprint(second)


@pytest.mark.usefixtures("two")
def test_appending_a_stage_leaves_the_earlier_ones_as_they_are(write_stream: Write) -> None:
    for setting in ("overlapped", "disjoint", "sequential"):
        start = f"{NAMES}train: train\ntest: test\nsetting: {setting}\n"
        short = Stream.from_yaml(write_stream(f"{start}stages: [{{name: a, classes: [dog]}}]"))
        long = Stream.from_yaml(write_stream(start + STEPS))
        assert short.fingerprint(short.stages[0]) == long.fingerprint(long.stages[0])


@pytest.mark.usefixtures("two")
def test_the_fingerprint_follows_content_and_labels_not_place(
    write_stream: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"{NAMES}root: ${{PLACE:-.}}\ntrain: train\ntest: test\n{STEPS}"
    stream = Stream.from_yaml(write_stream(text))
    before = [stream.fingerprint(s) for s in stream.stages]
    (tmp_path / "moved").mkdir()
    for split in ("train", "test"):
        (tmp_path / split).rename(tmp_path / "moved" / split)
    monkeypatch.setenv("PLACE", "moved")
    moved = Stream.from_yaml(write_stream(text))
    assert [moved.fingerprint(s) for s in moved.stages] == before
    mask = tmp_path / "moved/train/masks/im1.png"
    Image.fromarray(np.asarray(Image.open(mask))[::-1]).save(mask)
    assert moved.fingerprint(moved.stages[0]) != before[0]
    assert moved.fingerprint(moved.stages[1]) == before[1]


@pytest.mark.usefixtures("two")
def test_data_of_learned_stages_may_be_gone(write_stream: Write, tmp_path: Path, make_maps: Make) -> None:
    make_maps("later", [[3], [3]])
    text = f"{NAMES}train: later\ntest: test\nstages:\n- {{name: a, classes: [dog], train: train}}\n"
    path = write_stream(f"{text}- {{name: b, classes: [cow]}}\n")
    (tmp_path / "train").rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"stage 'a', train: .*train/images is not a folder"):
        Stream.from_yaml(path)
    stream = Stream.from_yaml(path, learned=["a"])
    assert stream.gone == {"a"} and len(stream.stages[0].train) == 0
    assert (
        stream.stages[0].classes == ("dog",) and [values(s) for s in stream.stages[1].train] == [[0, 2]] * 2
    )


# ---------------------------------------------------------------- the index


def test_maps_are_read_once_and_again_when_they_change(
    make_maps: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = folder_maps(make_maps("d", TRAIN))
    read: list[Path] = []
    decode = presence.read_raster
    monkeypatch.setattr(presence, "read_raster", lambda path: (read.append(path), decode(path))[1])
    monkeypatch.setattr(kept, "_FRESH", 0.0)
    first = maps.presence()
    assert [np.flatnonzero(row).tolist() for row in first] == [sorted({0, *n}) for n in TRAIN]
    assert len(read) == len(TRAIN)
    assert np.array_equal(maps.presence(), first) and len(read) == len(TRAIN)
    Image.fromarray(np.full((30, 40), 7, np.uint8)).save(maps.pairs[0][1])
    assert np.flatnonzero(maps.presence()[0]).tolist() == [7] and len(read) == 2 * len(TRAIN)
    (file, other) = (tmp_path / "cache" / "presence").glob("*.safetensors")
    for damaged in (file, other):
        damaged.write_bytes(b"no")
    assert np.flatnonzero(maps.presence()[0]).tolist() == [7] and len(read) == 3 * len(TRAIN)
    monkeypatch.setattr(kept, "_FRESH", 2.0)
    assert len(maps.presence()) == len(TRAIN) and len(read) == 4 * len(TRAIN)  # too fresh to be sure


@pytest.mark.usefixtures("two")
def test_a_list_stands_for_the_maps(write_stream: Write, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("im0 1\nim1 2\nim2\nim3\nim4\nim5 1 0\n")
    text = f"{NAMES}train: {{path: train, index: list.txt}}\ntest: test\n{STEPS}"
    first, second = Stream.from_yaml(write_stream(text)).stages
    assert (names(first.train), names(second.train)) == ([0, 5], [1, 5])
    (tmp_path / "list.txt").write_text("im0 1\n")
    with pytest.raises(UserError, match=r"stage 'a', train: .*list\.txt does not list im1"):
        Stream.from_yaml(write_stream(text))


# ---------------------------------------------------------------- mistakes

MISTAKES = {
    "steps: 1-2": "the stream has no 'train'",
    "train: train\nsteps: 1-2": "the stream has no 'test'",
    "stages: [{name: a, classes: [cat], train: train}]": "stage 'a' has no 'test'",
    "train: train\ntest: test": "give either steps:, such as 15-1, or a list of stages",
    "train: train\ntest: test\nsteps: 1-2\nstages: [{name: a, classes: [cat]}]": "give either steps",
    "train: train\ntest: test\norder: [cat]\nstages: [{name: a, classes: [cat]}]": "order: works with steps",
    "train: train\ntest: test\nsteps: 1-1-1": "not of the form A-B",
    "train: train\ntest: test\nsteps: 2-2": "leaves 1 classes, which is not a multiple of 2",
    "train: train\ntest: test\nseting: disjoint\nsteps: 1-2": "'seting': did you mean 'setting'",
    "train: train\ntest: test\nsetting: disjunct\nsteps: 1-2": "'setting' is 'disjunct'",
    "train: train\ntest: test\nstages: [{name: a, classes: [cta]}]": "'a': unknown class 'cta': did",
    "train: train\ntest: test\nstages: [{name: a, classes: [9]}]": "stage 'a': no class has the number 9",
    "train: train\ntest: test\nstages: [{name: a, clases: [cat]}]": "'clases': did you mean 'classes'",
    "train: train\ntest: test\nstages: [{name: a, classes: cat}]": "stage 'a': 'classes' is 'cat'",
    "train: train\ntest: test\nstages: [{name: a, classes: [cat]}, {name: b, classes: [1]}]": "'a' and 'b'",
    "train: train\ntest: test\nstages: [{name: a, classes: [cat, 1]}]": "'cat' is in stage 'a' twice",
    "train: train\ntest: test\nstages: [{name: a, classes: []}]": "stage 'a' adds no classes",
    "train: train\ntest: test\nstages: [text]": "must be a mapping with name: and classes:",
    "train: {kind: vok}\ntest: test\nsteps: 1-2": "'vok': did you mean 'voc'",
    "train: {path: train, limt: 3}\ntest: test\nsteps: 1-2": "stage 'step-0', train: .*did you mean 'limit'",
    "train: {kind: voc, path: train}\ntest: test\nsteps: 1-2": "needs the option 'split'",
    "train: 3\ntest: test\nsteps: 1-2": "'train' is 3",
    "train: nowhere\ntest: test\nsteps: 1-2": "stage 'step-0', train: .*nowhere/images is not a folder",
    "train: {path: train, classes: {1: cat, 2: dog}}\ntest: test\nsteps: 1-2": "and 1 more has the number 3",
    "train: train\ntest: {path: test, classes: [cat, sheep, pig]}\nsteps: 1-2": "step-1', test: .*'dog'",
    "train: {path: train, classes: 4}\ntest: test\nsteps: 1-2": "classes is 4; write a list",
    "train: {path: train, limit: 1}\ntest: test\nsteps: 1-2": "no image has one of dog, cow",
}


@pytest.mark.usefixtures("two")
def test_a_class_that_no_map_shows_is_noted(write_stream: Write, capsys: pytest.CaptureFixture[str]) -> None:
    text = "classes: [cat, dog, cow, emu]\ntrain: train\ntest: {path: test, limit: 1}\n" + STEPS
    path = write_stream(text.replace("[dog]", "[cat, emu]").replace("[cat, cow]", "[dog]"))
    *_, absent, listed, untested, other, total = str(check(path)).splitlines()
    assert listed.startswith("warning: a/train: no class map has the number 4 (emu), and all smaller ones")
    assert absent == (
        "warning: a/train: no class map shows emu, so it cannot be learned; add images that show it"
    )
    assert untested.startswith("warning: a/test: no class map shows emu, so its score will mean nothing; add")
    assert other.startswith("warning: b/test: no class map shows dog, so") and total == "0 errors, 5 warnings"
    Stream.from_yaml(path)
    assert "a, train: no class map shows emu, so it cannot be learned" in capsys.readouterr().err


def test_a_class_of_another_data_set_is_not_missed(make_maps: Make, write_stream: Write) -> None:
    for seed, (name, number) in enumerate({"a": 1, "at": 1, "b": 2, "bt": 2}.items()):
        make_maps(name, [[number]] * 3, seed=seed)
    stages = (
        "stages: [{name: a, classes: [1], train: a, test: at}, {name: b, classes: [2], train: b, test: bt}]"
    )
    report = check(write_stream(f"classes: [cat, dog]\n{stages}"))
    assert not report.findings


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_are_sentences_that_name_the_place(write_stream: Write, text: str) -> None:
    with pytest.raises(UserError, match=MISTAKES[text]) as caught:
        Stream.from_yaml(write_stream(NAMES + text))
    assert "stream.yaml" in str(caught.value)


@pytest.mark.usefixtures("two")
def test_faulty_files_are_named(write_stream: Write, tmp_path: Path) -> None:
    path = write_stream(f"{NAMES}train: train\ntest: test\n{STEPS}")
    mask = tmp_path / "train/masks/im1.png"
    good = mask.read_bytes()
    faults = {
        "has numbers up to 2000, and class maps hold 0 to 255": Image.fromarray(
            np.full((30, 40), 2000, np.uint16)
        ),
        r"is in colour \(it has #010203\), .* set mask_colours": Image.new("RGB", (40, 30), (1, 2, 3)),
        "has the number 4, which is not a class; name it": Image.new("L", (40, 30), 4),
    }
    for says, image in faults.items():
        image.save(mask)
        with pytest.raises(UserError, match=rf"stage 'a', train: .*masks/im1\.png {says}"):
            Stream.from_yaml(path)
    mask.write_bytes(good[:50])
    with pytest.raises(UserError, match=r"im1\.png is damaged"):
        Stream.from_yaml(path)
    mask.unlink()
    with pytest.raises(UserError, match=r"im1\.png without a mask"):
        Stream.from_yaml(path)
    Image.new("L", (30, 40), 2).save(mask)
    with pytest.raises(
        UserError, match=r"images/im1\.png is 40x30 .* its class map .*masks/im1\.png is 30x40"
    ):
        Stream.from_yaml(path).stages[0].train[0]


@pytest.mark.usefixtures("two")
def test_check_reports_every_fault_and_reads_the_rest(write_stream: Write, tmp_path: Path) -> None:
    path = write_stream(f"{NAMES}train: train\ntest: test\n{STEPS}")
    assert check(path).ok
    (tmp_path / "train/masks/im0.png").write_bytes(b"no image")
    Image.new("L", (9, 9), 2).save(tmp_path / "train/masks/im1.png")
    report = check(path)
    wrong = [f for f in report.findings if "left out" not in f.what]
    assert [(f.stage, f.split, f.what.split(" is ")[0][-7:]) for f in wrong] == [
        ("a", "train", "im0.png"),
        ("a", "train", "im1.png"),
    ]
    assert [(s.stage, s.split, s.samples) for s in report.splits] == [
        ("a", "train", 4),
        ("a", "test", 1),
        ("b", "train", 3),
        ("b", "test", 2),
    ]
    (tmp_path / "test/images/im1.png").write_bytes((tmp_path / "train/images/im3.png").read_bytes())
    assert any("same picture" in f.what and f.severity == "error" for f in check(path).findings)


@pytest.mark.usefixtures("two")
def test_the_sheet_shows_each_step_in_the_colours_of_its_classes(write_stream: Write, tmp_path: Path) -> None:
    path = write_stream(f"{NAMES}train: train\ntest: test\n{STEPS}")
    for split in ("train", "test"):
        for image in (tmp_path / split / "images").iterdir():
            Image.new("RGB", (40, 30)).save(image)
    sheet = np.asarray(Image.open(contact_sheet(path, tmp_path / "sheet.png")).convert("RGB"))
    first, second = sheet[76:276, 210:], sheet[284:484, 210:]

    def shows(part: np.ndarray, channel: int) -> bool:
        colour = (0.6 * COLOURS[channel]).astype(np.uint8)
        return bool((part == colour).all(2).any())

    assert [shows(first, c) for c in (1, 2, 3)] == [True, False, False]
    assert [shows(second, c) for c in (1, 2, 3)] == [True, True, True]  # dog in the test labels only
    assert [shows(second[:, :840], c) for c in (1, 2, 3)] == [False, True, True]


# ---------------------------------------------------------------- examples and real data


def test_the_full_voc_recipe_is_a_stream_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from everseg.data.streamfile import ClassStreamSpec, read_stream_file

    monkeypatch.setenv("EVERSEG_DATA", "data")
    for name in ("voc15-1", "voc256", "camvid"):
        spec = read_stream_file(EXAMPLES / f"{name}.yaml")
        assert isinstance(spec, ClassStreamSpec) and spec.name == name and spec.setting == "overlapped"


def test_the_stream_file_of_the_page_is_one(
    make_maps: Make, write_stream: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVERSEG_DATA", raising=False)
    make_maps("data/pets/train", TRAIN)
    make_maps("data/pets/test", TEST)
    page = (EXAMPLES.parent / "docs" / "data.md").read_text(encoding="utf-8")
    (text,) = [t for t in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "classes:" in t]
    stream = Stream.from_yaml(write_stream(text))
    assert [(s.name, s.classes) for s in stream.stages] == [("first", ("dog",)), ("then", ("cat", "cow"))]


@pytest.mark.realdata
def test_the_full_voc_recipe_by_list(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images are missing, the lists are not: empty files stand for the pictures nobody opens."""
    voc = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClassAug", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    (tmp_path / "voc_lists").symlink_to(data_root / "voc_lists")
    for split in ("train_aug", "val"):
        lines = (data_root / "voc_lists" / f"{split}_classes.txt").read_text().splitlines()
        stems = [line.split()[0] for line in lines]
        (voc / "ImageSets/Segmentation" / f"{split}.txt").write_text("\n".join(stems))
        for stem in stems:
            (voc / "JPEGImages" / f"{stem}.jpg").touch()
            (voc / "SegmentationClassAug" / f"{stem}.png").touch()
    monkeypatch.setenv("EVERSEG_DATA", str(tmp_path))
    stream = Stream.from_yaml(EXAMPLES / "voc15-1.yaml")
    assert [len(s.train) for s in stream.stages] == [9568, 487, 299, 491, 500, 548]
    assert [len(s.test) for s in stream.stages] == [1240, 1277, 1329, 1353, 1421, 1449]
    assert stream.joint is not None and len(stream.joint.train) == 10582


@pytest.mark.realdata
def test_small_voc_in_three_steps(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSEG_DATA", str(data_root))
    stream = Stream.from_yaml(EXAMPLES / "voc256.yaml")
    columns = 0
    for stage in stream.stages:
        own = range(columns + 1, columns + len(stage.classes) + 1)
        columns += len(stage.classes)
        for samples, channels in ((stage.train, own), (stage.test, range(1, columns + 1))):
            assert samples.presence()[:, channels].any(1).all()
            assert not samples.presence()[:, [c for c in range(1, 255) if c not in channels]].any()
            for i in range(0, len(samples), len(samples) // 5):
                assert values(samples[i]) == np.flatnonzero(samples.presence()[i]).tolist()
    assert [len(s.classes) for s in stream.stages] == [3, 3, 2]
    maps = stream.stages[0].train.source.samples
    stems = [image.stem for image, _ in maps.pairs]
    published = presence.listed(data_root / "voc_lists" / "train_aug_classes.txt", stems)[:, 1:21]
    assert np.array_equal(maps.presence()[:, 1:21], published)  # reducing the maps lost no class


@pytest.mark.realdata
def test_camvid_in_two_steps(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSEG_DATA", str(data_root))
    scene, traffic = Stream.from_yaml(EXAMPLES / "camvid.yaml").stages
    assert (len(scene.train), len(scene.test)) == (60, 40) and len(traffic.train) <= 60
    raw = torch.from_numpy(
        np.array(Image.open(data_root / "camvid/train/masks" / f"{Path(scene.train[0].name).stem}.png"))
    )
    labels = scene.train[0].labels
    assert bool((labels[raw == 0] == 1).all()) and bool((labels[raw == 11] == 255).all())  # sky and void
    assert bool((labels[raw == 8] == 0).all())  # cars come later
    full = traffic.test[0]
    truth = scene.test[0]
    assert full.name == truth.name and set(values(full)) > set(values(truth)) - {0}


@pytest.mark.realdata
def test_ade20k_names_its_classes(data_root: Path) -> None:
    from everseg.data import ade20k_maps

    maps = ade20k_maps(data_root / "ade20k_samples")
    assert maps.legend is not None and len(maps.legend.names) == 150
    assert [maps.legend.names[n] for n in (1, 2, 150)] == ["wall", "building", "flag"]
    stream = Stream.of_classes(maps, maps, [["wall"], ["sky", "tree", "floor"]])
    assert [len(s.train) > 0 for s in stream.stages] == [True, True]
    sample = stream.stages[1].test[0]
    raw = maps[[m.name for m in maps].index(sample.name)].labels
    assert bool(((sample.labels == 1) == (raw == 1)).all())


@pytest.mark.usefixtures("two")
def test_two_stages_of_one_name_are_refused(write_stream: Write) -> None:
    stages = "stages: [{name: a, classes: [dog]}, {name: a, classes: [cat]}]\n"
    with pytest.raises(UserError, match="two stages are named 'a'"):
        Stream.from_yaml(write_stream(f"{NAMES}train: train\ntest: test\n{stages}"))


def test_a_map_of_void_alone_is_doubted(make_maps: Make, write_stream: Write) -> None:
    make_maps("train", [[1]] * 24 + [[255]])
    make_maps("test", [[1], [1]], seed=1)
    path = write_stream("classes: [cat]\ntrain: train\ntest: test\nstages: [{name: a, classes: [cat]}]\n")
    (doubt, skipped) = sorted(check(path).findings, key=lambda found: "left out" in found.what)
    assert "1 image shows no class and is left out" in skipped.what
    assert doubt.severity == "warning" and "1 of 25 class maps (" in doubt.what and "im24.png" in doubt.what


def test_a_palette_whose_black_is_a_class_is_doubted(make_maps: Make, write_stream: Write) -> None:
    for split in ("train", "test"):
        for file in (make_maps(split, [[1, 2]] * 3, seed=len(split)) / "masks").glob("*.png"):
            image = Image.fromarray(np.asarray(Image.open(file)))
            image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 0])
            image.save(file)
    text = "train: train\ntest: test\nstages: [{name: a, classes: [cat]}]\n"
    (doubt,) = check(write_stream(f"classes: [cat, dog]\n{text}")).findings
    assert "number 2 (dog) in black and number 0 (background) in (255, 0, 0)" in doubt.what
    assert not check(write_stream(f"classes: {{0: dog, 1: cat, 2: background}}\n{text}")).findings


def test_lossy_maps_are_named_where_numbers_are_strange(make_maps: Make, write_stream: Write) -> None:
    for split in ("train", "test"):
        for file in (make_maps(split, [[1]] * 2, seed=len(split)) / "masks").glob("*.png"):
            Image.fromarray(np.full((30, 40), 3, np.uint8)).save(file.with_suffix(".jpg"))
            file.unlink()
    text = "classes: [cat]\ntrain: train\ntest: test\nstages: [{name: a, classes: [cat]}]\n"
    with pytest.raises(UserError, match=r"number 3, which is not a class; the file has a lossy format"):
        Stream.from_yaml(write_stream(text))
