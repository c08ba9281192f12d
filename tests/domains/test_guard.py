"""One adapter for several domains: images of none of them are the untouched base's."""

from __future__ import annotations

import torch

from everseg.domains.guard import Guard
from everseg.domains.plausible import Gaussian
from everseg.types import MERGED, OUTSIDE

ROWS = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))


def features(e_BD: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"tap": e_BD[:, None, None]}


def names(guard: Guard, domains: list[str], e_BD: torch.Tensor) -> list[str | None]:
    return [None if route is None else route.name for route in guard.routes(domains, features(e_BD))]


def test_inside_any_domain_is_inside() -> None:
    guard = Guard(0.001)
    guard.add("a", Gaussian.fit(ROWS[:40]))
    guard.add("b", Gaussian.fit(ROWS[:40] + 40))
    asked = torch.stack([ROWS[50], ROWS[51] + 40, ROWS[52] + 20])
    assert names(guard, ["a", "b"], asked) == [MERGED, MERGED, OUTSIDE]
    guard.known.drop("b")
    assert names(guard, ["a"], asked) == [MERGED, OUTSIDE, OUTSIDE]
    again = Guard(0.001)
    again.known.load_state_dict(guard.known.state_dict())
    assert again.routes(["a"], features(asked)) == guard.routes(["a"], features(asked))


def test_a_domain_that_is_not_known_turns_nothing_away() -> None:
    guard = Guard(0.001)
    guard.add("a", Gaussian.fit(ROWS[:40]))
    guard.add("b", None)
    assert names(guard, ["a", "b"], ROWS[:2] + 90) == [None, None]
    assert names(Guard(0.0), ["a"], ROWS[:2] + 90) == [None, None]
