"""Contributions: what a domain brings, whole and no more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from everseg.config import override
from everseg.data import SyntheticDomain
from everseg.domains.adapters.kinds import fresh_adapter
from everseg.domains.cache import CacheConfig
from everseg.domains.merging.contribution import (
    Contribution,
    MeasureConfig,
    on_cpu,
    packed,
    read_contribution,
    tune_domain,
    unpacked,
    weight_of,
)
from everseg.domains.tune import TuneConfig, forward
from everseg.errors import UserError
from everseg.files import load_state, save_state
from everseg.seed import torch_generator
from everseg.types import NoScratch, Stage


@pytest.fixture(scope="module")
def whole(micro: Any) -> Contribution:
    """Tuned for one epoch, with all that can be measured. Nobody changes it."""
    return tuned(micro, MeasureConfig(fisher=3, samples=4))


def tuned(base: Any, measure: MeasureConfig, count: int = 6) -> Contribution:
    adapter = fresh_adapter("lora", base, 3, torch_generator(0, "adapter"))
    start = on_cpu(dict(adapter.state_dict()))
    figures, found = tune_domain(
        adapter,
        base,
        Stage(0, "lesions", SyntheticDomain("lesions", count, size=64), ()),
        measure,
        override(TuneConfig.paper(), ["fit.epochs=1", "fit.batch=3"]),
        CacheConfig(),
        kind="lora",
        start=start,
        seed=0,
        scratch=NoScratch(),
    )
    assert found is not None and figures["statistics_seconds"] > 0
    return found


def test_it_says_what_it_is(whole: Contribution, micro: Any) -> None:
    assert (whole.domain, whole.adapter, whole.rank, whole.base) == ("lesions", "lora", 3, micro.fingerprint)
    assert (whole.images, whole.objects, whole.after) == (6, 6, ())
    assert not all(torch.equal(whole.start[n], whole.weights[n]) for n in whole.weights)
    assert weight_of(whole, "equal") == 1 and weight_of(whole, "images") == 6


def test_the_moments_are_those_of_the_tuned_adapters_inputs(whole: Contribution, micro: Any) -> None:
    """E|A x|^2 by the moments of A's inputs is the trace of the moments of B's, but for A's bias."""
    assert set(whole.moments) == {f"{part}.{i}" for part in ("down", "up") for i in range(2)}
    for i in range(2):
        g, a = whole.moments[f"down.{i}"], whole.weights[f"down.{i}.weight"].double()
        low = whole.moments[f"up.{i}"]
        b = whole.weights[f"down.{i}.bias"].double()
        assert torch.linalg.eigvalsh(g)[0] > -1e-9 * g.trace()
        around = low - a @ g @ a.T - b[:, None] * b  # A E[x] b^T and its transpose are left.
        assert torch.linalg.matrix_rank(around, rtol=1e-4) <= 2


def test_it_holds_no_image_unless_samples_were_asked_for(micro: Any) -> None:
    plain = tuned(micro, MeasureConfig(), 2)
    assert plain.samples is None and not plain.fisher
    few, many = (tuned(micro, MeasureConfig(), n).to_state() for n in (2, 5))
    shapes = [{n: v.shape for n, v in s["moments"].items()} for s in (few, many)]
    assert shapes[0] == shapes[1], "what is measured does not grow with the images"


def test_samples_are_rows_that_can_be_run(whole: Contribution, micro: Any) -> None:
    assert whole.samples is not None and len(whole.samples) == 4
    adapter = fresh_adapter("lora", micro, 3, None)
    adapter.load_state_dict(whole.weights)
    features = {n: v.float() for n, v in whole.samples.features.items()}
    logits, _ = forward(micro, features, whole.samples.prompts, adapter.bind)
    assert len(logits) == len(whole.samples.truth) == 4
    assert whole.samples.truth.dtype == torch.bool


def test_the_fisher_information_is_a_mean_of_squares(whole: Contribution) -> None:
    assert set(whole.fisher) == set(whole.weights)
    assert all((f >= 0).all() and torch.isfinite(f).all() for f in whole.fisher.values())
    assert sum(float(f.sum()) for f in whole.fisher.values()) > 0


def test_a_file_gives_it_back(whole: Contribution, tmp_path: Path) -> None:
    save_state(tmp_path / "c.safetensors", whole.to_state())
    again = read_contribution(tmp_path / "c.safetensors")
    assert again.fingerprint == whole.fingerprint
    assert again.samples is not None and whole.samples is not None
    assert torch.equal(again.samples.truth, whole.samples.truth)
    for name, moment in whole.moments.items():
        assert torch.equal(again.moments[name], moment)
    for field in ("domain", "base", "adapter", "rank", "mix", "after", "images", "objects"):
        assert getattr(again, field) == getattr(whole, field)


def test_a_file_with_a_nan_in_it_is_refused(whole: Contribution, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    broken = {n: v * float("nan") for n, v in whole.weights.items()}
    save_state(path, replace(whole, weights=broken).to_state())
    with pytest.raises(UserError, match=r"c\.safetensors cannot be merged: .* not finite"):
        read_contribution(path)
    assert whole.samples is not None
    features = {n: v * float("inf") for n, v in whole.samples.features.items()}
    save_state(path, replace(whole, samples=replace(whole.samples, features=features)).to_state())
    with pytest.raises(UserError, match="of its samples holds"):
        read_contribution(path)


def test_a_triangle_is_half_and_a_bit() -> None:
    moment = torch.randn(7, 7, dtype=torch.float64)
    moment = moment + moment.T
    assert packed(moment).shape == (28,)
    assert torch.equal(unpacked(packed(moment)), moment)


def test_what_is_no_contribution_is_refused(whole: Contribution, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    with pytest.raises(UserError, match="does not exist"):
        read_contribution(path)
    save_state(path, {"weights": {}})
    with pytest.raises(UserError, match=r"c\.safetensors is not a contribution of a domain"):
        read_contribution(path)
    state = whole.to_state()
    save_state(path, {k: v for k, v in state.items() if k != "rank"})
    with pytest.raises(UserError, match=r"c\.safetensors is damaged"):
        read_contribution(path)
    save_state(path, state)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="truncated"):
        load_state(path)
