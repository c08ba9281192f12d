"""Vectors worked out by hand or by an independent implementation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everseg.merge.magmax import magmax
from everseg.merge.opcm import split
from everseg.merge.pcb import entry_weights, pcb
from everseg.merge.regmean import RegMeanConfig, regmean
from everseg.merge.ties import ties
from everseg.results import ResultMatrix, average, forgetting, forward_transfer

T1 = [1, -2, 3, 0.5, -0.1, 4, 0.2, -1, 2, 0.3]
T2 = [0.5, 2, 2.5, -0.5, 0.1, -3, 0.4, -2, 1, 0.6]


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def task_vectors() -> list[dict[str, Tensor]]:
    return [{"a": vector(*t[:4]).view(2, 2), "b": vector(*t[4:])} for t in (T1, T2)]


def joined(model: dict[str, Tensor]) -> list[float]:
    return torch.cat([v.flatten() for v in model.values()]).tolist()


def two_by_two(ridge: float = 0.0, offdiag: float = 1.0) -> tuple[list[float], float, float]:
    models = [{"l.weight": vector(1, 2)[None]}, {"l.weight": vector(3, -1)[None]}]
    moments = [{"l": torch.tensor([[2.0, 1.0], [1.0, 2.0]])}, {"l": torch.eye(2)}]
    merged, reports = regmean(models, moments, RegMeanConfig(ridge=ridge, offdiag=offdiag))
    report = reports["l"]
    return merged["l.weight"][0].tolist(), report.objective, report.objective_of_mean


@pytest.mark.parametrize(
    ("offdiag", "wanted"),
    [
        (1.0, [17 / 8, 5 / 8]),
        (0.9, [2.062271062, 0.681318681]),
        (0.5, [13 / 7, 6 / 7]),
        (0.3, [1.774410774, 0.922558923]),
        (0.0, [5 / 3, 1]),
    ],
)
def test_regmean_two_by_two(offdiag: float, wanted: list[float]) -> None:
    assert two_by_two(offdiag=offdiag)[0] == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(("ridge", "wanted"), [(0.1, [2.116279070, 0.616279070]), (1.0, [29 / 14, 4 / 7])])
def test_the_ridge_is_in_units_of_the_mean_diagonal_of_the_sum(ridge: float, wanted: list[float]) -> None:
    assert two_by_two(ridge=ridge)[0] == pytest.approx(wanted, abs=1e-9)


def test_the_objective() -> None:
    assert two_by_two()[1:] == (pytest.approx(6.625), pytest.approx(6.75))


def test_regmean_of_diagonal_grams() -> None:
    models = [{"l.weight": vector(1, 0)[None]}, {"l.weight": vector(0, 1)[None]}]
    moments = [{"l": torch.diag(vector(4, 1))}, {"l": torch.diag(vector(1, 4))}]
    merged, _ = regmean(models, moments, RegMeanConfig(ridge=0.0))
    assert merged["l.weight"][0].tolist() == pytest.approx([0.8, 0.8], abs=1e-15)


def test_ties() -> None:
    assert joined(ties(task_vectors(), keep=0.4)) == [0, 2, 2.75, 0, 0, 4, 0, -2, 2, 0]


def test_magmax() -> None:
    wanted = [0.5, 1, 1.5, -0.25, 0.05, 2, 0.2, -1, 1, 0.3]
    assert joined(magmax(task_vectors(), scale=0.5)) == wanted


def test_pcb() -> None:
    merged = pcb(task_vectors(), ratio=0.3, scale=1.0, clip=1e-4)
    assert joined(merged) == pytest.approx([0, 0, 2.75, 0, 0, 3, 0, -2, 0, 0], abs=1e-12)
    # One model's weights show when only it is scaled: entry 2 has (1 * 3 * 10 + 1 * 2.5) / 2.
    scaled = joined(pcb(task_vectors(), ratio=0.3, scale=[10.0, 1.0], clip=1e-4))
    assert scaled == pytest.approx([0, 0, 16.25, 0, 0, 30, 0, -2, 0, 0], abs=1e-12)


def test_the_weights_of_pcb() -> None:
    t = torch.tensor([T1, T2], dtype=torch.float64)
    weights, clipped = entry_weights(t, 0.3, 1e-4, "sum")
    assert clipped[0].tolist() == [*T1[:5], 3.0, *T1[6:]], "the largest entry is cut to the second"
    assert weights[0].tolist() == pytest.approx([0, 0, 1, 0, 0, 0.999, 0, 0, 0, 0], abs=5e-4)
    assert weights[1].tolist() == pytest.approx([0, 0, 1, 0, 0, 0, 0, 0.3598, 0, 0], abs=5e-5)


@pytest.mark.parametrize(("alpha", "q"), [(0.49, 0), (0.5, 1), (0.81, 2), (1.0, 3)])
def test_where_opcm_splits(alpha: float, q: int) -> None:
    s = vector(5, 3, 2)
    assert split(s, alpha) == q
    assert split(s, alpha, reference=True) == (0 if alpha == 1 else q), "the published code's trap"


def test_the_averages_of_a_run() -> None:
    """RegCL's: forgetting over T tasks; the common one over T - 1."""
    values = [[0.80, 0.50, 0.40], [0.78, 0.82, 0.45], [0.75, 0.80, 0.84]]
    matrix = ResultMatrix.of(values, range(3))
    assert average(matrix) == pytest.approx(0.796667, abs=1e-6)
    assert forgetting(matrix) == pytest.approx(0.023333, abs=1e-6)
    assert forgetting(matrix, "chaudhry") == pytest.approx(0.035)
    assert forward_transfer(matrix) == pytest.approx(0.475)
