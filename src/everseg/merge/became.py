"""BECAME: how far to go from the model that protects the old towards the one that learned the new freely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from everseg.merge.rule import Answer, Domain, Folded, Stepped
from everseg.merge.tensors import Tensors, alike, copied


@torch.no_grad()
def became_share(delta: Tensors, old: Tensors, new: Tensors) -> float:
    """lambda* = delta^T F_new delta / delta^T (L_old + F_new) delta, in 0..1.

    delta: freely trained minus protected.
    old: L, the sum of the past domains' diagonal Fisher information.
    new: F of the new domain. Minimises lambda^2 delta^T L delta / 2 + (1 - lambda)^2 delta^T F delta / 2, the
        Laplace approximation of both losses. 1 / 2 where neither knows anything of delta.
    """
    names = alike([delta, old, new])
    squares = {n: delta[n].double().square() for n in names}
    gain = sum(float((squares[n] * new[n].double()).sum()) for n in names)
    loss = sum(float((squares[n] * old[n].double()).sum()) for n in names)
    return gain / (gain + loss) if gain + loss else 0.5


@torch.no_grad()
def became(
    protected: Tensors,
    free: Tensors,
    old: Tensors,
    new: Tensors,
    per: Literal["model", "tensor"] = "model",
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """theta* = theta^GP + lambda* (theta^ - theta^GP), and the lambda* of each tensor.

    protected: trained by gradient projection (or merged by RegMean: then this is a safeguard on top).
    free: trained on from there without constraint.
    per: one lambda for the model, or one for each tensor.

    Data: the new domain's, for its Fisher information (`fisher.diagonal_fisher`). Sequential, two models of
    memory and the sum of the Fishers; order-dependent. On weights.
    Source: BECAME (arXiv 2504.02666), the paper's objective; its repository holds no code. A
    circulating note has L_old in the numerator, which would give the new domain most where the old matters
    most.
    """
    names = alike([protected, free, old, new])
    delta = {n: free[n].double() - protected[n].double() for n in names}
    if per == "model":
        share = dict.fromkeys(names, became_share(delta, old, new))
    else:
        share = {n: became_share({n: delta[n]}, {n: old[n]}, {n: new[n]}) for n in names}
    merged = {n: (protected[n].double() + share[n] * delta[n]).to(protected[n].dtype) for n in names}
    return merged, share


@dataclass(frozen=True)
class Informed(Folded):
    """The merged model after t domains."""

    information: dict[str, Tensor]
    """The sum of their Fisher information."""
    share: float
    """The last lambda*; the mean over tensors where each has its own."""


@dataclass(frozen=True)
class Became(Stepped):
    """From the model that protects the old towards the new one, as far as the Fisher information allows.

    The protected model is the merged one so far: all the protection there is without gradient projection,
    which would need the old domains' inputs.

    Source: BECAME, arXiv 2504.02666.
    """

    per: Literal["model", "tensor"] = "model"
    """One lambda for the model, or one for each tensor. [model: BECAME]"""

    needs = frozenset({"fisher"})
    works_on = ("factors",)
    takes = "weights"
    State = Informed

    def start(self, domain: Domain) -> Informed:
        return Informed(copied(domain.tensors), copied(domain.fisher), 1.0)

    @torch.no_grad()
    def step(self, state: Informed, domain: Domain) -> Informed:
        """Go from the merged model as far towards the new one as the Fisher information allows."""
        merged, shares = became(state.merged, domain.tensors, state.information, domain.fisher, self.per)
        total = {n: value + domain.fisher[n].to(value) for n, value in state.information.items()}
        return Informed(merged, total, sum(shares.values()) / len(shares))

    def answer(self, state: Informed) -> Answer:
        return Answer(state.merged, figures={"became_share": state.share})
