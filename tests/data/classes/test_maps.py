"""Which class comes when: labels of each step, the images of each step, and the published counts."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from everseg.data.classes.legend import VOC, Legend
from everseg.data.classes.maps import ade20k_maps
from everseg.data.classes.presence import listed, occurring, read_map
from everseg.data.classes.steps import ClassSteps, LabelTable, Setting
from everseg.data.numbers import table_of
from everseg.errors import UserError

LEGEND = Legend.of("voc")
SPLITS = ("19-1", "15-5", "15-1", "10-10", "10-5", "10-1", "5-3")
SHUFFLED = [12, 9, 20, 7, 15, 8, 14, 16, 5, 19, 4, 1, 13, 2, 11, 17, 3, 6, 18, 10]
"""The order that the literature calls 15-1_b."""


def looked_up(table: LabelTable) -> list[int]:
    """What each number becomes, looked up through labels as an image has them."""
    return table(torch.arange(256, dtype=torch.uint8).view(16, 16)).flatten().tolist()


# ---------------------------------------------------------------- steps and labels


@pytest.mark.parametrize(
    ("split", "sizes"),
    [
        ("19-1", [19, 1]),
        ("15-5", [15, 5]),
        ("15-1", [15, 1, 1, 1, 1, 1]),
        ("10-10", [10, 10]),
        ("10-5", [10, 5, 5]),
        ("10-1", [10, *[1] * 10]),
        ("5-3", [5, 3, 3, 3, 3, 3]),
        ("2-6", [2, 6, 6, 6]),
    ],
)
def test_splits_of_voc(split: str, sizes: list[int]) -> None:
    steps = ClassSteps.split(split, LEGEND)
    assert [len(s) for s in steps.steps] == sizes
    assert steps.seen(len(steps) - 1) == VOC


@pytest.mark.parametrize(
    ("split", "count", "first"),
    [("100-50", 2, 100), ("100-10", 6, 100), ("100-5", 11, 100), ("50-50", 3, 50)],
)
def test_splits_of_ade20k(split: str, count: int, first: int) -> None:
    steps = ClassSteps.split(split, Legend.of([f"c{n}" for n in range(1, 151)]))
    assert len(steps) == count and len(steps.steps[0]) == first and len(steps.seen(count)) == 150


def test_labels_of_15_1_in_natural_order() -> None:
    steps = ClassSteps.split("15-1", LEGEND)
    train = looked_up(steps.train_table(3, LEGEND))
    assert train[:21] == [0] * 18 + [18, 0, 0] and train[255] == 255
    test = looked_up(steps.test_table(3, LEGEND))
    assert test[:21] == [*range(19), 0, 0] and test[255] == 255
    ignoring = looked_up(steps.test_table(3, LEGEND, "ignore"))
    assert ignoring[:21] == [*range(19), 255, 255] and ignoring[255] == 255


def test_labels_of_5_3() -> None:
    steps = ClassSteps.split("5-3", LEGEND)
    assert looked_up(steps.train_table(2, LEGEND))[:21] == [0] * 9 + [9, 10, 11] + [0] * 9
    assert looked_up(steps.test_table(2, LEGEND))[:21] == [*range(12)] + [0] * 9


def test_labels_of_a_shuffled_order_are_places_in_it() -> None:
    steps = ClassSteps.split("15-1", LEGEND, SHUFFLED)
    everything = looked_up(steps.test_table(5, LEGEND))
    golden = {12: 1, 20: 3, 11: 15, 17: 16, 3: 17, 6: 18, 18: 19, 10: 20}
    assert {number: everything[number] for number in golden} == golden
    assert looked_up(steps.train_table(1, LEGEND))[:21] == [0] * 17 + [16, 0, 0, 0]
    by_name = ClassSteps.split("15-1", LEGEND, [VOC[n - 1] for n in SHUFFLED])
    assert by_name == steps


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("seed", range(3))
def test_a_table_is_one_to_one_on_what_was_seen(split: str, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(20) + 1
    steps = ClassSteps.split(split, LEGEND, order.tolist())
    used: set[int] = set()
    for t in range(len(steps)):
        test = looked_up(steps.test_table(t, LEGEND))
        train = looked_up(steps.train_table(t, LEGEND))
        sequential = looked_up(steps.train_table(t, LEGEND, "sequential"))
        seen = [n for n in range(1, 21) if LEGEND.names[n] in steps.seen(t)]
        assert sorted(test[n] for n in seen) == list(range(1, len(seen) + 1))
        assert all(test[n] == 0 for n in range(21) if n not in seen)
        assert test[255] == train[255] == 255 and test[0] == train[0] == 0
        assert sequential == test  # old labels are not masked
        own = {train[n] for n in range(21)} - {0}
        assert not own & used and len(own) == len(steps.steps[t])
        used |= own
        assert used == set(range(1, len(seen) + 1))
        assert steps.columns(t)[0] == "background" and len(steps.columns(t)) == len(seen) + 1


def test_numbers_that_are_no_class() -> None:
    camvid = Legend.of({0: "sky", 1: "road", 3: "background", 11: "void"})
    assert (dict(camvid.names), camvid.background, camvid.void) == ({0: "sky", 1: "road"}, {3}, {11, 255})
    steps = ClassSteps.split("1-1", camvid, ["road", "sky"])
    table = looked_up(steps.test_table(1, camvid))
    assert [table[n] for n in (0, 1, 3, 11, 255)] == [2, 1, 0, 255, 255]


# ---------------------------------------------------------------- legends


def test_legends_from_files(tmp_path: Path) -> None:
    expected = {1: "wall", 2: "traffic light"}
    texts = {
        "names.txt": "wall\ntraffic light\n",
        "table.txt": "Idx\tRatio\tName\n1\t0.1\twall\n2\t0.2\ttraffic light, traffic signal\n",
        "table.csv": "Idx,Ratio,Name\n1,0.1,wall\n2,0.2,traffic light;traffic signal\n",
        "names.json": '{"1": "wall", "2": "traffic light"}',
        "names.yaml": "[background, wall, traffic light]",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert dict(Legend.of(name, tmp_path).names) == expected, name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cat\ncat\n", "two numbers are named 'cat'"),
        ("", "names no class"),
        ("Idx\tName\nx\tcat\n", "is not a list of class names"),
    ],
)
def test_a_faulty_file_of_names_is_a_sentence(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(UserError, match=rf"names\.txt.*{says}"):
        Legend.of("names.txt", tmp_path)


def test_a_class_beyond_eight_bits() -> None:
    with pytest.raises(UserError, match="the number 256; class maps have 8 bits"):
        Legend.of({256: "cat"})


def test_mistakes_in_steps_are_sentences() -> None:
    mistakes = {
        "did you mean 'cat'": lambda: ClassSteps.of([["cta"]], LEGEND),
        "no class has the number 21": lambda: ClassSteps.of([[21]], LEGEND),
        "'cat' is in steps 0 and 1": lambda: ClassSteps.of([["cat"], [8]], LEGEND),
        "'cat' is in step 0 twice": lambda: ClassSteps.of([["cat", "cat"]], LEGEND),
        "step 1 adds no classes": lambda: ClassSteps.of([["cat"], []], LEGEND),
        "no steps": lambda: ClassSteps.of([], LEGEND),
        "not of the form A-B": lambda: ClassSteps.split("15", LEGEND),
        "leaves 5 classes, which is not a multiple of 2": lambda: ClassSteps.split("15-2", LEGEND),
        "leaves none": lambda: ClassSteps.split("20-1", LEGEND),
        "order: .*did you mean 'dog'": lambda: ClassSteps.split("1-1", LEGEND, ["cat", "dgo"]),
        "add 255 classes": lambda: ClassSteps((tuple(str(n) for n in range(255)),)),
    }
    for says, make in mistakes.items():
        with pytest.raises(UserError, match=says):
            make()


# ---------------------------------------------------------------- images of a step


def drawn(count: int = 300) -> np.ndarray:
    """Images with one to four of the classes."""
    rng = np.random.default_rng(0)
    present = np.zeros((count, 256), bool)
    present[:, [0, 255]] = True
    for row in present:
        row[rng.choice(20, rng.integers(1, 5), replace=False) + 1] = True
    return present


@pytest.mark.parametrize("split", SPLITS)
def test_disjoint_steps_are_a_partition_and_sequential_has_their_images(split: str) -> None:
    present, steps = drawn(), ClassSteps.split(split, LEGEND, SHUFFLED)

    def of(setting: Setting) -> list[np.ndarray]:
        return [steps.train_images(t, present, LEGEND, setting) for t in range(len(steps))]

    disjoint, overlapped = of("disjoint"), of("overlapped")
    assert sorted(itertools.chain(*disjoint)) == list(range(len(present)))
    assert all(np.array_equal(d, s) for d, s in zip(disjoint, of("sequential"), strict=True))
    assert all(set(d) <= set(o) for d, o in zip(disjoint, overlapped, strict=True))
    tests = [set(steps.test_images(t, present, LEGEND)) for t in range(len(steps))]
    assert tests[0] == set(overlapped[0]) and tests[-1] == set(range(len(present)))
    assert all(a <= b for a, b in itertools.pairwise(tests))


def test_a_stage_appended_later_takes_no_image_from_earlier_ones() -> None:
    present = drawn()
    short, long = (ClassSteps.of(s, LEGEND) for s in ([["cat", "dog"]], [["cat", "dog"], ["person"]]))
    for setting in ("overlapped", "disjoint", "sequential"):
        before = short.train_images(0, present, LEGEND, setting)
        assert np.array_equal(before, long.train_images(0, present, LEGEND, setting))


# ---------------------------------------------------------------- golden counts of the full VOC lists

# Lengths of the published index lists.
OVERLAPPED = {
    "19-1": [10410, 548],
    "15-5": [9568, 2145],
    "15-1": [9568, 487, 299, 491, 500, 548],
    "10-10": [6139, 6876],
    "10-5": [6139, 5542, 2145],
    "10-1": [6139, 528, 1177, 444, 482, 3898, 487, 299, 491, 500, 548],
    "5-3": [2836, 2331, 1542, 2095, 4484, 1468],
}
DISJOINT = {
    "19-1": [10034, 548],
    "15-5": [8437, 2145],
    "15-1": [8437, 378, 299, 420, 500, 548],
    "10-10": [3706, 6876],
    "10-5": [3706, 4731, 2145],
    "10-1": [3706, 188, 868, 227, 201, 3247, 378, 299, 420, 500, 548],
    "5-3": [1753, 1517, 624, 1296, 3924, 1468],
}
TEST = {
    "19-1": [1421, 1449],
    "15-5": [1240, 1449],
    "15-1": [1240, 1277, 1329, 1353, 1421, 1449],
    "10-10": [869, 1449],
    "10-5": [869, 1240, 1449],
    "10-1": [869, 893, 1005, 1081, 1140, 1240, 1277, 1329, 1353, 1421, 1449],
    "5-3": [433, 699, 893, 1140, 1329, 1449],
}
VAL_ON_NEW = {"15-1": [1240, 85, 57, 90, 84, 74], "5-3": [433, 296, 226, 281, 562, 238]}
IMAGES_OF_CLASS = {
    "train_aug": [586, 486, 698, 461, 654, 385, 1086, 1000, 1081, 264]
    + [528, 1177, 444, 482, 3898, 487, 299, 491, 500, 548],
    "val": [90, 79, 103, 72, 96, 74, 127, 119, 123, 71, 75, 128, 79, 76, 446, 85, 57, 90, 84, 74],
}


@pytest.fixture(scope="module")
def full_voc(data_root: Path) -> dict[str, np.ndarray]:
    found = {}
    for split in ("train_aug", "val"):
        path = data_root / "voc_lists" / f"{split}_classes.txt"
        found[split] = listed(path, [line.split()[0] for line in path.read_text().splitlines()])
    return found


@pytest.mark.realdata
def test_images_of_each_class_of_the_full_voc(full_voc: dict[str, np.ndarray]) -> None:
    for split, counts in IMAGES_OF_CLASS.items():
        assert full_voc[split][:, 1:21].sum(0).tolist() == counts
    assert [len(p) for p in full_voc.values()] == [10582, 1449]


@pytest.mark.realdata
@pytest.mark.parametrize("split", SPLITS)
def test_counts_of_the_full_voc(full_voc: dict[str, np.ndarray], split: str) -> None:
    steps, train, val = ClassSteps.split(split, LEGEND), full_voc["train_aug"], full_voc["val"]

    def counts(present: np.ndarray, setting: Setting) -> list[int]:
        return [len(steps.train_images(t, present, LEGEND, setting)) for t in range(len(steps))]

    assert counts(train, "overlapped") == OVERLAPPED[split]
    assert counts(train, "disjoint") == counts(train, "sequential") == DISJOINT[split]
    assert sum(DISJOINT[split]) == 10582
    assert [len(steps.test_images(t, val, LEGEND)) for t in range(len(steps))] == TEST[split]
    if split in VAL_ON_NEW:
        assert counts(val, "overlapped") == VAL_ON_NEW[split]


# ---------------------------------------------------------------- what occurs in a map


def test_a_list_counts_classes_from_zero(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("2007_000032 0 14\n\n2007_000039 19\n2007_000063\n")
    found = listed(tmp_path / "list.txt", ["2007_000039", "2007_000063", "2007_000032"])
    assert [np.flatnonzero(row).tolist() for row in found] == [[20], [], [1, 15]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a cat\n", "list.txt, line 1: 'a cat' is not an image and classes"),
        ("a 255\n", "line 1: 'a 255' is not"),
        ("a 1\na 2\n", "line 2: a is listed twice"),
        ("b 1\n", "does not list a"),
    ],
)
def test_a_faulty_list_is_a_sentence(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UserError, match=says):
        listed(tmp_path / "list.txt", ["a"])


def test_read_map_is_what_its_numbers_are(tmp_path: Path) -> None:
    numbers = np.array([[0, 7], [20, 255]], np.uint8)
    palette = Image.frombytes("P", (2, 2), numbers.tobytes())
    palette.putpalette([9, 8, 7] * 256)
    palette.save(tmp_path / "p.png")
    Image.fromarray(numbers).save(tmp_path / "l.png")
    for name in ("p.png", "l.png"):
        assert read_map(tmp_path / name).tolist() == numbers.tolist()
    Image.fromarray(numbers > 0).save(tmp_path / "1.png")
    assert read_map(tmp_path / "1.png").tolist() == [[0, 1], [1, 1]]
    found = occurring([tmp_path / "p.png", tmp_path / "1.png"])
    assert [np.flatnonzero(row).tolist() for row in found.present] == [[0, 7, 20, 255], [0, 1]]
    assert not found.faults and not found.notes


def _disc(low: int, high: int) -> Image.Image:
    rows, columns = np.mgrid[:60, :80]
    inside = (rows - 30) ** 2 + (columns - 40) ** 2 < 400
    return Image.fromarray(np.where(inside, high, low).astype(np.uint8))


@pytest.mark.parametrize("size", [(40, 30), (56, 42), (160, 120)])
@pytest.mark.parametrize("how", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_one_map_that_was_resized_smoothly(tmp_path: Path, size: tuple[int, int], how: Any) -> None:
    """Among maps in which the numbers between are classes that have an area."""
    files = [tmp_path / f"{name}.png" for name in ("a", "b")]
    _disc(1, 2).save(files[0])
    _disc(3, 0).save(files[1])
    for high in (5, 4):
        _disc(0, high).resize(size, how).save(files[0])
        faults = occurring(files).faults
        assert [*faults] == [0] and re.search(r"a\.png has .* resized smoothly; make", str(faults[0]))
    _disc(0, high).resize(size, Image.Resampling.NEAREST).save(files[0])
    assert not occurring(files).faults and not occurring(files).notes


def test_smooth_resizing_among_numbers_that_have_areas(tmp_path: Path) -> None:
    pixels = np.zeros((120, 160), np.uint8)
    for number, (row, column) in enumerate(((10, 10), (10, 90), (70, 10), (70, 90)), 1):
        pixels[row : row + 40, column : column + 40] = number
    Image.fromarray(pixels).save(tmp_path / "m.png")
    assert not occurring([tmp_path / "m.png"]).faults
    Image.fromarray(pixels).resize((100, 75), Image.Resampling.BILINEAR).save(tmp_path / "m.png")
    assert "has numbers such as 1, 2, 3 along the edges" in str(occurring([tmp_path / "m.png"]).faults[0])


def test_a_single_number_along_edges_is_noted_with_its_files(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file in files:
        _disc(1, 3).save(file)
    _disc(1, 3).resize((40, 30), Image.Resampling.BILINEAR).save(files[2])
    for _ in range(2):  # The second answer is that of the cache.
        found = occurring(files)
        (note,) = found.notes
        assert not found.faults and "2.png has the number 2 along the edges between smaller" in note


def test_palettes_that_show_a_number_in_several_colours_are_noted(tmp_path: Path) -> None:
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for file, colours in zip(files, ([0, 0, 0, 200, 0, 0], [0, 0, 0, 0, 200, 0]), strict=True):
        image = _disc(0, 1)
        image.putpalette(colours)
        image.save(file)
    (note,) = occurring(files).notes
    assert f"{files[0]} shows number 1 as (200, 0, 0), and {files[1]} as (0, 200, 0); see in the" in note
    (note,) = occurring(files, table_of({1: (200, 0, 0)})).notes
    assert f"{files[1]} shows number 1 as (0, 200, 0), and its colour is (200, 0, 0)" in note
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(files[1])
    assert not occurring(files).notes, "greys are numbers"


def test_colours_that_were_told_count_more_than_the_order_of_a_palette(tmp_path: Path) -> None:
    """Programs that make palettes put the colours in any order."""
    table = table_of({1: (200, 0, 0), 2: (0, 200, 0)})
    image = _disc(0, 1)
    image.putpalette([0, 200, 0, 200, 0, 0])
    image.save(tmp_path / "a.png")
    assert set(np.unique(read_map(tmp_path / "a.png", table))) == {1, 2}
    assert set(np.unique(read_map(tmp_path / "a.png"))) == {0, 1}
    image.putpalette([200, 0, 0, 9, 9, 9])
    image.save(tmp_path / "a.png")
    with pytest.raises(UserError, match="#090909, which stand for no number"):
        read_map(tmp_path / "a.png", table)
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 200, 0])
    image.save(tmp_path / "a.png")
    assert set(np.unique(read_map(tmp_path / "a.png", table))) == {0, 1}


def test_a_split_that_no_folder_can_be_called(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not the name of a folder; write training or validation"):
        ade20k_maps(tmp_path, "x" * 5000)
