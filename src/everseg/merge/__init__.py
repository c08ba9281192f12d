"""Merging adapters into one: tensors by name in, tensors by name out.

rule.py                          what a rule of merging is
gram.py, collect.py              second moments of layers' inputs, and how to measure them
regmean_sums.py, solve.py        the closed form, from sums of constant size
tensors.py                       models, deltas and vectors
and a file for each rule in `RULES`.

A new rule is one file and one line in `RULES`. Nothing heavy is imported before a rule is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from everseg.errors import unknown

if TYPE_CHECKING:
    from everseg.merge.rule import Rule

RULES = {
    "average": "everseg.merge.average:Average",
    "ema": "everseg.merge.ema:Ema",
    "regmean": "everseg.merge.regmean:RegMean",
    "regmean-products": "everseg.merge.regmean:RegMeanProducts",
    "regmean++": "everseg.merge.regmean_pp:RegMeanPlusPlus",
    "lorm": "everseg.merge.lorm:LoRM",
    "fisher": "everseg.merge.fisher:Fisher",
    "became": "everseg.merge.became:Became",
    "arithmetic": "everseg.merge.arithmetic:Arithmetic",
    "ties": "everseg.merge.ties:Ties",
    "dare": "everseg.merge.dare:Dare",
    "magmax": "everseg.merge.magmax:MagMax",
    "pcb": "everseg.merge.pcb:PCB",
    "knots": "everseg.merge.knots:KnOTS",
    "opcm": "everseg.merge.opcm:OPCM",
    "dop": "everseg.merge.dop:DOP",
    "layerwise": "everseg.merge.layerwise:Layerwise",
    "concrete": "everseg.merge.concrete:Concrete",
    "adamerging": "everseg.merge.concrete:AdaMerging",
    "blockwise": "everseg.merge.blockwise:Blockwise",
}
"""The rules by name. `osrm.osrm`, which starts an adapter instead of merging it, is not one of them."""


def find(name: str) -> type[Rule]:
    """The class of a rule.

    Raises:
        UserError: there is no rule of that name.
    """
    if name not in RULES:
        raise unknown("rule of merging", name, RULES)
    module, _, attribute = RULES[name].partition(":")
    found: type[Rule] = getattr(importlib.import_module(module), attribute)
    return found
