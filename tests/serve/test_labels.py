"""Accepted masks are an ordinary stage on the disk, and a kill loses none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from everseg.data import Stream
from everseg.data.checks import check
from everseg.data.synthetic.domains import SyntheticDomain
from everseg.errors import UserError
from everseg.runs.prompts import Asked
from everseg.serve import labels as module
from everseg.serve.labels import BLOCK, Accepted, Labels, split_of
from everseg.serve.limits import Refused

SAMPLES = list(SyntheticDomain("shadows", 9, size=64, split="serve"))


def accepted(mask: Any, x: float = 0, y: float = 0, on: int = 1) -> Accepted:
    return Accepted(np.asarray(mask), Asked(((x, y),), (on,)))


def accept(labels: Labels, n: int, *masks: Any, domain: str = "crystals") -> Any:
    sample = SAMPLES[n]
    objects = [accepted(mask) for mask in masks or [sample.masks[0].numpy()]]
    return labels.accept(domain, f"{n:016x}", f"a/x.{n}.png", sample.image, objects)


def test_labels_are_a_stage_that_every_command_reads(tmp_path: Path) -> None:
    labels = Labels(tmp_path)
    for n in range(8):
        mask = SAMPLES[n].masks[0].numpy().copy()
        other = np.zeros_like(mask)
        other[:9, :7] = True
        accept(labels, n, mask, *([other] if n % 2 else []))
    found = check(tmp_path / "labels.yaml")
    assert found.ok and not found.findings, str(found)
    (stage,) = Stream.from_yaml(tmp_path / "labels.yaml").stages
    images = {split: {s.name.split("#")[0] for s in getattr(stage, split)} for split in ("train", "test")}
    assert len(images["train"]) == 6 and len(images["test"]) == 2
    assert len(stage.train) + len(stage.test) == 12
    by_pixels = {s.image.numpy().tobytes(): s.masks[0] for s in SAMPLES}
    for sample in [*stage.train, *stage.test]:
        assert sample.image.numpy().tobytes() in by_pixels
        assert sample.prompts.labels.sum() >= 3  # Stored clicks, topped up.
        for x, y in sample.prompts.points[0].tolist():
            assert sample.masks[0, int(y), int(x)]


def test_no_domain_trains_on_what_is_held_out_of_another(tmp_path: Path) -> None:
    labels = Labels(tmp_path)
    first = {n: accept(labels, n).split for n in range(8)}
    for n in (7, 6, 5, 4, 3, 2, 1, 0):
        assert accept(labels, n, domain="fields").split == first[n]
    assert set(first.values()) == {"train", "test"}
    found = check(tmp_path / "labels.yaml")
    assert found.ok, str(found)


def test_clicks_that_lie_where_they_say_are_stored(tmp_path: Path) -> None:
    labels, sample = Labels(tmp_path), SAMPLES[0]
    mask = np.zeros((64, 64), bool)
    mask[10:20, 30:50] = True
    asked = Asked(((35.2, 12.9), (3.0, 3.0), (40.0, 15.0), (60.0, 60.0)), (1, 0, 0, 1))
    label = labels.accept("crystals", "0" * 16, "x.png", sample.image, [Accepted(mask, asked)])
    points, on = label.objects[0]
    inside = [(int((x + 0.5) * 64 / 1024), int((y + 0.5) * 64 / 1024)) for x, y in points]
    assert (35, 12) in inside and (3, 3) in inside and (40, 15) not in inside and (60, 60) not in inside
    assert on.count(1) == 3 and on.count(0) == 1


def test_an_image_never_changes_its_part(tmp_path: Path) -> None:
    labels = Labels(tmp_path)
    parts = {n: accept(labels, n).split for n in range(8)}
    labels.remove("crystals", labels.domains["crystals"][0].name)
    labels = Labels(tmp_path)
    assert {n: accept(labels, n).split for n in reversed(range(8))} == parts
    assert accept(labels, 8).split == split_of("crystals", 8)
    assert len(labels.domains["crystals"]) == 9


@pytest.mark.parametrize("domain", ["crystals", "a", "fields-2"])
def test_one_of_every_four_is_held_out_and_one_of_the_first_two(domain: str) -> None:
    parts = [split_of(domain, n) for n in range(10 * BLOCK)]
    assert all(parts[i : i + BLOCK].count("test") == 1 for i in range(0, len(parts), BLOCK))
    assert set(parts[:2]) == {"train", "test"}


class Killed(BaseException):
    pass


def dying(real: Any, left: Any) -> Any:
    """A function that does what the real one does, as long as `left` has something left."""

    def dies(*arguments: Any) -> None:
        if next(left, None) is None:
            raise Killed
        real(*arguments)

    return dies


@pytest.mark.parametrize("again", [False, True])
def test_a_kill_at_any_file_loses_no_accepted_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """The server dies at each of the writes of an image, one that is new and one that is corrected."""
    writers = ("write_bytes", "write_png", "write_text", "write_json")
    for fatal in range(12):
        folder = tmp_path / str(fatal)
        labels = Labels(folder)
        for n in range(3):
            accept(labels, n)
        before = {label.name: labels.masks("crystals", label) for label in labels.domains["crystals"]}
        left = iter(range(fatal))
        for name in writers:
            monkeypatch.setattr(module, name, dying(vars(module)[name], left))
        whole = torch.ones(64, 64, dtype=torch.bool).numpy()
        survived = True
        try:
            accept(labels, 1 if again else 3, whole, SAMPLES[1].masks[0].numpy())
        except Killed:
            survived = False
        monkeypatch.undo()
        labels = Labels(folder)  # Started again.
        now = {label.name: labels.masks("crystals", label) for label in labels.domains["crystals"]}
        for name, masks in before.items():
            if not (again and name == "x-1"):
                assert all(np.array_equal(a, b) for a, b in zip(masks, now[name], strict=True))
            else:  # The earlier masks or the new ones.
                assert len(now[name]) in (1, 2)
        found = check(folder / "labels.yaml")
        assert found.ok, str(found)
        if survived:
            assert len(now) == 3 + (not again)
            break
    assert survived and fatal > 4


def test_a_corrected_image_has_its_new_masks(tmp_path: Path) -> None:
    labels = Labels(tmp_path)
    mask = SAMPLES[0].masks[0].numpy()
    accept(labels, 0, mask, ~mask)
    (label,) = [accept(labels, 0, ~mask)]
    assert len(labels.domains["crystals"]) == 1
    (found,) = labels.masks("crystals", label)
    assert np.array_equal(found, ~mask)


def test_files_of_nobody_are_deleted_when_the_server_starts(tmp_path: Path) -> None:
    labels = Labels(tmp_path)
    accept(labels, 0)
    split = labels.domains["crystals"][0].split
    stray = tmp_path / "domains" / "crystals" / split / "images" / "stray.png"
    stray.write_bytes(b"half")
    Labels(tmp_path)
    assert not stray.exists()


@pytest.mark.parametrize("domain", ["", "..", "a/b", "con", "outside", "plain", "x" * 300, "a b", "ä"])
def test_names_that_are_no_domains(tmp_path: Path, domain: str) -> None:
    with pytest.raises(Refused):
        accept(Labels(tmp_path), 0, domain=domain)
    assert not list(tmp_path.rglob("*.png"))


def test_objects_without_a_pixel_are_refused(tmp_path: Path) -> None:
    labels = Labels(tmp_path)
    with pytest.raises(UserError, match="no pixel"):
        accept(labels, 0, np.zeros((64, 64), bool))
    accept(labels, 0)
    with pytest.raises(Refused, match="already"):
        accept(labels, 1, domain="Crystals")
