"""SAMCL: each domain its module, each image its domain's module, and what is learned stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from everseg.config import override
from everseg.data import SyntheticDomain
from everseg.domains.methods.samcl import SAMCL, SAMCLConfig
from everseg.domains.methods.zero_shot import ZeroShot
from everseg.domains.plausible import Gaussian
from everseg.types import NATURAL, OUTSIDE, NoScratch, PromptPrediction, Query, Stage
from everseg.types.abilities import PredictsAs

DOMAINS = ("lesions", "cracks")
SETTINGS = ("tune.fit.epochs=2", "tune.fit.batch=8", "selector.size=20", "cache.precision=fp32")


def stage(index: int, domain: str, count: int = 24, background: bool = False) -> Stage:
    return Stage(index, domain, SyntheticDomain(domain, count, size=64), (), background=background)


def asked_of(domain: str) -> list[Query]:
    return [s.query() for s in SyntheticDomain(domain, 6, size=64, split="test")]


@pytest.fixture(scope="module")
def learned(micro: Any) -> SAMCL:
    """Two domains and the background."""
    torch.set_num_threads(1)
    found = SAMCL(micro, override(SAMCLConfig(), SETTINGS))
    for i, domain in enumerate(DOMAINS):
        found.learn(stage(i, domain), NoScratch())
    found.learn(stage(2, "natural", background=True), NoScratch())
    return found


def equal(a: Sequence[PromptPrediction], b: Sequence[PromptPrediction], atol: float = 1e-5) -> bool:
    return all(torch.allclose(x.logits, y.logits, rtol=0, atol=atol) for x, y in zip(a, b, strict=True))


def test_an_image_goes_to_the_module_of_its_domain(learned: SAMCL) -> None:
    for domain in (*DOMAINS, "natural"):
        routes = [p.route.name for p in learned.predict(asked_of(domain)) if p.route is not None]
        assert routes.count(domain) >= 5, (domain, routes)


def test_its_prediction_is_that_modules(learned: SAMCL) -> None:
    asked = [q for domain in DOMAINS for q in asked_of(domain)]
    for query, found in zip(asked, learned.predict(asked), strict=True):
        assert found.route is not None
        assert equal([found], learned.predict_as([query], found.route.name))
        other = next(d for d in DOMAINS if d != found.route.name)
        assert not equal([found], learned.predict_as([query], other), atol=1e-3)


def test_natural_images_get_the_untouched_base(learned: SAMCL, micro: Any) -> None:
    plain = ZeroShot(micro)
    asked = asked_of("natural")
    found = learned.predict(asked)
    untouched = [i for i, p in enumerate(found) if p.route is not None and p.route.name == "natural"]
    assert untouched
    assert equal([found[i] for i in untouched], [plain.predict(asked)[i] for i in untouched], atol=1e-2)
    assert equal(learned.predict_as(asked, "natural"), learned.predict_as(asked, "never learned"))
    assert isinstance(learned, PredictsAs)


def noise(count: int = 4) -> list[Query]:
    """Images of no domain: coloured noise, one stripe wide."""
    generator = torch.Generator().manual_seed(7)
    samples = SyntheticDomain("lesions", count, size=64, split="test")
    on = torch.rand(count, 3, 64, 1, generator=generator) > 0.5
    images = 255 * on.to(torch.uint8).repeat(1, 1, 1, 64)
    return [Query(image, sample.prompts) for image, sample in zip(images, samples, strict=True)]


def test_images_of_no_domain_get_the_untouched_base(learned: SAMCL, micro: Any) -> None:
    found = learned.predict(noise())
    for prediction in found:
        assert prediction.route is not None
        assert prediction.route.name == OUTSIDE, prediction.route
        assert set(prediction.route.p_values) == {*DOMAINS, "natural"}
        assert max(prediction.route.p_values.values()) < learned.config.selector.abstain
        assert prediction.route.probability == 1 - max(prediction.route.p_values.values())
    assert equal(found, learned.predict_as(noise(), "never learned"))
    assert equal(found, ZeroShot(micro).predict(noise()), atol=1e-2)  # whose features are rounded to fp16
    published = SAMCL(micro, override(learned.config, ["selector.abstain=0"]))
    published.load_state_dict(learned.state_dict())
    routes = [p.route for p in published.predict(noise())]
    assert all(route is not None and route.name != OUTSIDE and not route.p_values for route in routes)


def test_domains_that_cannot_have_brought_an_image_are_out_of_the_race(
    learned: SAMCL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The selector's favourite is struck out, and the next one wins with its own probability."""
    asked = asked_of("lesions")[:1]
    (before,) = learned.predict(asked)
    assert before.route is not None and before.route.name == "lesions"
    told = {"lesions": 0.0001, "cracks": 0.5, "natural": 0.0001}
    monkeypatch.setattr(learned.remembered, "p_values", lambda e: [told] * len(e))
    (after,) = learned.predict(asked)
    assert after.route is not None
    rest = {name: p for name, p in before.route.probabilities.items() if name != "lesions"}
    assert after.route.name == max(rest, key=lambda name: rest[name])
    assert after.route.probability == before.route.probabilities[after.route.name]


def test_natural_images_are_known_from_the_first_stage_on(
    micro: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = SAMCL(micro, override(SAMCLConfig(), SETTINGS))
    embeddings.learn(stage(0, "natural", background=True), NoScratch())
    natural = Gaussian.fit(embeddings.remembered.embeddings["natural"]).to_state()
    monkeypatch.setattr(micro, "natural", natural, raising=False)
    found = SAMCL(micro, override(SAMCLConfig(), SETTINGS))
    assert found.selector.names == (NATURAL,)
    found.learn(stage(0, "lesions", 8), NoScratch())
    routes = [p.route.name for p in found.predict(asked_of("natural")) if p.route is not None]
    assert routes.count(NATURAL) + routes.count(OUTSIDE) >= 5
    monkeypatch.setattr(micro, "natural", None, raising=False)
    again = SAMCL(micro, override(SAMCLConfig(), SETTINGS))  # The run knows them, the base need not.
    again.load_state_dict(found.state_dict())
    assert again.selector.names == found.selector.names == (NATURAL, "lesions")
    assert [p.route for p in again.predict(asked_of("natural"))] == [
        p.route for p in found.predict(asked_of("natural"))
    ]


def test_without_stored_embeddings(micro: Any) -> None:
    found = SAMCL(micro, override(SAMCLConfig(), [*SETTINGS, "selector.buffer=gaussian"]))
    for i, domain in enumerate(DOMAINS):
        found.learn(stage(i, domain, 12), NoScratch())
    state = found.state_dict()
    assert not state["buffer"] and tuple(state["gaussians"]) == DOMAINS
    for domain in DOMAINS:
        routes = [p.route.name for p in found.predict(asked_of(domain)) if p.route is not None]
        assert routes.count(domain) >= 5
    alone = SAMCL(micro, found.config)
    alone.learn(stage(1, "cracks", 12), NoScratch())
    told = found.forget("lesions", lambda name: None)
    assert told.exact and "statistics" in told.statement
    for ours, theirs in zip(found.predict(noise()), alone.predict(noise()), strict=True):
        assert ours.route == theirs.route


def test_modules_only_for_domains_and_classes_for_all(learned: SAMCL) -> None:
    state = learned.state_dict()
    assert tuple(state["modules"]) == DOMAINS
    assert tuple(state["buffer"]) == (*DOMAINS, "natural")
    assert state["selector"]["names"] == [*DOMAINS, "natural"]
    assert all(rows.shape == (20, 32) for rows in state["buffer"].values())
    assert learned.selector.layer4.weight.shape[0] == 3
    assert learned.selector.seen.all()


def test_learning_more_leaves_every_earlier_module_as_it_is(micro: Any) -> None:
    found = SAMCL(micro, override(SAMCLConfig(), SETTINGS))
    found.learn(stage(0, "lesions", 8), NoScratch())
    module = {k: v.clone() for k, v in found.modules["lesions"].state_dict().items()}
    kept = found.remembered.embeddings["lesions"].clone()
    alone = found.predict_as(asked_of("lesions"), "lesions")
    assert found.selector.names == ("lesions",)
    found.predict(asked_of("lesions"))
    found.learn(stage(1, "cracks", 8), NoScratch())
    assert found.selector.names == ("lesions", "cracks")
    for name, value in found.modules["lesions"].state_dict().items():
        assert torch.equal(value, module[name])
    assert torch.equal(found.remembered.embeddings["lesions"], kept)
    for a, b in zip(alone, found.predict_as(asked_of("lesions"), "lesions"), strict=True):
        assert torch.equal(a.logits, b.logits)
    # The bank is made again: the second domain's images do not run through the first one's slot.
    for found_now in found.predict(asked_of("cracks")):
        assert found_now.route is not None


def test_a_module_does_not_hang_on_the_domains_before_it(micro: Any) -> None:
    """Modules are learned apart, so the order of domains is of no account to them."""
    weights = []
    for order in (("lesions", "cracks"), ("cracks", "lesions")):
        found = SAMCL(micro, override(SAMCLConfig(), SETTINGS))
        for i, domain in enumerate(order):
            found.learn(stage(i, domain, 8), NoScratch())
        weights.append(found.modules["cracks"].state_dict())
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_figures_tell_of_both_parts(micro: Any) -> None:
    found = SAMCL(micro, override(SAMCLConfig(), SETTINGS))
    figures = found.learn(stage(0, "lesions", 8), NoScratch())
    assert {"loss", "steps", "trainable_parameters", "selector_batches"} <= set(figures)
    background = found.learn(stage(1, "natural", 8, background=True), NoScratch())
    assert "loss" not in background
    assert "selector_accuracy" in background


@pytest.mark.parametrize("preset", ["paper", "reference"])
def test_both_presets_learn_and_predict(micro: Any, preset: str) -> None:
    config = override(SAMCLConfig.presets()[preset], ["tune.fit.epochs=1", "tune.fit.batch=4"])
    found = SAMCL(micro, config)
    figures = found.learn(stage(0, "lesions", 4), NoScratch())
    assert figures["steps"] == 1
    assert all(p.route is not None and p.route.name == "lesions" for p in found.predict(asked_of("lesions")))
