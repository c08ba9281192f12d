"""DOP: a merged model that differs from the old and the new one least where each of them is strong.

Shape suffixes: O width of a layer's output, D of its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from everseg.config import at_least
from everseg.errors import UserError
from everseg.merge.tensors import Tensors, alike, copied


@dataclass(frozen=True)
class DopConfig:
    """alpha: weight of the merged model, the new one has 1 - alpha. energy: share of the sum of a delta's
    singular values that its projections keep. solver: "exact", or "adam", as the published code has it, which
    adapts the weights by MGDA, smoothed by `ema`, in `steps` steps of `lr`."""

    alpha: float = 0.5
    energy: float = 1.0
    solver: Literal["exact", "adam"] = "exact"
    steps: int = 200
    lr: float = 1e-4
    ema: float = 0.99

    def __post_init__(self) -> None:
        at_least(self, 0, "alpha", "energy", "steps", "lr", "ema")
        for name in ("alpha", "energy", "ema"):
            if getattr(self, name) > 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be a share from 0 to 1")

    @classmethod
    def presets(cls) -> dict[str, DopConfig]:
        return {"paper": cls(), "reference": cls(solver="adam")}


@dataclass(frozen=True)
class Dop:
    """The merged delta so far."""

    merged: dict[str, Tensor]

    @classmethod
    def start(cls, delta: Tensors) -> Dop:
        return cls(copied(delta))

    @torch.no_grad()
    def step(self, delta: Tensors, config: DopConfig | None = None) -> Dop:
        """Merge one more delta in: matrices by the two projections, other tensors by their mean."""
        config = config or DopConfig()
        out = {}
        for name in alike([self.merged, delta]):
            old, new = self.merged[name].double(), delta[name].double()
            if old.dim() != 2:
                value = (old + new) / 2
            elif config.solver == "exact":
                value = _exact(old, new, config)
            else:
                value = _adam(old, new, config)
            out[name] = value.to(self.merged[name].dtype)
        return Dop(out)


def dop(deltas: Sequence[Tensors], config: DopConfig | None = None) -> dict[str, Tensor]:
    """Fold over deltas: min over W of sum_i a_i (|S_i U_i^T (W - T_i)|^2 + |(W - T_i) V_i S_i|^2).

    T_1 the merged and T_2 the new delta, T_i = U_i S_i V_i^T. The objective is quadratic; its gradient is
    zero where

        (sum a_i T_i T_i^T) W + W (sum a_i T_i^T T_i) = sum a_i (T_i T_i^T T_i + T_i T_i^T T_i),

    which two eigendecompositions solve. Entries that neither projection sees get the mean of the two deltas,
    where the published optimisation starts and stays.

    Needs no data. Sequential, constant memory, order-dependent. On weights' deltas or products.
    Source: "Continual Model Merging without Data: Dual Projections for Balancing Stability and Plasticity",
    NeurIPS 2025. Published code: 200 steps of Adam at 1e-4 from the mean, not to convergence, with weights
    from the multiple-gradient descent of the two losses; fusion_bench's settings alpha 0.8, ema 0.999, energy
    0.99999, RegCL's 0.5, 0.99, 1.0. It keeps one singular value fewer than reach the energy.
    """
    state = Dop.start(deltas[0])
    for delta in deltas[1:]:
        state = state.step(delta, config)
    return state.merged


def _projections(t_OD: Tensor, energy: float, one_too_few: bool) -> tuple[Tensor, Tensor]:
    """T T^T and T^T T of the leading singular values that hold `energy` of their sum."""
    u, s, v = torch.linalg.svd(t_OD, full_matrices=False)
    if energy < 1 or one_too_few:
        below = int((s.cumsum(0) / s.sum() < energy).sum()) if float(s.sum()) else 0
        s = s.clone()
        s[below if one_too_few else below + 1 :] = 0
    return (u * s.square()) @ u.T, (v.T * s.square()) @ v


def _exact(old: Tensor, new: Tensor, config: DopConfig) -> Tensor:
    mean = (old + new) / 2
    p_OO, q_DD = torch.zeros(len(old), len(old)).to(old), torch.zeros(old.shape[1], old.shape[1]).to(old)
    c_OD = torch.zeros_like(old)
    for weight, t_OD in ((config.alpha, old), (1 - config.alpha, new)):
        left, right = _projections(t_OD, config.energy, False)
        p_OO, q_DD = p_OO + weight * left, q_DD + weight * right
        c_OD += weight * (left @ (t_OD - mean) + (t_OD - mean) @ right)
    p, u = torch.linalg.eigh(p_OO)
    q, v = torch.linalg.eigh(q_DD)
    seen = p[:, None] + q[None, :]
    floor = float(seen.max()) * max(old.shape) * torch.finfo(seen.dtype).eps
    c = u.T @ c_OD @ v
    step = torch.where(seen > floor, c / seen.clamp(min=max(floor, torch.finfo(seen.dtype).tiny)), 0.0)
    return mean + u @ step @ v.T


def _adam(old: Tensor, new: Tensor, config: DopConfig) -> Tensor:
    sides = [(t, *_projections(t, config.energy, True)) for t in (old, new)]
    w = ((old + new) / 2).clone().requires_grad_(True)
    optimiser = torch.optim.Adam([w], lr=config.lr)
    share = config.alpha
    for _ in range(config.steps):
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
        share = config.ema * share + (1 - config.ema) * best
        w.grad = share * gradients[0] + (1 - share) * gradients[1]
        optimiser.step()
    return w.detach()
