"""A batch whose rows have different adapters, or none: each row is what it is alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from everseg.domains.adapters.aug import RELEASED, AugConfig, AugModule
from everseg.domains.adapters.grouped import Grouped
from everseg.domains.adapters.kinds import AnyAdapter
from everseg.domains.adapters.linear import LinearLoRA
from everseg.domains.adapters.lora import ParallelLoRA
from everseg.domains.tune import bind_rows
from everseg.models.promptable import sam as sam_file
from everseg.models.promptable.protocol import Features
from everseg.models.promptable.sam import Sam
from everseg.models.promptable.sam2 import Sam2

CONFIGS = (AugConfig(), RELEASED, AugConfig(neck=False), AugConfig(prompt_map=False), AugConfig(mix=True))
KINDS = ("aug", "lora", "linear", "all")


def scattered(adapter: AnyAdapter, seed: int) -> AnyAdapter:
    """An adapter as training might leave it: nothing in it is zero."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapter.parameters():
            p += 0.2 * torch.randn(p.shape, generator=draw)
    return adapter


def adapters_of(base: Any, kind: str) -> list[AnyAdapter | None]:
    """Of five rows: two that share an adapter, apart; one without; and two of their own."""
    make = {"aug": AugModule.beside, "lora": ParallelLoRA.beside, "linear": LinearLoRA.beside}
    kinds = list(make) if kind == "all" else 3 * [kind]
    one, two, three = (scattered(make[k](base), seed) for seed, k in enumerate(kinds))
    return [one, None, two, one, three]


def inputs(base: Any, rows: int) -> tuple[Features, Tensor]:
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        features = base.trunk(torch.randn(rows, 3, base.image_size, base.image_size, generator=draw))
    return features, torch.rand(rows, base.grid, base.grid, generator=draw)


def assert_each_row_alone(base: Any, adapters: Sequence[AnyAdapter | None]) -> None:
    features, heat = inputs(base, len(adapters))
    mixed = base.tail(features, bind_rows(adapters)(heat))["image"].detach()
    plain = base.tail(features)["image"]
    for row, adapter in enumerate(adapters):
        here = slice(row, row + 1)
        own = None if adapter is None else adapter.bind(heat[here])
        alone = base.tail({name: level[here] for name, level in features.items()}, own)["image"].detach()
        torch.testing.assert_close(mixed[here], alone, rtol=0, atol=2e-5 * float(alone.abs().max()))
        changed = (mixed[here] - plain[here]).abs().max() > 1e-3 * plain.abs().max()
        assert changed == (adapter is not None)


@pytest.fixture(params=["micro", "micro2"])
def base(request: pytest.FixtureRequest, micro_model: Any, micro2_model: Any) -> Sam | Sam2:
    return Sam(micro_model, "micro") if request.param == "micro" else Sam2(micro2_model, "micro2")


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_each_row_is_what_it_is_alone(base: Sam | Sam2, kind: str, learning: bool) -> None:
    with torch.set_grad_enabled(learning):
        assert_each_row_alone(base, adapters_of(base, kind))


@pytest.mark.parametrize("config", CONFIGS)
def test_in_every_shape_of_an_aug_module(micro: Sam, config: AugConfig) -> None:
    one, two = (scattered(AugModule.beside(micro, config), seed) for seed in (1, 2))
    with torch.no_grad():
        assert_each_row_alone(micro, [None, one, two, two, None])


@pytest.mark.parametrize("piece", [1, 5000, 2**14])
@pytest.mark.parametrize("kind", ["linear", "aug"])
def test_where_attention_is_computed_in_pieces(
    micro: Sam, monkeypatch: pytest.MonkeyPatch, kind: str, piece: int
) -> None:
    """Pieces end wherever memory does, also within the windows of a row."""
    monkeypatch.setattr(sam_file, "PIECE", piece)
    with torch.no_grad():
        assert_each_row_alone(micro, adapters_of(micro, kind))


def test_gradients_reach_each_adapter(micro: Sam) -> None:
    adapters = adapters_of(micro, "all")
    features, heat = inputs(micro, len(adapters))
    micro.tail(features, bind_rows(adapters)(heat))["image"].square().mean().backward()
    for adapter in adapters:
        assert adapter is None or all(p.grad is not None and p.grad.any() for p in adapter.parameters())


def test_rows_of_one_adapter_need_no_groups(micro: Sam) -> None:
    adapter, heat = ParallelLoRA.beside(micro), torch.zeros(3, micro.grid, micro.grid)
    assert bind_rows([None, None, None])(heat) is None
    assert not isinstance(bind_rows([adapter] * 3)(heat), Grouped)
    assert isinstance(bind_rows([adapter, None, adapter])(heat), Grouped)
