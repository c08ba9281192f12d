"""One contract for every method that learns classes: what a learner promises, whatever it does inside."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everseg.errors import UserError
from everseg.files import load_state, save_state, sha256_tensors, state_bytes
from everseg.methods import METHODS as ALL
from everseg.methods import build, configure
from everseg.models.semantic.base import SemanticBase
from everseg.runs.problem import problem_of
from everseg.types import ImageQuery, Learner, NoScratch, SemanticSample, Stage, State

METHODS = tuple(m for m in ALL if problem_of(m).name == "classes")
SMALL = ("tune.crop=64", *(f"tune.{w}.{k}" for w in ("first", "later") for k in ("epochs=2", "batch=4")))
MORE = {"dkd": ("memory=4",), "eir": ("count=6",), "ssul": ("memory=4",), "dft": ("allocate=4",)}
COLOURS = torch.tensor([[110, 110, 110], [230, 30, 30], [30, 230, 30], [40, 60, 240]], dtype=torch.uint8)
STEPS = (("red", "green"), ("blue",))

pytestmark = pytest.mark.usefixtures("micro_backbone")


def image(index: int, classes: Sequence[int], size: tuple[int, int] = (64, 80)) -> SemanticSample:
    """Blocks of the classes' colours on grey noise, with all their labels."""
    generator = torch.Generator().manual_seed(100 + index)
    labels = torch.zeros(size, dtype=torch.uint8)
    for c in classes:
        top, left = (int(torch.randint(0, s - 30, (), generator=generator)) for s in size)
        labels[top : top + 26, left : left + 26] = c
    noise = torch.randint(-20, 20, (3, *size), generator=generator)
    pixels = COLOURS[labels.long()].permute(2, 0, 1).int() + noise
    return SemanticSample(pixels.clamp(0, 255).to(torch.uint8), labels, f"{index}.png")


def stage(step: int, count: int = 6) -> Stage:
    """Step 0 brings 1 and 2, step 1 brings 3; what a step does not bring is background in its labels."""
    own = (1, 2) if step == 0 else (3,)
    seen = []
    for i in range(count):
        whole = image(10 * step + i, (1 + i % 2, 3))
        labels = torch.where(torch.isin(whole.labels, torch.tensor(own)), whole.labels, 0)
        seen.append(SemanticSample(whole.image, labels.to(torch.uint8), whole.name))
    return Stage(step, f"step-{step}", seen, [image(99, (1, 2, 3))], STEPS[step])


def learner(method: str, base: SemanticBase, seed: int = 0, *more: str) -> Any:
    return build(method, base, configure(method, assignments=[*SMALL, *MORE.get(method, ()), *more]), seed)


def taught(method: str, base: SemanticBase, seed: int = 0, stages: Sequence[Stage] = ()) -> Any:
    found = learner(method, base, seed)
    for each in stages or (stage(0), stage(1)):
        found.learn(each, NoScratch())
    return found


def questions() -> list[ImageQuery]:
    images = [image(50, (1, 2)), image(51, (3,)), image(52, (1,), (97, 45)), image(53, (2, 3))]
    return [sample.query() for sample in images]


def same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def file(found: Learner, path: Path) -> bytes:
    save_state(path, found.state_dict())
    return path.read_bytes()


def weights(found: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in found.model.state_dict().items()}


@pytest.fixture(scope="module")
def one(micro_backbone: SemanticBase) -> dict[str, Any]:
    """Each method after the first step; nobody changes them."""
    torch.set_num_threads(1)
    return {method: taught(method, micro_backbone, stages=[stage(0)]) for method in METHODS}


@pytest.fixture(scope="module")
def two(one: dict[str, Any], micro_backbone: SemanticBase) -> dict[str, Any]:
    """Each method after two steps, the second learned by a fresh learner that took the first one's state."""
    found = {}
    for method, before in one.items():
        found[method] = learner(method, micro_backbone)
        found[method].load_state_dict(copy.deepcopy(before.state_dict()))
        found[method].learn(stage(1), NoScratch())
    return found


# ---------------------------------------------------------------- the contract


each_method = pytest.mark.parametrize("method", METHODS)


@each_method
def test_before_it_has_learned_all_is_background(method: str, micro_backbone: SemanticBase) -> None:
    found = learner(method, micro_backbone)
    assert isinstance(found, Learner)
    assert not any(p.any() for p in found.predict(questions()))
    assert found.predict([]) == []


@each_method
def test_predictions_come_in_order_and_in_shape(method: str, two: dict[str, Any]) -> None:
    asked = questions()
    found = two[method].predict(asked)
    for query, channels in zip(asked, found, strict=True):
        assert channels.shape == query.image.shape[1:]
        assert channels.dtype == torch.uint8
        assert int(channels.max()) <= 3
    alone = [two[method].predict([q])[0] for q in reversed(asked)][::-1]
    for a, b in zip(found, alone, strict=True):
        assert (a != b).float().mean() < 0.01  # The batch decides only which of two equals wins.


@each_method
def test_the_state_is_all_that_it_remembers(
    method: str, two: dict[str, Any], micro_backbone: SemanticBase, tmp_path: Path
) -> None:
    before = file(two[method], tmp_path / "state.safetensors")
    fresh = learner(method, micro_backbone, seed=99)
    fresh.load_state_dict(load_state(tmp_path / "state.safetensors"))
    assert same(fresh.predict(questions()), two[method].predict(questions()))
    assert file(fresh, tmp_path / "again.safetensors") == before


@each_method
def test_the_seed_decides_every_bit_and_stopping_does_not(
    method: str, two: dict[str, Any], micro_backbone: SemanticBase, tmp_path: Path
) -> None:
    """`two` was saved and loaded between its steps; this one is taught without a break."""
    torch.manual_seed(1234)
    assert file(taught(method, micro_backbone), tmp_path / "a") == file(two[method], tmp_path / "b")
    other = taught(method, micro_backbone, 1, [stage(0, 4)])
    again = taught(method, micro_backbone, 0, [stage(0, 4)])
    assert file(other, tmp_path / "c") != file(again, tmp_path / "d")


class Breaks:
    """A scratch in memory that breaks off after its first save."""

    def __init__(self) -> None:
        self.kept: dict[str, State] = {}
        self.left = 1

    def load(self, name: str) -> State | None:
        return copy.deepcopy(self.kept.get(name))

    def save(self, name: str, state: State) -> None:
        self.kept[name] = copy.deepcopy(state)
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@each_method
def test_a_step_that_was_interrupted_ends_with_the_same_bits(
    method: str, one: dict[str, Any], micro_backbone: SemanticBase, tmp_path: Path
) -> None:
    """The first step, in which running statistics and dropout are at work as well."""
    scratch = Breaks()
    with pytest.raises(KeyboardInterrupt):
        learner(method, micro_backbone).learn(stage(0), scratch)
    resumed = learner(method, micro_backbone)
    resumed.learn(stage(0), scratch)
    assert file(resumed, tmp_path / "a") == file(one[method], tmp_path / "b")


@each_method
def test_the_base_is_left_as_it_is(method: str, two: dict[str, Any], micro_backbone: SemanticBase) -> None:
    assert micro_backbone.fingerprint == sha256_tensors(dict(micro_backbone.backbone.state_dict()))
    assert not any(p.requires_grad or p.grad is not None for p in micro_backbone.backbone.parameters())
    assert not two[method].model.backbone.training


@each_method
def test_memory_is_bounded_whatever_the_number_of_images(method: str, micro_backbone: SemanticBase) -> None:
    """Weights cost what they cost; only what is replayed is of the images, and that is a stated number."""
    few, many = (taught(method, micro_backbone, 0, [stage(0, count)]).state_dict() for count in (4, 12))
    kept = {"pool", "memory"}
    assert state_bytes({k: v for k, v in few.items() if k not in kept}) == state_bytes(
        {k: v for k, v in many.items() if k not in kept}
    )
    assert len(many.get("pool", {}).get("records", ())) <= 6
    assert len(many.get("memory", {}).get("records", ())) <= 4


@each_method
@pytest.mark.parametrize("count", [0, 1, 2])
def test_steps_of_hardly_any_images_are_learned(
    method: str, micro_backbone: SemanticBase, count: int
) -> None:
    found = taught(method, micro_backbone, 0, [stage(0, count), stage(1, 2)])
    assert all(int(p.max()) <= 3 for p in found.predict(questions()))
    assert all(torch.isfinite(p).all() for p in found.model.parameters())


@each_method
def test_figures_are_plain_numbers(method: str, micro_backbone: SemanticBase) -> None:
    figures = learner(method, micro_backbone).learn(stage(0, 4), NoScratch())
    assert all(isinstance(k, str) and isinstance(v, float | int) for k, v in figures.items())
    assert figures["steps"] == 2
    assert figures["trainable_parameters"] > 1_000_000


# ---------------------------------------------------------------- laws of a step


@each_method
def test_normalisation_rests_after_the_first_step(
    method: str, one: dict[str, Any], two: dict[str, Any]
) -> None:
    before, after = weights(one[method]), weights(two[method])
    norms = [k for k in before if "running" in k or "num_batches" in k]
    assert norms and all(torch.equal(before[k], after[k]) for k in norms)


@pytest.mark.parametrize("method", ["dft", "ssul"])
def test_what_is_frozen_stays_to_the_bit(method: str, one: dict[str, Any], two: dict[str, Any]) -> None:
    before, after = weights(one[method]), weights(two[method])
    kept = [k for k in before if not k.startswith("classifiers.0")]
    assert all(torch.equal(before[k], after[k]) for k in kept)
    assert two[method].model.counts == (2, 1)


@pytest.mark.parametrize("method", ["dkd", "eir"])
def test_new_classes_start_as_the_auxiliary_one(
    method: str, one: dict[str, Any], micro_backbone: SemanticBase
) -> None:
    found = learner(method, micro_backbone, 0, "tune.later.epochs=0")
    found.load_state_dict(copy.deepcopy(one[method].state_dict()))
    found.learn(stage(1), NoScratch())
    w = weights(found)
    assert torch.equal(w["classifiers.2.weight"], w["classifiers.0.weight"])
    assert torch.equal(w["classifiers.2.bias"], w["classifiers.0.bias"])
    old = weights(one[method])
    assert all(torch.equal(old[k], w[k]) for k in old)


@pytest.mark.parametrize("method", ["dkd", "eir"])
def test_the_auxiliary_channel_teaches_the_features_nothing(method: str, one: dict[str, Any]) -> None:
    model = one[method].model
    model.zero_grad()
    model(model.pixels(image(1, (1, 2)).image[None])).logits[:, 0].sum().backward()
    assert model.classifiers[0].weight.grad is not None
    reached = [p.grad for part in (model.backbone, model.head) for p in part.parameters()]
    assert not any(grad is not None and grad.any() for grad in reached)
    model.zero_grad()


def test_the_pool_holds_what_the_steps_brought(one: dict[str, Any], two: dict[str, Any]) -> None:
    first, second = one["eir"].pool.by_class(), two["eir"].pool.by_class()
    assert set(first) == {1, 2} and set(second) == {1, 2, 3}
    assert {label: len(items) for label, items in second.items()} == {1: 2, 2: 2, 3: 2}
    assert {i.step for i in second[3]} == {1} and {i.step for i in second[1]} == {0}


def test_the_pool_keeps_to_its_bytes(micro_backbone: SemanticBase) -> None:
    found = learner("eir", micro_backbone, 0, "tune.first.epochs=1", "max_bytes=1500")
    figures = found.learn(stage(0, 6), NoScratch())
    assert 0 < figures["instance_bytes"] == found.pool.nbytes <= 1500
    assert figures["instances"] == len(found.pool)


def test_images_are_shared_out_evenly(two: dict[str, Any]) -> None:
    labels = sorted(item.label for item in two["dkd"].memory.items)
    assert len(labels) == 4 and max(map(labels.count, (1, 2, 3))) - min(map(labels.count, (1, 2, 3))) <= 1


def test_classifiers_to_come_are_taken_over_in_their_order(
    one: dict[str, Any], micro_backbone: SemanticBase
) -> None:
    before = one["dft"].state_dict()["to_come"]
    assert before["weight"].shape[0] == 2
    found = learner("dft", micro_backbone, 0, "tune.later.epochs=0")
    found.load_state_dict(copy.deepcopy(one["dft"].state_dict()))
    found.learn(stage(1), NoScratch())
    assert torch.equal(weights(found)["classifiers.2.weight"], before["weight"][:1])
    assert torch.equal(found.state_dict()["to_come"]["weight"], before["weight"][1:])


def test_saliency_makes_objects_unknown(micro_backbone: SemanticBase, tmp_path: Path) -> None:
    from PIL import Image

    from everseg.classes.methods.ssul import UNKNOWN, Marked

    sample = stage(0, 1).train[0]
    bright = image(0, (1, 3)).labels > 0
    with pytest.raises(UserError, match=r"0\.png has no saliency map .*leave saliency out"):
        Marked([sample], str(tmp_path))[0]
    Image.fromarray((bright * 255).to(torch.uint8).numpy()).save(tmp_path / "0.png")
    labels = Marked([sample], str(tmp_path))[0].labels
    assert torch.equal(labels == UNKNOWN, bright & (sample.labels == 0))
    assert torch.equal(labels[labels != UNKNOWN], sample.labels[labels != UNKNOWN])
    found = learner("ssul", micro_backbone, 0, f"saliency={tmp_path}", "tune.first.epochs=1")
    found.learn(Stage(0, "s", [sample], (), STEPS[0]), NoScratch())
    assert torch.isfinite(found.unknown.weight).all()


@pytest.mark.parametrize(
    "settings",
    [
        ("where=new",),
        ("where=old", "absorb=bg+new"),
        ("kind=sigmoid",),
        ("kind=sigmoid", "where=old", "gamma_later=4"),
        ("replay=false", "pasting=false", "auxiliary_in=first"),
    ],
)
def test_every_variant_of_eir_learns(
    settings: tuple[str, ...], one: dict[str, Any], two: dict[str, Any], micro_backbone: SemanticBase
) -> None:
    found = learner("eir", micro_backbone, 0, *settings)
    found.load_state_dict(copy.deepcopy(one["eir"].state_dict()))
    figures = found.learn(stage(1), NoScratch())
    assert 0 < figures["loss"] < 100
    key = "classifiers.2.weight"
    assert not torch.equal(weights(found)[key], weights(two["eir"])[key])


@each_method
def test_presets_are_complete(method: str) -> None:
    for preset in ("paper", "reference"):
        assert configure(method, preset).tune.first.optimiser == "sgd"
