"""What a base computes in: halves come close to wholes, and come out whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from everseg.data import Stream, SyntheticDomain
from everseg.domains.adapters.aug import AugModule
from everseg.domains.cache import CacheConfig, FeatureCache
from everseg.errors import UserError
from everseg.methods import configure
from everseg.models.precision import resolved
from everseg.models.promptable.load import load_base
from everseg.models.promptable.protocol import FramePrompts
from everseg.runs.folder import load
from everseg.runs.learn import run
from everseg.runs.run import RunConfig
from everseg.types import Stage


def test_a_cpu_computes_in_float32_unless_told() -> None:
    cpu = torch.device("cpu")
    assert [resolved(p, cpu) for p in ("auto", "fp32", "bf16", "fp16")] == ["fp32", "fp32", "bf16", "fp16"]
    assert load_base("tiny").precision == "auto"


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("bf16", 0.2), pytest.param("fp16", 0.005, marks=pytest.mark.slow)]
)
def test_half_precision_is_close_and_comes_out_whole(precision: Any, tolerance: float) -> None:
    whole, half = load_base("tiny"), load_base("tiny", precision=precision)
    image = SyntheticDomain("lesions", 1)[0].image
    prompts = FramePrompts(torch.tensor([[[[120.0, 130.0]]]]), torch.ones(1, 1, 1, dtype=torch.long), None)
    heat = torch.rand(1, whole.grid, whole.grid, generator=torch.Generator().manual_seed(0))
    module = AugModule.beside(whole)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.02)
    found = []
    for base in (whole, half):
        features = base.trunk(base.pixels([image]))
        embedding = base.tail(features, module.bind(heat))
        logits, iou = base.decode(embedding, prompts)
        assert {t.dtype for t in (*features.values(), *embedding.values(), logits, iou)} == {torch.float32}
        found.append((logits, iou))
    (logits, iou), (near, near_iou) = found
    with torch.no_grad():
        assert not torch.equal(logits, near)
        assert float((logits - near).norm() / logits.norm()) < tolerance
        assert float((iou - near_iou).abs().max()) < tolerance
        assert float(((logits > 0) != (near > 0)).float().mean()) < 0.01
    near.mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.up.parameters())


def test_features_of_another_precision_are_others() -> None:
    whole, half = load_base("tiny"), load_base("tiny", precision="bf16")
    names = [FeatureCache(base, CacheConfig())._name("key") for base in (whole, half)]
    assert names[0] != names[1]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_in_half_precision(micro_folder: Any, tmp_path: Any, precision: Any) -> None:
    stages = (
        Stage(0, "lesions", SyntheticDomain("lesions", 4, size=64), SyntheticDomain("lesions", 2, size=64)),
    )
    settings = configure("samcl", assignments=["tune.fit.epochs=2", "selector.size=3"])
    config = RunConfig("samcl", settings, str(micro_folder), precision=precision)
    done = run(Stream(stages), config, tmp_path / "run")
    found = load(tmp_path / "run")
    assert found.base.precision == precision and found.learned == done.learned == ["lesions"]
    with pytest.raises(UserError, match=rf"computes in {precision} and its base in fp32"):
        load(tmp_path / "run", load_base(str(micro_folder)))
    assert load(tmp_path / "run", str(micro_folder)).base.precision == precision
