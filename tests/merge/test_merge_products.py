"""Low-rank factors: one at a time, as products, cut back to a rank, in a common basis, and where to start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everseg.domains.adapters.lora import LoRAConfig, ParallelLoRA
from everseg.errors import UserError
from everseg.merge.arithmetic import task_arithmetic
from everseg.merge.collect import GramCollector
from everseg.merge.gram import GramConfig
from everseg.merge.knots import align, align_factors, knots
from everseg.merge.lorm import alternate, lorm, merge_down, merge_up
from everseg.merge.osrm import osrm, osrm_of_means
from everseg.merge.regmean import RegMeanConfig, regmean
from everseg.merge.regmean_sums import RegMeanSums
from everseg.merge.ties import ties
from everseg.merge.truncate import Factors, merge_products, truncate

D, OUT, R = 12, 5, 3


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def objective(w: Tensor, products: list[Tensor], moments: list[Tensor]) -> float:
    return sum(float(((w - p) @ g * (w - p)).sum()) for p, g in zip(products, moments, strict=True))


# ---------------------------------------------------------------- LoRM


def test_merging_ups_with_a_common_down_is_least_squares(tasks: Any) -> None:
    down, ups = normal(R, D), [normal(OUT, R) for _ in tasks.x]
    rows = torch.cat([x @ down.T for x in tasks.x])
    goal = torch.cat([x @ down.T @ b.T for x, b in zip(tasks.x, ups, strict=True)])
    wanted = torch.linalg.lstsq(rows, goal).solution.T
    assert relative(merge_up(ups, down, tasks.sums), wanted) < 1e-12


def test_merging_downs_has_no_gradient_left_whatever_the_up(tasks: Any) -> None:
    downs = [normal(R, D) for _ in tasks.x]
    down = merge_down(downs, tasks.sums)
    for up in (normal(OUT, R), normal(OUT, R)):
        pulls = [up.T @ up @ (down - a) @ g for a, g in zip(downs, tasks.sums, strict=True)]
        assert float(sum(pulls).norm()) < 1e-12 * sum(float(p.norm()) for p in pulls)


def test_alternating_never_gets_worse_and_finds_common_factors(tasks: Any) -> None:
    ups, downs = [normal(OUT, R) for _ in tasks.x], [normal(R, D) for _ in tasks.x]
    products = [b @ a for b, a in zip(ups, downs, strict=True)]
    losses = []
    for rounds in (0, 1, 2, 5, 20):
        up, down = alternate(ups, downs, tasks.means, rounds)
        losses.append(objective(up @ down, products, tasks.means))
    assert losses == sorted(losses, reverse=True) and losses[1] < losses[0]
    same = alternate(ups[:1] * 5, downs[:1] * 5, tasks.means, 1)
    assert relative(same[0] @ same[1], products[0]) < 1e-10


def test_products_across_tasks_are_regmean_of_products(tasks: Any) -> None:
    """R += B A G, S += G, Delta = R S^-1."""
    products = [normal(OUT, R) @ normal(R, D) for _ in tasks.x]
    sums = RegMeanSums()
    for p, g in zip(products, tasks.sums, strict=True):
        sums.add({"l.weight": p}, {"l": g})
    wanted = sum(p @ g for p, g in zip(products, tasks.sums, strict=True)) @ torch.linalg.inv(sum(tasks.sums))
    assert relative(sums.solve(ridge=0.0)[0]["l.weight"], wanted) < 1e-12


# ---------------------------------------------------------------- truncation


def energy(e: Tensor, second: Tensor) -> float:
    return float((e @ second * e).sum())


def test_what_truncation_loses_is_the_tail_of_the_spectrum(tasks: Any) -> None:
    second, delta = sum(tasks.means), normal(8, D)
    root = torch.linalg.cholesky(second)
    spectrum = torch.linalg.svdvals(delta @ root)
    for rank in (1, 3, 8):
        cut, plain = truncate(delta, rank, second), truncate(delta, rank)
        assert cut.up.shape == (8, rank) and cut.down.shape == (rank, D)
        error = energy(delta - cut.product, second)
        assert error == pytest.approx(float(spectrum[rank:].square().sum()), rel=1e-10, abs=1e-10)
        assert error <= energy(delta - plain.product, second) + 1e-9
        assert float((delta - plain.product).norm()) <= float((delta - cut.product).norm()) + 1e-9


def test_truncation_of_a_delta_of_that_rank_is_the_delta(deficient: Any) -> None:
    """Also along inputs that never occurred; and not with the adapter's scale twice."""
    delta = normal(OUT, R) @ normal(R, D)
    for second in (sum(deficient.means), torch.zeros(D, D), None):
        assert relative(truncate(delta, R, second).product, delta) < 1e-6
        assert relative(truncate(delta, R, second, scale=2.0).product * 2.0, delta) < 1e-6
    with pytest.raises(UserError, match="rank is 6"):
        truncate(delta, 6)


def pairs(tasks: Any, noise: float, seed: int = 0) -> list[dict[str, Factors]]:
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=g)

    up, down = draw(OUT, R), draw(R, D)
    return [{"l": Factors(up + noise * draw(OUT, R), down + noise * draw(R, D))} for _ in tasks.x]


def test_products_beat_factors_that_are_not_aligned(tasks: Any) -> None:
    moments = [{"l": g} for g in tasks.means]
    exact = RegMeanConfig(ridge=0.0)
    totals = dict.fromkeys(("factors", "metric", "plain"), 0.0)
    for seed in range(6):
        models = pairs(tasks, 3.0, seed)
        products = [m["l"].product for m in models]
        best = objective(
            regmean([{"l.weight": p} for p in products], moments, exact)[0]["l.weight"], products, tasks.means
        )
        down = merge_down([m["l"].down for m in models], tasks.means)
        inner = [m["l"].down @ g @ m["l"].down.T for m, g in zip(models, tasks.means, strict=True)]
        up = merge_down([m["l"].up for m in models], inner)
        metric, plain = (merge_products(models, moments, config=exact, metric=m)[0] for m in (True, False))
        found = {"factors": up @ down, "metric": metric["l"].product, "plain": plain["l"].product}
        for name, w in found.items():
            totals[name] += objective(w, products, tasks.means) / best
    assert 6 <= totals["metric"] <= totals["plain"] < totals["factors"]


# ---------------------------------------------------------------- one adapter alone


@pytest.mark.parametrize("path", ["factor", "product", "affine product", "lorm", "knots", "truncate"])
def test_one_adapter_with_weight_one_comes_back(path: str) -> None:
    """Every way of merging an adapter with nothing leaves it what it computes."""
    lora = ParallelLoRA(D, [0, 1], LoRAConfig(rank=R))
    with torch.no_grad():
        for p in lora.parameters():
            p.copy_(torch.randn(p.shape))
    x = torch.randn(64, D)
    config = GramConfig(affine=path == "affine product")
    layers = {n: m for n, m in lora.named_modules() if isinstance(m, nn.Linear)}
    with torch.no_grad(), GramCollector(layers, config) as collector:
        for down, up in zip(lora.down, lora.up, strict=True):
            up(down(x))
    moments = {n: g.mean() for n, g in collector.result().items()}
    tensors = dict(lora.state_dict())
    for i in range(2):
        names = [f"{kind}.{i}.{part}" for kind in ("up", "down") for part in ("weight", "bias")]
        up, up_bias, down, down_bias = (tensors[n] for n in names)
        wanted = F.linear(F.linear(x, down, down_bias), up, up_bias)
        factors, g = Factors(up, down, up_bias, down_bias), moments[f"down.{i}"]
        if path == "factor":
            merged = regmean([tensors], [moments])[0]
            have = F.linear(
                F.linear(x, merged[names[2]], merged[names[3]]), merged[names[0]], merged[names[1]]
            )
        elif "product" in path:
            settings = RegMeanConfig(affine=config.affine)
            got = merge_products([{"l": factors}], [{"l": g}], config=settings)[0]["l"]
            assert got.up.dtype == torch.float32 and got.down_bias is not None
            have = F.linear(F.linear(x, got.down, got.down_bias), got.up, got.up_bias)
        else:
            product, bias = factors.product, factors.bias
            if path == "lorm":
                got = lorm([{"l": factors}], [{"l": g}])["l"]
                assert got.down_bias is not None and not got.down_bias.any()
                product, bias = got.product, got.bias
            elif path == "knots":
                product = knots([{"w": product}], lambda blocks: task_arithmetic(blocks, 1.0))["w"]
            else:
                product = truncate(product, R, g).product
            have = F.linear(x, product, bias)
        assert relative(have, wanted) < 1e-6


# ---------------------------------------------------------------- KnOTS


def low_rank(count: int = 3) -> list[dict[str, Tensor]]:
    return [{"w": normal(20, 2) @ normal(2, D), "b": normal(4)} for _ in range(count)]


def test_a_common_basis_is_small_and_exact() -> None:
    deltas = low_rank()
    bases, blocks = align(deltas)
    assert set(bases) == {"w"} and bases["w"].shape == (20, 6), "ranks 2 + 2 + 2"
    torch.testing.assert_close(bases["w"].T @ bases["w"], torch.eye(6, dtype=torch.float64))
    for delta, block in zip(deltas, blocks, strict=True):
        assert relative(bases["w"] @ block["w"], delta["w"]) < 1e-6
        assert torch.equal(block["b"], delta["b"])


def test_a_common_basis_from_the_factors() -> None:
    models = [Factors(normal(20, 2), normal(2, D)) for _ in range(3)]
    basis, blocks = align_factors(models)
    dense, _ = align([{"w": m.product} for m in models])
    assert basis.shape == (20, 6)
    assert relative(basis @ basis.T, dense["w"] @ dense["w"].T) < 1e-9
    for model, block in zip(models, blocks, strict=True):
        assert relative(basis @ block, model.product) < 1e-9


def test_knots_of_a_linear_rule_is_that_rule_and_ties_stays_in_the_span() -> None:
    deltas = low_rank()
    linear = knots(deltas, lambda blocks: task_arithmetic(blocks, 0.5))
    plain = task_arithmetic(deltas, 0.5)
    assert all(relative(linear[n], plain[n]) < 1e-9 for n in plain)
    merged = knots(deltas)
    assert torch.linalg.matrix_rank(merged["w"]) <= 6
    assert relative(merged["w"], ties(deltas, scale=0.6)["w"]) > 1e-2


# ---------------------------------------------------------------- OSRM


def test_the_quietest_start(tasks: Any) -> None:
    second = sum(tasks.means)
    a = osrm(second, R)
    values = torch.linalg.eigvalsh(second)
    assert float((a @ second @ a.T).trace()) == pytest.approx(float(values[:R].sum()), rel=1e-10)
    torch.testing.assert_close(a @ a.T, torch.eye(R, dtype=torch.float64), rtol=0, atol=1e-10)
    other = torch.linalg.qr(normal(D, R))[0].T
    assert float((other @ second @ other.T).trace()) > float(values[:R].sum())
    with pytest.raises(UserError, match="rank is 13"):
        osrm(second, 13)


def test_the_trade_with_what_the_new_domain_has(deficient: Any) -> None:
    """In directions that nobody uses there is nothing to learn; the trade moves the start out of them."""
    old, new = sum(deficient.means[:4]), deficient.means[4]
    quiet, traded = osrm(old, R), osrm(old, R, new, trade=1.0)
    assert float((quiet @ new @ quiet.T).trace()) < 1e-9 < float((traded @ new @ traded.T).trace())
    torch.testing.assert_close(traded @ traded.T, torch.eye(R, dtype=torch.float64))


def test_the_published_start_lies_in_the_null_space_of_the_means() -> None:
    means = normal(4, D)
    a = osrm_of_means(means, R)
    assert float((means @ a.T).norm()) < 1e-10
