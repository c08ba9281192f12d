"""What `learn` refuses about data `check` reports, and equal faults are one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from everseg.data import Stream, SyntheticDomain, check
from everseg.data.checks import Finding, counted
from everseg.data.described import described
from everseg.errors import UserError
from everseg.types import PromptSample, SemanticSample, Stage

Make = Callable[..., Path]
Write = Callable[[str], Path]


def errors(given: Any) -> list[str]:
    return [str(f) for f in check(given).findings if f.severity == "error"]


def test_a_stage_without_an_image_of_its_classes(make_maps: Make, write_stream: Write) -> None:
    make_maps("train", [[1], [1]])
    make_maps("test", [[1], [2]], seed=1)
    path = write_stream(
        "{classes: {1: cat, 2: dog}, train: train, test: test, "
        "stages: [{name: a, classes: [cat]}, {name: b, classes: [dog]}]}"
    )
    with pytest.raises(UserError, match="stage 'b', train: no image has one of dog; check its options"):
        Stream.from_yaml(path)
    assert errors(path) == ["error: b/train: no image has one of dog; check its options"]


def test_a_list_of_classes_that_are_not_in_the_maps(make_maps: Make, write_stream: Write) -> None:
    (make_maps("train", [[1], [1]]) / "classes.txt").write_text("im0 0\nim1 1\n")
    make_maps("test", [[1], [2]], seed=1)
    path = write_stream(
        "{classes: {1: cat, 2: dog}, train: {path: train, index: train/classes.txt}, test: test, "
        "stages: [{name: a, classes: [cat]}, {name: b, classes: [dog]}]}"
    )
    [said] = errors(path)
    assert said.startswith("error: b/train: no pixel is dog, only background; see whether the class maps")


def test_a_step_in_which_everything_is_its_class(make_maps: Make, write_stream: Write) -> None:
    """It is legal, and most likely an inverted mask: only a warning can tell."""
    for name, labels in (("full", 1), ("other", 2)):
        for image in sorted((make_maps(name, [[1], [2]]) / "masks").iterdir()):
            whole = np.full(np.asarray(Image.open(image)).shape, labels, np.uint8)
            Image.fromarray(whole if name == "full" else np.tril(whole)).save(image)
    path = write_stream(
        "{setting: sequential, classes: {1: cat, 2: dog}, stages: ["
        "{name: a, classes: [cat], train: full, test: full}, "
        "{name: b, classes: [dog], train: other, test: other}]}"
    )
    [said] = [str(f) for f in check(path).findings if "everything is" in str(f)]
    assert said.startswith(
        "warning: a/train: every labelled pixel is cat, which teaches that everything is; "
    )


def test_labels_of_no_class() -> None:
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    image[:, :4] = 200
    labels = torch.zeros(8, 8, dtype=torch.uint8)
    labels[:2] = 3
    labels[2:4] = 1
    samples = [SemanticSample(image, labels, "a"), SemanticSample(image.flip(1), labels, "b")]
    stream = Stream((Stage(0, "one", samples[:1], samples[1:], ("cat", "dog")),))
    assert errors(stream) == [
        f"error: one/{split}: the labels hold 3, and there are 2 classes up to this stage; correct the "
        "labels or list the class"
        for split in ("train", "test")
    ]


def test_two_test_images_of_one_name() -> None:
    first, second, third = (SyntheticDomain("cracks", 3, size=64)[i] for i in range(3))
    with pytest.raises(UserError, match=f"stage 'one', test has two samples named {second.name}; scores are"):
        Stream((Stage(0, "one", [first, first], [second, replace(third, name=second.name)]),))


class Lazy(Sequence[Any]):
    """As somebody's own reader that decodes a sample when it is asked for."""

    def __init__(self, samples: Sequence[PromptSample]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        return self.samples[index]


def test_samples_whose_names_nobody_lists_are_counted_once() -> None:
    samples = [SyntheticDomain("cracks", 3, size=64)[i] for i in range(3)]
    test = Lazy(samples[1:])
    assert described(test).names() is None and not errors(Stream((Stage(0, "one", samples[:1], test),)))


class Unhashed(list[PromptSample]):
    def fingerprint(self) -> str:
        raise UserError("cannot read a.png: Input/output error; restore it")


def test_what_has_no_fingerprint() -> None:
    samples = [SyntheticDomain("cracks", 2, size=64)[i] for i in range(2)]
    stream = Stream((Stage(0, "one", Unhashed(samples[:1]), samples[1:]),))
    with pytest.raises(UserError, match="Input/output error"):
        stream.fingerprints(stream.stages[0])
    assert errors(stream) == ["error: one/train: cannot read a.png: Input/output error; restore it"]


def test_a_mask_that_vanishes_at_the_resolution_of_sam() -> None:
    image = np.random.default_rng(0).integers(0, 255, (8, 4096, 3), dtype=np.uint8)
    masks = np.zeros((2, 8, 4096), bool)
    masks[0, 3, 1] = masks[1, 3:6, 0:9] = True
    tiny, fine = (PromptSample.from_mask(np.roll(image, n, 1), m, name=f"{n}") for n, m in enumerate(masks))
    report = check(Stream((Stage(0, "one", [tiny], [fine]),)))
    assert [str(f) for f in report.findings] == [
        "warning: one/train: the mask of 0 is so small that nothing is left of it at 1024 x 1024 pixels, "
        "SAM's resolution; crop the image around the object"
    ]


def test_equal_faults_are_counted_in_one_line(make_folder: Make, write_stream: Write) -> None:
    train, test = make_folder("train", count=7), make_folder("test", seed=1)
    for i in range(6):
        Image.new("L", (40, 30)).save(train / "masks" / f"im{i}.png")
    Image.new("L", (21, 30), 255).save(train / "masks" / "im6.png")
    (test / "images" / "im0.png").write_bytes(b"")
    report = check(write_stream("stages: [{name: a, train: train, test: test}]"))
    assert len(report.findings) == 8  # JSON has all of them.
    lines = [line for line in str(report).splitlines()[3:] if not line.startswith("masks of")]
    assert lines[0] == (
        f"error: a/train: {train}/masks/im0.png is an empty mask (all 0) (6 alike: im1.png, im2.png, im3.png "
        "and 2 more); remove the image and its mask, or set skip_empty: true"
    )
    assert len(lines) == 4
    assert lines[-1] == "8 errors, 0 warnings"


def test_faults_of_other_kinds_splits_and_severities_are_lines_of_their_own() -> None:
    def fault(what: str, file: str = "", **other: str) -> Finding:
        known: Any = {"severity": "error", "stage": "a", "split": "train", **other}
        return Finding(file=file, what=what, todo="remove it", **known)

    found = [
        fault("x/scan 1.png is empty", "x/scan 1.png"),
        fault("x/other.png is empty", "x/other.png"),
        fault("y/b.png is empty", "y/b.png", split="test"),
        fault("y/b.png is empty", "y/b.png", severity="warning"),
        fault("y/b.png is grey", "y/b.png"),
        fault("annotation 5 has no bbox"),
        fault("annotation 17 has no bbox"),
    ]
    assert counted(found) == [
        "error: a/train: x/scan 1.png is empty (2 alike: other.png); remove it",
        "error: a/test: y/b.png is empty; remove it",
        "warning: a/train: y/b.png is empty; remove it",
        "error: a/train: y/b.png is grey; remove it",
        "error: a/train: annotation 5 has no bbox (2 alike); remove it",
    ]
