"""Options that define the object in masks, for files that leave it open."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from everseg.data.raster import Colour
from everseg.errors import UserError

Threshold = int | str
"""127 means "greater than 127"; "==255" means exactly 255, as SAMCL's published code has it."""

Colours = Sequence[str | Sequence[int]]
"""Colours as people write them: "#ff0000" or [255, 0, 0]."""


@dataclass(frozen=True)
class MaskRule:
    """What the options say about masks.

    At most one of `above`, `exactly`, `values` and `colours` is given; without any, the files decide.

    void: values that are neither object nor background.
    """

    above: int | None = None
    exactly: int | None = None
    values: tuple[int, ...] | None = None
    colours: tuple[Colour, ...] | None = None
    void: tuple[int, ...] = ()

    @property
    def open(self) -> bool:
        """Whether the files have to decide."""
        return all(v is None for v in (self.above, self.exactly, self.values, self.colours))

    def __str__(self) -> str:
        void = f", void: {list(self.void)}" if self.void else ""
        if self.values is not None:
            return f"mask_values: {list(self.values)}{void}"
        if self.colours is not None:
            return f"mask_colours: {[list(c) for c in self.colours]}{void}"
        if self.exactly is not None:
            return f'mask_threshold: "=={self.exactly}"{void}'
        # Fingerprints of data contain this text: the threshold of two-valued masks is what it always was.
        return f"mask_threshold: {127 if self.above is None else self.above}{void}"


def mask_rule(
    threshold: Threshold | None = None,
    values: Sequence[int] | None = None,
    colours: Colours | None = None,
    void: Sequence[int] = (),
) -> MaskRule:
    """A rule from the options `mask_threshold`, `mask_values`, `mask_colours` and `void`.

    Raises:
        UserError: a threshold that is neither a number from 0 to 254 nor "==" and a number up to 255, an
            empty list, something that is not a colour, or options that contradict each other.
    """
    named = {"mask_threshold": threshold, "mask_values": values, "mask_colours": colours}
    given = [name for name, value in named.items() if value is not None]
    if len(given) > 1:
        raise UserError(f"{given[0]} and {given[1]} both define the object; give one of them")
    nothing = tuple(int(v) for v in void)
    for name in ("mask_values", "mask_colours"):
        if named[name] is not None and not len(named[name]):  # type: ignore[arg-type]
            raise UserError(f"{name} is empty; list the values of the object, as in {_EXAMPLES[name]}")
    if values is not None:
        return MaskRule(values=tuple(int(v) for v in values), void=nothing)
    if colours is not None:
        return MaskRule(colours=tuple(colour_of(c) for c in colours), void=nothing)
    if threshold is None:
        return MaskRule(void=nothing)
    exact = re.fullmatch(r"\s*==\s*(\d{1,3})\s*", threshold) if isinstance(threshold, str) else None
    if exact and 0 < int(exact[1]) <= 255:
        return MaskRule(exactly=int(exact[1]), void=nothing)
    if isinstance(threshold, int) and not isinstance(threshold, bool) and 0 <= threshold < 255:
        return MaskRule(above=threshold, void=nothing)
    raise UserError(
        f'mask_threshold {threshold!r} is neither a number from 0 to 254 nor "==255"; '
        "use 127 for masks of 0 and 255"
    )


_EXAMPLES = {"mask_values": "mask_values: [1, 2]", "mask_colours": 'mask_colours: ["#ff0000"]'}


def colour_of(given: Any) -> Colour:
    """The colour that a person wrote.

    Raises:
        UserError: neither "#ff0000" nor [255, 0, 0].
    """
    if isinstance(given, str) and re.fullmatch(r"#?[0-9a-fA-F]{6}", given):
        red, green, blue = bytes.fromhex(given.removeprefix("#"))
        return red, green, blue
    match given:
        case [int(red), int(green), int(blue)] if all(0 <= v <= 255 for v in given):
            return red, green, blue
    raise UserError(f'mask_colours has {given!r}, which is not a colour; write "#ff0000" or [255, 0, 0]')
