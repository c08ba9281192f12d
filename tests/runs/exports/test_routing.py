"""The router as a function of tensors gives what the learner's own gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import stdtr

from everseg.domains.methods.regcl import RegCL
from everseg.domains.methods.samcl import SAMCL, SAMCLConfig
from everseg.domains.plausible import Gaussian
from everseg.domains.selector import SelectorConfig, train_selector
from everseg.models.promptable.protocol import TAP
from everseg.runs.exports.files import session, write_graph
from everseg.runs.exports.routing import NODES, Router, merged_router, samcl_router, student_tail
from everseg.seed import torch_generator
from everseg.types import MERGED, OUTSIDE

GRID = (8, 8)


def taps(base: Any, count: int = 40) -> torch.Tensor:
    """Features (B, Y, X, D) of which some are near the domains below, some between, some far away."""
    draw = torch.Generator().manual_seed(5)
    middle = torch.randn(count, 1, 1, base.width, generator=draw)
    middle += torch.arange(count)[:, None, None, None] % 3 - 1
    middle[-10:] *= 20
    return middle + torch.randn(count, *GRID, base.width, generator=draw)


def learned(base: Any, **selector: Any) -> SAMCL:
    """SAMCL that remembers two domains and an image class without a module."""
    learner = SAMCL(
        base, SAMCLConfig(selector=SelectorConfig(**{"epochs": 20, "natural": False, **selector}))
    )
    draw = torch.Generator().manual_seed(1)
    for n, name in enumerate(("north", "south", "photos")):
        rows = torch.randn(30, base.width, generator=draw) + n - 1
        learner.remembered.add(name, rows, 30)
        learner.selector.grow([name], torch_generator(0, name))
        if name != "photos":
            learner.modules[name] = torch.nn.Identity()  # type: ignore[assignment]  # Only names are asked.
    train_selector(
        learner.selector, learner.remembered.lessons(), learner.config.selector, torch_generator(0, "s")
    )
    return learner


def check(learner: SAMCL, router: Router, tap: torch.Tensor) -> list[str]:
    """What both answer, after seeing that it is the same."""
    wanted = learner.route({TAP: tap})
    answer, probability, p_values = router(tap.permute(0, 3, 1, 2))
    found = [router.answers[n] for n in answer.tolist()]
    assert found == [route.name for route in wanted]
    for n, route in enumerate(wanted):
        told = dict(zip(router.classes, probability[n].tolist(), strict=True))
        assert told == pytest.approx(route.probabilities, abs=1e-5)
        assert dict(zip(router.known, p_values[n].tolist(), strict=True)) == pytest.approx(
            dict(route.p_values or {}), rel=1e-6, abs=1e-300
        )
    modules = router.module_of(answer).tolist()
    names = ["", *learner.modules]
    assert [names[n] for n in modules] == [name if name in learner.modules else "" for name in found]
    return found


def test_samcl_is_routed_as_by_itself(micro: Any) -> None:
    learner = learned(micro)
    found = check(learner, samcl_router(learner), taps(micro))
    assert {OUTSIDE, "north", "south", "photos"} == set(found)


def test_later_images_of_a_domain_count_as_the_domain(micro: Any) -> None:
    learner, tap = learned(micro), taps(micro)
    alone = check(learner, samcl_router(learner), tap)
    rows = torch.randn(30, micro.width, generator=torch.Generator().manual_seed(2)) + 20
    learner.remembered.add("south, later", rows, 30, part_of="south")
    tap[-10:] = tap[-10:].mean(3, keepdim=True) * 0 + 20
    router = samcl_router(learner)
    assert router.known == ("north", "south", "photos")
    found = check(learner, router, tap)
    assert found[:-10] == alone[:-10] and OUTSIDE not in found[-10:]


def test_natural_images_are_compared_with_as_by_itself(micro: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(90, micro.width, generator=torch.Generator().manual_seed(3)) + 0.5
    monkeypatch.setattr(micro, "natural", Gaussian.fit(rows).to_state())
    learner, tap = learned(micro, natural=True), taps(micro)
    assert learner.remembered.known.gaussians["north"].beside is not None
    alone = learned(micro).remembered.p_values(tap.mean((1, 2)))
    beside = learner.remembered.p_values(tap.mean((1, 2)))
    assert any(a["north"] > 2 * b["north"] for a, b in zip(alone, beside, strict=True))
    check(learner, samcl_router(learner), tap)
    merged = RegCL(micro)
    merged.weights["north"] = 1.0
    merged.guard.add("north", learner.remembered.known.gaussians["north"])
    router = merged_router(merged)
    assert router is not None
    answer, _, _ = router(tap.permute(0, 3, 1, 2))
    wanted = merged.guard.routes(merged.weights, {TAP: tap})
    assert [router.answers[n] for n in answer.tolist()] == [r.name for r in wanted if r]


def test_samcl_without_p_values_never_abstains(micro: Any) -> None:
    learner = learned(micro, abstain=0.0)
    router = samcl_router(learner)
    assert router.p_values is None
    assert OUTSIDE not in check(learner, router, taps(micro))


def test_the_merged_adapter_is_guarded_as_by_itself(micro: Any) -> None:
    learner = RegCL(micro)
    assert merged_router(learner) is None
    draw = torch.Generator().manual_seed(1)
    for n, name in enumerate(("north", "south")):
        learner.weights[name] = 1.0
        rows = torch.randn(30, micro.width, generator=draw) + n
        learner.guard.add(name, Gaussian.fit(rows))
    router, tap = merged_router(learner), taps(micro)
    assert router is not None
    answer, _, p_values = router(tap.permute(0, 3, 1, 2))
    wanted = learner.guard.routes(learner.weights, {TAP: tap})
    assert [router.answers[n] for n in answer.tolist()] == [r.name for r in wanted if r]
    assert {MERGED, OUTSIDE} == {r.name for r in wanted if r}
    assert p_values.max(1).values.tolist() == pytest.approx(
        [max(r.p_values.values()) for r in wanted if r and r.p_values], rel=1e-6, abs=1e-300
    )


def test_students_tail_is_scipys() -> None:
    freedom = np.array([14.0, 29.0, 309.0])
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    at, gain = (nodes + 1) / 2, weights / 2
    density = torch.distributions.StudentT(torch.tensor(freedom)).log_prob(torch.zeros(3).double()).exp()
    t = np.concatenate([np.linspace(-60, 60, 241), [-1e3, 1e3, 0.0]])[:, None].repeat(3, 1)
    found = student_tail(
        torch.tensor(t),
        torch.tensor(freedom),
        density,
        torch.tensor(at / (1 - at)),
        torch.tensor(gain / (1 - at) ** 2),
    )
    wanted = stdtr(freedom, -t)
    for least, error in ((1e-25, 1e-8), (1e-300, 1e-4)):
        there = wanted > least
        assert np.abs(found.numpy()[there] / wanted[there] - 1).max() < error


@pytest.mark.slow
@pytest.mark.parametrize("natural", [False, True])
def test_the_exported_router_answers_alike(
    micro: Any, tmp_path: Path, natural: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript", reason="ONNX files need everseg[onnx]")
    rows = torch.randn(90, micro.width, generator=torch.Generator().manual_seed(3)) + 0.5
    monkeypatch.setattr(micro, "natural", Gaussian.fit(rows).to_state())
    learner = learned(micro, natural=natural)
    router, tap = samcl_router(learner), taps(micro).permute(0, 3, 1, 2).contiguous()
    images = torch.export.Dim("images", min=1, max=64)
    told = ["answer", "probabilities", "p_values"]
    write_graph(router, (tap[:2],), ["tap"], told, ({0: images},), tmp_path / "router.onnx")
    run = session(tmp_path / "router.onnx")
    for rows in (1, 7, 40):
        wanted, found = router(tap[:rows]), run.run(None, {"tap": tap[:rows].numpy()})
        assert np.array_equal(found[0], wanted[0].numpy())
        assert np.allclose(found[1], wanted[1].detach().numpy(), atol=1e-6)
        assert np.allclose(found[2], wanted[2].numpy(), rtol=1e-6, atol=0)
