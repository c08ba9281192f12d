"""Experts: segmenters of their own for steps whose classes look like none before."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everseg.classes.completed import complete
from everseg.classes.crops import Crops
from everseg.classes.learner import ClassLearner
from everseg.classes.methods.eir import EIR
from everseg.classes.posterior import Gaussians
from everseg.classes.settings import ClassTuneConfig
from everseg.config import plain
from everseg.errors import UserError
from everseg.methods import METHODS, find
from everseg.models.semantic.segmenter import ABSENT
from everseg.results import setting_names
from everseg.testing import micro_image, micro_step
from everseg.testing.classes import ClassTrial
from everseg.types import NoScratch, SemanticSample, Stage

pytestmark = pytest.mark.usefixtures("micro_backbone")

SETTINGS = ("tune.posterior=1", "experts=true", "tune.first.epochs=1", "tune.later.epochs=1")
FOREIGN = [None, 0]
"""The second step is like none before, the third like the first class."""

Nearest = Callable[[Sequence[int | None]], None]


@pytest.fixture
def nearest(monkeypatch: pytest.MonkeyPatch) -> Nearest:
    """Say which class is nearest to those of the second step, the third, and so on."""

    def say(answers: Sequence[int | None]) -> None:
        told = itertools.cycle(answers)
        monkeypatch.setattr(Gaussians, "nearest", lambda self, new: next(told))

    return say


def third_step() -> Stage:
    """Adds the class 4, on the images of the first step: what was 1 there."""
    seen = []
    for sample in micro_step(0).train:
        labels = torch.where(sample.labels == 1, 4, 0).to(torch.uint8)
        seen.append(SemanticSample(sample.image, labels, sample.name))
    return Stage(2, "step-2", seen, [micro_image(99, (1, 2, 3))], ("yellow",))


STEPS = (micro_step(0), micro_step(1), third_step())


def fresh(method: str = "eir", *settings: str) -> Any:
    return ClassTrial(find(method), (*SETTINGS, *settings)).fresh()


def weights(learner: Any) -> list[dict[str, Tensor]]:
    return [copy.deepcopy(dict(expert.state_dict())) for expert in learner.experts]


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", ["eir", "dkd"])
def test_a_foreign_step_leaves_the_first_segmenter_as_it_is(method: str, nearest: Nearest) -> None:
    nearest(FOREIGN)
    learner = fresh(method)
    learner.learn(STEPS[0], NoScratch())
    (first,) = weights(learner)
    learner.learn(STEPS[1], NoScratch())
    old, new = weights(learner)
    assert equal(old, first) and learner.model.counts == (2, 1) and learner.own_channels() == {3}
    learner.learn(STEPS[2], NoScratch())
    grown, unchanged = weights(learner)
    assert equal(unchanged, new) and not equal(grown, old)
    assert learner.model.counts == (2, 1, 1) and learner.own_channels() == {1, 2, 4}


def test_a_new_expert_learns_as_a_first_step_does(nearest: Nearest) -> None:
    """As the segmenter of a run that begins with these images, with channels for classes before them."""
    nearest(FOREIGN)
    learner = fresh("eir", "gamma=3", "gamma_later=1.5")
    for stage in STEPS[:2]:
        learner.learn(stage, NoScratch())
    alone = fresh("eir", "gamma=3", "gamma_later=1.5")
    alone.model.grow(2, "absent")
    alone.model.began = 1
    assert alone.model.untaught
    alone.learn_step(STEPS[1], NoScratch())
    assert not learner.model.norm_frozen
    assert equal(weights(learner)[1], weights(alone)[0])


def test_without_a_foreign_step_nothing_changes(nearest: Nearest) -> None:
    nearest([0])
    ours, usual = fresh(), fresh("eir", "experts=false")
    for stage in STEPS:
        ours.learn(stage, NoScratch())
        usual.learn(stage, NoScratch())
    (one,), (other,) = weights(ours), weights(usual)
    assert equal(one, other)


def test_without_the_setting_there_is_one_segmenter(nearest: Nearest) -> None:
    nearest(FOREIGN)
    learner = fresh("eir", "experts=false")
    for stage in STEPS:
        learner.learn(stage, NoScratch())
    assert len(learner.experts) == 1


def test_experts_need_a_posterior() -> None:
    with pytest.raises(UserError, match="experts=true needs a posterior"):
        fresh("eir", "tune.posterior=0")


def test_each_class_has_the_logits_of_its_expert(nearest: Nearest) -> None:
    nearest(FOREIGN)
    learner = fresh()
    for stage in STEPS:
        learner.learn(stage, NoScratch())
    assert learner.posterior.expert == [0, 0, 1, 0]
    pixels = learner.model.pixels(micro_image(50, (1, 3)).image[None])
    with torch.inference_mode():
        first, second = (expert.eval()(pixels).logits for expert in learner.experts)
        found = learner._joined(pixels, learner.posterior).logits
    assert torch.equal(found[:, [0, 1, 2, 4]], first[:, [0, 1, 2, 4]])
    assert torch.equal(found[:, 3], second[:, 3])


@pytest.mark.parametrize("steps", [2, 3])
def test_a_run_is_taken_up_again_with_its_experts(steps: int, nearest: Nearest) -> None:
    nearest(FOREIGN)
    learner = fresh("eir", "count=4")
    for stage in STEPS[:steps]:
        learner.learn(stage, NoScratch())
    again = fresh("eir", "count=4")
    again.load_state_dict(copy.deepcopy(learner.state_dict()))
    query = micro_image(50, (1, 3)).query()
    assert torch.equal(again.scores(query), learner.scores(query))
    assert [e.began for e in again.experts] == [e.began for e in learner.experts] == [0, 1]
    assert again.newest == learner.newest and again.own_channels() == learner.own_channels()
    nearest([2])  # What comes next is like the foreign class.
    for one in (learner, again):
        one.learn(replace(third_step(), index=steps, name=f"step-{steps}"), NoScratch())
    assert all(map(equal, weights(again), weights(learner)))
    one_before = fresh("eir", "count=4")
    one_before.learn(STEPS[0], NoScratch())
    again.load_state_dict(copy.deepcopy(one_before.state_dict()))
    assert len(again.experts) == 1 and torch.equal(again.scores(query), one_before.scores(query))


@pytest.mark.parametrize("method", ["eir", "dkd"])
def test_an_expert_replays_its_own_classes(
    method: str, nearest: Nearest, monkeypatch: pytest.MonkeyPatch
) -> None:
    nearest(FOREIGN)
    learner = fresh(method)
    replayed: list[set[int]] = []

    def rows(self: Any, stage: Any, old: Any, pool: Any, paster: Any) -> Any:
        replayed.append(set(pool.by_class()))
        return usual(self, stage, old, pool, paster)

    def crops(samples: Any, tune: Any, seed: int, name: str, memory: Any = None) -> Any:
        replayed.append({item.label for item in memory.items} if memory is not None else set())
        return Crops(samples, tune, seed, name, memory)

    usual = EIR._rows
    monkeypatch.setattr(EIR, "_rows", rows)
    monkeypatch.setattr("everseg.classes.methods.dkd.Crops", crops)
    for stage in STEPS:
        learner.learn(stage, NoScratch())
    items = learner.pool.items.values() if method == "eir" else learner.memory.items
    assert {1, 2, 3} <= {item.label for item in items}, "all are kept"
    assert replayed == [set(), set(), {1, 2}]


@pytest.mark.parametrize("method", ["eir", "dkd"])
def test_an_expert_sees_nothing_of_classes_that_others_learned(method: str, nearest: Nearest) -> None:
    """Neither when it completes labels nor when it is distilled."""
    nearest(FOREIGN)
    learner = fresh(method)
    for stage in STEPS[:2]:
        learner.learn(stage, NoScratch())
    learner._collect(STEPS[2], 4)
    learner._choose(STEPS[2], (2, 1), learner.posterior)
    maps = complete(learner.model, STEPS[2].train, 0.3, name="step-2")
    found = {int(n) for i in range(len(STEPS[2].train)) for n in maps(i).unique()}
    assert found <= {0, 1, 2, 4}
    pixels = learner.model.pixels(micro_image(50, (1, 3)).image[None])
    with torch.inference_mode():
        assert float(learner.model(pixels).logits[:, 3].max()) == ABSENT


def test_a_new_expert_is_trained_with_the_weight_of_later_classes(nearest: Nearest) -> None:
    nearest(FOREIGN)
    for method in ("eir", "dkd"):
        found = []
        for gamma, later in ((3, 1.5), (9, 1.5), (3, 2.5)):
            learner = fresh(method, f"gamma={gamma}", f"gamma_later={later}")
            learner.learn(STEPS[0], NoScratch())
            learner.learn(STEPS[1], NoScratch())
            nearest(FOREIGN)
            found.append(weights(learner)[1])
        assert equal(found[0], found[1]) and not equal(found[0], found[2])


def test_a_new_expert_is_trained_as_long_as_a_later_step(
    nearest: Nearest, capsys: pytest.CaptureFixture[str]
) -> None:
    nearest(FOREIGN)
    learner = fresh("eir", "tune.first.steps=1", "tune.later.steps=3")
    for stage in STEPS[:2]:
        learner.learn(stage, NoScratch())
    assert "step-1: step 3/3" in capsys.readouterr().err
    tune = replace(ClassTuneConfig.sigmoid(), steps_for=400)
    tune = replace(tune, later=replace(tune.later, steps=900))
    as_first = tune.fit_of(100, first=True, began=1)
    assert as_first == replace(tune.first, steps=450, epochs=tune.later.epochs)
    assert tune.fit_of(100, first=True) == tune.first


def test_learning_says_that_a_network_is_added(nearest: Nearest, capsys: pytest.CaptureFixture[str]) -> None:
    nearest(FOREIGN)
    learner = fresh()
    for stage in STEPS:
        learner.learn(stage, NoScratch())
    told = capsys.readouterr().err
    assert told.count("it gets a network of its own") == 1
    assert "step-1: its images look unlike all before" in told
    assert "step-2: its images look most like those of class 1; it trains the network that learned" in told


def test_only_methods_that_replay_by_class_have_experts() -> None:
    """What the others keep is of one network's features, or speaks for all classes at once."""
    have = set()
    for name in METHODS:
        method: Any = find(name)
        if issubclass(method, ClassLearner):
            have |= {name} if "experts" in setting_names(plain(method.Config.presets()["paper"])) else set()
    assert have == {"eir", "dkd"}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_experts_are_exported_together(form: str, nearest: Nearest, tmp_path: Path) -> None:
    """`write_model` compares what it wrote with the learner's own scores."""
    if form == "onnx":
        pytest.importorskip("onnxscript")
    nearest(FOREIGN)
    learner = fresh()
    for stage in STEPS[:2]:
        learner.learn(stage, NoScratch())
    told = learner.write_model(form, tmp_path, ("background", "red", "green", "blue"), 64)
    assert told["parity"] <= 1e-4
    if form == "torch":
        from safetensors.torch import load_file

        tensors, (first, second) = load_file(tmp_path / "model.safetensors"), weights(learner)
        assert all(torch.equal(tensors[name], value) for name, value in first.items())
        assert all(torch.equal(tensors[f"experts.1.{name}"], value) for name, value in second.items())
        told = json.loads((tmp_path / "config.json").read_text())
        assert told["classifiers"] == [1, 2] and told["posterior"]["expert"] == [0, 0, 1]
        assert [expert["classifiers"] for expert in told["experts"]] == [[1, 2], [1, 2, 1]]
