"""What is wrong with the last scores of a run of classes, and what to try."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from everseg.results.classes import BACKGROUND
from everseg.results.matrix import ResultMatrix

NOTHING = 0.01
"""A class of at most this IoU counts as not learned."""
FALL = 0.05
"""The background may lose this much IoU."""
HALF = 0.5
"""Share of its IoU that a class must keep."""

Kind = Literal["nothing", "half", "background"]

ADVICE: dict[tuple[Kind, bool], tuple[tuple[str, str], ...]] = {
    ("nothing", True): (
        ("tune.first.steps", "train the first step longer (tune.first.steps)"),
        ("gamma", "weigh its pixels more (gamma)"),
    ),
    ("nothing", False): (
        ("tune.later.steps", "train later steps longer (tune.later.steps)"),
        ("gamma_later", "weigh pixels of new classes more (gamma_later)"),
    ),
    ("half", False): (
        ("count", "keep more instances (count, max_bytes)"),
        ("memory", "keep images of old classes (memory)"),
        ("tune.replay", "replay more (tune.replay)"),
        ("distil", "distil more (distil)"),
    ),
    ("background", False): (
        ("gamma_later", "weigh pixels of new classes less (gamma_later)"),
        ("paste.rows", "leave more images without pastes (paste.rows)"),
        ("paste.rows", "keep whole images, which show background (--method dkd --set memory=100)"),
        ("memory", "keep more images of old classes (memory)"),
    ),
}
"""What to try, by kind and whether the class is one of the first step: (the setting it needs, words)."""


@dataclass(frozen=True)
class Alarm:
    """A class that ended badly.

    stage: after which it had `was`.
    first: the first step taught it.
    """

    kind: Kind
    column: str
    stage: str
    was: float
    now: float
    first: bool

    def sentence(self, settings: Collection[str] = ()) -> str:
        """What happened and what to try.

        settings: dotted names of those that the method has.
        """
        if self.kind == "nothing":
            # A class that no test image shows scores exactly 0, too.
            why = "it is not recognised" if self.now else "it is not recognised, or no test image shows it"
            told = f"{self.column} ends at IoU {self.now:.3f}: {why}"
        elif self.kind == "half":
            told = f"{self.column} fell from IoU {self.was:.3f} (after {self.stage}) to {self.now:.3f}"
        else:
            told = (
                f"the background fell from IoU {self.was:.3f} (after {self.stage}) to {self.now:.3f}: "
                "it is called a class too often"
            )
        asked = ADVICE[self.kind, self.first if self.kind == "nothing" else False]
        advice = [words for name, words in asked if name in settings]
        if self.kind == "nothing":
            if not self.now:
                advice.append("add test images that show it, if there are none")
            advice.append("look at its labels (everseg data check)")
        if self.kind == "background":
            advice.append("add more images that show no class (with empty_maps: use in the stream file)")
        return f"{told}; try to {', or '.join(advice)}" if advice else told


def class_alarms(matrix: ResultMatrix) -> list[Alarm]:
    """Classes of the last row that are at 0, old ones that have lost half of what they had right after they
    were learned, and a background that lost more than 5 points since its best."""
    if not len(matrix.values):
        return []
    last = matrix.values[-1]
    found = []
    for k in matrix.tasks():
        name, now, at = matrix.columns[k], float(last[k]), int(matrix.learned_at[k])
        column = matrix.values[at:, k]
        best = at + int(column.argmax())
        if name == BACKGROUND:
            if matrix.values[best, k] - now > FALL:
                was = float(matrix.values[best, k])
                found.append(Alarm("background", name, matrix.stages[best], was, now, True))
            continue
        was = float(column[0])
        if was > NOTHING and now < HALF * was:
            found.append(Alarm("half", name, matrix.stages[at], was, now, at == 0))
        elif now <= NOTHING:
            found.append(Alarm("nothing", name, matrix.stages[at], was, now, at == 0))
    return found


def setting_names(settings: Mapping[str, Any], prefix: str = "") -> set[str]:
    """Dotted names of nested plain settings."""
    found: set[str] = set()
    for name, value in settings.items():
        found |= setting_names(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name}
    return found
