"""What RegMean reports of the layers that it has solved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LayerReport:
    """What there is to know about one merged layer."""

    path: Literal["cholesky", "eigen", "single"]
    """How it was solved: by Cholesky, by the spectrum of a singular S, or not at all for a single domain."""
    width: int
    """Width of its input."""
    ridge: float
    """The eps that was used."""
    rank: int
    """Input directions that were solved for, of `width`."""
    condition: float
    """Estimated condition number of the matrix that was solved with."""
    effective_rank: float
    """tr(S)^2 / |S|^2: how many directions carry the inputs' energy."""
    residual: float
    """|W* S - R| / |R|."""
    objective: float
    """sum_k w_k E_k |(W - W_k) x|^2 at W*."""
    objective_of_mean: float
    """The same at the mean of the W_k."""

    @property
    def worse_than_mean(self) -> bool:
        """Whether averaging would have been better on the very statistics merged by: do not trust W*."""
        return self.objective > self.objective_of_mean * (1 + 1e-6)


def regmean_figures(reports: Mapping[str, LayerReport]) -> dict[str, float]:
    """The worst condition of the merged layers, their objective relative to that of the plain mean, and the
    number of layers for which the mean would have been better."""
    solved = [r for r in reports.values() if r.path != "single"]
    if not solved:
        return {}
    ours, mean = sum(r.objective for r in solved), sum(r.objective_of_mean for r in solved)
    return {
        "merge_condition": max(r.condition for r in solved),
        "merge_objective": ours / mean if mean else 1.0,
        "merge_worse_than_mean": float(sum(r.worse_than_mean for r in solved)),
    }
