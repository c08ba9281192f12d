"""The neighbours of RegMean: what each is on small vectors, its laws, and the quirks behind switches."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from everseg.errors import UserError
from everseg.merge import find
from everseg.merge.arithmetic import Arithmetic, task_arithmetic
from everseg.merge.average import RunningMean, average
from everseg.merge.became import became, became_share
from everseg.merge.dare import dare, dropped
from everseg.merge.dop import DOP, dop
from everseg.merge.ema import Ema, ema
from everseg.merge.fisher import FisherSums, diagonal_fisher, fisher_merge
from everseg.merge.knots import knots
from everseg.merge.layerwise import anchor_weights, layerwise
from everseg.merge.magmax import MagMax, magmax
from everseg.merge.opcm import OPCM, cleaned, opcm
from everseg.merge.pcb import pcb
from everseg.merge.rule import Domain
from everseg.merge.tensors import applied, deltas, flat, norm, unflat
from everseg.merge.ties import ties, trim

Model = dict[str, Tensor]


def models(count: int = 4, kind: torch.dtype = torch.float64, seed: int = 0) -> list[Model]:
    g = torch.Generator().manual_seed(seed)
    return [
        {"w": torch.randn(6, 9, generator=g, dtype=kind), "b": torch.randn(6, generator=g, dtype=kind)}
        for _ in range(count)
    ]


def gap(a: Model, b: Model) -> float:
    return norm({n: a[n] - b[n] for n in b}) / norm(b)


# ---------------------------------------------------------------- all of them

DATA_FREE = {
    "average": lambda m: average(m),
    "ema": lambda m: ema(m),
    "arithmetic": lambda m: task_arithmetic(m),
    "ties": lambda m: ties(m),
    "dare": lambda m: dare(m, torch.Generator().manual_seed(0)),
    "magmax": lambda m: magmax(m),
    "pcb": lambda m: pcb(m),
    "knots": lambda m: knots(m),
    "opcm": lambda m: opcm(m),
    "dop": lambda m: dop(m),
    "layerwise": lambda m: layerwise(m, lambda name: 0 if name == "w" else 1),
}


@pytest.mark.parametrize("name", DATA_FREE)
def test_names_shapes_and_types_come_back_and_nothing_is_changed(name: str) -> None:
    for kind in (torch.float32, torch.float64):
        given = models(kind=kind)
        before = [{n: t.clone() for n, t in m.items()} for m in given]
        merged = DATA_FREE[name](given)
        assert {n: (t.shape, t.dtype) for n, t in merged.items()} == {
            n: (t.shape, t.dtype) for n, t in given[0].items()
        }
        assert all(bool(t.isfinite().all()) for t in merged.values())
        assert all(torch.equal(a[n], b[n]) for a, b in zip(given, before, strict=True) for n in a)


@pytest.mark.parametrize("name", DATA_FREE)
def test_parameters_in_training_merge_to_plain_tensors(name: str) -> None:
    given = [{n: torch.nn.Parameter(t) for n, t in m.items()} for m in models()]
    assert not any(t.requires_grad for t in DATA_FREE[name](given).values())


@pytest.mark.parametrize("name", DATA_FREE)
def test_zeros_merge_to_zeros(name: str) -> None:
    nothing = [{n: torch.zeros_like(t) for n, t in m.items()} for m in models()]
    assert all(not t.any() for t in DATA_FREE[name](nothing).values())


@pytest.mark.parametrize("name", [n for n in DATA_FREE if n != "dare"])
def test_the_table_is_right_about_order(name: str) -> None:
    given = models()
    first = DATA_FREE[name](given)
    worst = max(gap(DATA_FREE[name](list(p)), first) for p in itertools.permutations(given))
    if find(name).order_free:
        assert worst < 1e-12
    elif name != "magmax":  # whose order matters through training, and through equal entries
        assert worst > 1e-3


@pytest.mark.parametrize("name", DATA_FREE)
def test_models_of_another_kind_are_refused(name: str) -> None:
    other = models()
    other[1] = {"w": other[1]["w"], "c": other[1]["b"]}
    with pytest.raises(UserError, match="do not both have"):
        DATA_FREE[name](other)
    other[1] = {"w": torch.zeros(6, 8).double(), "b": torch.zeros(6).double()}
    with pytest.raises(UserError, match=r"\(6, 9\) in model 1"):
        DATA_FREE[name](other)


def test_deltas_and_back() -> None:
    base, *rest = models()
    assert gap(applied(base, deltas(rest, base)[0]), rest[0]) < 1e-15
    assert gap(unflat(flat(base), base), base) == 0


# ---------------------------------------------------------------- averages


def test_running_mean_adds_forgets_and_goes_on() -> None:
    given, mean = models(), RunningMean()
    for m in given:
        mean.add(m)
    assert gap(mean.solve(), average(given)) < 1e-15
    mean.subtract(given[1])
    assert gap(mean.solve(), average([given[0], *given[2:]])) < 1e-14
    other = RunningMean()
    other.load_state_dict(mean.state_dict())
    other.add(given[1])
    assert gap(other.solve(), average(given)) < 1e-14
    for m in given:
        other.subtract(m)
    assert (other.count, other.total) == (0, {})
    other.add(models(1, torch.float32)[0])
    assert all(torch.equal(t, models(1, torch.float32)[0][n]) for n, t in other.solve().items())


def test_ema_with_a_growing_beta_is_the_mean() -> None:
    given = models()
    state = Ema().start(Domain(given[0]))
    for t, m in enumerate(given[1:], 1):
        state = Ema(t / (t + 1)).step(state, Domain(m))
    assert gap(state.merged, average(given)) < 1e-14


def test_arithmetic_normalised_is_the_weighted_mean() -> None:
    given, weights = models(), [1.0, 2.0, 3.0, 4.0]
    assert gap(task_arithmetic(given, 1.0, weights, normalise=True), average(given, weights)) < 1e-14
    domains = [Domain(m, weight=w) for m, w in zip(given, weights, strict=True)]
    for normalise in (False, True):
        found = Arithmetic(0.4, normalise).merge(domains).tensors
        assert gap(dict(found), task_arithmetic(given, 0.4, weights, normalise)) < 1e-14


# ---------------------------------------------------------------- TIES, DARE, MagMax, PCB


def test_trimming_keeps_exactly_so_many_and_the_published_code_one_more() -> None:
    row = torch.randperm(100).double() + 1
    assert [int((trim(row, k, q) != 0).sum()) for k, q in ((0.2, False), (0.2, True))] == [20, 21]
    ten = row[:10]
    assert [int((trim(ten, k, q) != 0).sum()) for k, q in ((0.2, False), (0.2, True))] == [2, 3]
    assert int((trim(torch.ones(10), 0.3) != 0).sum()) == 3, "equal ones from the front"
    zeros = torch.cat([torch.ones(2), torch.zeros(8)])
    assert int((trim(zeros, 0.3) != 0).sum()) == 2
    assert not trim(ten, 0.0).any() and torch.equal(trim(ten, 1.0), ten)


def test_ties_switches() -> None:
    a, b = {"w": torch.tensor([1.0, -2.0, 3.0])}, {"w": torch.tensor([2.0, 1.0, -3.0])}
    assert ties([a, b], keep=1.0)["w"].tolist() == [1.5, -2.0, 0.0 + 0]  # majority of (+, -) is none
    assert ties([a, b], keep=1.0, zero_sum="positive")["w"].tolist() == [1.5, -2.0, 3.0]
    assert ties([a, b], keep=1.0, combine="sum", scale=0.5)["w"].tolist() == [1.5, -1.0, 0.0]
    heavy = [1.0, 3.0]
    after = ties([a, b], keep=1.0, weights=heavy, zero_sum="positive")["w"].tolist()
    assert after == [pytest.approx(7 / 4), -2.0, 3.0]
    before = ties([a, b], keep=1.0, weights=heavy, elect_weighted=True)["w"].tolist()
    assert before == [pytest.approx(7 / 4), 1.0, -3.0]
    with pytest.raises(UserError, match="keep is 20"):
        ties([a, b], keep=20)


def test_ties_by_tensor_keeps_a_share_of_each() -> None:
    given = [{"big": torch.full((10,), 100.0), "small": torch.arange(1.0, 11.0)}]
    whole, parts = (ties(given, keep=0.2, scope=scope) for scope in ("all", "tensor"))
    assert (int((whole["big"] != 0).sum()), int((whole["small"] != 0).sum())) == (4, 0)
    assert (int((parts["big"] != 0).sum()), int((parts["small"] != 0).sum())) == (2, 2)


def test_dare_is_unbiased_and_ten_times_as_loud() -> None:
    delta = {"w": torch.ones(200_000, dtype=torch.float64)}
    out = dropped(delta, torch.Generator().manual_seed(0), 0.9)["w"]
    assert float(out.mean()) == pytest.approx(1.0, abs=0.03)
    assert float(out.square().mean()) == pytest.approx(10.0, rel=0.03)
    again = dropped(delta, torch.Generator().manual_seed(0), 0.9)["w"]
    assert torch.equal(out, again)
    l1 = dropped(delta, torch.Generator().manual_seed(0), 0.9, "l1")["w"]
    assert float(l1.abs().sum()) == pytest.approx(200_000)
    assert gap(dare(models(), torch.Generator(), drop=0.0, scale=0.3), task_arithmetic(models())) < 1e-14
    with pytest.raises(UserError, match="less than 1"):
        dropped(delta, torch.Generator(), 1.0)


def test_of_equal_magnitudes_the_later_wins() -> None:
    a, b = {"w": torch.tensor([2.0, -1.0])}, {"w": torch.tensor([-2.0, 0.5])}
    assert magmax([a, b], 1.0)["w"].tolist() == [-2.0, -1.0]
    assert magmax([b, a], 1.0)["w"].tolist() == [2.0, -1.0]
    assert MagMax().start(Domain(a)).merged["w"].tolist() == [1.0, -0.5]


@pytest.mark.parametrize("agreement", ["sum", "normalised_sum", "pairs"])
def test_pcb_survives_constant_rows_and_merges_identical_models(agreement: Any) -> None:
    constant = [{"w": torch.full((50,), 2.0)}, {"w": torch.full((50,), -2.0)}]
    assert bool(pcb(constant, agreement=agreement)["w"].isfinite().all())
    one = models(1)[0]
    merged = pcb([one] * 3, ratio=1.0, scale=1.0, clip=0.0, agreement=agreement)
    taken = torch.cat([t.flatten() for t in merged.values()]) != 0
    assert int(taken.sum()) >= 50
    both = torch.cat([t.flatten() for t in one.values()])[taken]
    kept = torch.cat([t.flatten() for t in merged.values()])[taken]
    assert bool((both.sign() == kept.sign()).all())


# ---------------------------------------------------------------- Fisher, BECAME


def test_fisher_weighs_by_certainty() -> None:
    a, b = {"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([3.0, 5.0])}
    fa, fb = {"w": torch.tensor([3.0, 0.0])}, {"w": torch.tensor([1.0, 2.0])}
    merged = fisher_merge([a, b], [fa, fb])["w"]
    assert merged.tolist() == [pytest.approx(1.5), pytest.approx(5.0, abs=1e-5)]
    neither = fisher_merge([a, b], [{"w": torch.zeros(2)}] * 2)["w"]
    assert neither.tolist() == [2.0, 3.0], "floored alike, the mean"
    loud = {"w": 1e9 * fa["w"]}
    level = fisher_merge([a, b], [loud, fb], normalise=True)["w"]
    assert gap({"w": level}, {"w": fisher_merge([a, b], [fa, fb], normalise=True)["w"]}) < 1e-6
    known = fisher_merge([b, a], [fb, fa], floor=0.5, floor_first_only=True)["w"]
    assert known.tolist() == [pytest.approx(1.5), 5.0], "the other's zero leaves it to the first"


def test_fisher_is_floored_before_it_is_normalised() -> None:
    """By hand: F_a = (3, 4, 0) of norm 5 and F_b = (0, 6, 8) of norm 10, floored at 1/2, then divided, are
    (0.6, 0.8, 0.1) and (0.05, 0.6, 0.8)."""
    a, b = {"w": torch.ones(3).double()}, {"w": torch.full((3,), 3.0).double()}
    fa, fb = ({"w": torch.tensor(f).double()} for f in ([3.0, 4.0, 0.0], [0.0, 6.0, 8.0]))
    wanted = [(0.6 + 0.15) / 0.65, (0.8 + 1.8) / 1.4, (0.1 + 2.4) / 0.9]
    assert fisher_merge([a, b], [fa, fb], floor=0.5, normalise=True)["w"].tolist() == pytest.approx(wanted)
    rule = find("fisher")(floor=0.5, normalise=True)  # type: ignore[call-arg]
    found = rule.merge([Domain(a, fisher=fa), Domain(b, fisher=fb)]).tensors
    assert found["w"].tolist() == pytest.approx(wanted)


def test_fisher_sums_are_the_joint_merge_and_forget() -> None:
    given, fishers = models(), [{n: t.square() for n, t in m.items()} for m in models(seed=1)]
    sums = FisherSums()
    for m, f in zip(given, fishers, strict=True):
        sums.add(m, f)
    assert gap(sums.solve(), fisher_merge(given, fishers)) < 1e-14
    sums.subtract(given[0], fishers[0])
    other = FisherSums()
    other.load_state_dict(sums.state_dict())
    assert gap(other.solve(), fisher_merge(given[1:], fishers[1:])) < 1e-9


def test_the_fisher_information_is_a_mean_of_squares() -> None:
    w, unused = torch.zeros(2, requires_grad=True), torch.zeros(1, requires_grad=True)
    x = torch.tensor([[1.0, 2.0], [-1.0, 0.0]])
    found = diagonal_fisher({"w": w, "u": unused}, ((row * w).sum() for row in x))
    assert found["w"].tolist() == [1.0, 2.0], "a batch's mean gradient squared would be (0, 1)"
    assert found["u"].tolist() == [0.0]


def test_became_minimises_the_laplace_objective() -> None:
    protected, free = models(2)
    old, new = ({n: t.square() for n, t in m.items()} for m in models(2, seed=1))
    delta = {n: free[n] - protected[n] for n in free}
    share = became_share(delta, old, new)
    grid = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    gain, loss = (sum(float((delta[n].square() * f[n]).sum()) for n in delta) for f in (new, old))
    best = grid[(grid.square() * loss + (1 - grid).square() * gain).argmin()]
    assert share == pytest.approx(float(best), abs=1e-4)
    merged, shares = became(protected, free, old, new)
    assert set(shares.values()) == {share}
    assert gap(merged, {n: protected[n] + share * delta[n] for n in delta}) < 1e-15
    single = became(protected, free, old, new, per="tensor")[1]
    only_w = [{"w": m["w"]} for m in (delta, old, new)]
    assert single["w"] == pytest.approx(became_share(*only_w)) and single["b"] != single["w"]


def test_became_goes_all_the_way_or_not_at_all() -> None:
    delta, one = models(1)[0], {n: torch.ones_like(t) for n, t in models(1)[0].items()}
    huge = {n: 1e9 * t for n, t in one.items()}
    zero = {n: 0 * t for n, t in one.items()}
    assert became_share(delta, huge, one) < 1e-8
    assert became_share(delta, one, huge) > 1 - 1e-8
    assert became_share(delta, zero, zero) == 0.5


# ---------------------------------------------------------------- OPCM, DOP, layer-wise


def test_opcm_keeps_what_is_merged_and_the_norm() -> None:
    given = models(5)
    for alpha in (0.0, 0.5, 0.9, 1.0):
        rule = OPCM(alpha)
        state, norms = rule.start(Domain(given[0])), [norm(given[0])]
        for m in given[1:]:
            new = cleaned(m["w"], state.merged["w"], alpha)
            assert abs(float((new * state.merged["w"]).sum())) < 1e-12 * norm(m) * norm(state.merged)
            state, norms = rule.step(state, Domain(m)), [*norms, norm(m)]
            assert norm(state.merged) == pytest.approx(sum(norms) / len(norms), rel=1e-12)
    assert state.count == 5


def test_opcm_at_alpha_one_protects_everything() -> None:
    """The published code protects nothing there."""
    old, new = (m["w"] for m in models(2))
    protected, trap, zero = cleaned(new, old, 1.0), cleaned(new, old, 1.0, True), cleaned(new, old, 0.0)
    u, _, v = torch.linalg.svd(old, full_matrices=False)
    assert float((u.T @ protected @ v.T).norm()) < 1e-12
    torch.testing.assert_close(trap, zero)
    assert float((u.T @ zero @ v.T).norm()) > 0.1
    with pytest.raises(UserError, match="alpha is 2"):
        opcm(models(2), alpha=2)


def test_opcm_does_not_touch_the_null_space_of_a_low_rank_delta() -> None:
    old = torch.randn(6, 1).double() @ torch.randn(1, 9).double()
    new = models(1)[0]["w"]
    u, _, v = torch.linalg.svd(old)
    wanted = new - u[:, :1] @ (u[:, :1].T @ new @ v[:1].T) @ v[:1]
    torch.testing.assert_close(cleaned(new, old, 0.5), wanted)


def objective(w: Tensor, both: list[Tensor], alpha: float) -> Tensor:
    return sum(
        a * ((t.T @ (w - t)).square().sum() + ((w - t) @ t.T).square().sum())
        for a, t in zip((alpha, 1 - alpha), both, strict=True)
    )


def test_dop_is_where_its_objective_has_no_gradient() -> None:
    both = [m["w"] for m in models(2)]
    for alpha in (0.5, 0.8):
        w = dop(models(2), DOP(alpha=alpha))["w"].requires_grad_(True)
        value = objective(w, both, alpha)
        (gradient,) = torch.autograd.grad(value, w)
        least = float(value.detach())
        assert float(gradient.norm()) < 1e-10 * least
        for other in (*both, sum(both) / 2):
            assert float(objective(other, both, alpha)) > least
    assert gap(dop([models(1)[0]] * 3), models(1)[0]) < 1e-12
    assert gap({"b": dop(models(2))["b"]}, {"b": average(models(2))["b"]}) < 1e-15


def test_dop_leaves_the_mean_where_neither_model_is() -> None:
    """Rank-one deltas: what both leave alone, and the new one's energy cut away, stay at the mean."""
    pair = [torch.randn(6, 1).double() @ torch.randn(1, 9).double() for _ in range(2)]
    merged = dop([{"w": t} for t in pair])["w"]
    rows = torch.linalg.svd(torch.cat(pair, 1))[0][:, 2:]
    columns = torch.linalg.svd(torch.cat(pair))[2][2:]
    assert float((rows.T @ merged @ columns.T).norm()) < 1e-10


def test_dop_by_adam_goes_the_same_way() -> None:
    given = models(2)
    both = [m["w"] for m in given]
    exact, published = dop(given), dop(given, DOP.presets()["reference"])
    far = dop(given, DOP(solver="adam", steps=3000, lr=5e-3, ema=1.0))
    mean = average(given)
    values = [float(objective(m["w"], both, 0.5)) for m in (exact, far, published, mean)]
    assert values == sorted(values)
    assert values[1] == pytest.approx(values[0], rel=0.05)
    with pytest.raises(UserError, match="alpha is 2"):
        DOP(alpha=2)
    assert dop(given, DOP(energy=0.5))["w"].isfinite().all()


def test_the_anchor_counts_more_with_depth() -> None:
    assert anchor_weights(3, 4).tolist() == [0.25, 0.625, 1.0]
    assert anchor_weights(1, 4).tolist() == [0.25]
    given = [{f"{i}": torch.full((2,), float(k)).double() for i in ("0", "1", "2", "head")} for k in range(4)]
    depth = lambda name: None if name == "head" else int(name)  # noqa: E731
    merged = layerwise(given, depth)
    assert [float(t[0]) for t in merged.values()] == pytest.approx([1.5, 0.625 * 3 + 0.125 * 3, 3.0, 3.0])
    first = layerwise(given, depth, anchor=0)
    assert [float(t[0]) for t in first.values()] == pytest.approx([1.5, 0.125 * 6, 0.0, 0.0])
    assert layerwise(given[:1], depth)["1"].tolist() == [0.0, 0.0]
