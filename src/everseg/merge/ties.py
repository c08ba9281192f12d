"""TIES: trim each delta to its largest entries, elect a sign for each entry, average those that agree.

Shape suffixes: K models, P numbers of a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor

from everseg.config import Number, Share
from everseg.errors import UserError
from everseg.merge.rule import Answer, Domain, Joint, Network, tensors_of
from everseg.merge.tensors import Tensors, alike, stacked, unflat


def ties(
    deltas: Sequence[Tensors],
    keep: float = 0.2,
    scale: float = 1.0,
    *,
    weights: Sequence[float] | None = None,
    combine: Literal["mean", "sum"] = "mean",
    scope: Literal["all", "tensor"] = "all",
    zero_sum: Literal["majority", "positive"] = "majority",
    elect_weighted: bool = False,
    one_too_many: bool = False,
) -> dict[str, Tensor]:
    """lambda times the mean, entry by entry, of the trimmed deltas that have the elected sign.

    keep: share of entries each delta keeps, the largest; equal ones from the front.
    scale: lambda.
    weights: w_k on the agreeing entries, whose mean divides by the sum of their weights; `elect_weighted`
        puts them on the votes too.
    combine: "sum" adds the agreeing entries up.
    scope: trim and take the majority over all numbers of a model, or tensor by tensor.
    zero_sum: the sign where the trimmed deltas cancel: that of most elected entries, or plus.
    one_too_many: keep entries of at least the (P - k)-th magnitude, as the published code does: one more than
        k, and everything where more than P - k entries are zero.

    Needs no data but all deltas at once (not sequential). Order-free.
    Source: Yadav et al., NeurIPS 2023; keep 0.2, lambda 1 without validation data. Elsewhere:
    fusion_bench sums with lambda 0.3; mergekit and peft trim by tensor and elect plus; mergekit weighs
    before electing, peft after it and divides by the count. RegCL's baseline: keep 0.2, lambda 0.55.

    Raises:
        UserError: `keep` is not in 0..1, or models differ in names or shapes.
    """
    if not 0 <= keep <= 1:
        raise UserError(f"keep is {keep}; it must be a share from 0 to 1")
    names = alike(deltas)
    given = [1.0] * len(deltas) if weights is None else list(weights)
    assert len(given) == len(deltas), "one weight for each model"
    groups = [names] if scope == "all" else [[name] for name in names]
    out: dict[str, Tensor] = {}
    for group in groups:
        parts = [{n: delta[n] for n in group} for delta in deltas]
        trimmed_KP = torch.stack([trim(row, keep, one_too_many) for row in stacked(parts)])
        w_K1 = trimmed_KP.new_tensor(given)[:, None]
        votes_P = (trimmed_KP * w_K1 if elect_weighted else trimmed_KP).sum(0)
        agree_KP = trimmed_KP.sign() == elect(votes_P, zero_sum)
        # Where nothing is left no sign was elected, and zero agrees with zero: it adds nothing, but counts.
        agree_KP &= trimmed_KP != 0
        merged_P = (trimmed_KP * w_K1 * agree_KP).sum(0)
        if combine == "mean":
            share_P = (w_K1 * agree_KP).sum(0)
            merged_P = torch.where(share_P > 0, merged_P / share_P, torch.zeros_like(merged_P))
        out |= unflat(scale * merged_P, parts[0])
    return out


def trim(row_P: Tensor, keep: float, one_too_many: bool = False) -> Tensor:
    """The entries of largest magnitude, floor(keep * P) of them, at least one unless `keep` is 0; the rest
    zero."""
    count = len(row_P)
    kept = math.floor(keep * count + 1e-9)
    kept = max(kept, 1) if keep and count else 0
    size_P = row_P.abs()
    mask = torch.zeros_like(row_P, dtype=torch.bool)
    if one_too_many and 0 < kept < count:
        mask = size_P >= size_P.kthvalue(count - kept).values
    else:
        mask[size_P.argsort(descending=True, stable=True)[:kept]] = True
    return row_P * mask


def elect(votes_P: Tensor, zero_sum: Literal["majority", "positive"]) -> Tensor:
    """The sign of each sum of votes; of a sum of zero that of the majority of sums, or plus."""
    sign_P = votes_P.sign()
    fallback = sign_P.sum().sign() if zero_sum == "majority" else torch.ones_like(sign_P[:1]).squeeze()
    return torch.where(sign_P == 0, fallback, sign_P)


@dataclass(frozen=True)
class Ties(Joint):
    """The largest entries of each delta, averaged where they agree in sign.

    Source: Yadav et al., NeurIPS 2023.
    """

    keep: Share = 0.2
    """Share of entries that each delta keeps, the largest ones. [Yadav et al.; RegCL's baseline: 0.2]"""
    scale: Number = 1.0
    """Factor on the merged delta. [Yadav et al.; fusion_bench has 0.3, RegCL's baseline 0.55]"""
    combine: Literal["mean", "sum"] = "mean"
    """Average the agreeing entries, or add them up. [mean: Yadav et al.; sum: fusion_bench]"""
    scope: Literal["all", "tensor"] = "all"
    """Trim over all numbers of a model, or tensor by tensor. [all: Yadav et al.; tensor: mergekit, peft]"""
    zero_sum: Literal["majority", "positive"] = "majority"
    """Sign where deltas cancel: the commonest, or plus. [majority: Yadav et al.; positive: mergekit, peft]"""
    elect_weighted: bool = False
    """Let the domains' weights count in the vote on signs as well. [mergekit]"""
    one_too_many: bool = False
    """Keep one entry more than `keep` says, and all where many are zero. [Yadav et al.'s published code]"""

    weighs = True

    def merge(self, domains: Sequence[Domain], network: Network | None = None) -> Answer:
        return Answer(ties(tensors_of(domains), weights=[d.weight for d in domains], **asdict(self)))
