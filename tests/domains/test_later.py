"""Later images of a known domain: held-out ones choose the module, and no module that was there changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from everseg.config import override
from everseg.data import SyntheticDomain
from everseg.domains import later
from everseg.domains.later import CHOICES, best, held_out
from everseg.domains.methods.samcl import SAMCL, SAMCLConfig
from everseg.errors import UserError
from everseg.files import sha256_tensors, state_bytes
from everseg.testing.trial import flat
from everseg.types import Going, NoScratch, PromptPrediction, Query, Stage
from everseg.types.abilities import ChoosesLater

SETTINGS = ("tune.fit.epochs=1", "tune.fit.batch=8", "selector.size=12", "selector.epochs=4")
SCORES: dict[Going, dict[Going, float]] = {
    "known": {"known": 0.6, "tuned": 0.5, "new": 0.4},
    "tuned": {"known": 0.4, "tuned": 0.6, "new": 0.5},
    "new": {"known": 0.4, "tuned": 0.5, "new": 0.6},
}


def stage(index: int, domain: str, count: int = 16, seed: int = 0, later_of: str = "") -> Stage:
    name = f"{domain}-2" if later_of else domain
    return Stage(index, name, SyntheticDomain(domain, count, size=64, seed=seed), (), later_of=later_of)


def further() -> Stage:
    return stage(2, "lesions", seed=5, later_of="lesions")


def begun(micro: Any, **changed: Any) -> SAMCL:
    config = override(SAMCLConfig(), [*SETTINGS, *(f"{key}={value}" for key, value in changed.items())])
    found = SAMCL(micro, config)
    for i, domain in enumerate(("lesions", "cracks")):
        found.learn(stage(i, domain), NoScratch())
    return found


@pytest.fixture(scope="module")
def two(micro: Any) -> Any:
    """The state of a learner of two domains."""
    torch.set_num_threads(1)
    return begun(micro).state_dict()


def loaded(micro: Any, state: Any) -> SAMCL:
    found = SAMCL(micro, override(SAMCLConfig(), list(SETTINGS)))
    found.load_state_dict(state)
    return found


def choosing(monkeypatch: pytest.MonkeyPatch, choice: Going) -> None:
    """Let held-out images prefer a choice."""
    tried = later.try_out
    monkeypatch.setattr(later, "try_out", lambda *given: (tried(*given)[0], SCORES[choice]))


def modules(learner: SAMCL) -> dict[str, str]:
    return {name: sha256_tensors(dict(module.state_dict())) for name, module in learner.modules.items()}


def asked() -> list[Query]:
    return [s.query() for s in SyntheticDomain("lesions", 5, size=64, split="test")]


def equal(ours: list[PromptPrediction], theirs: list[PromptPrediction]) -> bool:
    return all(torch.equal(a.logits, b.logits) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("choice", CHOICES)
def test_the_best_one_is_chosen_and_of_equal_ones_what_changes_least(choice: Going) -> None:
    assert best(SCORES[choice]) == choice
    assert best(dict.fromkeys(CHOICES, 0.5)) == "known"
    assert best({"known": 0.4, "tuned": 0.5, "new": 0.5}) == "tuned"


def test_what_is_held_out_is_neither_trained_on_nor_remembered(micro: Any, two: Any) -> None:
    learner = loaded(micro, two)
    taught, held = held_out(further())
    names = [{part[i].name for i in range(len(part))} for part in (taught.train, held)]
    assert not names[0] & names[1] and len(names[0]) + len(names[1]) == 16 and names[1]
    learner.learn(further(), NoScratch())
    found = learner.chosen_later()
    assert found is not None and found.images == len(held) and found.chosen == best(found.scores)
    assert learner.remembered.counts["lesions-2"] == len(taught.train)


@pytest.mark.parametrize("choice", CHOICES)
def test_no_module_that_was_there_changes(
    micro: Any, two: Any, choice: Going, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, before = loaded(micro, two), loaded(micro, two)
    choosing(monkeypatch, choice)
    figures = learner.learn(further(), NoScratch())
    now = modules(learner)
    assert {name: now[name] for name in before.modules} == modules(before)
    assert set(now) - set(before.modules) == (set() if choice == "known" else {"lesions-2"})
    assert ("steps" in figures) == (choice != "known")
    for name, rows in before.remembered.embeddings.items():
        assert torch.equal(learner.remembered.embeddings[name], rows)
    told = learner.chosen_later()
    assert isinstance(learner, ChoosesLater) and told is not None
    assert (told.of, told.chosen, 0 <= told.moved <= 1) == ("lesions", choice, True)
    assert choice != "known" or told.moved == 0 or set(now) == set(before.modules)
    again = loaded(micro, learner.state_dict())
    assert equal(again.predict(asked()), learner.predict(asked()))
    served = "lesions" if choice == "known" else "lesions-2"
    assert equal(learner.predict_as(asked(), "lesions-2"), learner.predict_as(asked(), served))
    assert {p.route.name for p in learner.predict(asked()) if p.route} <= {*now, "outside"}


def test_a_tuned_module_sets_out_from_the_known_one(
    micro: Any, two: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = loaded(micro, two)
    learner.config = override(learner.config, ["tune.fit.lr=0"])
    choosing(monkeypatch, "tuned")
    learner.learn(further(), NoScratch())
    tuned, known = (dict(learner.modules[name].state_dict()) for name in ("lesions-2", "lesions"))
    assert all(torch.allclose(tuned[name], weight, rtol=0, atol=1e-6) for name, weight in known.items())


def test_an_own_module_is_that_of_a_stage_of_what_is_trained_on(
    micro: Any, two: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, other = loaded(micro, two), loaded(micro, two)
    choosing(monkeypatch, "new")
    learner.learn(further(), NoScratch())
    other.learn(replace(held_out(further())[0], later_of=""), NoScratch())
    assert modules(learner) == modules(other)
    assert sha256_tensors(learner.state_dict()["selector"]["weights"]) == sha256_tensors(
        other.state_dict()["selector"]["weights"]
    )


@pytest.mark.parametrize("choice", CHOICES)
def test_forgetting_undoes_it_to_the_bit(
    micro: Any, two: Any, choice: Going, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = loaded(micro, two)
    choosing(monkeypatch, choice)
    learner.learn(further(), NoScratch())
    with pytest.raises(UserError, match="'lesions-2' was learned later, from images of 'lesions' as well"):
        learner.forget("lesions", lambda name: None)
    learner = loaded(micro, learner.state_dict())
    assert learner.forget("lesions-2", lambda name: None).exact
    assert flat(learner.state_dict()).keys() == flat(two).keys()
    for name, value in flat(two).items():
        same = flat(learner.state_dict())[name]
        assert torch.equal(same, value) if isinstance(value, torch.Tensor) else same == value, name


def test_of_a_domain_that_is_not_known_it_is_a_stage_like_any_other(micro: Any, two: Any) -> None:
    learner, other = loaded(micro, two), loaded(micro, two)
    asking = stage(2, "nuclei", later_of="nobody")
    learner.learn(asking, NoScratch())
    other.learn(replace(asking, later_of=""), NoScratch())
    assert learner.chosen_later() is None and modules(learner) == modules(other)
    assert state_bytes(learner.state_dict()) == state_bytes(other.state_dict())


@pytest.mark.slow
def test_without_embeddings_it_works_alike(micro: Any) -> None:
    learner = begun(micro, **{"selector.buffer": "gaussian"})
    learner.learn(further(), NoScratch())
    found = learner.chosen_later()
    assert found is not None and found.chosen == best(found.scores) and not learner.remembered.embeddings
