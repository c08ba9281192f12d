"""One contract for every method that learns domains: what a learner promises, whatever it does inside.

Methods that learn classes have theirs in test_class_contract.py.

A new method is tested here by its line in `METHODS`. One from outside passes with `Contract` as a guide.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everseg.data import SyntheticDomain
from everseg.files import load_state, save_state, sha256_tensors, state_bytes
from everseg.methods import METHODS as ALL
from everseg.methods import build, configure, find
from everseg.runs.problem import problem_of
from everseg.types import Learner, NoScratch, PromptPrediction, Prompts, PromptSample, Query, Route, Stage

SMALL = ("tune.fit.epochs=2", "tune.fit.batch=4", "selector.size=6", "selector.epochs=3")
DOMAINS = ("lesions", "cracks")
METHODS = tuple(m for m in ALL if problem_of(m).name == "domains")
TRAINS = tuple(m for m in METHODS if m != "zero-shot")

pytestmark = pytest.mark.parametrize("method", METHODS)


def settings(method: str) -> Any:
    """The method's own settings, those of `SMALL` that it has made small."""
    config = configure(method)
    known = [s for s in SMALL if hasattr(config, s.partition(".")[0])]
    return configure(method, assignments=known)


def learner(method: str, base: Any, seed: int = 0) -> Learner:
    return build(method, base, settings(method), seed)


def stage(index: int, count: int = 8, *, background: bool = False, domain: str = "") -> Stage:
    name = domain or DOMAINS[index]
    train: Sequence[PromptSample] = SyntheticDomain(name, count, size=64) if count else ()
    return Stage(index, name, train, SyntheticDomain(name, 3, size=64, split="test"), background=background)


def taught(method: str, base: Any, seed: int = 0, stages: Sequence[Stage] | None = None) -> Learner:
    found = learner(method, base, seed)
    for each in stages or (stage(0), stage(1)):
        found.learn(each, NoScratch())
    return found


def questions(keyed: bool = False) -> list[Query]:
    samples = [sample for i in range(2) for sample in stage(i).test]
    box = Query(samples[0].image, Prompts(boxes=torch.tensor([[5.0, 5.0, 40.0, 50.0], [1.0, 2.0, 9.0, 9.0]])))
    tall = Query(
        torch.full((3, 100, 20), 7, dtype=torch.uint8), Prompts(torch.ones(1, 1, 2), torch.ones(1, 1).long())
    )
    return [*[Query(s.image, s.prompts, s.key * keyed) for s in samples], box, tall]


def same(ours: Sequence[PromptPrediction], theirs: Sequence[PromptPrediction]) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(a.logits, b.logits)
        and torch.equal(a.iou, b.iou)
        and a.route == b.route
        and a.size == b.size
        for a, b in zip(ours, theirs, strict=True)
    )


def file(found: Learner, path: Path) -> bytes:
    save_state(path, found.state_dict())
    return path.read_bytes()


@pytest.fixture(scope="module")
def two(micro: Any) -> dict[str, Learner]:
    """Each method after two stages; nobody changes them."""
    torch.set_num_threads(1)
    return {method: taught(method, micro) for method in METHODS}


# ---------------------------------------------------------------- the contract


def test_it_has_the_four_methods_and_nothing_optional(method: str, micro: Any) -> None:
    assert isinstance(learner(method, micro), Learner)
    given = inspect.signature(find(method).predict).parameters
    assert list(given) == ["self", "queries"]


def test_it_predicts_before_it_has_learned(method: str, micro: Any) -> None:
    found = learner(method, micro).predict(questions())
    plain = learner("zero-shot", micro).predict(questions())
    assert all(torch.equal(a.logits, b.logits) for a, b in zip(found, plain, strict=True))


def test_predictions_come_in_order_and_in_shape(method: str, two: dict[str, Learner]) -> None:
    asked = questions()
    found = two[method].predict(asked)
    assert len(found) == len(asked)
    for query, prediction in zip(asked, found, strict=True):
        objects, size = len(query.prompts), tuple(query.image.shape[1:])
        assert isinstance(prediction, PromptPrediction)
        assert prediction.logits.dtype == torch.float32
        assert prediction.logits.shape[0] == prediction.iou.shape[0] == objects
        assert prediction.size == size
        assert prediction.masks().shape == (objects, *size)
        assert torch.isfinite(prediction.logits).all()
        assert not prediction.logits.requires_grad
        if prediction.route is not None:
            assert isinstance(prediction.route, Route)
            assert prediction.route.name in DOMAINS
            assert 0 <= prediction.route.probability <= 1
    backwards = two[method].predict(asked[::-1])[::-1]
    for a, b in zip(found, backwards, strict=True):
        torch.testing.assert_close(a.logits, b.logits, rtol=0, atol=1e-4)
    assert two[method].predict([]) == []


def test_it_knows_no_more_than_the_query(method: str, two: dict[str, Learner]) -> None:
    """Nothing but image and prompts decides: not the key, and not what was asked before."""
    first = two[method].predict(questions())
    keyed = two[method].predict(questions(keyed=True))
    for a, b in zip(first, keyed, strict=True):
        torch.testing.assert_close(
            a.logits, b.logits, rtol=0, atol=1e-2
        )  # Cached features are in half precision.
    assert same(two[method].predict(questions()), first)


def test_the_state_is_all_that_it_remembers(
    method: str, two: dict[str, Learner], micro: Any, tmp_path: Path
) -> None:
    path = tmp_path / "state.safetensors"
    before = file(two[method], path)
    fresh = learner(method, micro, seed=99)
    fresh.load_state_dict(load_state(path))
    assert same(fresh.predict(questions()), two[method].predict(questions()))
    assert file(fresh, tmp_path / "again.safetensors") == before


def test_it_goes_on_from_its_state_as_if_it_had_never_stopped(
    method: str, two: dict[str, Learner], micro: Any, tmp_path: Path
) -> None:
    path = tmp_path / "state.safetensors"
    file(taught(method, micro, stages=[stage(0)]), path)
    fresh = learner(method, micro)
    fresh.load_state_dict(load_state(path))
    fresh.learn(stage(1), NoScratch())
    assert file(fresh, tmp_path / "a") == file(two[method], tmp_path / "b")


def test_the_seed_decides_every_bit(method: str, two: dict[str, Learner], micro: Any, tmp_path: Path) -> None:
    torch.manual_seed(1234)
    assert file(taught(method, micro), tmp_path / "a") == file(two[method], tmp_path / "b")
    other = file(taught(method, micro, seed=1), tmp_path / "c")
    assert (other != file(two[method], tmp_path / "b")) == (method in TRAINS)


def test_learning_changes_what_it_predicts(method: str, two: dict[str, Learner], micro: Any) -> None:
    plain = learner("zero-shot", micro).predict(questions())
    changed = [
        not torch.equal(a.logits, b.logits)
        for a, b in zip(two[method].predict(questions()), plain, strict=True)
    ]
    assert all(changed) if method in TRAINS else not any(changed)


def test_the_base_is_left_as_it_is(method: str, micro: Any) -> None:
    before = {k: v.clone() for k, v in micro.model.state_dict().items()}
    taught(method, micro, stages=[stage(0, 4)]).predict(questions())
    assert sha256_tensors(dict(micro.model.state_dict())) == sha256_tensors(before)
    assert not any(p.requires_grad or p.grad is not None for p in micro.model.parameters())
    assert not micro.model.training


def test_memory_does_not_grow_with_the_images(method: str, micro: Any) -> None:
    """Beyond the stated buffer (six embeddings) a domain of 16 images costs what one of 8 does."""
    few, many = (taught(method, micro, stages=[stage(0, count)]) for count in (8, 16))
    assert state_bytes(few.state_dict()) == state_bytes(many.state_dict())


def test_the_state_is_small_and_holds_no_pixels(method: str, two: dict[str, Learner]) -> None:
    def tensors(state: Any) -> list[Tensor]:
        if isinstance(state, Tensor):
            return [state]
        return [t for v in state.values() for t in tensors(v)] if isinstance(state, dict) else []

    held = tensors(two[method].state_dict())
    assert not any(t.dtype == torch.uint8 for t in held)
    assert state_bytes(two[method].state_dict()) < 60_000


@pytest.mark.parametrize("count", [0, 1, 2])
def test_stages_of_hardly_any_images_are_learned(method: str, micro: Any, count: int) -> None:
    found = taught(method, micro, stages=[stage(0, count), stage(1, 6)])
    assert all(torch.isfinite(p.logits).all() for p in found.predict(questions()))


def test_a_background_stage_leaves_the_modules_alone(method: str, micro: Any) -> None:
    found = taught(method, micro, stages=[stage(0)])
    before = sha256_tensors(flat(found.state_dict(), ("modules", "adapter")))
    found.learn(stage(1, 8, background=True, domain="natural"), NoScratch())
    assert sha256_tensors(flat(found.state_dict(), ("modules", "adapter"))) == before
    assert len(found.predict(questions())) == len(questions())


def flat(state: Any, kinds: Sequence[str]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}

    def walk(value: Any, prefix: str) -> None:
        if isinstance(value, Tensor):
            out[prefix] = value.clone()
        elif isinstance(value, dict):
            for key, part in value.items():
                walk(part, f"{prefix}/{key}")

    for kind in kinds:
        walk(state.get(kind, {}), kind)
    return out


def test_figures_are_plain_numbers(method: str, micro: Any) -> None:
    figures = learner(method, micro).learn(stage(0, 4), NoScratch())
    assert all(isinstance(k, str) and isinstance(v, float | int) for k, v in figures.items())
    if method in TRAINS:
        assert figures["steps"] == 2
        assert figures["trainable_parameters"] > 0
