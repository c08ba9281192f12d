"""OPCM: merge models one after another, each without what it has along the directions already merged.

Shape suffixes: O width of a layer's output, D of its input, m = min(O, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from everseg.config import Share
from everseg.merge.rule import Domain, Folded, Stepped
from everseg.merge.tensors import Tensors, alike, copied, norm


def split(singular: Tensor, alpha: float, reference: bool = False) -> int:
    """q, how many leading components are protected: the first index whose share of the sum is above alpha.

    The component that crosses alpha is not among them. At alpha = 1 no share is above it, and all are
    protected. In the published code none is then (`reference`), as with alpha = 0, unless rounding puts the
    last shares above 1, which protects all before them.
    """
    share = singular.cumsum(0) / singular.sum()
    above = (share > alpha).nonzero()
    if alpha >= 1 or not len(above):
        return 0 if reference else len(singular)
    return int(above[0])


@torch.no_grad()
def cleaned(delta: Tensor, merged: Tensor, alpha: float = 0.5, reference: bool = False) -> Tensor:
    """tau without what lies along T: U P V^T with P = U^T tau V, P_ii = 0 and P[:q, :q] = 0.

    delta, merged: tau and T, (O, D); T = U diag(s) V^T. <result, T>_F = 0. Only the first m columns of V are
        needed, because the rest of P stays as it is. The diagonal goes only where s is not zero: the singular
        vectors of a low-rank T's null space are an accident of the decomposition.
    """
    t_OD = delta.double()
    u_Om, s_m, v_mD = torch.linalg.svd(merged.double(), full_matrices=False)
    if not float(s_m.sum()):
        return t_OD
    p_mm = u_Om.T @ t_OD @ v_mD.T
    gone = torch.diag(s_m > s_m[0] * len(s_m) * torch.finfo(s_m.dtype).eps)
    q = split(s_m, alpha, reference)
    gone[:q, :q] = True
    return t_OD - u_Om @ (p_mm * gone) @ v_mD


def opcm(deltas: Sequence[Tensors], alpha: float = 0.5, *, reference: bool = False) -> dict[str, Tensor]:
    """Fold deltas in the order given: T <- (lambda_prev T + tau~) / lambda, with tau~ as in `cleaned`.

    lambda is such that |T| is the mean of the norms seen.

    alpha: share of T's singular values whose directions the new model may not touch.
    reference: take alpha = 1 as the published code does, see `split`.

    Needs no data. Sequential, constant memory; order-dependent. On weights' deltas or low-rank products (then
    cut back with `truncate`), one thin SVD for each matrix and model; other tensors are added without
    projection.
    Source: OPCM (Tang et al., arXiv 2501.09522), with alpha 0.5. The published code takes full
    decompositions, and its documentation counts the component that crosses alpha as protected. At alpha 1 it
    protects nothing, as at alpha 0, unless rounding puts a share above 1.

    Raises:
        UserError: alpha is not in 0..1, or the tensors differ.
    """
    return dict(OPCM(alpha, reference).merge([Domain(delta) for delta in deltas]).tensors)


@dataclass(frozen=True)
class Cleaned(Folded):
    """The merged delta after t models."""

    scale: float
    """lambda_t."""
    norms: float
    """The sum of the deltas' norms."""
    count: int
    """t."""


@dataclass(frozen=True)
class OPCM(Stepped):
    """Each delta without what it has along the directions that are already merged.

    Source: Tang et al., arXiv 2501.09522.
    """

    alpha: Share = 0.5
    """Share of the merged delta's singular values whose directions are protected. [Tang et al.'s code]"""
    reference: bool = False
    """Take alpha = 1 as the published code does, which then protects nothing. [Tang et al.'s code]"""

    works_on = ("products", "factors")
    State = Cleaned

    def start(self, domain: Domain) -> Cleaned:
        return Cleaned(copied(domain.tensors), 1.0, norm(domain.tensors), 1)

    @torch.no_grad()
    def step(self, state: Cleaned, domain: Domain) -> Cleaned:
        delta = domain.tensors
        total: dict[str, Tensor] = {}
        for name in alike([state.merged, delta]):
            old, new = state.merged[name].double(), delta[name].double()
            if new.dim() == 2:
                new = cleaned(new, old, self.alpha, self.reference)
            total[name] = state.scale * old + new
        norms, count = state.norms + norm(delta), state.count + 1
        mean = norms / count
        scale = norm(total) / mean if mean else 1.0
        merged = {n: (t / (scale or 1.0)).to(state.merged[n].dtype) for n, t in total.items()}
        return Cleaned(merged, scale, norms, count)
