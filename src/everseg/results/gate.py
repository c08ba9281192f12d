"""The gate's verdict on two runs that were scored on the same images: pass, fail, or cannot tell.

    worse       a drop of the mean beyond the margin is significant, or significantly many images are harmed
    not worse   the interval of the difference lies above -margin, or no image changed
    cannot tell neither

FAIL where any comparison is worse, PASS where none can be, CANNOT TELL otherwise. Holm's correction over all
tests holds a false FAIL to 5 %. A false PASS takes no correction: the interval of the very comparison that is
worse would have to be wrong (an intersection-union test, Berger 1982).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from everseg.errors import UserError
from everseg.results.bootstrap import Interval
from everseg.results.paired import (
    Kind,
    Pairs,
    detectable_drop,
    detectable_flips,
    drop_p_value,
    flip_p_value,
    group_pattern,
    grouped,
    holm,
    mean_interval,
    pooled,
    units_needed,
    unseen_share,
)

Verdict = Literal["pass", "fail", "cannot tell"]
Finding = Literal["worse", "not worse", "cannot tell"]

EVERYTHING = "all images"


@dataclass(frozen=True)
class GateConfig:
    """What counts as worse."""

    margin: float = 0.01
    """The largest drop of a mean IoU that is accepted."""
    flip: float = 0.2
    """A fall of one image's IoU that is too large to overlook: the image counts as harmed."""
    flip_share: float = 0.01
    """The largest share of harmed images that is accepted."""
    level: float = 0.05
    """How often the gate may fail a run that is not worse."""
    power: float = 0.95
    """How surely a drop that "can be seen" is found."""
    samples: int = 4000
    """Draws of each bootstrap, and at least of each sign-flip test; where there are many tests, those take as
    many as it needs to tell a corrected p-value of `level`."""
    seed: int = 0
    """Random seed."""
    group: str = ""
    """A regular expression that finds the patient (or another group) in an image's name; "": every image by
    itself."""
    checked: int = 24
    """Images of each column whose prompts are moved, thinned out and put on nothing, which takes most of the
    time; 0: none. The verdict does not depend on it."""

    def __post_init__(self) -> None:
        if type(self.checked) is not int or self.checked < 0:
            raise UserError(f"checked is {self.checked!r}; give a number of images from 0")
        for name, value, most in (("margin", self.margin, 1), ("flip", self.flip, 1)):
            if not 0 < value < most:
                raise UserError(f"the {name} is {value}; give a number between 0 and 1, in IoU")
        group_pattern(self.group)

    @property
    def rise(self) -> float:
        """What a rise must be to weigh up a fall of `flip`: as far above an accepted drop as the fall is
        below it, since noise about that drop harms and helps alike."""
        return max(self.flip - 2 * self.margin, 1e-9)


@dataclass(frozen=True)
class Comparison:
    """One column with one kind of prompt.

    units: how many images (or groups).
    changed: how many have another score.
    old, new: means.
    difference: new minus old with its 95 % interval.
    drop_p, flips_p: corrected p-values of a drop beyond the margin and of harmed images; 1 where there was
        nothing to test.
    harmed, helped: units whose score falls by `flip` or more, or rises by `rise` or more.
    detectable: the smallest drop that would be found, infinite where none would be.
    detectable_share: the same for the share of harmed units; infinite where values are not of images.
    unseen_share: the share of harmed units that this many without any still allow.
    needed: units that it takes to exclude a drop beyond the margin.
    """

    column: str
    kind: Kind
    prompt: str
    units: int
    changed: int
    old: float
    new: float
    difference: Interval
    drop_p: float
    flips_p: float
    harmed: int
    helped: int
    detectable: float
    detectable_share: float
    unseen_share: float
    needed: int
    finding: Finding
    reason: str


@dataclass(frozen=True)
class Flip:
    """An image that is harmed."""

    column: str
    prompt: str
    image: str
    old: float
    new: float


@dataclass(frozen=True)
class Judgement:
    """The verdict and the comparisons behind it.

    tests: over how many Holm's correction goes.
    flips: harmed images, the largest fall first.
    """

    verdict: Verdict
    comparisons: tuple[Comparison, ...]
    flips: tuple[Flip, ...]
    tests: int
    config: GateConfig


def judge(measured: Sequence[Pairs], config: GateConfig | None = None) -> Judgement:
    """Compare what was measured, column by column, and all images of each kind of prompt together.

    Raises:
        UserError: `config.group` does not fit the images' names.
    """
    config = config or GateConfig()
    flips = sorted(
        (
            Flip(p.column, p.prompt, unit, float(old), float(new))
            for p in measured
            if p.flips
            for unit, old, new in zip(p.units, p.old, p.new, strict=True)
            if old - new >= config.flip
        ),
        key=lambda f: (f.new - f.old, f.column, f.image, f.prompt),
    )
    compared = [grouped(p, config.group) if config.group else p for p in measured]
    for prompt in dict.fromkeys(p.prompt for p in compared if p.flips):
        together = [p for p in compared if p.flips and p.prompt == prompt]
        if len(together) > 1:
            compared.append(pooled(together, EVERYTHING))
    counts = [_harm(p, config) for p in compared]
    moved = [n for n, p in enumerate(compared) if p.difference.any()]
    # Fewer flips than these could not be significant whichever way they went (Tarone 1990).
    flipped = [n for n in moved if 0.5 ** sum(counts[n]) <= config.level]
    tests = len(moved) + len(flipped)
    samples = max(config.samples, math.ceil(20 * tests / config.level))
    raw = [
        drop_p_value(
            compared[n].difference,
            config.margin,
            samples=samples,
            seed=config.seed,
            name=f"{compared[n].column}|{compared[n].prompt}",
        )
        for n in moved
    ] + [flip_p_value(*counts[n], len(compared[n].units), config.flip_share) for n in flipped]
    corrected = holm(raw)
    drops = dict(zip(moved, corrected, strict=False))
    tails = dict(zip(flipped, corrected[len(moved) :], strict=True))
    found = tuple(
        _comparison(p, counts[n], drops.get(n, 1.0), tails.get(n, 1.0), max(1, tests), config)
        for n, p in enumerate(compared)
    )
    return Judgement(verdict_of([c.finding for c in found]), found, tuple(flips), tests, config)


def verdict_of(findings: Sequence[Finding]) -> Verdict:
    """Of all comparisons together."""
    if "worse" in findings:
        return "fail"
    return "cannot tell" if "cannot tell" in findings else "pass"


def _harm(pairs: Pairs, config: GateConfig) -> tuple[int, int]:
    """How many units are harmed and helped."""
    if not pairs.flips:
        return 0, 0
    difference = pairs.difference
    return int((difference <= -config.flip).sum()), int((difference >= config.rise).sum())


def _comparison(
    pairs: Pairs, counts: tuple[int, int], drop_p: float, flips_p: float, tests: int, config: GateConfig
) -> Comparison:
    values, n = pairs.difference, len(pairs.units)
    bare = Comparison(
        column=pairs.column,
        kind=pairs.kind,
        prompt=pairs.prompt,
        units=n,
        changed=int((values != 0).sum()),
        old=float(pairs.old.mean()),
        new=float(pairs.new.mean()),
        difference=mean_interval(
            values, samples=config.samples, seed=config.seed, name=f"{pairs.column}|{pairs.prompt}"
        ),
        drop_p=drop_p,
        flips_p=flips_p,
        harmed=counts[0],
        helped=counts[1],
        detectable=detectable_drop(values, config.margin, config.level, config.power, tests),
        detectable_share=detectable_flips(counts[1], n, config.flip_share, config.level, config.power, tests)
        if pairs.flips
        else math.inf,
        unseen_share=unseen_share(n),
        needed=units_needed(values, config.margin),
        finding="not worse",
        reason="",
    )
    finding, reason = _finding(bare, config)
    return replace(bare, finding=finding, reason=reason)


def _finding(c: Comparison, config: GateConfig) -> tuple[Finding, str]:
    d = c.difference
    if not c.changed:
        return "not worse", "no score changed"
    reasons = []
    if c.drop_p <= config.level and d.high < -config.margin:
        reasons.append(f"the mean falls by {-d.estimate:.3f}, more than {config.margin:g}")
    if c.flips_p <= config.level:
        falls = f"{c.harmed} of {c.units} fall by {config.flip:g} or more"
        reasons.append(f"{falls}, {c.helped} rise by {config.rise:g} or more")
    if reasons:
        return "worse", "; ".join(reasons)
    if d.low > -config.margin:
        return "not worse", f"a drop of more than {config.margin:g} is excluded"
    if math.isnan(d.low):
        return "cannot tell", "it changed, and one image has no spread"
    return "cannot tell", f"a drop of up to {-d.low:.4f} cannot be excluded"
