"""Two runs scored on the same images: is the second worse than the first by more than a margin?

The unit is an image, or a group of images such as a patient. Everything here is arithmetic on two columns of
numbers; docs/gate.md has the definitions and their sources.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from everseg.errors import UserError
from everseg.results.bootstrap import CHUNK, Interval
from everseg.seed import numpy_generator

Floats = NDArray[np.float64]

Kind = Literal["learned", "new", "unseen", "natural", "class", "all"]
"""What a column is to the new run: a domain that both runs have learned, one that only the new one has, one
that neither has, the background, a class, or all images together."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Scores of two runs on the same units, higher is better.

    column: domain or class.
    prompt: what the model was given, "" where there are no prompts.
    units: names, each once.
    old, new: (n,) a score for each unit.
    flips: whether a fall of a single unit means something, which it does not where values are shares in the
        score of a whole test set.
    """

    column: str
    kind: Kind
    prompt: str
    units: tuple[str, ...]
    old: Floats
    new: Floats
    flips: bool = True

    def __post_init__(self) -> None:
        assert len(self.units) == len(self.old) == len(self.new) > 0, "two scores for each unit"
        assert len(set(self.units)) == len(self.units), "units have names of their own"
        assert bool(np.isfinite(self.old).all() and np.isfinite(self.new).all()), "scores are finite"

    @property
    def difference(self) -> Floats:
        """New minus old: negative is a fall."""
        return self.new - self.old


def pooled(pairs: Sequence[Pairs], column: str) -> Pairs:
    """All units of several columns as one; all of one kind of prompt."""
    return Pairs(
        column,
        "all",
        pairs[0].prompt,
        tuple(f"{p.column}/{unit}" for p in pairs for unit in p.units),
        np.concatenate([p.old for p in pairs]),
        np.concatenate([p.new for p in pairs]),
    )


def grouped(pairs: Pairs, pattern: str) -> Pairs:
    """Units taken together where `pattern` finds the same text in their names (its first group, if it has
    one): a group's score is the mean over its units.

    Raises:
        UserError: the pattern is not a regular expression, or a name does not match.
    """
    members: dict[str, list[int]] = {}
    for n, name in enumerate(groups_of(pairs.units, pattern, pairs.column)):
        members.setdefault(name, []).append(n)
    old, new = (
        np.array([values[own].mean() for own in members.values()]) for values in (pairs.old, pairs.new)
    )
    return replace(pairs, units=tuple(members), old=old, new=new)


def groups_of(units: Sequence[str], pattern: str, column: str) -> list[str]:
    """The group of each unit of a column; see `grouped`."""
    compiled = group_pattern(pattern)
    groups = []
    for unit in units:
        found = compiled.search(unit)
        if found is None:
            raise UserError(
                f"the group {pattern!r} does not match image {unit!r} of {column!r}; write a pattern that "
                "finds the patient in every name, such as '^([^_]+)_'"
            )
        groups.append(found[1] if compiled.groups and found[1] else found[0])
    return groups


def group_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression.

    Raises:
        UserError: it is not valid.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"the group {pattern!r} is not a regular expression: {error}; correct it") from error


# ---------------------------------------------------------------- the mean


def mean_interval(values: Floats, *, samples: int, seed: int, name: str, level: float = 0.95) -> Interval:
    """The mean and its bootstrap interval, widened for small samples and never narrower than Student's.

    A percentile interval of n values is too narrow by what Student's t and the n - 1 in the variance add. Its
    ends are therefore taken at the percentiles that make up for both, and where the bootstrap cannot reach as
    far, since no mean of a draw lies beyond the smallest value, at Student's. One value has no interval.
    Source: Efron and Tibshirani 1993, chapter 13; Hesterberg 2015, section 5.2 ("expanded percentile").
    """
    n, mean = len(values), float(values.mean())
    if n < 2:
        return Interval(mean, math.nan, math.nan)
    if not values.any():
        return Interval(0.0, 0.0, 0.0)
    rng = numpy_generator(seed, "gate", "bootstrap", name)
    means = np.concatenate(list(_drawn_means(rng, values, samples)))
    t = float(stats.t.ppf((1 + level) / 2, n - 1))
    tail = float(special.ndtr(-math.sqrt(n / (n - 1)) * t))
    low, high = np.quantile(means, [tail, 1 - tail])
    reach = t * float(values.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, min(float(low), mean - reach), max(float(high), mean + reach))


def _drawn_means(rng: np.random.Generator, values: Floats, samples: int) -> Iterator[Floats]:
    """Means of as many values, drawn with replacement. Narrow indices halve the time."""
    n, step = len(values), max(1, CHUNK // len(values))
    kind = np.uint16 if n <= 65_536 else np.int64
    for start in range(0, samples, step):
        yield values[rng.integers(n, size=(min(step, samples - start), n), dtype=kind)].mean(1)


def drop_p_value(values: Floats, margin: float, *, samples: int, seed: int, name: str) -> float:
    """One-sided p-value of the hypothesis that the mean is at least -margin: a small one is a drop beyond it.

    The margin is added and the signs of the sums are flipped at random. Studentised or not is the same here,
    since flipping changes no square. The usual +1 keeps it above 0.
    Source: Fisher's permutation test; Romano 1990 for means of values that are not symmetric.
    """
    shifted = values + margin
    total = float(shifted.sum())
    if total >= 0:  # No evidence of a drop, so it need not be known well.
        samples = min(samples, 1000)
    rng = numpy_generator(seed, "gate", "signs", name)
    # The tolerance counts a flip that gives the very same sum in another order of rounding.
    extreme = sum(int((sums <= total + 1e-12).sum()) for sums in _flipped_sums(rng, shifted, samples))
    return (1 + extreme) / (1 + samples)


def _flipped_sums(rng: np.random.Generator, values: Floats, samples: int) -> Iterator[Floats]:
    """Sums of the values with random signs, a bit of a random byte for each."""
    n, step = len(values), max(1, CHUNK // len(values))
    for start in range(0, samples, step):
        drawn = rng.integers(256, size=(min(step, samples - start), -(-n // 8)), dtype=np.uint8)
        bits = np.unpackbits(drawn, axis=1, count=n)
        yield 2 * (bits.astype(np.float64) @ values) - values.sum()


def detectable_drop(values: Floats, margin: float, level: float, power: float, tests: int) -> float:
    """The smallest true drop of the mean that would be found with probability `power`, infinite where none
    would be.

    The spread counts with its upper 95 % limit, since that of a small sample may be small by chance.

    level: of all `tests` together; the strictest step of Holm's correction counts.
    """
    n = len(values)
    if n < 2 or 2.0**-n > level / tests:
        return math.inf
    # Without the assumption of a normal distribution: the limit comes from the spread of the squares.
    squares = (values - values.mean()) ** 2
    spread = float(squares.sum()) / (n - 1)
    above = 1.645 * float(squares.std(ddof=1)) / math.sqrt(n)
    error = math.sqrt((spread + above) / n)
    return margin + float(stats.t.ppf(1 - level / tests, n - 1) + stats.t.ppf(power, n - 1)) * error


def units_needed(values: Floats, margin: float) -> int:
    """How many units it takes to exclude a drop beyond the margin, four times in five, where there is none
    and units differ as these do."""
    if len(values) < 2 or margin <= 0:
        return 0
    quantiles = float(special.ndtri(0.975) + special.ndtri(0.8))
    return math.ceil((quantiles * float(values.std(ddof=1)) / margin) ** 2)


# ---------------------------------------------------------------- the tail


def flip_p_value(harmed: int, helped: int, units: int, share: float) -> float:
    """p-value of the hypothesis that at most `share` of the units are harmed, or no more than are helped.

    The larger of two exact ones: the binomial test of the share, and McNemar's of harmed against helped, to
    which the noise between two trainings of one quality adds alike. Both must be refuted.
    """
    return max(
        float(stats.binom.sf(harmed - 1, units, share)),
        float(stats.binom.sf(harmed - 1, harmed + helped, 0.5)),
    )


def detectable_flips(helped: int, units: int, share: float, level: float, power: float, tests: int) -> float:
    """The smallest share of harmed units that would be found with probability `power` beside so many that are
    helped, infinite where none would be."""
    low, high = 0, units + 1  # The p-value falls with the number of harmed units.
    while low < high:
        middle = (low + high) // 2
        if middle and flip_p_value(middle, helped, units, share) <= level / tests:
            high = middle
        else:
            low = middle + 1
    return math.inf if low > units - helped else float(stats.beta.ppf(power, low, units - low + 1))


def unseen_share(units: int, level: float = 0.05) -> float:
    """The share of harmed units that a sample without any still allows at this level: near 3 / n.
    Source: Hanley and Lippman-Hand 1983."""
    return 1 - level ** (1 / units)


# ---------------------------------------------------------------- many comparisons


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number: whatever is true, one of them falls below 0.05 wrongly in at most
    5 % of cases. Source: Holm 1979."""
    corrected = [1.0] * len(p_values)
    before = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
        before = max(before, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = before
    return corrected
