"""Mergers: whatever the rule, domains come one by one, are kept account of, and go again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everseg.config import override
from everseg.domains.adapters.kinds import block_of, factors_of, fresh_adapter, from_factors, linears, pairs
from everseg.domains.merging import Merged, Merger, MergerConfig, merger
from everseg.domains.merging.contribution import Contribution, Samples
from everseg.domains.merging.removal import difference
from everseg.domains.merging.space import given_to
from everseg.domains.methods.merged import MergedConfig
from everseg.errors import UserError
from everseg.files import load_state, save_state, state_bytes
from everseg.merge import RULES, find
from everseg.merge.dop import dop
from everseg.merge.ema import ema
from everseg.merge.knots import KnOTS
from everseg.merge.opcm import opcm
from everseg.merge.rule import Place
from everseg.merge.ties import Ties, ties
from everseg.models.promptable.protocol import TAP, FramePrompts
from everseg.seed import torch_generator

# Settings with which the merge of one domain is that domain's adapter.
ALONE: dict[str, dict[str, Any]] = {
    "arithmetic": {"scale": 1.0},
    "ties": {"keep": 1.0},
    "dare": {"drop": 0.0},
    "magmax": {"scale": 1.0},
}
# PCB weighs entries of one model as well, and KnOTS' rule trims and scales.
NEVER_ALONE = ("pcb", "knots")
QUICK: dict[str, dict[str, Any]] = {
    "concrete": {"steps": 3},
    "adamerging": {"steps": 3},
    "blockwise": {"budget": 12},
}
FORGETS = {r: find(r).forgets for r in RULES}
CALIBRATED = [r for r in RULES if "samples" in find(r).needs]


def config(rule: str, **changed: Any) -> MergerConfig:
    return MergerConfig(rule, **{"options": {**QUICK.get(rule, {}), **changed.pop("options", {})}, **changed})


def brought(
    base: Any, domain: str, kind: Any = "lora", start: int = 0, samples: bool = False
) -> Contribution:
    """What a domain might bring: an adapter at some distance from its start, and statistics of its own."""
    adapter = fresh_adapter(kind, base, 3, torch_generator(start, "adapter"), mix=True)
    first = {n: v.clone() for n, v in adapter.state_dict().items()}
    draw = torch_generator(0, domain)

    def noise(value: Tensor) -> Tensor:
        return torch.randn(value.shape, generator=draw)

    moments = {}
    for name, layer in linears(adapter, prompt_branch=False).items():
        x = torch.randn(200, layer.in_features, generator=draw, dtype=torch.float64)
        moments[name] = x.T @ x / 200
    kept = None
    if samples:
        n, side = 3, base.image_size
        kept = Samples(
            {TAP: torch.randn(n, base.grid, base.grid, base.width, generator=draw).half()},
            FramePrompts(
                torch.rand(n, 1, 2, 2, generator=draw) * side, torch.ones(n, 1, 2, dtype=torch.long), None
            ),
            torch.rand(n, side, side, generator=draw) > 0.5,
        )
    return Contribution(
        domain=domain,
        base=base.fingerprint,
        adapter=kind,
        rank=3,
        mix=kind == "aug",
        start=first,
        after=(),
        images=8,
        objects=9,
        weights={n: v + 0.3 * noise(v) for n, v in first.items()},
        moments=moments,
        fisher={n: noise(v).square() + 0.01 for n, v in first.items()},
        samples=kept,
    )


def several(base: Any, rule: str, count: int = 3, kind: Any = "lora") -> list[Contribution]:
    names = ["lesions", "cracks", "nuclei", "shadows", "polyps", "camouflage"][:count]
    return [brought(base, name, kind, samples=rule in CALIBRATED) for name in names]


def merged(base: Any, how: MergerConfig, contributions: Sequence[Contribution]) -> Merger:
    found = merger(how, base)
    for contribution in contributions:
        found.add(contribution)
    return found


def effect(weights: Any) -> dict[str, Tensor]:
    """What an adapter's pairs amount to, whatever their factors."""
    return {x: f.up.double() @ f.down.double() for x, f in factors_of(weights).items()}


def gap(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    return max(float((ours[n] - theirs[n]).norm() / theirs[n].norm()) for n in theirs)


# ---------------------------------------------------------------- laws of every rule


@pytest.mark.parametrize("rule", [r for r in RULES if r not in NEVER_ALONE])
def test_one_domain_keeps_its_own_adapter(micro: Any, rule: str) -> None:
    own = several(micro, rule, 1)
    found = merged(micro, config(rule, options=ALONE.get(rule, {})), own).solve()
    assert gap(effect(found.weights), effect(own[0].weights)) < 1e-5


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["lora", "linear", "aug"])
def test_the_answer_is_an_adapter_of_the_same_kind(micro: Any, rule: str, kind: str) -> None:
    impossible = kind == "aug" and rule in ("regmean-products", "lorm", "regmean++")
    contributions = several(micro, rule, 3, kind)
    if impossible:
        with pytest.raises(UserError, match="adapter=lora"):
            merged(micro, config(rule), contributions).solve()
        return
    found = merged(micro, config(rule), contributions).solve()
    adapter = fresh_adapter(kind, micro, found.rank, None, mix=True)  # type: ignore[arg-type]
    adapter.load_state_dict(found.weights)
    assert found.rank == 3
    assert all(torch.isfinite(v).all() and v.dtype == torch.float32 for v in found.weights.values())
    own = [{n: v.double() for n, v in c.weights.items()} for c in contributions]
    moved = [sum(float((v - o[n]).norm()) for n, v in found.weights.items()) for o in own]
    if rule != "blockwise":
        assert min(moved) > 1e-3, "it is none of the domains' own"


# Concrete and AdaMerging take batches from one domain after another, so a few steps do know the order.
BY_TURNS = ("concrete", "adamerging")


@pytest.mark.parametrize("rule", [r for r in RULES if find(r).order_free and r not in BY_TURNS])
def test_an_order_free_rule_is_free_of_the_order(micro: Any, rule: str) -> None:
    contributions = several(micro, rule)
    answers = [
        merged(micro, config(rule), order).solve().weights for order in itertools.permutations(contributions)
    ]
    for other in answers[1:]:
        assert gap(effect(other), effect(answers[0])) < 1e-4


@pytest.mark.parametrize("rule", RULES)
def test_it_goes_on_from_its_state(micro: Any, rule: str, tmp_path: Path) -> None:
    contributions = several(micro, rule)
    through = merged(micro, config(rule), contributions)
    half = merged(micro, config(rule), contributions[:2])
    save_state(tmp_path / "state", half.state_dict())
    again = merger(config(rule), micro)
    again.load_state_dict(load_state(tmp_path / "state"))
    again.add(contributions[2])
    assert difference(again.solve(), through.solve()) == 0


@pytest.mark.parametrize("rule", [r for r in RULES if FORGETS[r] != "drop"])
def test_sums_and_steps_do_not_grow(micro: Any, rule: str) -> None:
    found = merger(config(rule), micro)
    sizes = []
    for number in range(50):
        found.add(replace(brought(micro, f"domain {number % 3}"), domain=f"d{number}"))
        sizes.append(state_bytes(found.state_dict()))
    assert len(set(sizes[1:])) == 1
    assert all(torch.isfinite(v).all() for v in found.solve().weights.values())


@pytest.mark.parametrize("rule", [r for r in RULES if FORGETS[r] != "refold"])
def test_a_domain_that_is_taken_out_leaves_nothing(micro: Any, rule: str) -> None:
    contributions = several(micro, rule)
    found = merged(micro, config(rule), contributions)
    found.subtract(contributions[1])
    never = merged(micro, config(rule), [contributions[0], contributions[2]])
    assert difference(found.solve(), never.solve()) < 1e-7
    assert found.state_dict()["names"] == ["lesions", "nuclei"]
    found.subtract(contributions[0])
    found.subtract(contributions[2])
    kept = str(found.state_dict()["names"]) + str(found.state_dict().get("kept", ""))
    assert "lesions" not in kept and "nuclei" not in kept
    like = found.state_dict()["like"]
    assert like["domain"] == "" and not like["weights"], "of the first domain nothing is left either"


@pytest.mark.parametrize("rule", [r for r in RULES if FORGETS[r] == "refold"])
def test_what_was_folded_cannot_be_taken_out(micro: Any, rule: str) -> None:
    contributions = several(micro, rule)
    with pytest.raises(UserError, match="cannot be taken out"):
        merged(micro, config(rule), contributions).subtract(contributions[0])


def test_merging_by_a_merger_is_merging_by_the_function(micro: Any) -> None:
    """On factors and on products, for a rule of each kind."""
    contributions = several(micro, "ties")
    cases: list[tuple[str, Place, Any]] = [
        ("ties", "factors", ties),
        ("opcm", "products", opcm),
        ("dop", "products", dop),
        ("ema", "factors", ema),
    ]
    for rule, on, function in cases:
        domains = [given_to(find(rule)(), on, c) for c in contributions]
        found = merged(micro, config(rule, on=on), contributions).solve().weights
        wanted = function([d.tensors for d in domains])
        if rule != "ema":
            wanted = {n: domains[0].start[n].double() + delta for n, delta in wanted.items()}
        if on == "factors":
            assert gap({n: v.double() for n, v in found.items()}, wanted) < 1e-6
        else:  # Cut back to the adapter's rank: the nearest of that rank.
            for x, product in effect(found).items():
                u, s, v = torch.linalg.svd(wanted[f"{x}.weight"].double(), full_matrices=False)
                best = (u[:, :3] * s[:3]) @ v[:3]
                assert float((product - best).norm() / best.norm()) < 1e-5


def test_regmean_on_products_loses_nothing_at_full_rank(micro: Any) -> None:
    """Three adapters of rank 3 need no more than rank 9, and there the cut is none."""
    contributions = several(micro, "regmean-products")
    how = config("regmean-products", rank=32)
    found = merged(micro, how, contributions).solve()
    assert found.rank == 32
    for x in pairs(contributions[0].weights):
        g = [c.moments[f"down.{x}"] for c in contributions]
        w = [effect(c.weights)[x] for c in contributions]
        wanted = sum(a @ b for a, b in zip(w, g, strict=True)) @ torch.linalg.inv(sum(g))
        assert float((effect(found.weights)[x] - wanted).norm() / wanted.norm()) < 1e-5


def test_weights_count_where_the_rule_has_them(micro: Any) -> None:
    one, two = several(micro, "average", 2)
    found = merger(config("average"), micro)
    found.add(one, 3.0)
    found.add(two, 1.0)
    wanted = {n: (3 * one.weights[n] + two.weights[n]) / 4 for n in one.weights}
    assert gap(found.solve().weights, wanted) < 1e-6
    with pytest.raises(UserError, match="weighs all domains alike"):
        merger(config("opcm"), micro).add(one, 2.0)


# ---------------------------------------------------------------- rules that calibrate


def test_the_search_is_never_worse_than_its_best_candidate(micro: Any) -> None:
    figures = merged(micro, config("blockwise"), several(micro, "blockwise")).solve().figures
    assert figures["search_score"] >= figures["search_best_whole"]
    assert figures["search_evaluations"] <= 12


def test_regmean_plus_plus_of_identical_domains_is_their_adapter(micro: Any) -> None:
    own = brought(micro, "lesions", "linear", samples=True)
    other = replace(brought(micro, "cracks", "linear", samples=True), weights=own.weights)
    found = merged(micro, config("regmean++"), [own, other]).solve()
    assert gap(effect(found.weights), effect(own.weights)) < 1e-5
    assert set(found.reports) == set(linears(fresh_adapter("linear", micro, 3, None)))


def test_calibration_wants_samples_and_says_so(micro: Any) -> None:
    for rule in CALIBRATED:
        with pytest.raises(UserError, match=r"'lesions' kept no samples.*measure=all"):
            merged(micro, config(rule), several(micro, "average", 2)).solve()


# ---------------------------------------------------------------- what cannot be merged


def test_what_differs_is_not_merged(micro: Any) -> None:
    one, two = several(micro, "average", 2)
    for changed, said in (
        ({"base": "0" * 64}, "differ in their base"),
        ({"rank": 5}, "differ in their rank"),
        ({"adapter": "linear"}, "differ in their adapter"),
        ({"domain": "lesions"}, "two domains are named 'lesions'"),
    ):
        found = merged(micro, config("average"), [one])
        with pytest.raises(UserError, match=said):
            found.add(replace(two, **changed))  # type: ignore[arg-type]
        assert difference(found.solve(), merged(micro, config("average"), [one]).solve()) == 0


def test_factors_presuppose_one_start_and_products_do_not(micro: Any) -> None:
    one, two = brought(micro, "lesions"), brought(micro, "cracks", start=1)
    with pytest.raises(UserError, match="one --seed, or merge low-rank adapters with on=products"):
        merged(micro, config("average"), [one, two])
    assert merged(micro, config("average", on="products"), [one, two]).solve().rank == 3


def test_statistics_that_are_missing_are_named(micro: Any) -> None:
    bare = replace(brought(micro, "lesions"), moments={}, fisher={})
    with pytest.raises(UserError, match=r"no moments.*--method regcl"):
        merged(micro, config("regmean"), [bare])
    with pytest.raises(UserError, match="has no Fisher information"):
        merged(micro, config("fisher"), [bare])


def test_options_are_the_rules_own() -> None:
    with pytest.raises(UserError, match=r"option of rule ties 'kep'.*keep"):
        MergerConfig("ties", options={"kep": 0.1})
    with pytest.raises(UserError, match=r"keep \(of rule ties\) is 'much'; it must be a number"):
        MergerConfig("ties", options={"keep": "much"})
    with pytest.raises(UserError, match=r"combine \(of rule ties\) is 'all'; it must be one of mean, sum"):
        MergerConfig("ties", options={"combine": "all"})
    with pytest.raises(UserError, match=r"one_too_many \(of rule ties\) is 1; it must be true or false"):
        MergerConfig("ties", options={"one_too_many": 1})
    assert MergerConfig("ties", options={"keep": 1}).build() == Ties(keep=1)
    assert override(MergerConfig("knots"), ["options={cutoff: 1e-6}"]).build() == KnOTS(cutoff=1e-6)
    with pytest.raises(UserError, match="rule of merging 'tise'"):
        MergerConfig("tise")


@pytest.mark.parametrize("rule", RULES)
def test_numbers_that_are_not_finite_are_refused(micro: Any, rule: str) -> None:
    """In one sentence, whatever the rule, and nothing is changed."""
    one, two = several(micro, rule, 2)
    found = merged(micro, config(rule), [one])
    before = str(found.state_dict())
    for part, value in (
        ("weights", math.nan),
        ("start", math.inf),
        ("moments", math.nan),
        ("fisher", -math.inf),
    ):
        tensors = {n: v.clone() for n, v in getattr(two, part).items()}
        name = next(iter(tensors))
        tensors[name].view(-1)[0] = value
        with pytest.raises(
            UserError, match=rf"the contribution of 'cracks' cannot be merged: '{name}' of its"
        ):
            found.add(replace(two, **{part: tensors}))
    assert str(found.state_dict()) == before


@pytest.mark.parametrize("rule", ["ties", "knots"])
def test_the_published_one_too_many_can_be_set(micro: Any, rule: str) -> None:
    settings = override(MergedConfig(), [f"merger.rule={rule}", "merger.options={one_too_many: true}"])
    contributions = several(micro, rule)
    kept, more = (merged(micro, how, contributions).solve() for how in (config(rule), settings.merger))
    assert difference(kept, more) > 1e-6


# ---------------------------------------------------------------- names of tensors


def test_pairs_are_found_and_put_together_again(micro: Any) -> None:
    for kind, count in (("lora", 2), ("linear", 8)):
        weights = dict(fresh_adapter(kind, micro, 3, None).state_dict())  # type: ignore[arg-type]
        assert len(pairs(weights)) == count
        again = from_factors(factors_of(weights))
        assert set(again) == set(weights)
        assert all(again[n] is weights[n] for n in weights)
    module = dict(fresh_adapter("aug", micro, 3, None).state_dict())
    assert pairs(module) == []
    with pytest.raises(UserError, match="not a product of two matrices"):
        factors_of(module)


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("down.1.weight", 1),
        ("norm_tokens.4.bias", 4),
        ("up.vision_encoder-layers-11-attn-qkv.weight", 11),
        ("up.vision_encoder-layers-3-mlp-lin1.weight", 3),
        ("down.weight", None),
        ("map_layer.bias", None),
    ],
)
def test_a_tensors_block_is_read_off_its_name(name: str, block: int | None) -> None:
    assert block_of(name) == block


def test_the_worst_that_can_be_asked_of_a_merger_is_answered(micro: Any) -> None:
    with pytest.raises(UserError, match="leave out on=factors"):
        merged(micro, config("lorm", on="factors"), several(micro, "lorm", 1))
    with pytest.raises(UserError, match="leave out on=products"):
        merged(micro, config("fisher", on="products"), several(micro, "fisher", 1))
    with pytest.raises(UserError, match="was not merged into this run"):
        merger(config("average"), micro).subtract(brought(micro, "lesions"))
    assert isinstance(merged(micro, config("average"), several(micro, "average")).solve(), Merged)
