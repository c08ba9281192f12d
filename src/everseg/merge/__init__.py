"""Merging adapters into one: tensors by name in, tensors by name out.

gram.py, collect.py    second moments of layers' inputs, and how to measure them
regmean.py, solve.py   the closed form, from sums of constant size
average.py             means that models can be taken out of
tensors.py             models, deltas and vectors
and a file for each rule in `RULES`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal

from everseg.errors import unknown
from everseg.merge.average import RunningMean
from everseg.merge.collect import GramCollector
from everseg.merge.gram import Gram, GramConfig, add_up_grams
from everseg.merge.regmean import LayerReport, RegMeanConfig, RegMeanSums
from everseg.merge.tensors import Tensors, applied, deltas


@dataclass(frozen=True)
class Rule:
    """What a rule of merging is, needs and promises.

    where: its function, as module:name. takes: its first argument: "weights" or "deltas" of all models in
    order, the "moments" with the weights, "fishers" with them, "factors", "layers" with calibration inputs,
    a "score" or "loss" callback with the models, or "pair": the protected and the free model.
    step: a class that folds one domain after another in constant memory: `start(x)` and `step(x)`, or `add`,
    `subtract` and `solve`; "" where there is none. removes: whether a
    domain can be taken out again.
    data: what of the domains' data the merge itself wants. statistics: what is measured while a domain is
    there. order_free: same result whatever the order, to rounding. on: what it may be given: "either" is
    weights (factors too) or deltas. closed_form: False where it iterates.
    """

    where: str
    takes: Literal["weights", "deltas", "moments", "fishers", "factors", "layers", "score", "loss", "pair"]
    meaning: str
    source: str
    step: str = ""
    removes: bool = False
    data: Literal["none", "unlabelled", "labelled"] = "none"
    statistics: Literal["none", "gram", "fisher", "samples"] = "none"
    order_free: bool = True
    on: Literal["either", "deltas", "factors", "blocks"] = "either"
    closed_form: bool = True

    @property
    def sequential(self) -> bool:
        """Whether domains can come one after another in constant memory."""
        return bool(self.step)


RULES = {
    "average": Rule(
        "everseg.merge.average:average",
        "weights",
        "the mean of all models",
        "Wortsman et al., ICML 2022",
        step="everseg.merge.average:RunningMean",
        removes=True,
    ),
    "ema": Rule(
        "everseg.merge.average:ema",
        "weights",
        "an average that forgets: each model counts more than those before it",
        "common",
        step="everseg.merge.average:Ema",
        order_free=False,
    ),
    "regmean": Rule(
        "everseg.merge.regmean:regmean",
        "moments",
        "the linear layers that answer every domain's inputs as its own adapter does",
        "Jin et al., ICLR 2023; RegCL",
        step="everseg.merge.regmean:RegMeanSums",
        removes=True,
        statistics="gram",
    ),
    "regmean-products": Rule(
        "everseg.merge.truncate:merge_products",
        "factors",
        "RegMean of low-rank products, cut back to their rank by what the inputs see",
        "RegMean on products; the truncation is ours",
        step="everseg.merge.regmean:RegMeanSums",
        removes=True,
        statistics="gram",
        on="factors",
    ),
    "regmean++": Rule(
        "everseg.merge.regmean_pp:regmean_pp",
        "layers",
        "RegMean layer by layer, on the inputs that the merged layers give",
        "arXiv 2508.03121",
        data="unlabelled",
        statistics="samples",
    ),
    "lorm": Rule(
        "everseg.merge.lorm:lorm",
        "factors",
        "RegMean of one low-rank factor at a time, the other held",
        "Salami et al., arXiv 2410.17961",
        step="everseg.merge.regmean:RegMeanSums",
        removes=True,
        statistics="gram",
        on="factors",
        closed_form=False,
    ),
    "fisher": Rule(
        "everseg.merge.fisher:fisher_merge",
        "fishers",
        "an average of each parameter by how sure each model is of it",
        "Matena and Raffel, NeurIPS 2022",
        step="everseg.merge.fisher:FisherSums",
        removes=True,
        statistics="fisher",
    ),
    "became": Rule(
        "everseg.merge.became:became",
        "pair",
        "from the model that protects the old as far towards the new as the Fisher information allows",
        "arXiv 2504.02666",
        step="everseg.merge.became:Became",
        statistics="fisher",
        order_free=False,
    ),
    "arithmetic": Rule(
        "everseg.merge.arithmetic:task_arithmetic",
        "deltas",
        "the sum of what all models learned, scaled",
        "Ilharco et al., ICLR 2023",
        step="everseg.merge.arithmetic:ContinualArithmetic",
        removes=True,
    ),
    "ties": Rule(
        "everseg.merge.ties:ties",
        "deltas",
        "the largest entries of each delta, averaged where they agree in sign",
        "Yadav et al., NeurIPS 2023",
    ),
    "dare": Rule(
        "everseg.merge.dare:dare",
        "deltas",
        "the sum of deltas of which most entries were dropped at random",
        "Yu et al., ICML 2024",
        on="deltas",
    ),
    "magmax": Rule(
        "everseg.merge.magmax:magmax",
        "deltas",
        "of each entry the one that moved furthest",
        "Marczak et al., ECCV 2024",
        step="everseg.merge.magmax:MagMax",
        order_free=False,
    ),
    "pcb": Rule(
        "everseg.merge.pcb:pcb",
        "deltas",
        "entries weighed by size within a model and agreement across models",
        "Du et al., NeurIPS 2024",
        on="deltas",
    ),
    "knots": Rule(
        "everseg.merge.knots:knots",
        "deltas",
        "TIES in a basis that the deltas of low-rank adapters share",
        "Stoica et al., ICLR 2025",
        on="deltas",
    ),
    "opcm": Rule(
        "everseg.merge.opcm:opcm",
        "deltas",
        "each delta without what it has along the directions already merged",
        "Tang et al., arXiv 2501.09522",
        step="everseg.merge.opcm:Opcm",
        order_free=False,
        on="deltas",
    ),
    "dop": Rule(
        "everseg.merge.dop:dop",
        "deltas",
        "least change where the old and the new delta are strong",
        "Dual Projections, NeurIPS 2025",
        step="everseg.merge.dop:Dop",
        order_free=False,
        on="deltas",
    ),
    "layerwise": Rule(
        "everseg.merge.layerwise:layerwise",
        "weights",
        "an average in early layers that goes over to the latest model in the last",
        "arXiv 2409.15813",
        order_free=False,
    ),
    "concrete": Rule(
        "everseg.merge.concrete:concrete",
        "loss",
        "the sum of deltas under one learned mask",
        "arXiv 2312.06173",
        data="unlabelled",
        on="deltas",
        closed_form=False,
    ),
    "adamerging": Rule(
        "everseg.merge.concrete:adamerging",
        "loss",
        "the sum of deltas with learned weights",
        "Yang et al., ICLR 2024",
        data="unlabelled",
        on="deltas",
        closed_form=False,
    ),
    "blockwise": Rule(
        "everseg.merge.blockwise:blockwise",
        "score",
        "each block from the candidate that scores best",
        "after RMM, arXiv 2503.21272",
        data="labelled",
        order_free=False,
        on="blocks",
        closed_form=False,
    ),
}
"""The rules by name. `osrm.osrm`, which starts an adapter instead of merging it, is none of them."""


def find(name: str, step: bool = False) -> Any:
    """A rule's function; or the class that folds domains one by one.

    Raises:
        UserError: no such rule, or none of those that fold.
    """
    if name not in RULES:
        raise unknown("rule of merging", name, RULES)
    if step and not RULES[name].step:
        raise unknown("rule that merges one by one", name, [n for n, rule in RULES.items() if rule.step])
    module, _, attribute = (RULES[name].step if step else RULES[name].where).partition(":")
    return getattr(importlib.import_module(module), attribute)


__all__ = [
    "RULES",
    "Gram",
    "GramCollector",
    "GramConfig",
    "LayerReport",
    "RegMeanConfig",
    "RegMeanSums",
    "Rule",
    "RunningMean",
    "Tensors",
    "add_up_grams",
    "applied",
    "deltas",
    "find",
]
