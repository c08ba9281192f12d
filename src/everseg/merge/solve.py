"""Solve W S = R for a symmetric S that may be singular: the one equation behind the closed forms of merging.

Shape suffixes: O width of a layer's output, D of its input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

ESCALATIONS = 4
"""How often a ridge that was too small is made ten times larger before the spectrum is taken."""

NARROW = 64
"""Up to this width the whole spectrum is as cheap as an estimate of its ends."""

EXHAUSTED = 1e-10
"""A Krylov space ends where what a step adds to it is no more than this share of the step."""


@dataclass(frozen=True)
class Solution:
    """weight: (O, D) float64.
    path: how it was found.
    ridge: the eps that was used in the end, larger than the one asked for where Cholesky broke down.
    rank: directions of the input that were solved for, of those that were not always zero.
    condition: of the matrix that was solved with, ridge included; an estimate from below where it is wide,
        mostly within a tenth.
    """

    weight: Tensor
    path: Literal["cholesky", "eigen"]
    ridge: float
    rank: int
    condition: float


@torch.no_grad()
def solve(
    second: Tensor, cross: Tensor, toward: Tensor | None = None, *, ridge: float = 0.0, centre: bool = True
) -> Solution:
    """The W that minimises tr(W S W^T) - 2 tr(W R^T) + eps t |W - M|^2, with t = tr(S) / D.

    second: S (D, D), symmetric and, to rounding, positive.
    cross: R (O, D).
    toward: M (O, D), which a ridge shrinks to and which fills the directions that S knows nothing of; zero if
        not given.
    ridge: eps.
    centre: solve for W - M, which loses 10 to 100 times less to rounding in float32, and never more.

    In float64 by Cholesky. It counts as broken where a pivot is no more than rounding of its own diagonal
    entry, a test that channels of different scales do not fool. Then the ridge is made ten times larger, up
    to four times (a ridge of zero is a wish and stays), and then the spectrum of S is cut off at D machine
    epsilons of its largest value: the pseudo-inverse, with M in the directions cut off.
    """
    s_DD, r_OD = second.double(), cross.double()
    m_OD = torch.zeros_like(r_OD) if toward is None else toward.double()
    scale = float(s_DD.diagonal().mean())
    live = s_DD.diagonal() > 0
    if bool(live.all()):
        return _solve_live(s_DD, r_OD, m_OD, ridge, scale, centre)
    # A channel that was always zero meets no other: its column stays M's, and the rest is better off alone.
    if not bool(live.any()):
        return Solution(m_OD.clone(), "eigen", ridge, 0, float("inf"))
    found = _solve_live(s_DD[live][:, live], r_OD[:, live], m_OD[:, live], ridge, scale, centre)
    w_OD = m_OD.clone()
    w_OD[:, live] = found.weight
    return replace(found, weight=w_OD)


def _solve_live(
    s_DD: Tensor, r_OD: Tensor, m_OD: Tensor, ridge: float, scale: float, centre: bool
) -> Solution:
    tries = [ridge * 10**k for k in range(ESCALATIONS + 1)] if ridge else [0.0]
    for eps in tries:
        a_DD = s_DD.clone()
        a_DD.diagonal().add_(eps * scale)
        factor_DD = _cholesky(a_DD)
        if factor_DD is None:
            continue
        if centre:
            w_OD = m_OD + _behind(factor_DD, (r_OD - m_OD @ s_DD).T).T
        else:
            w_OD = _behind(factor_DD, (r_OD + eps * scale * m_OD).T).T
        return Solution(w_OD, "cholesky", eps, len(s_DD), _condition(a_DD, factor_DD))
    return _spectral(s_DD, r_OD, m_OD, ridge * scale, ridge)


def _cholesky(a_DD: Tensor) -> Tensor | None:
    """The factor L of L L^T, or None where it would be made of rounding errors."""
    factor, info = torch.linalg.cholesky_ex(a_DD)
    if int(info):
        return None
    lost = len(a_DD) * torch.finfo(a_DD.dtype).eps
    kept = factor.diagonal().square() > lost * a_DD.diagonal()
    return factor if bool(kept.all()) else None


def _behind(factor_DD: Tensor, right: Tensor) -> Tensor:
    """(L L^T)^-1 right: twice as fast as `cholesky_solve`, which copies the factor."""
    inner = torch.linalg.solve_triangular(factor_DD, right, upper=False)
    return torch.linalg.solve_triangular(factor_DD.T, inner, upper=True)


def _spectral(s_DD: Tensor, r_OD: Tensor, m_OD: Tensor, shift: float, ridge: float) -> Solution:
    values, vectors = torch.linalg.eigh(s_DD)
    top = float(values[-1]) if len(values) else 0.0
    keep = values > max(0.0, top) * len(values) * torch.finfo(values.dtype).eps
    v_Dk, inverse = vectors[:, keep], 1 / (values[keep] + shift)
    w_OD = m_OD + ((r_OD - m_OD @ s_DD) @ v_Dk * inverse) @ v_Dk.T
    rank = int(keep.sum())
    condition = (top + shift) / (float(values[keep][0]) + shift) if rank else float("inf")
    return Solution(w_OD, "eigen", ridge, rank, condition)


def _condition(a_DD: Tensor, factor_DD: Tensor) -> float:
    """Largest over smallest eigenvalue: of a wide matrix by Lanczos, forwards and with the factor backwards,
    at a tenth of the spectrum's cost for D = 768. Always the same start, so always the same answer.
    """
    if len(a_DD) <= NARROW:
        values = torch.linalg.eigvalsh(a_DD)
        return float(values[-1] / values[0])
    draws = torch.Generator().manual_seed(0)
    start_D = torch.randn(len(a_DD), dtype=a_DD.dtype, generator=draws).to(a_DD.device)
    largest = _largest(lambda v_D: a_DD @ v_D, start_D)
    return largest * _largest(lambda v_D: _behind(factor_DD, v_D[:, None])[:, 0], start_D)


def _largest(apply: Callable[[Tensor], Tensor], start_D: Tensor, steps: int = 7) -> float:
    """The largest eigenvalue of a symmetric operator, from below: of its part in a Krylov space."""
    q_kD, image_kD = start_D.new_empty(2, steps, len(start_D))
    rest_D = start_D
    for k in range(steps):
        q_kD[k] = rest_D / torch.linalg.vector_norm(rest_D)
        image_kD[k] = apply(q_kD[k])
        # What the step adds to the space; where that is rounding, the space is all there is.
        rest_D = image_kD[k] - (q_kD[: k + 1] @ image_kD[k]) @ q_kD[: k + 1]
        if torch.linalg.vector_norm(rest_D) < EXHAUSTED * torch.linalg.vector_norm(image_kD[k]):
            break
    inside_kk = q_kD[: k + 1] @ image_kD[: k + 1].T
    return float(torch.linalg.eigvalsh((inside_kk + inside_kk.T) / 2)[-1])


def shrink_offdiagonal(second: Tensor, offdiag: float) -> Tensor:
    """G~ = a G + (1 - a) diag(G): off-diagonal entries times `offdiag`, the diagonal as it is."""
    if offdiag == 1.0:
        return second
    return offdiag * second + (1 - offdiag) * torch.diag(second.diagonal())
