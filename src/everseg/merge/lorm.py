"""LoRM: closed forms for one factor of a low-rank adapter while the other is common to all.

Shape suffixes: O width of a layer's output, D of its input, r rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from everseg.config import Amount, Share, Size
from everseg.merge.rule import Answer, Domain, Joint, Network
from everseg.merge.solve import shrink_offdiagonal, solve
from everseg.merge.tensors import Tensors
from everseg.merge.truncate import Factors, flattened, grouped


@torch.no_grad()
def merge_up(
    ups: Sequence[Tensor],
    down: Tensor,
    moments: Sequence[Tensor],
    *,
    ridge: float = 0.0,
    offdiag: float = 1.0,
) -> Tensor:
    """B* = (sum B_k A G_k) A^T (A (sum G_k) A^T)^-1: the up-projections (O, r) of models that share A (r, D).

    That is RegMean with the moments of A x, (r, r): 400 bytes in float32 instead of 2.25 MiB at r = 10 and D
    = 768.

    moments: G_k, (D, D), of the inputs of A.
    """
    small = [down.double() @ shrink_offdiagonal(g.double(), offdiag) @ down.double().T for g in moments]
    return _merged(ups, small, ridge)


@torch.no_grad()
def merge_down(
    downs: Sequence[Tensor], moments: Sequence[Tensor], *, ridge: float = 0.0, offdiag: float = 1.0
) -> Tensor:
    """A* = (sum A_k G_k) (sum G_k)^-1: the down-projections (r, D) of models that share B, whatever it is."""
    return _merged(downs, [shrink_offdiagonal(g.double(), offdiag) for g in moments], ridge)


def _merged(factors: Sequence[Tensor], moments: Sequence[Tensor], ridge: float) -> Tensor:
    wide = [f.double() for f in factors]
    second = torch.stack([g.double() for g in moments]).sum(0)
    cross = torch.stack([f @ g for f, g in zip(wide, moments, strict=True)]).sum(0)
    mean = torch.stack(wide).mean(0)
    return solve(second, cross, mean, ridge=ridge).weight.to(factors[0].dtype)


@torch.no_grad()
def alternate(
    ups: Sequence[Tensor],
    downs: Sequence[Tensor],
    moments: Sequence[Tensor],
    rounds: int = 2,
    *,
    ridge: float = 0.0,
    offdiag: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """One pair B*, A* for products B_k A_k that share neither factor, solving for B and A in turn.

    Minimises sum_k tr((B A - B_k A_k) G_k (B A - B_k A_k)^T); no step makes it larger (with no ridge and
    offdiag 1). Starts from A* = the mean of the A_k; each of the `rounds` solves B, then A.
    Returns (O, r) and (r, D).
    """
    wide = [shrink_offdiagonal(g.double(), offdiag) for g in moments]
    products = [b.double() @ a.double() for b, a in zip(ups, downs, strict=True)]
    second = torch.stack(wide).sum(0)
    cross = torch.stack([p @ g for p, g in zip(products, wide, strict=True)]).sum(0)
    up, down = (
        torch.stack([b.double() for b in ups]).mean(0),
        torch.stack([a.double() for a in downs]).mean(0),
    )
    for _ in range(rounds):
        up = solve(down @ second @ down.T, cross @ down.T, up, ridge=ridge).weight
        # (B^T B) A S = B^T R: the output side first, then the input side.
        target = solve(up.T @ up, (up.T @ cross).T, (down @ second).T, ridge=ridge).weight.T
        down = solve(second, target, down, ridge=ridge).weight
    return up.to(ups[0].dtype), down.to(downs[0].dtype)


def lorm(
    models: Sequence[Mapping[str, Factors]],
    moments: Sequence[Tensors],
    rounds: int = 2,
    *,
    ridge: float = 0.0,
    offdiag: float = 1.0,
) -> dict[str, Factors]:
    """`alternate` for each layer of adapters; biases by the mean of the products', none before B.

    models: a layer's factors by its name.
    moments: of the inputs of A, by the same names.

    In LoRM's own protocol the alternation is between rounds of training: the models train B with A frozen and
    common, `merge_up` joins them, they train A with B frozen, `merge_down` joins those. Then each step is
    exact. Across tasks it sums products: `RegMeanSums` of {"x.weight": B_t A_t}, with the moments' totals,
    is its R += B_t A_t G_t, S += G_t, Delta = R S^-1.

    Needs no data but the Grams. Sequential across tasks (products); order-free within a round.
    Source: Salami et al., "Closed-form merging of parameter-efficient modules for federated continual
    learning" (arXiv 2410.17961). It solves by a pseudo-inverse, which puts zero where S knows nothing and we
    the mean; it weighs by rows, in float32 across tasks. All its published commands keep only the diagonal of
    the backbone's Grams (offdiag 0) and 0.5 (0.3 for CUB) on the head. The alternation on trained pairs is
    ours.
    """
    out = {}
    for name, first in models[0].items():
        width, layers = first.down.shape[1], [model[name] for model in models]
        up, down = alternate(
            [layer.up for layer in layers],
            [layer.down for layer in layers],
            [m[name][:width, :width].cpu() for m in moments],
            rounds,
            ridge=ridge,
            offdiag=offdiag,
        )
        biases = [layer.bias for layer in layers if layer.bias is not None]
        bias = torch.stack(biases).mean(0).detach() if biases else None
        no_bias = None if first.down_bias is None else torch.zeros_like(first.down_bias)
        out[name] = Factors(up, down, bias, no_bias)
    return out


@dataclass(frozen=True)
class LoRM(Joint):
    """RegMean of one low-rank factor at a time, while the other is held.

    Source: Salami et al., arXiv 2410.17961.
    """

    rounds: Size = 2
    """How often B and then A is solved for. [ours]"""
    ridge: Amount = 0.0
    """Pull toward the mean, as in RegMean. [Salami et al. solve by a pseudo-inverse]"""
    offdiag: Share = 1.0
    """Factor on the off-diagonal entries of every G_k. [Salami et al.'s commands: 0]"""

    needs = frozenset({"moments"})
    works_on = ("pairs",)
    takes = "weights"

    def merge(self, domains: Sequence[Domain], network: Network | None = None) -> Answer:
        if len(domains) == 1:
            return Answer(domains[0].tensors)
        models = [grouped(domain.tensors) for domain in domains]
        return Answer(flattened(lorm(models, [domain.moments for domain in domains], **asdict(self))))
