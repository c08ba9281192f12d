"""Held-out images: drawn by name alone, with the objects of one image together."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset

from everseg.data import Stream, check, write_synthetic_stream
from everseg.data.held_out import hold_out
from everseg.data.synthetic.classes import write_synthetic_classes
from everseg.data.synthetic.objects import LOOKS
from everseg.errors import UserError
from everseg.types import Prompts, PromptSample


class Named(Sequence[Any]):
    """Samples that have a name and nothing to look at."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: Any) -> Any:
        pixels, mask = torch.zeros(3, 2, 2, dtype=torch.uint8), torch.ones(1, 2, 2, dtype=torch.bool)
        return PromptSample(pixels, Prompts(boxes=torch.zeros(1, 4)), mask, self.names[index])


def names(samples: Sequence[Any]) -> list[str]:
    return [samples[i].name for i in range(len(samples))]


def test_an_image_stays_on_its_side_when_others_come() -> None:
    few = [f"{i:04d}.png" for i in range(0, 400, 2)]
    kept, held = (set(names(part)) for part in hold_out(Named(*few), 0.1))
    assert kept | held == set(few) and not kept & held and 10 <= len(held) <= 30
    more = [f"{i:04d}.png" for i in range(399, -1, -1)]
    kept_then, held_then = (set(names(part)) for part in hold_out(Named(*more), 0.1))
    assert kept < kept_then and held < held_then
    wider = set(names(hold_out(Named(*few), 0.3)[1]))
    assert held < wider, "a larger share holds out more, and the same ones too"


def test_objects_of_an_image_stay_together_and_accents_may_be_written_either_way() -> None:
    given = [f"{image}.png#{n}" for image in range(40) for n in (1, 2, 3)]
    kept, held = hold_out(Named(*given), 0.3)
    sides = [{name.partition("#")[0] for name in names(part)} for part in (kept, held)]
    assert not sides[0] & sides[1] and all(sides)
    accents = [f"caf\N{LATIN SMALL LETTER E WITH ACUTE}-{i}" for i in range(50)]
    apart = [unicodedata.normalize("NFD", name) for name in accents]
    assert [unicodedata.normalize("NFC", n) for n in names(hold_out(Named(*apart), 0.3)[1])] == names(
        hold_out(Named(*accents), 0.3)[1]
    )


@pytest.mark.parametrize("share", [1e-9, 0.999999])
def test_neither_side_is_empty(share: float) -> None:
    kept, held = hold_out(Named(*"abcde"), share)
    assert {len(kept), len(held)} == {1, 4}
    kept, held = hold_out(Named("alone"), share)
    assert (len(kept), len(held)) == (1, 0)


def test_domains_at_once_hold_out_what_each_would() -> None:
    parts: list[Any] = [Named(*(f"{of}{i}" for i in range(30))) for of in "ab"]
    kept, held = hold_out(ConcatDataset(parts), 0.2)  # type: ignore[arg-type]
    assert names(held) == [name for part in parts for name in names(hold_out(part, 0.2)[1])]
    assert len(kept) + len(held) == 60


def test_files_are_not_decoded_and_tell_what_they_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_synthetic_stream(tmp_path, ("lesions",), train=12, test=2, size=64, background=False)
    train: Any = Stream.from_yaml(path).stages[0].train
    with monkeypatch.context() as patched:
        patched.setattr(type(train), "__getitem__", None)
        kept, held = hold_out(train, 0.4)
    assert sorted([*names(kept), *names(held)]) == names(train)
    assert kept.rule == train.rule
    assert [held.file(i) for i in range(len(held))] == [
        train.file(i) for i in range(len(train)) if train[i].name in names(held)
    ]
    assert held.fingerprint() != kept.fingerprint()
    assert names(kept[1:3]) == names(kept)[1:3]


# ---------------------------------------------------------------- val: in a stream file


def stream_file(folder: Path, more: str) -> Path:
    path = write_synthetic_stream(folder, ("lesions",), train=4, test=2, size=64, background=False)
    path.write_text(f"{path.read_text()}  {more}\n")
    return path


def test_a_stage_names_validation_images(tmp_path: Path) -> None:
    plain = Stream.from_yaml(stream_file(tmp_path / "plain", "clicks: 3"))
    path = stream_file(tmp_path / "val", "val: {kind: folder, path: lesions/train, part: [0, 2]}")
    stream = Stream.from_yaml(path)
    (stage,) = stream.stages
    assert names(stage.val) == names(stage.train)[:2]
    assert stream.fingerprint(stage) != plain.fingerprint(plain.stages[0])
    path.write_text(path.read_text().replace("[0, 2]", "[0, 3]"))
    changed = Stream.from_yaml(path)
    assert stream.fingerprint(stage) != changed.fingerprint(changed.stages[0]), "the fingerprint covers it"
    found = check(stream)
    assert ("lesions", "val", 2) in [(s.stage, s.split, s.samples) for s in found.splits]
    assert "a val on trained pictures measures nothing" in str(found)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("val: nowhere", r"stage 'lesions', val: .*nowhere"),
        ("val: 5", r"'val' is 5; give a folder, or a mapping"),
        ("vla: lesions/train", r"'vla': did you mean 'val'"),
    ],
)
def test_validation_images_that_are_not_there(tmp_path: Path, more: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Stream.from_yaml(stream_file(tmp_path, more))


def test_the_background_takes_none(tmp_path: Path) -> None:
    path = write_synthetic_stream(tmp_path, ("lesions",), train=2, test=2, size=64)
    path.write_text(f"{path.read_text()}  val: natural/test\n")
    with pytest.raises(UserError, match=r"background: 'val' has no effect.*remove val:"):
        Stream.from_yaml(path)


def test_steps_of_classes_have_validation_images(tmp_path: Path) -> None:
    """Labelled as test images are, with all classes so far; of the stream's source or of their own."""
    kinds = list(LOOKS)[:3]
    path = write_synthetic_classes(tmp_path, "1-1", train=6, test=4, size=48, kinds=kinds)
    plain = Stream.from_yaml(path)
    path.write_text(f"{path.read_text()}val: {{path: test}}\n")
    stream = Stream.from_yaml(path)
    assert stream.joint is not None and len(stream.joint.val) == 4
    for stage, before in zip(stream.stages, plain.stages, strict=True):
        assert len(before.val) == 0 < len(stage.val)
        assert stream.fingerprint(stage) != plain.fingerprint(before)
        labels = {int(v) for sample in stage.val for v in sample.labels.unique()}
        assert labels == set(range(stage.index + 2))
    assert [s.split for s in check(stream).splits if s.stage == "step-2"] == ["train", "val", "test"]
    own = "\n".join(
        [
            f"classes: [{', '.join(kinds)}]\ntrain: train\ntest: test\nstages:",
            f"  - {{name: one, classes: [{kinds[0]}]}}",
            f"  - {{name: two, classes: [{kinds[1]}], val: {{path: test, part: [0, 2]}}}}",
        ]
    )
    path.write_text(own)
    one, two = Stream.from_yaml(path).stages
    assert (len(one.val), len(two.val)) == (0, 2)
    path.write_text(own.replace("path: test, part", "path: nowhere, part"))
    with pytest.raises(UserError, match=r"stage 'two', val: .*nowhere"):
        Stream.from_yaml(path)


def test_arrays_may_come_with_validation_images() -> None:
    image, mask = np.zeros((8, 8), np.uint8), np.ones((8, 8), np.uint8)
    pair = ([image, image], [mask, mask])
    stream = Stream.from_arrays({"a": pair, "b": pair}, {"a": pair, "b": pair}, val={"b": pair})
    assert [len(stage.val) for stage in stream.stages] == [0, 2]
    with pytest.raises(UserError, match="val has the domain 'c', on which nothing is trained"):
        Stream.from_arrays({"a": pair}, {"a": pair}, val={"c": pair})
