"""The methods that SAMCL is held against: each is what its name says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from everseg.config import override
from everseg.data import SyntheticDomain
from everseg.domains.methods.baselines import FineTuneConfig, Joint, Sequential
from everseg.domains.methods.independent import Independent, IndependentConfig
from everseg.domains.methods.samcl import SAMCL, SAMCLConfig
from everseg.domains.methods.zero_shot import ZeroShot
from everseg.types import NoScratch, Query, Stage
from everseg.types.abilities import LearnsAllAtOnce, PredictsAs

SETTINGS = ("tune.fit.epochs=2", "tune.fit.batch=4")


def stage(index: int, domain: str, count: int = 8) -> Stage:
    return Stage(index, domain, SyntheticDomain(domain, count, size=64), ())


def questions() -> list[Query]:
    return [s.query() for d in ("lesions", "cracks") for s in SyntheticDomain(d, 3, size=64, split="test")]


def test_the_untouched_base_remembers_nothing(micro: Any) -> None:
    found = ZeroShot(micro)
    before = found.predict(questions())
    assert found.learn(stage(0, "lesions"), NoScratch()) == {}
    assert found.state_dict() == {}
    assert all(
        torch.equal(a.logits, b.logits) for a, b in zip(before, found.predict(questions()), strict=True)
    )


@pytest.mark.parametrize("adapter", ["lora", "aug"])
def test_sequential_goes_on_with_the_one_adapter(micro: Any, adapter: str) -> None:
    config = override(FineTuneConfig(), [*SETTINGS, f"adapter={adapter}", "rank=3"])
    found = Sequential(micro, config)
    size = sum(p.numel() for p in found.adapter.parameters())
    found.learn(stage(0, "lesions"), NoScratch())
    first = {k: v.clone() for k, v in found.adapter.state_dict().items()}
    figures = found.learn(stage(1, "cracks"), NoScratch())
    assert figures["trainable_parameters"] == size
    assert any(not torch.equal(v, first[k]) for k, v in found.adapter.state_dict().items())
    assert all(p.route is None for p in found.predict(questions()))
    assert not isinstance(found, PredictsAs)


def test_joint_is_sequential_that_asks_for_everything(micro: Any) -> None:
    found = Joint(micro, override(FineTuneConfig(), SETTINGS))
    assert isinstance(found, LearnsAllAtOnce)
    assert not isinstance(Sequential(micro), LearnsAllAtOnce)


def test_independent_modules_are_samcls(micro: Any) -> None:
    """Same seed, same names, same data: the very modules of SAMCL, without its selector."""
    ours = Independent(micro, override(IndependentConfig(), SETTINGS))
    theirs = SAMCL(micro, override(SAMCLConfig(), SETTINGS))
    for learner in (ours, theirs):
        for i, domain in enumerate(("lesions", "cracks")):
            learner.learn(stage(i, domain), NoScratch())
    for domain in ("lesions", "cracks"):
        a, b = ours.modules[domain].state_dict(), theirs.modules[domain].state_dict()
        assert all(torch.equal(a[k], b[k]) for k in a)
        for x, y in zip(
            ours.predict_as(questions(), domain), theirs.predict_as(questions(), domain), strict=True
        ):
            assert torch.equal(x.logits, y.logits)


def test_untold_it_takes_the_mask_that_the_base_rates_best(micro: Any) -> None:
    found = Independent(micro, override(IndependentConfig(), SETTINGS))
    for i, domain in enumerate(("lesions", "cracks")):
        found.learn(stage(i, domain), NoScratch())
    each = {name: found.predict_as(questions(), name) for name in found.modules}
    for i, chosen in enumerate(found.predict(questions())):
        rated = {name: float(tried[i].iou.mean()) for name, tried in each.items()}
        best = max(rated, key=lambda name: rated[name])
        assert chosen.route is not None
        assert chosen.route.name == best
        assert torch.equal(chosen.logits, each[best][i].logits)
        assert 0.5 <= chosen.route.probability <= 1
