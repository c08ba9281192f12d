"""DOP: a merged model that differs from the old and the new one least where each of them is strong.

Shape suffixes: O width of a layer's output, D of its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from everseg.config import Amount, Count, Share
from everseg.merge.rule import Domain, Folded, Stepped
from everseg.merge.tensors import Tensors, alike, copied


def dop(deltas: Sequence[Tensors], rule: DOP | None = None) -> dict[str, Tensor]:
    """Fold over deltas: min over W of sum_i a_i (|S_i U_i^T (W - T_i)|^2 + |(W - T_i) V_i S_i|^2).

    T_1 the merged and T_2 the new delta, T_i = U_i S_i V_i^T. The objective is quadratic; its gradient is
    zero where

        (sum a_i T_i T_i^T) W + W (sum a_i T_i^T T_i) = sum a_i (T_i T_i^T T_i + T_i T_i^T T_i),

    which two eigendecompositions solve. Entries that neither projection sees get the mean of the two deltas,
    where the published optimisation starts and stays.

    Needs no data. Sequential, constant memory, order-dependent. On weights' deltas or products.
    Source: "Continual Model Merging without Data: Dual Projections for Balancing Stability and Plasticity",
    NeurIPS 2025. The published code (in fusion_bench) takes 200 steps of Adam at 1e-4 from the mean, not to
    convergence, with weights from the multiple-gradient descent of the two losses. Its defaults are energy 1
    and ema 0.99, which RegCL's baseline takes with alpha 0.5; its configuration has energy 0.99999, ema 0.999
    and alpha 0.8. It keeps one singular value fewer than reach the energy: at energy 1 all but the last, or
    fewer where rounding puts an earlier share at 1.
    """
    return dict((rule or DOP()).merge([Domain(delta) for delta in deltas]).tensors)


@dataclass(frozen=True)
class DOP(Stepped):
    """The least change where the old and the new delta are strong.

    Source: Dual Projections, NeurIPS 2025.
    """

    alpha: Share = 0.5
    """Weight of the merged delta; the new one has 1 - alpha. [RegCL's baseline; fusion_bench's config 0.8]"""
    energy: Share = 1.0
    """Share of the sum of singular values that projections keep. [fusion_bench; 0.99999 in its config]"""
    solver: Literal["exact", "adam"] = "exact"
    """Solve exactly, or by Adam with weights that MGDA adapts. [adam: the published code]"""
    steps: Count = 200
    """Steps of Adam. [the published code]"""
    lr: Amount = 1e-4
    """Learning rate of Adam. [the published code]"""
    ema: Share = 0.99
    """Smoothing of MGDA's weights. [fusion_bench; 0.999 in its config]"""

    works_on = ("products", "factors")

    @classmethod
    def presets(cls) -> dict[str, DOP]:
        return {"paper": cls(), "reference": cls(solver="adam")}

    def start(self, domain: Domain) -> Folded:
        return Folded(copied(domain.tensors))

    @torch.no_grad()
    def step(self, state: Folded, domain: Domain) -> Folded:
        """Merge one more delta: matrices by the two projections, other tensors by their mean."""
        out = {}
        for name in alike([state.merged, domain.tensors]):
            old, new = state.merged[name].double(), domain.tensors[name].double()
            if old.dim() != 2:
                value = (old + new) / 2
            elif self.solver == "exact":
                value = _exact(old, new, self)
            else:
                value = _adam(old, new, self)
            out[name] = value.to(state.merged[name].dtype)
        return Folded(out)


def _projections(t_OD: Tensor, energy: float, one_too_few: bool) -> tuple[Tensor, Tensor]:
    """T T^T and T^T T of the leading singular values that hold `energy` of their sum."""
    u, s, v = torch.linalg.svd(t_OD, full_matrices=False)
    if energy < 1 or one_too_few:
        below = int((s.cumsum(0) / s.sum() < energy).sum()) if float(s.sum()) else 0
        s = s.clone()
        s[below if one_too_few else below + 1 :] = 0
    return (u * s.square()) @ u.T, (v.T * s.square()) @ v


def _exact(old: Tensor, new: Tensor, rule: DOP) -> Tensor:
    mean = (old + new) / 2
    p_OO, q_DD = torch.zeros(len(old), len(old)).to(old), torch.zeros(old.shape[1], old.shape[1]).to(old)
    c_OD = torch.zeros_like(old)
    for weight, t_OD in ((rule.alpha, old), (1 - rule.alpha, new)):
        left, right = _projections(t_OD, rule.energy, False)
        p_OO, q_DD = p_OO + weight * left, q_DD + weight * right
        c_OD += weight * (left @ (t_OD - mean) + (t_OD - mean) @ right)
    p, u = torch.linalg.eigh(p_OO)
    q, v = torch.linalg.eigh(q_DD)
    seen = p[:, None] + q[None, :]
    floor = float(seen.max()) * max(old.shape) * torch.finfo(seen.dtype).eps
    c = u.T @ c_OD @ v
    step = torch.where(seen > floor, c / seen.clamp(min=max(floor, torch.finfo(seen.dtype).tiny)), 0.0)
    return mean + u @ step @ v.T


def _adam(old: Tensor, new: Tensor, rule: DOP) -> Tensor:
    sides = [(t, *_projections(t, rule.energy, True)) for t in (old, new)]
    w = ((old + new) / 2).clone().requires_grad_(True)
    optimiser = torch.optim.Adam([w], lr=rule.lr)
    share = rule.alpha
    for _ in range(rule.steps):
        gradients, losses = [], []
        for t, left, right in sides:
            d = w.detach() - t
            along = left @ d + d @ right
            losses.append((along * d).sum())
            gradients.append(2 * along)
        # MGDA for two: the shortest vector between the gradients, each divided by its loss.
        a, b = (
            g / loss if float(loss) else torch.zeros_like(g)
            for g, loss in zip(gradients, losses, strict=True)
        )
        gap = float((a - b).square().sum())
        best = min(1.0, max(0.0, float(((b - a) * b).sum()) / gap)) if gap else 0.5
        share = rule.ema * share + (1 - rule.ema) * best
        w.grad = share * gradients[0] + (1 - share) * gradients[1]
        optimiser.step()
    return w.detach()
