"""OPCM: merge models one after another, each without what it has along the directions already merged.

Shape suffixes: O width of a layer's output, D of its input, m = min(O, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from everseg.errors import UserError
from everseg.merge.tensors import Tensors, alike, copied, norm


def split(singular: Tensor, alpha: float, reference: bool = False) -> int:
    """q, how many leading components are protected: the first index whose share of the sum is above alpha.

    The component that crosses alpha is not among them. From alpha = 1 on no share is above it: then all are
    protected; in the published code none is (`reference`), as with alpha = 0.
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


@dataclass(frozen=True)
class Opcm:
    """The merged delta after t models; `scale` is lambda_t, `norms` the sum of the deltas' norms."""

    merged: dict[str, Tensor]
    scale: float
    norms: float
    count: int

    @classmethod
    def start(cls, delta: Tensors) -> Opcm:
        return cls(copied(delta), 1.0, norm(delta), 1)

    @torch.no_grad()
    def step(self, delta: Tensors, alpha: float = 0.5, *, reference: bool = False) -> Opcm:
        """T <- (lambda_prev T + tau~) / lambda, with lambda such that |T| is the mean of the norms seen.

        alpha: share of T's singular values whose directions the new model may not touch. reference: take
        alpha = 1 as the published code does, see `split`.

        Raises:
            UserError: alpha is not in 0..1, or the tensors differ.
        """
        if not 0 <= alpha <= 1:
            raise UserError(f"alpha is {alpha}; it must be a share from 0 to 1")
        total: dict[str, Tensor] = {}
        for name in alike([self.merged, delta]):
            old, new = self.merged[name].double(), delta[name].double()
            if new.dim() == 2:
                new = cleaned(new, old, alpha, reference)
            total[name] = self.scale * old + new
        norms, count = self.norms + norm(delta), self.count + 1
        mean = norms / count
        scale = norm(total) / mean if mean else 1.0
        merged = {n: (t / (scale or 1.0)).to(self.merged[n].dtype) for n, t in total.items()}
        return Opcm(merged, scale, norms, count)


def opcm(deltas: Sequence[Tensors], alpha: float = 0.5, *, reference: bool = False) -> dict[str, Tensor]:
    """Fold `Opcm.step` over deltas in the order given.

    Needs no data. Sequential, constant memory; order-dependent. On weights' deltas or low-rank products (then
    cut back with `truncate`), one thin SVD for each matrix and model; other tensors are added without
    projection.
    Source: OPCM (Tang et al., arXiv 2501.09522); alpha 0.5. The published code takes full decompositions, and
    its documentation counts the component that crosses alpha as protected.
    """
    state = Opcm.start(deltas[0])
    for delta in deltas[1:]:
        state = state.step(delta, alpha, reference=reference)
    return state.merged
