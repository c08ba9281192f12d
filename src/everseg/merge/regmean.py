"""RegMean: the linear layers that answer every domain's inputs as that domain's own adapter does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from everseg.config import Amount, Checked, Share
from everseg.errors import UserError
from everseg.merge.average import average
from everseg.merge.regmean_sums import RegMeanSums
from everseg.merge.report import LayerReport, regmean_figures
from everseg.merge.rule import Answer, Domain, Joint, Network, Rule, Summed, tensors_of
from everseg.merge.solve import shrink_offdiagonal
from everseg.merge.tensors import Tensors, alike


@dataclass(frozen=True)
class RegMeanConfig(Checked):
    """How RegMean's sums are solved.

    A ridge of zero trusts float32 products in directions that hold nothing but their rounding. 1e-8 costs no
    more objective than that at conditions from 1e4 to 1e10 (D = 768), 1e-6 20 to 300 times more up to 1e8.
    """

    ridge: Amount = 1e-8
    """Pull toward the mean, in units of the mean diagonal entry of sum G_k. [measured, see above]"""
    offdiag: Share = 1.0
    """Factor on the off-diagonal entries of every G_k, from 0 to 1; depends on the axes. [RegMean]"""
    centre: bool = True
    """Solve for the difference from the mean."""
    affine: bool = False
    """Merge a layer's bias together with its weight; needs affine statistics."""
    arithmetic: Literal["fp64", "fp32_inverse"] = "fp64"
    """"fp64", or a plain inverse in float32 without a ridge. [fp32_inverse: RegCL's published code]"""

    @classmethod
    def presets(cls) -> dict[str, RegMeanConfig]:
        """`paper`: weights by the closed form, biases averaged. `reference`: RegCL's published code.
        `robust`: biases by the closed form as well, and a ridge that is felt."""
        return {
            "paper": cls(),
            "reference": cls(ridge=0.0, centre=False, arithmetic="fp32_inverse"),
            "robust": cls(ridge=1e-6, affine=True),
        }


@torch.no_grad()
def regmean(
    models: Sequence[Tensors],
    moments: Sequence[Tensors],
    config: RegMeanConfig | None = None,
    weights: Sequence[float] | None = None,
) -> tuple[dict[str, Tensor], dict[str, LayerReport]]:
    """Merge models that are all at hand, with the moments of each one's layers; see `RegMeanSums`.

    In float32 ("fp32_inverse") there are no reports.

    Raises:
        UserError: as `RegMeanSums.add`; or a float32 inverse of a singular sum, which has no other way out.
    """
    config = config or RegMeanConfig()
    given = [1.0] * len(models) if weights is None else list(weights)
    if config.arithmetic == "fp32_inverse":
        return _plain_inverse(models, moments, given, config.offdiag), {}
    sums = RegMeanSums(config.affine)
    for model, moment, weight in zip(models, moments, given, strict=True):
        sums.add(model, moment, weight)
    return sums.solve(ridge=config.ridge, offdiag=config.offdiag, centre=config.centre)


def _plain_inverse(
    models: Sequence[Tensors], moments: Sequence[Tensors], weights: Sequence[float], offdiag: float
) -> dict[str, Tensor]:
    """As RegCL's published code computes: everything float32, an explicit inverse, other tensors averaged."""
    alike(models)
    merged = average(models, weights)
    for layer in moments[0]:
        name = f"{layer}.weight"
        grams = [
            w * shrink_offdiagonal(m[layer].float().cpu(), offdiag)
            for m, w in zip(moments, weights, strict=True)
        ]
        second, cross = torch.zeros_like(grams[0]), torch.zeros_like(models[0][name].float().cpu())
        for model, gram in zip(models, grams, strict=True):
            second, cross = second + gram, cross + model[name].float().cpu() @ gram
        inverse, info = torch.linalg.inv_ex(second)
        if int(info):
            raise UserError(
                f"the sum of the statistics of {layer!r} has no inverse in float32; use arithmetic=fp64"
            )
        merged[name] = (cross @ inverse).to(models[0][name].dtype)
    return merged


@dataclass(frozen=True)
class RegMean(Summed):
    """The linear layers that answer every domain's inputs as that domain's own adapter does.

    Source: RegMean (Jin et al., ICLR 2023); RegCL.
    """

    regmean: RegMeanConfig = field(default_factory=RegMeanConfig)
    """How the sums are solved."""
    metric: bool = True
    """Cut merged products back to a rank by what inputs see, instead of by plain SVD."""

    needs = frozenset({"moments"})
    takes = "weights"
    weighs = True

    def resolved(self) -> Rule:
        return self if self.regmean.arithmetic == "fp64" else StoredRegMean(self.regmean)

    def sums(self) -> RegMeanSums:
        return RegMeanSums(self.regmean.affine, shrinkable=self.regmean.offdiag < 1)

    def terms(self, domain: Domain) -> tuple[Any, ...]:
        return domain.tensors, domain.moments

    def answer(self, sums: Any) -> Answer:
        r = self.regmean
        merged, reports = sums.solve(ridge=r.ridge, offdiag=r.offdiag, centre=r.centre)
        second = {layer: found.second for layer, found in sums.layers.items()} if self.metric else None
        return Answer(merged, reports, regmean_figures(reports), second)


class RegMeanProducts(RegMean):
    """RegMean of the products of low-rank pairs, cut back to their rank by what the inputs see.

    Source: RegMean on products; the truncation is ours.
    """

    works_on = ("products",)

    def resolved(self) -> Rule:
        if self.regmean.arithmetic != "fp64":
            raise UserError("products are merged in float64; set arithmetic=fp64 to merge products")
        return self


@dataclass(frozen=True)
class StoredRegMean(Joint):
    """RegMean as the published code computes it: in float32, from all stored adapters and moments."""

    regmean: RegMeanConfig
    """How the sums are solved."""

    needs = frozenset({"moments"})
    works_on = ("factors",)
    takes = "weights"
    weighs = True

    def merge(self, domains: Sequence[Domain], network: Network | None = None) -> Answer:
        if len(domains) == 1:  # An inverse would blur the first domain's own adapter.
            return Answer(domains[0].tensors)
        moments, weights = [d.moments for d in domains], [d.weight for d in domains]
        return Answer(regmean(tensors_of(domains), moments, self.regmean, weights)[0])
