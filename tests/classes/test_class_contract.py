"""The contract of every method that learns classes: the laws of `everseg.testing`, and some more."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everseg.errors import UserError
from everseg.methods import METHODS as ALL
from everseg.methods import configure, find
from everseg.testing import Law, laws, micro_image, micro_step
from everseg.testing.classes import ClassTrial
from everseg.types import REPLAYED, NoScratch, Stage, State

METHODS = tuple(m for m in ALL if getattr(find(m), "learns", "domains") == "classes")
LAWS = {method: laws(method) for method in METHODS}
CHIEF = ("eir", "dkd", "mib")
COSTLY = ("stages_of_hardly_any_images_are_learned", "memory_does_not_grow_with_the_images")
"""Laws that take half of the time; those of other methods than the chief ones follow with the slow tests."""
KEEPS = {
    "dkd": ("memory", 4),
    "eir": ("pool", 6),
    "eir-features": ("features", 6),
    "ssul": ("memory", 4),
    "star": ("memory", 4),
}
"""Where a method keeps examples for replay, and how many of them its settings allow here."""

each_method = pytest.mark.parametrize("method", METHODS)
pytestmark = pytest.mark.usefixtures("micro_backbone")


def trial(method: str, *settings: str) -> ClassTrial:
    """The trial of the method's laws, whose learners nobody changes; or one with settings of its own."""
    if settings:
        return ClassTrial(find(method), settings)
    found = LAWS[method][0].trial
    assert isinstance(found, ClassTrial)
    return found


def one(method: str) -> Any:
    return trial(method).one


def two(method: str) -> Any:
    return trial(method).two


def on_from_one(method: str, *settings: str) -> tuple[Any, Any]:
    """A learner with the state of the first step and settings of its own that has learned the second; and the
    figures of that."""
    found = trial(method, *settings).fresh()
    found.load_state_dict(copy.deepcopy(one(method).state_dict()))
    return found, found.learn(micro_step(1), NoScratch())


def weights(found: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in found.model.state_dict().items()}


def cases(quick: bool) -> list[object]:
    return [
        pytest.param(law, id=f"{law}-{method}")
        for method, found in LAWS.items()
        for law in found
        if (method in CHIEF or law.name not in COSTLY) == quick
    ]


@pytest.mark.parametrize("law", cases(quick=True))
def test_law(law: Law) -> None:
    law()


@pytest.mark.slow
@pytest.mark.parametrize("law", cases(quick=False))
def test_costly_law(law: Law) -> None:
    law()


# ---------------------------------------------------------------- what is ours


@each_method
def test_figures_tell_of_the_training(method: str) -> None:
    found = trial(method).fresh()
    figures = found.learn(micro_step(0, 4), NoScratch())
    assert figures["steps"] == 2
    assert figures["trainable_parameters"] >= sum(p.numel() for p in found.model.parameters())


@each_method
def test_presets_are_complete(method: str) -> None:
    for preset in ("paper", "reference"):
        assert configure(method, preset).tune.first.optimiser == "sgd"


@each_method
def test_the_backbone_rests_while_it_predicts(method: str) -> None:
    assert not two(method).model.backbone.training


@each_method
def test_what_is_replayed_keeps_to_a_stated_number(method: str) -> None:
    state = trial(method).taught(micro_step(0, 12)).state_dict()
    kept = {kind: len(state[kind].get("records", ())) for kind in REPLAYED if kind in state}
    assert set(kept) == ({KEEPS[method][0]} if method in KEEPS else set())
    assert all(0 < number <= KEEPS[method][1] for number in kept.values())


class Counts:
    """A scratch that counts how often something is saved."""

    def __init__(self) -> None:
        self.saved = 0

    def load(self, name: str) -> State | None:
        return None

    def save(self, name: str, state: State) -> None:
        self.saved += 1


@each_method
def test_unfinished_work_is_saved(method: str) -> None:
    """So that the law of interrupted stages has something to interrupt."""
    scratch = Counts()
    trial(method).fresh().learn(micro_step(0, 4), scratch)
    assert scratch.saved


# ---------------------------------------------------------------- laws of a step


@each_method
def test_normalisation_rests_after_the_first_step(method: str) -> None:
    before, after = weights(one(method)), weights(two(method))
    norms = [k for k in before if "running" in k or "num_batches" in k]
    assert norms and all(torch.equal(before[k], after[k]) for k in norms)


@pytest.mark.parametrize("method", ["dft", "ssul"])
def test_what_is_frozen_stays_to_the_bit(method: str) -> None:
    before, after = weights(one(method)), weights(two(method))
    kept = [k for k in before if not k.startswith("classifiers.0")]
    assert all(torch.equal(before[k], after[k]) for k in kept)
    assert two(method).model.counts == (2, 1)


@pytest.mark.parametrize("method", ["dkd", "eir"])
def test_new_classes_start_as_the_auxiliary_one(method: str) -> None:
    found, _ = on_from_one(method, "tune.later.epochs=0")
    w = weights(found)
    assert torch.equal(w["classifiers.2.weight"], w["classifiers.0.weight"])
    assert torch.equal(w["classifiers.2.bias"], w["classifiers.0.bias"])
    old = weights(one(method))
    assert all(torch.equal(old[k], w[k]) for k in old)


@pytest.mark.parametrize("method", ["dkd", "eir"])
def test_the_auxiliary_channel_teaches_the_features_nothing(method: str) -> None:
    model = one(method).model
    model.zero_grad()
    model(model.pixels(micro_image(1, (1, 2)).image[None])).logits[:, 0].sum().backward()
    assert model.classifiers[0].weight.grad is not None
    reached = [p.grad for part in (model.backbone, model.head) for p in part.parameters()]
    assert not any(grad is not None and grad.any() for grad in reached)
    model.zero_grad()


def test_the_pool_holds_what_the_steps_brought() -> None:
    first, second = one("eir").pool.by_class(), two("eir").pool.by_class()
    assert set(first) == {1, 2} and set(second) == {1, 2, 3}
    assert {label: len(items) for label, items in second.items()} == {1: 2, 2: 2, 3: 2}
    assert {i.step for i in second[3]} == {1} and {i.step for i in second[1]} == {0}


def test_the_pool_keeps_to_its_bytes() -> None:
    found = trial("eir", "tune.first.epochs=1", "max_bytes=1500").fresh()
    figures = found.learn(micro_step(0), NoScratch())
    assert 0 < figures["instance_bytes"] == found.pool.nbytes <= 1500
    assert figures["instances"] == len(found.pool)


def test_images_are_shared_out_evenly() -> None:
    labels = sorted(item.label for item in two("dkd").memory.items)
    assert len(labels) == 4 and max(map(labels.count, (1, 2, 3))) - min(map(labels.count, (1, 2, 3))) <= 1


def test_classifiers_to_come_are_taken_over_in_their_order() -> None:
    before = one("dft").state_dict()["to_come"]
    assert before["weight"].shape[0] == 2
    found, _ = on_from_one("dft", "tune.later.epochs=0")
    assert torch.equal(weights(found)["classifiers.2.weight"], before["weight"][:1])
    assert torch.equal(found.state_dict()["to_come"]["weight"], before["weight"][1:])


def test_saliency_makes_objects_unknown(tmp_path: Path) -> None:
    from PIL import Image

    from everseg.classes.methods.ssul import UNKNOWN, Marked

    sample = micro_step(0, 1).train[0]
    bright = micro_image(0, (1, 3)).labels > 0
    with pytest.raises(UserError, match=r"0\.png has no saliency map .*leave saliency out"):
        Marked([sample], str(tmp_path))[0]
    Image.fromarray((bright * 255).to(torch.uint8).numpy()).save(tmp_path / "0.png")
    labels = Marked([sample], str(tmp_path))[0].labels
    assert torch.equal(labels == UNKNOWN, bright & (sample.labels == 0))
    assert torch.equal(labels[labels != UNKNOWN], sample.labels[labels != UNKNOWN])
    found = trial("ssul", f"saliency={tmp_path}", "tune.first.epochs=1").fresh()
    found.learn(Stage(0, "s", [sample], (), ("red", "green")), NoScratch())
    assert torch.isfinite(found.unknown.weight).all()


@pytest.mark.parametrize(
    "settings",
    [
        ("background=true", "kind=region", "where=new"),
        ("background=true", "kind=region", "where=old", "absorb=bg+new"),
        ("decomposed=5",),
        ("complete=crop", "average=batch"),
        ("where=old", "gamma_later=4", "paste.rows=0.5"),
        ("replay=false", "pasting=false", "auxiliary_in=first"),
    ],
)
def test_every_variant_of_eir_learns(settings: tuple[str, ...]) -> None:
    found, figures = on_from_one("eir", *settings)
    assert 0 < figures["loss"] < 100
    ours, theirs = weights(found), weights(two("eir"))
    assert any(not torch.equal(ours[key], theirs[key]) for key in ours)
