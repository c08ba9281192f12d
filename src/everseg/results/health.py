"""How two runs listen to their prompts and how well they know how good they are: numbers beside the gate's
verdict, which they do not change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from everseg.results.bootstrap import Interval
from everseg.results.paired import Pairs, mean_interval

Floats = NDArray[np.float64]


MOVED, NOTHING = "moved", "nothing"
"""In place of a kind of prompt: clicks that were moved off the object, and one click on nothing."""

WORSE = 0.1
"""By how much a share must grow before there is a warning."""

BINS = 10


@dataclass(frozen=True)
class Measure:
    """A number of both runs over the same images.

    difference: new minus old, with its 95 % interval.
    warning: what is wrong with it, "" where nothing is.
    """

    name: str
    meaning: str
    images: int
    old: float
    new: float
    difference: Interval
    warning: str


@dataclass(frozen=True)
class Calibration:
    """What a run said of its masks and what they were.

    objects: how many.
    error: expected calibration error, the mean over objects of the distance between what was predicted and
        what was so, in `BINS` bins of the predicted IoU (Guo et al. 2017).
    bins: of those that have any, (objects, mean predicted IoU, mean IoU).
    broken: predictions that are not numbers, left out.
    """

    objects: int
    error: float
    bins: tuple[tuple[int, float, float], ...]
    broken: int


@dataclass(frozen=True)
class Health:
    """clicks: (number of clicks, old, new), the mean IoU with the first clicks.
    warnings: sentences.
    """

    measures: tuple[Measure, ...]
    clicks: tuple[tuple[int, float, float], ...]
    old: Calibration
    new: Calibration
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Measurement:
    """All that is measured of two runs on the same images.

    pairs: scores by column and kind of prompt.
    health: None where there are no prompts.
    """

    pairs: tuple[Pairs, ...]
    health: Health | None


def calibration(predicted: Sequence[float], true: Sequence[float]) -> Calibration:
    """The expected calibration error of predicted IoUs, which count as 0 to 1."""
    said, was = np.array(predicted, np.float64), np.array(true, np.float64)
    known = np.isfinite(said)
    said, was = said[known].clip(0, 1), was[known]
    place = np.minimum((said * BINS).astype(int), BINS - 1)
    bins = tuple(
        (int(own.sum()), float(said[own].mean()), float(was[own].mean()))
        for own in (place == b for b in range(BINS))
        if own.any()
    )
    error = sum(count * abs(a - b) for count, a, b in bins) / len(said) if len(said) else math.nan
    return Calibration(len(said), error, bins, int((~known).sum()))


def health(
    measured: Sequence[Pairs],
    clicks: Sequence[Pairs],
    predicted: tuple[Sequence[float], Sequence[float]],
    true: tuple[Sequence[float], Sequence[float]],
    *,
    samples: int = 4000,
    seed: int = 0,
) -> Health:
    """The checks over all columns together.

    measured: of each column, with `MOVED` or `NOTHING` for a prompt.
    clicks: of each column, with the number of clicks for a prompt.
    predicted, true: IoUs of objects, of the old run and of the new one.
    """
    found = []
    for prompt, name, meaning, said in (
        (
            MOVED,
            "mask that stays when the clicks move",
            "IoU of the mask for the clicks and the mask for clicks off the object: 1 ignores the clicks",
            "listens less to its clicks than the old run: moved clicks leave {new:.2f} of the mask, before "
            "{old:.2f}",
        ),
        (
            NOTHING,
            "mask for a click on nothing",
            "share of the image in the mask for one click as far from every object as possible",
            "finds more where nothing is: a click there gives {new:.2f} of the image, before {old:.2f}",
        ),
    ):
        own = [p for p in measured if p.prompt == prompt]
        if not own:
            continue
        old, new = (np.concatenate([getattr(p, side) for p in own]) for side in ("old", "new"))
        ends = mean_interval(new - old, samples=samples, seed=seed, name=prompt)
        warning = ""
        if ends.estimate > WORSE and (math.isnan(ends.low) or ends.low > 0):
            warning = "the new run " + said.format(new=new.mean(), old=old.mean())
        found.append(Measure(name, meaning, len(old), float(old.mean()), float(new.mean()), ends, warning))
    curve = _curve(clicks)
    sides = [calibration(p, t) for p, t in zip(predicted, true, strict=True)]
    warnings = [m.warning for m in found if m.warning]
    if len(curve) > 1 and curve[-1][2] < curve[0][2] - WORSE / 2 and curve[-1][1] >= curve[0][1]:
        warnings.append(
            f"more clicks make the new run worse: IoU {curve[0][2]:.3f} with one, {curve[-1][2]:.3f} with "
            f"{curve[-1][0]}"
        )
    if sides[1].error > sides[0].error + WORSE / 2:
        warnings.append(
            f"the new run's predicted IoU is further from the truth: on average by {sides[1].error:.3f}, "
            f"before {sides[0].error:.3f}"
        )
    if sides[1].broken > sides[0].broken:
        warnings.append(
            f"the new run's output is not a number for {sides[1].broken} of "
            f"{sides[1].broken + sides[1].objects} prompts: its weights are damaged or overflow"
        )
    return Health(tuple(found), curve, sides[0], sides[1], tuple(warnings))


def _curve(clicks: Sequence[Pairs]) -> tuple[tuple[int, float, float], ...]:
    """Over the images that have the most clicks, so that every point is about the same ones."""
    if not clicks:
        return ()
    most = max(int(p.prompt) for p in clicks)
    units = {(p.column, unit) for p in clicks if int(p.prompt) == most for unit in p.units}
    found = []
    for count in range(1, most + 1):
        rows = [
            (old, new)
            for p in clicks
            if int(p.prompt) == count
            for unit, old, new in zip(p.units, p.old, p.new, strict=True)
            if (p.column, unit) in units
        ]
        if rows:
            old, new = np.mean(rows, axis=0)
            found.append((count, float(old), float(new)))
    return tuple(found)
