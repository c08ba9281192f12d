"""KnOTS: express the deltas of low-rank adapters in one basis before merging them.

Shape suffixes: O width of a layer's output, D of its input, R rank of the deltas side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from everseg.config import Amount, Number, Share
from everseg.merge.rule import Answer, Domain, Joint, Network, tensors_of
from everseg.merge.tensors import Tensors, alike
from everseg.merge.ties import ties
from everseg.merge.truncate import Factors

DeltaRule = Callable[[Sequence[Tensors]], dict[str, Tensor]]
"""A rule on deltas, with its settings."""


def ties_at_06(blocks: Sequence[Tensors]) -> dict[str, Tensor]:
    """The published rule: TIES that keeps 20 %, with lambda 0.6."""
    return ties(blocks, keep=0.2, scale=0.6)


@torch.no_grad()
def align(
    deltas: Sequence[Tensors], cutoff: float = 1e-5
) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """U and the blocks S V_k of [tau_1 .. tau_K] = U S [V_1 .. V_K], for each matrix, in float64.

    Returns the bases U (O, R) by name, and for each model its blocks (R, D); U @ block is the delta again.
    Tensors that are not matrices have no basis and are passed on as they are. Singular values up to `cutoff`
    are dropped.
    """
    bases: dict[str, Tensor] = {}
    blocks: list[dict[str, Tensor]] = [{} for _ in deltas]
    for name in alike(deltas):
        parts = [delta[name].double() for delta in deltas]
        if parts[0].dim() == 2:
            u_OR, s_R, v_RKD = torch.linalg.svd(torch.cat(parts, 1), full_matrices=False)
            keep = s_R > cutoff
            bases[name] = u_OR[:, keep]
            parts = list((s_R[keep, None] * v_RKD[keep]).chunk(len(parts), 1))
        for block, part in zip(blocks, parts, strict=True):
            block[name] = part
    return bases, blocks


@torch.no_grad()
def align_factors(models: Sequence[Factors], cutoff: float = 1e-5) -> tuple[Tensor, list[Tensor]]:
    """As `align` for one layer of products B_k A_k, without forming them: O((O + D) (K r)^2).

    [B_1 A_1 .. B_K A_K] = [B_1 .. B_K] blockdiag(A_k); with B = Q_b R_b and A_k^T = Q_k R_k only a K r wide
    matrix is decomposed.
    """
    q_OR, r_b = torch.linalg.qr(torch.cat([m.up.double() for m in models], 1))
    bases = [torch.linalg.qr(m.down.double().T) for m in models]
    small = r_b @ torch.block_diag(*(r.T for _, r in bases))
    u, s, v = torch.linalg.svd(small, full_matrices=False)
    keep = s > cutoff
    parts = (s[keep, None] * v[keep]).split([q.shape[1] for q, _ in bases], 1)
    return q_OR @ u[:, keep], [part @ q.T for part, (q, _) in zip(parts, bases, strict=True)]


@torch.no_grad()
def knots(deltas: Sequence[Tensors], rule: DeltaRule = ties_at_06, cutoff: float = 1e-5) -> dict[str, Tensor]:
    """tau* = U rule(S V_1, .., S V_K): a rule on deltas, in the basis that all models share.

    Needs no data but all deltas (not sequential). Order-free if the rule is, to rounding. On products: each
    matrix is the delta of a weight, not a factor. A linear rule is not changed by it.
    Source: Stoica et al., ICLR 2025; TIES, DARE-TIES or sums, lambda 0.6, keep 20 %, cutoff 1e-5,
    rank-16 adapters. Published code does the full decomposition; `align_factors` needs that of K r columns.
    """
    bases, blocks = align(deltas, cutoff)
    merged = rule(blocks)
    out = {n: bases[n] @ merged[n].double() if n in bases else merged[n] for n in deltas[0]}
    return {n: value.to(deltas[0][n].dtype) for n, value in out.items()}


@dataclass(frozen=True)
class KnOTS(Joint):
    """TIES in a basis that the deltas of low-rank adapters share.

    Source: Stoica et al., ICLR 2025.
    """

    cutoff: Amount = 1e-5
    """Singular values up to this one are dropped. [Stoica et al.]"""
    keep: Share = 0.2
    """Share of entries that TIES keeps of each delta. [Stoica et al.]"""
    scale: Number = 0.6
    """Factor on the merged delta. [Stoica et al.]"""
    one_too_many: bool = False
    """Let TIES keep one entry more than `keep` says. [TIES' published code]"""

    works_on = ("products", "factors")

    def merge(self, domains: Sequence[Domain], network: Network | None = None) -> Answer:
        rule = partial(ties, keep=self.keep, scale=self.scale, one_too_many=self.one_too_many)
        return Answer(knots(tensors_of(domains), rule, self.cutoff))
