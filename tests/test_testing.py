"""The public contract suite: the method in docs/write-a-method.md keeps it, broken methods do not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import everseg.testing
from everseg.classes.methods.baselines import FineTuning
from everseg.domains.methods.baselines import Sequential
from everseg.domains.methods.independent import Independent
from everseg.domains.methods.zero_shot import ZeroShot
from everseg.errors import UserError
from everseg.testing import check_method, laws
from everseg.types import PromptPrediction, Query, Scratch, Stage, State
from everseg.types.abilities import Archive, Forgotten

ROOT = Path(__file__).resolve().parents[1]

# ---------------------------------------------------------------- methods that keep it


@pytest.mark.slow
def test_the_documented_example_keeps_every_law(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "write-a-method.md").read_text(encoding="utf-8")
    method, test = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mypkg").mkdir()
    (tmp_path / "mypkg" / "mine.py").write_text(method)
    monkeypatch.syspath_prepend(tmp_path)
    check_method("mypkg.mine:Mean")
    names: dict[str, Any] = {}
    exec(compile(test, "write-a-method.md", "exec", dont_inherit=True), names)
    (mark,) = names["test_mean"].pytestmark  # type: ignore[attr-defined]
    given, found = mark.args
    assert given == "law" and [str(law) for law in found] == [str(law) for law in laws(names["Mean"])]
    names["test_mean"](found[0])


def test_what_is_public_is_there_and_described() -> None:
    for name in everseg.testing.__all__:
        assert getattr(everseg.testing, name).__doc__, name


def test_a_method_is_given_by_class_name_or_path() -> None:
    given = [ZeroShot, "zero-shot", "everseg.domains.methods.zero_shot:ZeroShot"]
    names = [[str(law) for law in laws(method)] for method in given]
    assert names[0] == names[1] == names[2]


def test_abilities_have_laws_where_a_method_has_them() -> None:
    found = {name: {str(law) for law in laws(name)} for name in ("sequential", "samcl", "regcl", "eir")}
    assert [name for name in found if "a_stage_can_be_forgotten" in found[name]] == ["samcl", "regcl"]
    assert "it_predicts_as_any_stage_that_is_named" in found["samcl"]
    assert {"what_a_stage_brought_can_be_kept", "a_stage_can_count_more_or_less"} <= found["regcl"]
    assert "its_adapter_predicts_what_it_does" in found["sequential"]
    assert "the_first_stage_can_be_taken_from_another_learner" in found["eir"]


def test_what_is_no_method_or_no_law_is_refused() -> None:
    class Neither:
        learns = "words"

    with pytest.raises(UserError, match=r"Neither.learns is 'words'; it must be 'domains' or 'classes'"):
        laws(Neither)
    with pytest.raises(UserError, match="law of ZeroShot"):
        laws(ZeroShot, skip=["the_seed_decides_every_byte"])
    assert "the_seed_decides_every_bit" not in map(str, laws(ZeroShot, skip=["the_seed_decides_every_bit"]))


def test_it_leaves_the_process_as_it_was() -> None:
    torch.manual_seed(7)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    law = next(law for law in laws(ZeroShot) if law.name == "the_seed_decides_every_bit")
    law()
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads


# ---------------------------------------------------------------- methods that break it


class Peeks(Sequential):
    """Draws from the global generator."""

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        figures = super().learn(stage, scratch)
        with torch.no_grad():
            for p in self.adapter.parameters():
                p.add_(torch.randn(p.shape), alpha=1e-3)
        return figures


class Forgetful(Independent):
    """Leaves the newest module out of its state."""

    def state_dict(self) -> State:
        return {"modules": dict(list(super().state_dict()["modules"].items())[:-1])}


class DependsOnTheBatch(ZeroShot):
    """Centres its logits over all queries."""

    def predict(self, queries: Sequence[Query]) -> list[PromptPrediction]:
        found = super().predict(queries)
        mean = torch.stack([p.logits.mean() for p in found]).mean() if found else 0.0
        return [PromptPrediction(p.logits - mean, p.iou, p.size) for p in found]


class ChangesTheBase(Sequential):
    """Fine-tunes the base itself, a little."""

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        with torch.no_grad():
            next(iter(self.base.model.parameters())).mul_(1.001)  # type: ignore[attr-defined]
        return super().learn(stage, scratch)


class Hoards(Sequential):
    """Keeps every image."""

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        self.images = {str(i): stage.train[i].image for i in range(len(stage.train))}
        return super().learn(stage, scratch)

    def state_dict(self) -> State:
        return {**super().state_dict(), "images": getattr(self, "images", {})}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        self.images = state["images"]


class Pretends(Independent):
    """Says that it forgot a domain, and empties its module only half."""

    def forget(self, domain: str, archive: Archive) -> Forgotten:
        kept = self.modules[domain]
        found = super().forget(domain, archive)
        self.modules[domain] = kept
        with torch.no_grad():
            next(kept.parameters()).zero_()
        return found


class Impatient(FineTuning):
    """Takes a stage that was begun for one that is done."""

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        if scratch.load("begun"):
            return {}
        scratch.save("begun", {"yes": True})
        return super().learn(stage, scratch)


class Remembers(FineTuning):
    """Answers by what it was asked before."""

    asked = 0

    def predict(self, queries: Sequence[Any]) -> list[Any]:
        self.asked += 1
        found = super().predict(queries)
        return [p * (self.asked % 2) for p in found]


class Fails(ZeroShot):
    """Ends with an error of its own."""

    def load_state_dict(self, state: State) -> None:
        raise KeyError("weights")


@pytest.mark.parametrize(
    ("method", "law", "said"),
    [
        (Peeks, "the_seed_decides_every_bit", "two learners with one seed differ after a stage: adapter/"),
        (Forgetful, "the_state_is_all_that_it_remembers", "saved and loaded predicts something else"),
        (DependsOnTheBatch, "a_prediction_does_not_depend_on_its_batch", "query 0, asked alone, is answered"),
        (ChangesTheBase, "the_base_is_left_as_it_is", "the base's weights have changed"),
        (Hoards, "memory_does_not_grow_with_the_images", "one of twice the images"),
        (Hoards, "the_state_holds_no_pixels", "images/0 is of type uint8"),
        (Pretends, "a_stage_can_be_forgotten", "said to be exact, and predictions differ by"),
        (Impatient, "a_stage_that_was_interrupted_ends_with_the_same_bits", "other values of segmenter/"),
        (Remembers, "predicting_changes_nothing", "asked again, are answered differently"),
        (Fails, "the_state_is_all_that_it_remembers", "KeyError: 'weights'"),
    ],
)
def test_a_broken_method_breaks_the_law_of_its_fault(method: type[Any], law: str, said: str) -> None:
    found = {each.name: each for each in laws(method)}
    promise = law.replace("_", " ")
    with pytest.raises(AssertionError, match=rf"^{method.__name__} breaks the law '{promise}': .*{said}"):
        found[law]()
    found["it_has_the_four_methods_and_nothing_optional"]()
    found["its_settings_have_presets_and_travel_as_json"]()


def test_checking_a_method_ends_with_the_first_law_that_it_breaks() -> None:
    with pytest.raises(
        AssertionError, match="DependsOnTheBatch breaks the law 'a prediction does not depend"
    ):
        check_method(DependsOnTheBatch)
