"""Second moments: streamed, scaled, sampled, added and taken away; and the collector that measures them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from everseg.errors import UserError
from everseg.merge import gram as gram_module
from everseg.merge.collect import GramCollector
from everseg.merge.gram import Gram, GramConfig, add_up_grams

D = 6


def rows(count: int = 1000, seed: int = 0, kind: torch.dtype = torch.float64) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(count, D, dtype=torch.float64, generator=g) * 3 + 1).to(kind)


def measured(x: Tensor, splits: Any = None, seed: int = 0, **settings: Any) -> Gram:
    gram = Gram(D, GramConfig(**settings), seed=seed)
    for part in x.split(splits or len(x)):
        gram.update(part)
    return gram


@pytest.mark.parametrize("splits", [1, 7, 999, [10, 990], [0, 1000]])
@pytest.mark.parametrize("running", [False, True])
def test_any_split_into_batches_gives_one_shot(splits: Any, running: bool) -> None:
    x = rows()
    have = measured(x, splits, running_mean=running)
    assert have.rows == 1000
    torch.testing.assert_close(
        have.mean().double(), x.T @ x / 1000, rtol=1e-12 if not running else 1e-4, atol=1e-12
    )


def test_shapes_are_flattened_and_the_moment_is_symmetric() -> None:
    x = rows().float()
    gram = measured(x.view(5, 10, 20, D))
    assert torch.equal(gram.mean(), gram.mean().T)
    torch.testing.assert_close(gram.total, x.T.double() @ x.double(), rtol=1e-6, atol=1e-3)


def test_sums_in_float64_lose_less_than_a_mean_in_float32() -> None:
    x = rows(200_000).float()
    exact = x.double().T @ x.double() / len(x)
    errors = [float((measured(x, 500, running_mean=r).mean() - exact).norm() / exact.norm()) for r in (0, 1)]
    assert errors[0] < 1e-7 < 2e-7 < errors[1] * 10
    assert errors[0] < errors[1]


def test_a_large_batch_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    x = rows()
    monkeypatch.setattr(gram_module, "CHUNK", (13, 1))
    torch.testing.assert_close(measured(x).total, x.T @ x, rtol=1e-12, atol=1e-12)


def test_bfloat16_rows_and_autocast_do_not_touch_the_products() -> None:
    x = rows(kind=torch.bfloat16)
    wanted = x.double().T @ x.double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        have = measured(x).total
    assert have.dtype == torch.float64
    torch.testing.assert_close(have, wanted, rtol=1e-6, atol=1e-2)


def test_zero_rows_rescale_the_mean() -> None:
    x = rows()
    padded = torch.cat([x, torch.zeros(250, D).double()])[torch.randperm(1250)]
    plain = measured(x).mean()
    for how in ("keep", "count"):
        have = measured(padded, 100, zero_rows=how)
        assert have.rows == 1250
        assert float((have.mean() - plain * 0.8).norm() / plain.norm()) < 1e-14
    dropped = measured(padded, 100, zero_rows="drop")
    assert dropped.rows == 1000
    torch.testing.assert_close(dropped.mean(), plain, rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("running", [False, True])
def test_counted_zero_rows_are_lossless_with_the_constant_too(running: bool) -> None:
    padded = torch.cat([rows(30), torch.zeros(10, D).double()])
    kept, counted = (
        measured(padded, 7, zero_rows=how, affine=True, running_mean=running).mean()
        for how in ("keep", "count")
    )
    torch.testing.assert_close(counted, kept, rtol=1e-5 if running else 1e-13, atol=1e-12)
    assert float(kept[-1, -1]) == pytest.approx(1.0)


def test_affine_statistics_know_the_sums() -> None:
    x = rows()
    total = measured(x, 64, affine=True).total
    torch.testing.assert_close(total[:-1, -1], x.sum(0))
    torch.testing.assert_close(total[:-1, :-1], x.T @ x)
    assert float(total[-1, -1]) == 1000


def test_adding_and_taking_away() -> None:
    x = rows()
    a, b = measured(x[:300]), measured(x[300:])
    a.add(b)
    torch.testing.assert_close(a.mean(), x.T @ x / 1000, rtol=1e-12, atol=1e-12)
    a.subtract(b)
    assert a.rows == 300
    torch.testing.assert_close(a.mean(), measured(x[:300]).mean(), rtol=1e-12, atol=1e-12)
    a.subtract(measured(x[:300]))
    assert a.rows == 0 and not a.total.any(), "no rounding is left of nothing"


def test_saved_and_loaded() -> None:
    gram = measured(rows(), 100, affine=True)
    state = gram.state_dict()
    assert set(state) == {"upper", "rows", "affine"} and state["upper"].numel() == 28
    other = Gram(D, GramConfig(affine=True))
    other.load_state_dict(state)
    assert torch.equal(other.total, gram.total) and other.rows == 1000
    other.update(rows(5))
    assert other.rows == 1005
    with pytest.raises(UserError, match="measure it again"):
        Gram(D).load_state_dict(state)


def test_a_sample_of_rows() -> None:
    x = rows(4000)
    one = measured(x, max_rows=500)
    assert one.rows == 4000
    for splits in (1, 333):
        assert torch.equal(measured(x, splits, max_rows=500).total, one.total), "whatever the batches"
    assert not torch.equal(measured(x, max_rows=500, seed=1).total, one.total)
    truth = x.T @ x / 4000
    torch.testing.assert_close(one.mean(), truth, rtol=0.3, atol=1.0)
    many = torch.stack([measured(x, max_rows=500, seed=s).mean() for s in range(40)]).mean(0)
    assert float((many - truth).norm()) < 0.5 * float((one.mean() - truth).norm())
    torch.testing.assert_close(measured(x, max_rows=4000).mean(), truth, rtol=1e-12, atol=1e-12)
    total = measured(x, max_rows=500, affine=True).total
    assert float(total[-1, -1]) == pytest.approx(4000), "sums are scaled up to all rows"


def test_a_sample_is_settled_once() -> None:
    a, b = measured(rows(), max_rows=50), measured(rows(seed=1), max_rows=50)
    wanted = a.total + b.total
    a.add(b)
    torch.testing.assert_close(a.total, wanted)
    with pytest.raises(AssertionError, match="no more rows"):
        a.update(rows())
    with pytest.raises(UserError, match="max_rows"):
        GramConfig(running_mean=True, max_rows=5)


def test_shards_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """What two processes would exchange: each one's sums."""
    x = rows(kind=torch.float32)
    here, there, whole = measured(x[:400]), measured(x[400:]), measured(x)

    def exchange(tensors: list[Tensor]) -> None:
        theirs = [there.total, torch.tensor([600.0], dtype=torch.float64)]
        assert len(tensors) == 2, "a Gram that two layers share is exchanged once"
        for mine, other in zip(tensors, theirs, strict=True):
            mine += other

    monkeypatch.setattr(gram_module, "add_up", exchange)
    add_up_grams([here, here])
    assert here.rows == 1000
    torch.testing.assert_close(here.mean(), whole.mean(), rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------- collecting


class Attention(nn.Module):
    """q, k and v of one input, a layer that is used twice, one without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(D, D) for _ in range(3))
        self.out = nn.Linear(D, D, bias=False)
        self.unused = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.out(self.q(x) * self.k(x) + self.v(input=x)))


def linears(model: nn.Module, *names: str) -> dict[str, nn.Linear]:
    found = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "unused"}
    return {n: found[n] for n in names} if names else found


@pytest.mark.parametrize("inference", [False, True])
def test_layers_of_one_input_share_one_gram(monkeypatch: pytest.MonkeyPatch, inference: bool) -> None:
    model, products = Attention(), []
    real = Gram.measure
    monkeypatch.setattr(Gram, "measure", lambda self, x: products.append(1) or real(self, x))
    x = rows(kind=torch.float32)
    with torch.inference_mode(inference), GramCollector(linears(model)) as collector:
        for part in x.split(100):
            model(part.view(2, 50, D))
    assert len(products) == 10 * 3, "q, k and v are one, the shared layer two"
    grams = collector.result()
    assert grams["q"] is grams["k"] is grams["v"]
    assert (grams["q"].rows, grams["out"].rows) == (1000, 2000)
    torch.testing.assert_close(grams["q"].total, x.double().T @ x.double(), rtol=1e-5, atol=1e-2)


def test_an_input_changed_in_place_is_another_one() -> None:
    a, b = nn.Linear(D, D), nn.Linear(D, D)
    x = rows(10, kind=torch.float32)
    with torch.no_grad(), GramCollector({"a": a, "b": b}) as collector:
        a(x)
        x *= 2
        b(x)
    grams = collector.result()
    torch.testing.assert_close(grams["b"].total, 4 * grams["a"].total)


def test_hooks_go_and_the_model_computes_as_before() -> None:
    model, x = Attention(), rows(10, kind=torch.float32)
    before = model(x)
    collector = GramCollector(linears(model))
    with pytest.raises(RuntimeError, match="stop"), collector:
        assert torch.equal(model(x), before)
        raise RuntimeError("stop")
    model(x)
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert collector.grams["q"].rows == 10
    with collector:
        model(x)
    assert collector.grams["q"].rows == 20, "entered again, it goes on"


def test_affine_only_where_there_is_a_bias() -> None:
    model = Attention()
    with GramCollector(linears(model), GramConfig(affine=True)) as collector:
        model(rows(10, kind=torch.float32))
    grams = collector.result()
    assert (grams["q"].side, grams["out"].side) == (D + 1, D)


def test_sampled_layers_of_one_input_share_too() -> None:
    model = Attention()
    with GramCollector(linears(model, "q", "k"), GramConfig(max_rows=20), seed=3) as collector:
        for part in rows(kind=torch.float32).split(100):
            model(part)
    grams = collector.result()
    assert grams["q"] is grams["k"]


def test_a_layer_that_saw_nothing_is_named() -> None:
    model = Attention()
    with GramCollector({"unused": model.unused}) as collector:
        model(rows(10, kind=torch.float32))
    with pytest.raises(UserError, match="'unused' saw no rows"):
        collector.result()
    collector.see("unused", rows(10))
    assert collector.result()["unused"].rows == 10
    with pytest.raises(UserError, match="LayerNorm"):
        GramCollector({"norm": nn.LayerNorm(3)})  # type: ignore[dict-item]
