"""Configuration of a merger: the rule, its options, and what it works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from everseg.config import Checked, Count, SettingError
from everseg.errors import unknown
from everseg.merge import find
from everseg.merge.regmean import RegMeanConfig
from everseg.merge.rule import Rule

Options = Mapping[str, float | int | bool | str]

SHARED = ("regmean", "metric")
"""Options of rules that are settings of their own, because several rules have them."""


@dataclass(frozen=True)
class MergerConfig(Checked):
    """How contributions are merged."""

    rule: str = "average"
    """Name of the rule of merging; docs/merging.md lists them."""
    on: Literal["auto", "factors", "products"] = "auto"
    """Merge low-rank factors, or their products B A; "auto" lets the rule choose."""
    rank: Count = 0
    """Rank of the merged adapter on products; 0 is that of the adapters."""
    options: Options = field(default_factory=dict)
    """The rule's own options, as in {keep: 0.3}."""
    regmean: RegMeanConfig = field(default_factory=RegMeanConfig)
    """How RegMean's sums are solved."""
    metric: bool = True
    """Cut RegMean's products back to a rank by what inputs see, instead of by plain SVD."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build()

    def build(self) -> Rule:
        """The rule with its options.

        Raises:
            UserError: there is no such rule or option, or an option has a value that it cannot have.
        """
        kind = find(self.rule)
        hints = get_type_hints(kind)
        names = [f.name for f in fields(kind)]
        own = [name for name in names if name not in SHARED]
        given = {n: getattr(self, n) for n in SHARED if n in names}
        for name, value in self.options.items():
            if name not in own:
                raise unknown(f"option of rule {self.rule}", name, own)
            try:
                # To YAML 1e-6 is text; numbers and truth values are what they are.
                strict = not isinstance(value, str)
                given[name] = TypeAdapter(hints[name]).validate_python(value, strict=strict)
            except ValidationError as error:
                reason = f"is {value!r}; it must be {_described(hints[name])}"
                raise self._refused(name, reason) from error
        try:
            return kind(**given).resolved()
        except SettingError as error:
            raise self._refused(error.name, error.reason) from error

    def _refused(self, option: str, reason: str) -> SettingError:
        return SettingError(f"options.{option}", f"(of rule {self.rule}) {reason}")


def _described(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    return {int: "a whole number", float: "a number", bool: "true or false"}[kind]
