"""Rules that look at data while they merge: RegMean++, masks, learned weights, a search over blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from everseg.errors import UserError
from everseg.merge.arithmetic import task_arithmetic
from everseg.merge.blockwise import blockwise
from everseg.merge.collect import GramCollector
from everseg.merge.concrete import adamerging, concrete, soft_mask
from everseg.merge.regmean import regmean
from everseg.merge.regmean_pp import regmean_pp
from everseg.merge.tensors import applied, deltas

D = 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(D), nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.a(self.norm(x))))


def chain(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(Block(), nn.Linear(D, D), Block(), nn.ReLU(), nn.Linear(D, 3)).double()


def test_each_layer_is_merged_on_what_the_merged_ones_give() -> None:
    nets = [chain(k) for k in range(3)]
    models = [{n: p.detach().clone() for n, p in net.named_parameters()} for net in nets]
    inputs = [torch.randn(200, D).double() * (k + 1) for k in range(3)]
    before = [p.clone() for p in nets[0].parameters()]
    merged, reports = regmean_pp(list(nets[0]), models, inputs, offdiag=1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, nets[0].parameters(), strict=True))
    assert set(merged) == set(models[0])
    assert set(reports) == {"0.a", "0.b", "1", "2.a", "2.b", "4"}
    torch.testing.assert_close(merged["2.norm.weight"], torch.ones(D).double())

    # The first layer has nothing merged before it: plain RegMean. The last is fitted to the merged ones.
    moments = []
    for net, x in zip(nets, inputs, strict=True):
        layers = {n: m for n, m in net.named_modules() if isinstance(m, nn.Linear)}
        with torch.no_grad(), GramCollector(layers) as collector:
            net(x)
        moments.append({n: g.mean() for n, g in collector.result().items()})
    plain, _ = regmean(models, moments)
    torch.testing.assert_close(merged["0.a.weight"], plain["0.a.weight"])
    assert float((merged["4.weight"] - plain["4.weight"]).norm()) > 1e-3

    def loss(tensors: dict[str, Tensor]) -> float:
        head = {n: t for n, t in merged.items() if not n.startswith("4.")}
        gaps = []
        for model, x in zip(models, inputs, strict=True):
            hidden = nn.Sequential(*list(nets[0])[:4])
            z = functional_call(hidden, head, (x,))
            gaps.append(float((z @ (tensors["4.weight"] - model["4.weight"]).T).square().sum(1).mean()))
        return sum(gaps)

    assert loss(merged) < loss(plain)


def test_one_model_alone_and_strangers() -> None:
    net = chain(0)
    model = {n: p.detach().clone() for n, p in net.named_parameters()}
    merged, _ = regmean_pp(list(net), [model], [torch.randn(20, D).double()])
    assert all(torch.equal(merged[n], model[n]) for n in model)
    with pytest.raises(UserError, match="'head' belongs to no layer"):
        regmean_pp(list(net), [{"head": torch.zeros(1)}], [torch.zeros(1, D)])


def flat_models() -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    base = {"w": torch.zeros(6)}
    return base, [
        {"w": torch.tensor([1.0, 1, 1, 0, 0, 0])},
        {"w": torch.tensor([0.0, 0, 0, 1, 1, 1])},
    ]


def test_a_fresh_mask_is_task_arithmetic() -> None:
    base, models = flat_models()
    merged, logits = concrete(base, models, lambda t: t["w"].sum(), torch.Generator(), steps=0)
    torch.testing.assert_close(merged["w"], applied(base, task_arithmetic(deltas(models, base)))["w"])
    assert not logits["w"].any()
    mask = soft_mask({"w": torch.zeros(1000)}, 0.5, torch.Generator().manual_seed(0))["w"]
    assert float(mask.mean()) == pytest.approx(1.0) and float(mask.std()) > 0.3


def test_a_mask_learns_where_deltas_hurt() -> None:
    base, models = flat_models()
    goal = torch.tensor([0.6, 0.6, 0.6, 0, 0, 0])

    def loss(t: dict[str, Tensor]) -> Tensor:
        return (t["w"] - goal).square().sum()

    made = [concrete(base, models, loss, torch.Generator().manual_seed(0), steps=200, lr=0.1) for _ in "ab"]
    assert torch.equal(made[0][0]["w"], made[1][0]["w"])
    merged, logits = made[0]
    assert float(loss(merged)) < 0.1 < float(loss(applied(base, task_arithmetic(models))))
    assert float(logits["w"][:3].min()) > float(logits["w"][3:].max())


def test_learned_weights_find_the_mixture() -> None:
    base, models = flat_models()
    goal = torch.tensor([0.7, 0.7, 0.7, 0.1, 0.1, 0.1])

    def loss(t: dict[str, Tensor]) -> Tensor:
        return (t["w"] - goal).square().sum()

    for per in ("model", "tensor"):
        merged, shares = adamerging(base, models, loss, per=per, steps=300, lr=0.02)
        assert shares["w"].tolist() == pytest.approx([0.7, 0.1], abs=0.02)
        torch.testing.assert_close(merged["w"], goal, rtol=0, atol=0.02)
    start, _ = adamerging(base, models, loss, steps=0)
    torch.testing.assert_close(start["w"], torch.full((6,), 0.3))
    low = adamerging(base, models, lambda t: t["w"].sum(), steps=800, lr=0.01)[1]["w"]
    assert low.tolist() == [0.0, 0.0]


def test_the_search_takes_the_best_of_each_block() -> None:
    candidates = [{f"{b}.w": torch.tensor([float((b + k) % 3)]) for b in range(4)} for k in range(3)]
    calls = []

    def score(model: dict[str, Tensor]) -> float:
        calls.append(1)
        return sum(float(t) for t in model.values())

    found = blockwise(candidates, lambda name: name.split(".")[0], score)
    assert all(float(t) == 2.0 for t in found.tensors.values()) and found.score == 8.0
    assert found.choice == {"0": 2, "1": 1, "2": 0, "3": 2}
    assert found.start == 5.0 and found.evaluations == len(calls) <= 200
    short = blockwise(candidates, lambda name: name.split(".")[0], score, budget=3)
    assert short.evaluations == 3 and short.score == short.start
