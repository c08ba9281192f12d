"""Which rule merges, on what, and with which options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from everseg.config import at_least
from everseg.errors import UserError, unknown
from everseg.merge import find
from everseg.merge.regmean import RegMeanConfig
from everseg.merge.rule import Rule

Options = Mapping[str, float | int | bool | str]

SHARED = ("regmean", "metric")
"""Options of rules that are settings of their own, because several rules have them."""


@dataclass(frozen=True)
class MergerConfig:
    """How contributions are merged."""

    rule: str = "average"
    """Name of the rule of merging; docs/merging.md lists them."""
    on: Literal["auto", "factors", "products"] = "auto"
    """Merge low-rank factors, or their products B A; "auto" lets the rule choose."""
    rank: int = 0
    """Rank of the merged adapter on products; 0 is that of the adapters."""
    options: Options = field(default_factory=dict)
    """The rule's own options, as in {keep: 0.3}."""
    regmean: RegMeanConfig = field(default_factory=RegMeanConfig)
    """How RegMean's sums are solved."""
    metric: bool = True
    """Cut RegMean's products back to a rank by what inputs see, instead of by plain SVD."""

    def __post_init__(self) -> None:
        at_least(self, 0, "rank")
        self.build()

    def build(self) -> Rule:
        """The rule with its options.

        Raises:
            UserError: there is no such rule or option, or an option has a value of another type.
        """
        kind = find(self.rule)
        hints = get_type_hints(kind)
        names = [f.name for f in fields(kind)]
        own = [name for name in names if name not in SHARED]
        given = {n: getattr(self, n) for n in SHARED if n in names}
        for name, value in self.options.items():
            if name not in own:
                raise unknown(f"option of {self.rule}", name, own)
            try:
                # To YAML 1e-6 is text; numbers and truth values are what they are.
                strict = not isinstance(value, str)
                given[name] = TypeAdapter(hints[name]).validate_python(value, strict=strict)
            except ValidationError as error:
                wanted = _described(hints[name])
                raise UserError(f"option {name} of {self.rule} is {value!r}; it is {wanted}") from error
        return kind(**given).resolved()


def _described(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    return "an int" if kind is int else f"a {kind.__name__}"
