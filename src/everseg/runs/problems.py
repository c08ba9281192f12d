"""What a method learns, domains or classes, and what goes with that: its base, its stream, how it is scored.

A method's class says it by the attribute `learns`; without it a method learns domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from everseg.classes.scoring import ClassScoreConfig
from everseg.data import Stream
from everseg.domains.scoring import ScoreConfig
from everseg.errors import UserError
from everseg.methods import METHODS, find
from everseg.models.precision import Precision
from everseg.models.promptable.load import TINY, load_base
from everseg.models.semantic.base import MOBILENET, load_semantic_base
from everseg.results.metrics import METRICS


class Problem(Protocol):
    """What the core must know of a problem without looking into a sample.

    name: as `learns` has it. what: what its streams bring. base: the default base's name. Score: how it is
    scored. lower_is_better: for each metric.
    """

    name: str
    what: str
    base: str
    Score: type[Any]
    lower_is_better: Mapping[str, bool]

    def fits(self, stream: Stream) -> bool: ...

    def load_base(self, name: str, device: torch.device, precision: Precision) -> Any: ...

    def check_order(self, stream: Stream, learned: Sequence[Mapping[str, Any]]) -> None:
        """Refuse a stream that does not go on from what was learned.

        Raises:
            UserError: it does not.
        """


class Domains:
    """Objects that a prompt points at, in domain after domain: a frozen promptable base, adapted."""

    name = "domains"
    what = "domains of prompted objects"
    base = TINY
    Score = ScoreConfig
    lower_is_better: Mapping[str, bool] = {name: m.lower_is_better for name, m in METRICS.items()}

    def fits(self, stream: Stream) -> bool:
        return not any(stage.classes for stage in stream.stages)

    def load_base(self, name: str, device: torch.device, precision: Precision) -> Any:
        return load_base(name, device=device, precision=precision)

    def check_order(self, stream: Stream, learned: Sequence[Mapping[str, Any]]) -> None:
        """Domains may come in any order."""


class Classes:
    """A class for every pixel, more classes with every step: a backbone that is trained on and on."""

    name = "classes"
    what = "classes"
    base = MOBILENET
    Score = ClassScoreConfig
    lower_is_better: Mapping[str, bool] = {"iou": False}

    def fits(self, stream: Stream) -> bool:
        return all(stage.classes for stage in stream.stages)

    def load_base(self, name: str, device: torch.device, precision: Precision) -> Any:
        return load_semantic_base(name, device=device, precision=precision)

    def check_order(self, stream: Stream, learned: Sequence[Mapping[str, Any]]) -> None:
        """A class's channel is its place in the stream: what was learned comes first, as it was."""
        stages = [stream.joint] if stream.joint is not None else []
        if [e["name"] for e in learned] != [s.name for s in stages]:
            stages = list(stream.stages)
        for entry, stage in zip(learned, [*stages, *[None] * len(learned)], strict=False):
            now = () if stage is None else (stage.name, *stage.classes)
            before = (entry["name"], *entry["classes"])
            if now != before:
                raise UserError(
                    f"the run learned {', '.join(entry['classes'])} as {entry['name']!r}, and there "
                    f"{stream.source or 'the stream'} has {', '.join(now[1:]) or 'nothing'}; leave what was "
                    "learned as it is and add new classes behind it, or choose another --out"
                )


PROBLEMS: dict[str, Problem] = {"domains": Domains(), "classes": Classes()}


def problem_of(method: str) -> Problem:
    """What a method learns.

    Raises:
        UserError: there is no such method, or it says it learns something else.
    """
    learns = getattr(find(method), "learns", "domains")
    if learns not in PROBLEMS:
        raise UserError(f"method {method!r} says it learns {learns!r}; that is {' or '.join(PROBLEMS)}")
    return PROBLEMS[learns]


def check_fits(stream: Stream, method: str) -> Problem:
    """What a method learns, where the stream brings that.

    Raises:
        UserError: the stream brings something else.
    """
    problem = problem_of(method)
    if not problem.fits(stream):
        brings = next((p for p in PROBLEMS.values() if p.fits(stream)), None)
        source = stream.source or "the stream"
        if brings is None:
            raise UserError(f"{source} has stages with classes and stages without; make two streams of it")
        able = ", ".join(name for name in METHODS if problem_of(name) is brings)
        raise UserError(
            f"{source} brings {brings.what}, and method {method!r} learns {problem.what}; methods for this "
            f"stream: {able}"
        )
    return problem


def only_domains(stream: Stream, what: str) -> Stream:
    """The stream, for commands that know domains alone.

    Raises:
        UserError: it brings classes.
    """
    if not PROBLEMS["domains"].fits(stream):
        raise UserError(f"{stream.source or 'the stream'} brings classes, and {what}")
    return stream
