"""RegMean++: merge layer by layer, each with the inputs that the merged layers before it give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from everseg.config import Amount, Share
from everseg.errors import UserError
from everseg.merge.collect import GramCollector
from everseg.merge.gram import GramConfig
from everseg.merge.regmean_sums import RegMeanSums
from everseg.merge.report import LayerReport, regmean_figures
from everseg.merge.rule import Answer, Domain, Joint, Network
from everseg.merge.tensors import Tensors


@torch.no_grad()
def regmean_pp(
    layers: Sequence[nn.Module],
    models: Sequence[Tensors],
    inputs: Sequence[Tensor],
    *,
    ridge: float = 1e-8,
    offdiag: float = 0.95,
    affine: bool = False,
    config: GramConfig | None = None,
) -> tuple[dict[str, Tensor], dict[str, LayerReport]]:
    """Merge a chain of layers: x -> layers[0](x) -> layers[1](.) -> ...

    models: for each task its tensors, named as in a ModuleList ("0.attn.weight").
    inputs: for each task calibration samples as layer 0 gets them, a batch (n, ...); in the adapted tail of a
        segmenter, the cached features. A layer's Linears are solved, with Grams of task k's own layer on the
        output of the merged layers before it; its other tensors are averaged.
    config: how inputs are measured.
    ridge, offdiag, affine: as in `RegMeanConfig`.

    The layers are called with each task's tensors in place of their own, which stay as they are.

    Data: calibration samples of every domain, at every merge, since earlier layers change. Not sequential on
    statistics alone; order-free. On weights or factors, whatever the layers call.
    Source: RegMean++ (arXiv 2508.03121); 256 samples a task, offdiag 0.95. Its own experiment in sequence
    takes a surrogate set for what was merged before.

    Raises:
        UserError: a tensor belongs to no layer, or as `RegMeanSums.add`.
    """
    assert len(models) == len(inputs), "calibration inputs for each model"
    stray = [n for n in models[0] if not (n.split(".")[0].isdigit() and int(n.split(".")[0]) < len(layers))]
    if stray:
        raise UserError(
            f"{stray[0]!r} belongs to no layer: names begin with its number, 0..{len(layers) - 1}"
        )
    given = config or GramConfig()
    measured = GramConfig(affine, given.zero_rows, given.max_rows, given.running_mean)
    current = list(inputs)
    merged: dict[str, Tensor] = {}
    reports: dict[str, LayerReport] = {}
    for number, layer in enumerate(layers):
        prefix = f"{number}."
        own = [{n: t for n, t in m.items() if n.startswith(prefix)} for m in models]
        linears = {
            f"{prefix}{n}".rstrip("."): module
            for n, module in layer.named_modules()
            if isinstance(module, nn.Linear)
        }
        sums = RegMeanSums(affine)
        for tensors, x in zip(own, current, strict=True):
            with GramCollector(linears, measured) as collector:
                functional_call(layer, _inside(tensors, prefix, x), (x,))
            sums.add(tensors, {n: gram.mean() for n, gram in collector.result().items()})
        new, found = sums.solve(ridge=ridge, offdiag=offdiag)
        current = [functional_call(layer, _inside(new, prefix, x), (x,)) for x in current]
        merged |= new
        reports |= found
    return merged, reports


def _inside(tensors: Tensors, prefix: str, x: Tensor) -> dict[str, Tensor]:
    """A layer's tensors under the names it has for them, where its input is."""
    return {n.removeprefix(prefix): t.to(x.device) for n, t in tensors.items()}


@dataclass(frozen=True)
class RegMeanPlusPlus(Joint):
    """RegMean layer by layer, on the inputs that the merged layers before it give.

    Source: arXiv 2508.03121.
    """

    offdiag: Share = 0.95
    """Factor on the off-diagonal entries of every G_k. [arXiv 2508.03121]"""
    ridge: Amount = 1e-8
    """Pull toward the mean, as in RegMean."""

    needs = frozenset({"samples"})
    works_on = ("factors",)
    takes = "weights"

    def merge(self, domains: Sequence[Domain], network: Network | None = None) -> Answer:
        if len(domains) == 1:
            return Answer(domains[0].tensors)
        assert network is not None, "the layers are the network's"
        chain = network.chain()
        inside = {n: _tensor_in(chain.names, n) for n in domains[0].tensors}
        models = [{inside[n]: value for n, value in domain.tensors.items()} for domain in domains]
        merged, reports = regmean_pp(
            chain.layers, models, chain.inputs, ridge=self.ridge, offdiag=self.offdiag
        )
        outside = {new: layer for layer, new in chain.names.items()}
        reports = {outside[new]: report for new, report in reports.items()}
        return Answer({n: merged[inside[n]] for n in inside}, reports, regmean_figures(reports))


def _tensor_in(names: Mapping[str, str], tensor: str) -> str:
    layer, _, kind = tensor.rpartition(".")
    return f"{names[layer]}.{kind}"
