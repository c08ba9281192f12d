"""RegMean: least squares, sums instead of models, forgetting, and what happens when the sums are singular."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from everseg.errors import UserError
from everseg.merge.gram import Gram, GramConfig
from everseg.merge.regmean import RegMeanConfig, regmean
from everseg.merge.regmean_sums import RegMeanSums
from everseg.merge.solve import shrink_offdiagonal, solve


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def merged(tasks: Any, moments: list[Tensor], order: Any = None, **settings: Any) -> Tensor:
    sums = RegMeanSums()
    for k in order or range(len(moments)):
        sums.add(tasks.models[k], {"l": moments[k]})
    return sums.solve(**{"ridge": 0.0, **settings})[0]["l.weight"]


def joint(tasks: Any, moments: list[Tensor]) -> Tensor:
    """The closed form as it is written down, with an explicit inverse."""
    cross = sum(w @ g for w, g in zip(tasks.w, moments, strict=True))
    return cross @ torch.linalg.inv(sum(moments))


def test_mean_grams_are_least_squares_with_equal_tasks(tasks: Any) -> None:
    assert relative(merged(tasks, tasks.means), tasks.lstsq(scale=True)) < 1e-12


def test_sum_grams_are_least_squares_on_all_rows(tasks: Any) -> None:
    assert relative(merged(tasks, tasks.sums), tasks.lstsq()) < 1e-12
    sizes = [float(len(x)) for x in tasks.x]
    by_weight = regmean(
        tasks.models, [{"l": g} for g in tasks.means], RegMeanConfig(ridge=0.0), weights=sizes
    )[0]["l.weight"]
    assert relative(by_weight, tasks.lstsq()) < 1e-12


def test_the_gradient_is_zero(tasks: Any) -> None:
    w = merged(tasks, tasks.means)
    pulls = [(w - own) @ g for own, g in zip(tasks.w, tasks.means, strict=True)]
    assert float(sum(pulls).norm()) < 1e-12 * sum(float(p.norm()) for p in pulls)


def test_sums_are_the_joint_merge_after_every_task_and_do_not_grow(tasks: Any) -> None:
    sums = RegMeanSums()
    sizes = set()
    for k in range(5):
        sums.add(tasks.models[k], {"l": tasks.means[k]})
        sizes.add(sums.nbytes)
        have = sums.solve(ridge=0.0)[0]
        first = tasks.__class__(tasks.x[: k + 1], tasks.w[: k + 1], tasks.b[: k + 1])
        assert relative(have["l.weight"], joint(first, first.means)) < 1e-12
        assert relative(have["l.bias"], torch.stack(first.b).mean(0)) < 1e-15
    assert len(sizes) == 1


def test_folding_pairwise_wants_the_sum_and_not_the_mean(tasks: Any) -> None:
    whole = joint(tasks, tasks.means)
    for share, good in ((1.0, True), (0.5, False)):
        w, g = tasks.w[0], tasks.means[0]
        for k in range(1, 5):
            cross = w @ g + tasks.w[k] @ tasks.means[k]
            w, g = torch.linalg.solve(g + tasks.means[k], cross.T).T, share * (g + tasks.means[k])
        error = relative(w, whole)
        assert error < 1e-12 if good else error > 1e-2


def test_the_order_of_tasks_does_not_matter(tasks: Any) -> None:
    first = merged(tasks, tasks.means)
    for order in itertools.islice(itertools.permutations(range(5)), 0, 120, 17):
        assert relative(merged(tasks, tasks.means, order), first) < 1e-12


def test_identical_models_are_a_fixed_point(tasks: Any) -> None:
    same = tasks.__class__(tasks.x, [tasks.w[0]] * 5, tasks.b)
    for settings in ({}, {"ridge": 1e-3}, {"offdiag": 0.3}, {"ridge": 1e-3, "centre": False}):
        assert relative(merged(same, tasks.means, **settings), tasks.w[0]) < 1e-12


def test_equal_grams_give_the_mean(tasks: Any) -> None:
    assert relative(merged(tasks, [tasks.means[0]] * 5), torch.stack(tasks.w).mean(0)) < 1e-10


def test_without_off_diagonals_each_column_is_a_weighted_mean(tasks: Any) -> None:
    diagonals = torch.stack([g.diagonal() for g in tasks.means])
    wanted = (torch.stack(tasks.w) * diagonals[:, None]).sum(0) / diagonals.sum(0)
    assert relative(merged(tasks, tasks.means, offdiag=0.0), wanted) < 1e-14


def test_the_scale_of_the_statistics_does_not_matter(tasks: Any) -> None:
    scaled = [1e6 * g for g in tasks.means]
    for ridge in (0.0, 1e-3):
        first = merged(tasks, tasks.means, ridge=ridge)
        assert relative(merged(tasks, scaled, ridge=ridge), first) < 1e-12


def test_it_turns_with_the_inputs_unless_off_diagonals_shrink(tasks: Any) -> None:
    turn = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64))[0]
    turned = tasks.__class__([x @ turn for x in tasks.x], [w @ turn for w in tasks.w], tasks.b)
    for settings, good in (({}, True), ({"ridge": 1e-2}, True), ({"offdiag": 0.9}, False)):
        error = relative(
            merged(turned, turned.means, **settings), merged(tasks, tasks.means, **settings) @ turn
        )
        assert error < 1e-12 if good else error > 1e-3


def test_a_ridge_without_end_gives_the_mean(tasks: Any) -> None:
    mean = torch.stack(tasks.w).mean(0)
    gaps = [relative(merged(tasks, tasks.means, ridge=eps), mean) for eps in (1e-3, 1.0, 1e9)]
    assert gaps[2] < 1e-6 < gaps[1] < gaps[0]


def test_centring_changes_nothing_but_rounding(tasks: Any) -> None:
    for ridge in (0.0, 1e-4):
        centred, plain = (merged(tasks, tasks.means, ridge=ridge, centre=c) for c in (True, False))
        assert relative(plain, centred) < 1e-12


def test_the_offdiag_of_the_sums_is_that_of_each_gram(tasks: Any) -> None:
    shrunk = [shrink_offdiagonal(g, 0.4) for g in tasks.means]
    assert relative(merged(tasks, tasks.means, offdiag=0.4), joint(tasks, shrunk)) < 1e-12


# ---------------------------------------------------------------- singular sums


def test_rank_deficient_inputs_give_the_minimum_norm_solution(deficient: Any) -> None:
    second = sum(deficient.sums)
    cross = sum(w @ g for w, g in zip(deficient.w, deficient.sums, strict=True))
    found = solve(second, cross)
    assert (found.path, found.rank) == ("eigen", 9)
    assert relative(found.weight, deficient.lstsq()) < 1e-10


def test_directions_without_inputs_come_from_the_mean(deficient: Any) -> None:
    w = merged(deficient, deficient.means)
    mean = torch.stack(deficient.w).mean(0)
    values, vectors = torch.linalg.eigh(sum(deficient.means))
    unseen = vectors[:, values < 1e-9]
    assert unseen.shape[1] == 3
    torch.testing.assert_close(w @ unseen, mean @ unseen, rtol=0, atol=1e-10)
    assert relative(w, mean) > 0.1
    ridged = merged(deficient, deficient.means, ridge=1e-10)
    assert relative(ridged, w) < 1e-4, "a small ridge goes the same way"


def test_a_ridge_that_is_too_small_grows(tasks: Any) -> None:
    """Float32 statistics may have negative eigenvalues: then the ridge has to beat them."""
    values, vectors = torch.linalg.eigh(sum(tasks.means))
    values[0] = -3e-6 * float(values.mean())
    indefinite = vectors * values @ vectors.T
    found = solve(indefinite, torch.zeros(2, 12), ridge=1e-8)
    assert (found.path, found.ridge) == ("cholesky", pytest.approx(1e-5))
    values[0] = -1.0 * float(values.mean())
    found = solve(vectors * values @ vectors.T, torch.zeros(2, 12), ridge=1e-8)
    assert (found.path, found.rank) == ("eigen", 11)


def test_dead_channels_and_channels_of_any_scale(tasks: Any) -> None:
    scale = torch.logspace(-5, 3, 12, dtype=torch.float64)
    x = [rows * scale for rows in tasks.x]
    w = [own / scale for own in tasks.w]
    loud = tasks.__class__(x, w, tasks.b)
    sums = RegMeanSums()
    for model, gram in zip(loud.models, loud.means, strict=True):
        sums.add(model, {"l": gram})
    have, report = sums.solve(ridge=0.0)
    assert report["l"].path == "cholesky", "a scale is no singularity"
    assert relative(have["l.weight"] * scale, joint(tasks, tasks.means)) < 1e-6
    scale[3] = 0
    dead = tasks.__class__([rows * scale for rows in tasks.x], tasks.w, tasks.b)
    mean = torch.stack(tasks.w).mean(0)
    for ridge in (0.0, 1e-6):
        torch.testing.assert_close(merged(dead, dead.means, ridge=ridge)[:, 3], mean[:, 3])


def test_nothing_was_ever_seen(tasks: Any) -> None:
    nothing = [torch.zeros(12, 12)] * 5
    torch.testing.assert_close(merged(tasks, nothing, ridge=1e-6), torch.stack(tasks.w).mean(0))


@pytest.mark.parametrize("condition", [1e4, 1e6, 1e8])
def test_arithmetic_that_survives_what_an_inverse_in_float32_does_not(condition: float) -> None:
    """Excess over the least objective, relative: ours stays small, the reference's becomes worse than the
    mean's."""
    g = torch.Generator().manual_seed(0)
    width = 64

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=g)

    spectrum = condition ** torch.linspace(0, -0.5, width, dtype=torch.float64)
    basis = torch.linalg.qr(normal(width, width))[0]
    xs = [(normal(300, width) * spectrum @ basis.T).float() for _ in range(3)]
    models = [{"l.weight": normal(10, width).float()} for _ in xs]
    exact = [x.double().T @ x.double() / len(x) for x in xs]
    grams = {kind: [{"l": measured(x, kind).mean()} for x in xs] for kind in ("paper", "reference")}

    def objective(w: Tensor) -> float:
        gaps = [w.double() - m["l.weight"].double() for m in models]
        return sum(float((d @ gram * d).sum()) for d, gram in zip(gaps, exact, strict=True))

    rows = torch.cat([x.double() for x in xs])
    goal = torch.cat([x.double() @ m["l.weight"].double().T for x, m in zip(xs, models, strict=True)])
    least = objective(torch.linalg.lstsq(rows, goal).solution.T)
    excess = {
        kind: objective(regmean(models, grams[kind], RegMeanConfig.presets()[kind])[0]["l.weight"]) / least
        - 1
        for kind in ("paper", "reference")
    }
    mean = objective(torch.stack([m["l.weight"] for m in models]).mean(0)) / least - 1
    assert 0 <= excess["paper"] < {1e4: 1e-8, 1e6: 1e-4, 1e8: 0.05}[condition] * mean
    assert (excess["reference"] > mean) == (condition == 1e8)


def measured(x: Tensor, kind: str) -> Gram:
    gram = Gram(x.shape[1], GramConfig.presets()[kind])
    for part in x.split(50):
        gram.update(part)
    return gram


# ---------------------------------------------------------------- sums


def test_one_task_comes_back_to_the_bit(tasks: Any, deficient: Any) -> None:
    for given in (tasks, deficient):
        for kind in (torch.float32, torch.float64):
            model = {n: t.to(kind) for n, t in given.models[0].items()}
            for settings in ({}, {"ridge": 1.0}, {"offdiag": 0.1}, {"centre": False}):
                for affine in (False, True):
                    x = torch.nn.functional.pad(given.x[0], (0, int(affine)), value=1.0)
                    sums = RegMeanSums(affine)
                    sums.add(model, {"l": x.T @ x})
                    have, report = sums.solve(**settings)
                    assert all(torch.equal(have[n], model[n]) and have[n].dtype == kind for n in model)
                    assert report["l"].path == "single"


def test_forgetting_a_task_is_never_having_had_it(tasks: Any) -> None:
    sums, never = RegMeanSums(), RegMeanSums()
    for k in range(5):
        sums.add(tasks.models[k], {"l": tasks.means[k]}, weight=k + 1.0)
        if k != 2:
            never.add(tasks.models[k], {"l": tasks.means[k]}, weight=k + 1.0)
    sums.subtract(tasks.models[2], {"l": tasks.means[2]}, weight=3.0)
    have, wanted = (s.solve(ridge=1e-6, offdiag=0.7)[0] for s in (sums, never))
    assert all(relative(have[n], wanted[n]) < 1e-12 for n in wanted)
    assert sums.count == 4
    for k in (0, 1, 3, 4):
        sums.subtract(tasks.models[k], {"l": tasks.means[k]}, weight=k + 1.0)
    assert (sums.count, sums.nbytes) == (0, 0)


def test_sums_are_saved_and_go_on(tasks: Any) -> None:
    sums = RegMeanSums()
    for k in range(3):
        sums.add(tasks.models[k], {"l": tasks.means[k]})
    other = RegMeanSums(affine=True)
    other.load_state_dict(sums.state_dict())
    for s in (sums, other):
        s.add(tasks.models[3], {"l": tasks.means[3]})
    have, wanted = other.solve()[0], sums.solve()[0]
    assert all(torch.equal(have[n], wanted[n]) and have[n].dtype == torch.float64 for n in wanted)


def test_affine_beats_weights_alone_beats_the_mean(tasks: Any) -> None:
    padded = [torch.nn.functional.pad(x, (0, 1), value=1.0) for x in tasks.x]
    moments = [{"l": x.T @ x / len(x)} for x in padded]

    def loss(model: dict[str, Tensor]) -> float:
        w, b = model["l.weight"], model["l.bias"]
        gaps = [x @ (w - own).T + (b - bias) for x, own, bias in zip(tasks.x, tasks.w, tasks.b, strict=True)]
        return sum(float(g.square().sum()) / len(g) for g in gaps)

    affine = regmean(tasks.models, moments, RegMeanConfig(ridge=0.0, affine=True))
    plain = regmean(tasks.models, moments, RegMeanConfig(ridge=0.0))
    mean = {n: torch.stack([m[n] for m in tasks.models]).mean(0) for n in tasks.models[0]}
    assert loss(affine[0]) < loss(plain[0]) < loss(mean)
    report = affine[1]["l"]
    assert report.objective == pytest.approx(loss(affine[0]), rel=1e-9)
    assert report.objective_of_mean == pytest.approx(loss(mean), rel=1e-9)
    assert RegMeanConfig.presets()["robust"].affine and not RegMeanConfig.presets()["paper"].affine


def test_the_report_tells_how_well_it_went(tasks: Any) -> None:
    _, reports = regmean(tasks.models, [{"l": g} for g in tasks.means], RegMeanConfig(ridge=0.0))
    report = reports["l"]
    values = torch.linalg.eigvalsh(sum(tasks.means))
    exact = float(values[-1] / values[0])
    assert 0.8 * exact < report.condition <= exact * (1 + 1e-9)
    assert report.effective_rank == pytest.approx(float(values.sum() ** 2 / values.square().sum()))
    assert report.residual < 1e-12 and report.ridge == 0.0 and report.rank == report.width == 12
    assert report.objective < report.objective_of_mean and not report.worse_than_mean


def test_what_has_no_statistics_is_averaged(tasks: Any) -> None:
    models = [m | {"norm.weight": torch.full((3,), float(k))} for k, m in enumerate(tasks.models)]
    merged, reports = regmean(models, [{"l": g} for g in tasks.means], weights=[1, 1, 1, 1, 4.0])
    assert set(reports) == {"l"}
    assert merged["norm.weight"].tolist() == [pytest.approx((0 + 1 + 2 + 3 + 16) / 8)] * 3
    assert merged["norm.weight"].dtype == torch.float32


def test_the_reference_is_a_plain_inverse_in_float32(tasks: Any, deficient: Any) -> None:
    reference = RegMeanConfig.presets()["reference"]
    models = [{n: t.float() for n, t in m.items()} for m in tasks.models]
    merged, reports = regmean(models, [{"l": g.float()} for g in tasks.means], reference)
    second = torch.zeros(12, 12)
    cross = torch.zeros(5, 12)
    for model, gram in zip(models, tasks.means, strict=True):
        second, cross = second + gram.float(), cross + model["l.weight"] @ gram.float()
    assert torch.equal(merged["l.weight"], cross @ torch.linalg.inv(second)) and not reports
    assert relative(merged["l.weight"].double(), joint(tasks, tasks.means)) < 1e-3
    with pytest.raises(UserError, match="no inverse in float32"):
        regmean(models, [{"l": torch.zeros(12, 12)}] * 5, reference)


@pytest.mark.parametrize(
    ("model", "moments", "said"),
    [
        ({"l.weight": torch.zeros(5, 12)}, {"k": torch.zeros(12, 12)}, "for some domains only"),
        ({"l.bias": torch.zeros(5)}, {"l": torch.zeros(12, 12)}, "no matrix 'l.weight'"),
        ({"l.weight": torch.zeros(5, 12)}, {"l": torch.zeros(11, 11)}, "needs \\(12, 12\\)"),
        ({"l.weight": torch.zeros(5, 12)}, {"l": torch.full((12, 12), torch.nan)}, "not finite"),
        ({"l.weight": torch.full((5, 12), torch.inf)}, {"l": torch.eye(12)}, "not finite"),
        ({"l.weight": torch.zeros(5, 12).long()}, {"l": torch.eye(12)}, "only floating"),
        ({"m.weight": torch.zeros(5, 12)}, {"m": torch.eye(12)}, "for some domains only"),
        ({"l.weight": torch.zeros(4, 12)}, {"l": torch.eye(12)}, "one shape"),
        ({"l.weight": torch.zeros(5, 12), "x": torch.zeros(1)}, {"l": torch.eye(12)}, "both have 'x'"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    model: dict[str, Tensor], moments: dict[str, Tensor], said: str
) -> None:
    sums = RegMeanSums()
    sums.add({"l.weight": torch.ones(5, 12)}, {"l": torch.eye(12)})
    with pytest.raises(UserError, match=said):
        sums.add(model, moments)
    assert sums.count == 1 and torch.equal(sums.layers["l"].second, torch.eye(12, dtype=torch.float64))


def test_settings_out_of_range() -> None:
    with pytest.raises(UserError, match="offdiag is 1"):
        RegMeanConfig(offdiag=1.5)
    with pytest.raises(UserError, match="ridge is -1"):
        RegMeanConfig(ridge=-1)
    with pytest.raises(UserError, match="affine=True"):
        RegMeanSums(affine=True).add(
            {"l.weight": torch.zeros(2, 3), "l.bias": torch.zeros(2)}, {"l": torch.eye(3)}
        )
