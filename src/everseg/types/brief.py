"""Short representations of what holds tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Protocol, runtime_checkable

LONGEST = 40
"""Letters of a text that are shown."""


@runtime_checkable
class Shaped(Protocol):
    """A tensor or an array."""

    @property
    def shape(self) -> Any: ...

    @property
    def dtype(self) -> Any: ...


class Brief:
    """Base of dataclasses whose representation gives shapes and counts instead of numbers and samples. What
    is empty is left out."""

    def __repr__(self) -> str:
        shown = [f for f in fields(self) if f.repr]  # type: ignore[arg-type]
        given = ((f.name, _shown(getattr(self, f.name))) for f in shown)
        return f"{type(self).__name__}({', '.join(f'{name}={text}' for name, text in given if text)})"


def _shown(value: Any) -> str:
    if isinstance(value, Shaped):
        return f"<{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}>"
    if value is None or value is False or value == "" or value == ():
        return ""
    if isinstance(value, str) and len(value) > LONGEST:
        return repr(value[:LONGEST] + "…")
    if isinstance(value, Sequence) and not isinstance(value, str | tuple):
        return f"<{len(value)} of them>"
    return repr(value)
