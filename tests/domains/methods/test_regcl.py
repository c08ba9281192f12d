"""RegCL: one adapter for all domains, whose laws are those of the sums it is solved from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from everseg.config import override
from everseg.data import SyntheticDomain
from everseg.domains.adapters.aug import AugConfig, AugModule
from everseg.domains.adapters.kinds import PROMPT_BRANCH
from everseg.domains.adapters.lora import ParallelLoRA
from everseg.domains.merging.sums import Sums
from everseg.domains.methods.regcl import RegCL, RegCLConfig
from everseg.domains.prepare import PREDICT_BATCH, prepare
from everseg.domains.tune import observe_inputs
from everseg.errors import UserError
from everseg.files import state_bytes
from everseg.types import NoScratch, Stage

SETTINGS = ("tune.fit.epochs=2", "tune.fit.batch=4", "rank=3")


def stage(domain: str, count: int = 8) -> Stage:
    return Stage(0, domain, SyntheticDomain(domain, count, size=64), ())


def taught(base: Any, *domains: str, preset: str = "paper", settings: tuple[str, ...] = ()) -> RegCL:
    found = RegCL(base, override(RegCLConfig.presets()[preset], [*SETTINGS, *settings]))
    for domain in domains:
        found.learn(stage(domain), NoScratch())
    return found


Weights = nn.Module | Mapping[str, torch.Tensor]


def distance(a: Weights, b: Weights) -> float:
    both = [dict(m.named_parameters()) if isinstance(m, nn.Module) else m for m in (a, b)]
    ours, theirs = (torch.cat([m[n].detach().flatten() for n in both[0]]) for m in both)
    return float((ours - theirs).norm() / theirs.norm())


def test_the_published_adapter_has_these_numbers() -> None:
    module = AugModule(768, 256, (7, 8, 9, 10, 11), AugConfig(mix=True))
    assert (module.total_parameters, module.counted_parameters) == (62_074, 61_854)
    assert len(list(module.parameters())) == 50
    by_form = [n for n, m in module.named_modules() if isinstance(m, nn.Linear) and n not in PROMPT_BRANCH]
    assert len(by_form) == 11


@pytest.mark.parametrize("adapter", ["aug", "lora", "linear"])
@pytest.mark.parametrize("preset", ["paper", "reference", "robust"])
def test_one_domain_keeps_its_own_adapter(micro: Any, adapter: str, preset: str) -> None:
    found = taught(micro, "lesions", preset=preset, settings=(f"adapter={adapter}", "start=sequ"))
    assert found.last is not None
    assert distance(found.merged, found.last) == 0


@pytest.mark.slow
def test_the_order_of_domains_is_of_no_account(micro: Any) -> None:
    """With one start common to all. Without it each domain's adapter depends on those before."""
    there, back = (("lesions", "cracks", "nuclei"), ("nuclei", "cracks", "lesions"))
    assert distance(taught(micro, *there).merged, taught(micro, *back).merged) < 1e-6
    settings = ("start=sequ",)
    assert (
        distance(
            taught(micro, *there, settings=settings).merged, taught(micro, *back, settings=settings).merged
        )
        > 1e-3
    )


def test_a_sequential_start_is_the_last_own_adapter_never_the_merged(micro: Any) -> None:
    settings = ("start=sequ", "tune.fit.epochs=0")
    found = taught(micro, "lesions", "cracks", settings=("start=sequ",))
    assert found.last is not None and distance(found.merged, found.last) > 1e-3
    still = RegCL(micro, override(RegCLConfig(), [*SETTINGS, *settings]))
    still.load_state_dict(found.state_dict())
    still.learn(stage("nuclei"), NoScratch())
    assert still.last is not None and distance(still.last, found.last) == 0


def test_what_is_kept_does_not_grow(micro: Any) -> None:
    found = taught(micro, "lesions")
    size = state_bytes(found.state_dict())
    for domain in ("cracks", "nuclei", "shadows"):
        found.learn(stage(domain, 3), NoScratch())
        assert state_bytes(found.state_dict()) == size
    grown = taught(micro, "lesions", "cracks", preset="reference")
    assert set(grown.merger.state_dict()["kept"]) == {"lesions", "cracks"}


def test_fifty_domains_take_what_two_do(micro: Any) -> None:
    """But for the statistics by which the domains' images are known, which are of one size."""
    found = taught(micro, "lesions", "cracks")
    size = state_bytes(found.state_dict())
    one = state_bytes(found.state_dict()["gaussians"]["cracks"])
    assert found.newest is not None
    for number in range(48):
        found.take_in(replace(found.newest, domain=f"domain-{number}"))
    assert len(found.weights) == 50
    assert state_bytes(found.state_dict()) == size + 48 * one
    assert all(torch.isfinite(p).all() for p in found.merged.parameters())


def test_on_products_unaligned_adapters_lose_less(micro: Any) -> None:
    """Of the same adapters, tuned from one start: the objective as a share of averaging's own."""
    figures = {}
    for on in ("factors", "products"):
        found = taught(micro, "lesions", settings=("adapter=lora", f"on={on}"))
        figures[on] = found.learn(stage("cracks"), NoScratch())["merge_objective"]
    assert 0 < figures["products"] < 1 and 0 < figures["factors"] < 1
    assert isinstance(found.merged, ParallelLoRA) and found.merged.config.rank == 3


def test_an_osrm_start_lies_where_the_domains_before_have_least_energy(micro: Any) -> None:
    settings = ("adapter=lora", "on=products", "start=osrm")
    found = taught(micro, "lesions", settings=settings)
    assert isinstance(found.merger, Sums)
    still = RegCL(micro, override(found.config, ["tune.fit.epochs=0"]))
    still.load_state_dict(found.state_dict())
    still.learn(stage("cracks"), NoScratch())
    assert still.newest is not None and still.newest.after == ("lesions",)
    for i in range(2):
        down, up = (still.newest.weights[f"{part}.{i}.weight"].double() for part in ("down", "up"))
        assert not up.any(), "fresh, it is the identity"
        rows = down / down.norm(dim=1, keepdim=True)
        torch.testing.assert_close(rows @ rows.T, torch.eye(3).double(), rtol=0, atol=1e-5)
        second = found.merger.sums.layers[str(i)].second
        least = torch.linalg.eigvalsh(second)[:3].sum()
        assert float((rows @ second @ rows.T).trace()) == pytest.approx(float(least), rel=1e-3, abs=1e-6)
    # The starts differ, and on products that is no matter.
    assert still.learn(stage("nuclei"), NoScratch())["merge_condition"] >= 1


def test_settings_that_contradict_each_other_are_refused() -> None:
    for settings, said in (
        (["on=products"], "adapter=lora"),
        (["start=osrm"], "on=products"),
        (["adapter=lora", "merge.arithmetic=fp32_inverse", "on=products"], "float64"),
    ):
        with pytest.raises(UserError, match=said):
            override(RegCLConfig(), settings)


def test_merging_is_better_than_averaging_by_its_own_measure(micro: Any) -> None:
    found = taught(micro, "lesions")
    figures = found.learn(stage("cracks"), NoScratch())
    assert figures["merge_objective"] < 1
    assert figures["merge_worse_than_mean"] == 0
    assert figures["merge_condition"] >= 1


@pytest.mark.parametrize("adapter", ["aug", "lora"])
def test_every_layer_is_seen_with_its_inputs(micro: Any, adapter: str) -> None:
    """All rows of all blocks, padding included; what is seen gives what the layer answers."""
    found = taught(micro, "lesions", settings=(f"adapter={adapter}",))
    module = found.merged
    prepared = prepare(stage("cracks", 5).train, micro, found.config.cache, found.config.tune.fit, "cracks")
    seen: dict[str, int] = {}

    def observe(layer: str, inputs: torch.Tensor) -> None:
        assert inputs.shape[-1] == dict(module.named_modules())[layer].in_features
        seen[layer] = seen.get(layer, 0) + inputs[..., 0].numel()

    observe_inputs(module, micro, prepared, observe, "cracks")
    assert len(prepared) == 5 <= PREDICT_BATCH
    windowed, whole = 5 * 81, 5 * 64  # the grid of 8 x 8 in windows of 3, padded to 9 x 9; and as it is
    if adapter == "lora":
        assert seen == {
            f"{part}.{i}": rows for i, rows in enumerate((windowed, whole)) for part in ("down", "up")
        }
        return
    assert seen.pop("down") == windowed + whole
    assert {seen.pop(name) for name in PROMPT_BRANCH} == {whole}
    assert seen == {f"{part}.{i}": rows for i, rows in enumerate((windowed, whole)) for part in ("mix", "up")}
