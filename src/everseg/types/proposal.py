"""Settings that data suggest, where none are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Proposal:
    """settings, score: values by the dotted names of `--set` and `--score`.
    why: sentences for people.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    score: dict[str, Any] = field(default_factory=dict)
    why: tuple[str, ...] = ()
