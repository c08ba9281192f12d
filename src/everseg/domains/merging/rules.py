"""Which rule merges, on what, and with which options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from everseg.config import at_least
from everseg.errors import UserError, unknown
from everseg.merge import RULES, RegMeanConfig

Options = Mapping[str, float | int | bool | str]

OPTIONS: dict[str, dict[str, Any]] = {
    "ema": {"beta": 0.9},
    "regmean++": {"offdiag": 0.95, "ridge": 1e-8},
    "lorm": {"rounds": 2, "ridge": 0.0, "offdiag": 1.0},
    "fisher": {"floor": 1e-6, "normalise": False},
    "became": {"per": "model"},
    "arithmetic": {"scale": 0.3, "normalise": False},
    "ties": {"keep": 0.2, "scale": 1.0, "combine": "mean", "scope": "all", "zero_sum": "majority"},
    "dare": {"drop": 0.9, "scale": 1.0, "rescale": "density"},
    "magmax": {"scale": 0.5},
    "pcb": {"ratio": 0.05, "scale": 1.2, "clip": 1e-4, "agreement": "sum"},
    "knots": {"cutoff": 1e-5},
    "opcm": {"alpha": 0.5, "reference": False},
    "dop": {"alpha": 0.5, "energy": 1.0, "solver": "exact"},
    "layerwise": {"anchor": -1},
    "concrete": {"scale": 0.3, "temperature": 0.5, "steps": 2000, "lr": 1e-3},
    "adamerging": {"per": "tensor", "start": 0.3, "steps": 500, "lr": 1e-3, "clamp": True},
    "blockwise": {"budget": 200},
}
"""What can be set of each rule, with the published defaults. RegMean's own are `RegMeanConfig`."""

PRODUCTS_ONLY = ("regmean-products", "lorm")
FACTORS_ONLY = ("fisher", "became", "layerwise", "regmean++", "concrete", "adamerging", "blockwise")
WEIGHED = ("average", "regmean", "regmean-products", "fisher", "arithmetic", "ties")
"""Rules in which a domain can weigh more than another."""


@dataclass(frozen=True)
class MergerConfig:
    """rule: see `everseg.merge.RULES`. on: "factors" or "products"; "auto": products for the rules that are
    meant for deltas of weights, where the adapter has low-rank pairs. rank: of the result on products (0:
    that of the adapters). options: the rule's own, see `OPTIONS`. regmean: how RegMean's sums are solved.
    metric: cut RegMean's products back by what inputs see, or by plain SVD.
    """

    rule: str = "average"
    on: Literal["auto", "factors", "products"] = "auto"
    rank: int = 0
    options: Options = field(default_factory=dict)
    regmean: RegMeanConfig = field(default_factory=RegMeanConfig)
    metric: bool = True

    def __post_init__(self) -> None:
        at_least(self, 0, "rank")
        if self.rule not in RULES:
            raise unknown("rule of merging", self.rule, RULES)
        known = OPTIONS.get(self.rule, {})
        for name, value in self.options.items():
            if name not in known:
                raise unknown(f"option of {self.rule}", name, known)
            wanted = type(known[name])
            given = float if wanted is float and type(value) is int else type(value)
            if given is not wanted:
                raise UserError(f"option {name} of {self.rule} is {value!r}; it is a {wanted.__name__}")

    @property
    def settings(self) -> dict[str, Any]:
        """The rule's options, those not given at their defaults."""
        return {**OPTIONS.get(self.rule, {}), **self.options}
