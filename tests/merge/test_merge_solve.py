"""The one equation behind the closed forms."""

from __future__ import annotations

import pytest
import torch

from everseg.merge.gram import Gram, GramConfig
from everseg.merge.solve import solve


@pytest.mark.parametrize("width", [1, 2, 64, 65, 300])
@pytest.mark.parametrize("condition", [1.0, 1e3, 1e7])
def test_condition_is_told_from_below_and_nearly(width: int, condition: float) -> None:
    g = torch.Generator().manual_seed(width)
    basis = torch.linalg.qr(torch.randn(width, width, generator=g, dtype=torch.float64))[0]
    second = basis * torch.logspace(0, torch.tensor(condition).log10().item(), width).double() @ basis.T
    second = (second + second.T) / 2
    values = torch.linalg.eigvalsh(second)
    exact = float(values[-1] / values[0])
    found = solve(second, torch.randn(2, width, generator=g, dtype=torch.float64))
    assert 0.8 * exact < found.condition <= exact * (1 + 1e-6)


def test_a_row_that_only_begins_with_zero_is_no_padding() -> None:
    x = torch.tensor([[0.0, 1.0], [0.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    gram = Gram(2, GramConfig(zero_rows="drop"))
    gram.update(x)
    assert gram.rows == 2 and gram.total.tolist() == [[4.0, 0.0], [0.0, 1.0]]
