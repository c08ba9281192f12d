"""Any sequence of samples describes itself: by what its reader tells, and by decoding where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from everseg.data import Described, Legend, PromptRule, Stream, SyntheticClasses, SyntheticDomain, check
from everseg.data.described import described
from everseg.errors import UserError
from everseg.types import PromptSample, SemanticSample, Stage


def test_a_list_is_described_by_decoding() -> None:
    painted = SyntheticClasses(4, "train", size=48)
    told = described(list(painted))
    assert np.array_equal(told.presence(), painted.presence())
    assert told.content(1)[0] == told.truth_file(1) == painted[1].name and told.file(1) == "sample 1"
    assert (told.legend, told.rule, told.stored_clicks(0)) == (None, None, None)
    assert described([]).presence().shape == (0, 256)
    assert described(painted) is painted and described(told) is told


def test_the_fingerprint_of_a_list_never_changes() -> None:
    """Runs compare it with what they have kept."""
    image, mask = np.arange(48, dtype=np.uint8).reshape(4, 4, 3), np.eye(4, dtype=bool)
    prompted = PromptSample.from_mask(image, mask, clicks=2, box=True, name="a.png")
    labelled = SemanticSample(prompted.image, torch.from_numpy(mask.astype(np.uint8)), "b.png")
    found = [described([prompted]).fingerprint(), described([labelled, labelled]).fingerprint()]
    assert [f[:16] for f in found] == ["03d71d0afe9e225f", "83310bcd3c083834"]
    assert set(prompted.tensors()) == {"image", "masks", "points", "labels", "boxes"}
    assert set(labelled.tensors()) == {"image", "labels"}


class Told(list[Any]):
    """A reader that knows nothing of everseg's classes."""

    legend = Legend.of(["ball"])
    rule = PromptRule("stored")
    content = "not a method"  # An attribute that happens to have the name is none of ours.

    def fingerprint(self) -> str:
        return "mine"

    def file(self, index: int) -> Path:
        return Path(f"{index // 2}.png")


def test_a_reader_tells_without_deriving() -> None:
    told = described(Told(SyntheticDomain("polyps", 4, size=32)))
    assert told.fingerprint() == "mine" and told.legend is Told.legend and told.rule is Told.rule
    assert str(told.file(3)) == "1.png" and len(told) == 4 and told.content(0)[0] == told[0].name
    samples = Told(SyntheticDomain("polyps", 4, size=32))
    report = check(Stream([Stage(0, "a", samples, SyntheticDomain("cracks", 2, size=32))]))
    assert [(s.images, s.prompts) for s in report.splits] == [(2, "3 stored clicks"), (2, "3 drawn clicks")]


class Broken(Described[SemanticSample]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: Any) -> Any:
        if index == 1:
            raise UserError("sample 1 cannot be read; replace it")
        return SyntheticClasses(3, "train", size=48)[index]

    def presence(self) -> np.ndarray:
        return SyntheticClasses(3, "train", size=48).presence()


def test_check_reports_a_sample_that_cannot_be_read_even_if_nothing_names_its_file() -> None:
    painted = SyntheticClasses(3, "test", size=48)
    report = check(Stream.of_classes(Broken(), painted, [painted.kinds], classes=painted.kinds))
    errors = [str(f) for f in report.findings if f.severity == "error"]
    assert errors == ["error: step-0/train: sample 1 cannot be read; replace it"]


def test_what_a_reader_does_not_tell_fails_as_its_samples_do() -> None:
    with pytest.raises(UserError, match="sample 1 cannot be read"):
        Broken().fingerprint()
