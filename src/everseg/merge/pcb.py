"""PCB: weigh entries by how large they are within a model and how well they agree across models.

Shape suffixes: K models, P numbers of a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

from everseg.config import Number, Share
from everseg.errors import UserError
from everseg.merge.rule import Answer, Domain, Joint, Network, tensors_of
from everseg.merge.tensors import Tensors, stacked, unflat


def pcb(
    deltas: Sequence[Tensors],
    ratio: float = 0.05,
    scale: float | Sequence[float] = 1.2,
    *,
    clip: float = 1e-4,
    agreement: Literal["sum", "normalised_sum", "pairs"] = "sum",
) -> dict[str, Tensor]:
    """tau* = sum_k lambda_k w_k c_k / max(sum_k w_k, 1e-12), entry by entry, over all numbers of the models.

        c_k = sign(tau_k) clip(|tau_k|)          to its quantiles `clip` and 1 - `clip`
        n_k = minmax(|c_k|)                      to [0, 1], over the entries of a model
        s_k = exp(K n_k^2) * inter_k
        w_k = minmax(max(s_k, quantile of s_k at 1 - ratio))

    agreement: inter_k is tanh(tau_k sum_j tau_j) ("sum"), tanh(tau_k sum_j m_j) ("normalised_sum") or sum_j
        tanh(m_k m_j) ("pairs"), with m = sign(tau) n.
    scale: lambda, one or one for each model. A model whose entries are all of one size has n = 0, and w = 0
        if all its scores are equal.

    Needs no data (a search for lambda_k in 0.8..1.3 would), but all deltas at once: not sequential.
    Order-free. On weights' deltas or products; the scale is global, so layers of large norm win.
    Source: Du et al., NeurIPS 2024 (arXiv 2410.02396). The paper writes softmax forms; these three are in its
    published code, "sum" in the stand-alone file, with ratio 0.05 (also 0.1, 0.2), lambda 1.2 (1.0 without
    validation) and clip 0.0001 (0.01 in the vision script). Quantiles are its order statistics, floor(q P)
    from the bottom, so that even the smallest clip lowers the largest entry to the second.

    Raises:
        UserError: ratio or clip is not in 0..1, or models differ.
    """
    for name, share in (("ratio", ratio), ("clip", clip)):
        if not 0 <= share <= 1:
            raise UserError(f"{name} is {share}; it must be a share from 0 to 1")
    t_KP = stacked(deltas)
    w_KP, c_KP = entry_weights(t_KP, ratio, clip, agreement)
    given = [float(scale)] * len(t_KP) if isinstance(scale, int | float) else list(scale)
    assert len(given) == len(t_KP), "one scale for each model"
    merged_P = (w_KP * c_KP * c_KP.new_tensor(given)[:, None]).sum(0) / w_KP.sum(0).clamp(min=1e-12)
    return unflat(merged_P, deltas[0])


def entry_weights(
    t_KP: Tensor, ratio: float, clip: float, agreement: Literal["sum", "normalised_sum", "pairs"]
) -> tuple[Tensor, Tensor]:
    """w_k and c_k of deltas tau_k, (K, P) each."""
    size_KP = _clamp(t_KP.abs(), clip, clip)
    c_KP, n_KP = t_KP.sign() * size_KP, _minmax(size_KP)
    m_KP = t_KP.sign() * n_KP
    if agreement == "sum":
        inter_KP = torch.tanh(t_KP * t_KP.sum(0))
    elif agreement == "normalised_sum":
        inter_KP = torch.tanh(t_KP * m_KP.sum(0))
    else:
        inter_KP = torch.stack([torch.tanh(m_P * m_KP).sum(0) for m_P in m_KP])
    score_KP = torch.exp(len(t_KP) * n_KP.square()) * inter_KP
    return _minmax(_clamp(score_KP, 1 - ratio, 0.0)), c_KP


def _clamp(x_KP: Tensor, low: float, high: float) -> Tensor:
    """Each row limited to its order statistics floor(low P) and floor((1 - high) P - 1)."""
    last = x_KP.shape[1] - 1
    ordered_KP = x_KP.sort(1).values
    bottom = ordered_KP[:, min(last, int(x_KP.shape[1] * low))][:, None]
    top = ordered_KP[:, max(0, int(x_KP.shape[1] * (1 - high) - 1))][:, None]
    return torch.minimum(torch.maximum(x_KP, bottom), torch.maximum(top, bottom))


def _minmax(x_KP: Tensor) -> Tensor:
    """Each row to [0, 1]; a constant row to 0, where the published code divides zero by zero."""
    low, high = x_KP.min(1, keepdim=True).values, x_KP.max(1, keepdim=True).values
    span = high - low
    return torch.where(span > 0, (x_KP - low) / span, torch.zeros_like(x_KP))


@dataclass(frozen=True)
class PCB(Joint):
    """Entries weighed by their size within a model and their agreement across models.

    Source: Du et al., NeurIPS 2024.
    """

    ratio: Share = 0.05
    """Share of entries that keep their score, the best ones. [Du et al.; also 0.1 and 0.2]"""
    scale: Number = 1.2
    """Factor on the merged delta. [Du et al.; 1.0 without validation data]"""
    clip: Share = 1e-4
    """Share of entries of each model that is limited at either end. [Du et al.; 0.01 in the vision script]"""
    agreement: Literal["sum", "normalised_sum", "pairs"] = "sum"
    """Which of the published forms measures agreement. [sum: the stand-alone file]"""

    works_on = ("products", "factors")

    def merge(self, domains: Sequence[Domain], network: Network | None = None) -> Answer:
        return Answer(pcb(tensors_of(domains), **asdict(self)))
