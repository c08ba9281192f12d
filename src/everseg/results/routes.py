"""Which module each domain's test images were sent to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from everseg.results.store import Results
from everseg.types import MERGED, OUTSIDE


@dataclass(frozen=True, eq=False)
class Routing:
    """Counts of routes after one stage.

    domains: (K,) true domains.
    modules: (M,) chosen ones; `OUTSIDE` is among them, last, where the method can turn images away.
    counts: (K, M) images.
    right: (K,) share of a domain's images that went where they belong; NaN for a domain without a right
        answer.
    learned: (K,) whether the domain has been learned.
    """

    domains: tuple[str, ...]
    modules: tuple[str, ...]
    counts: NDArray[np.int64]
    right: NDArray[np.float64]
    learned: NDArray[np.bool_]

    @property
    def accuracy(self) -> float:
        """Mean of `right` over the domains with a right answer, each counting the same, as in AA."""
        known = self.right[~np.isnan(self.right)]
        return float(known.mean()) if len(known) else math.nan

    def outside(self, *, learned: bool) -> float:
        """Mean share of images that were turned away, over the domains that were learned or over the others;
        NaN without such a domain or where the method turns no image away."""
        asked = self.learned == learned
        if OUTSIDE not in self.modules or not asked.any():
            return math.nan
        away = self.counts[:, self.modules.index(OUTSIDE)] / self.counts.sum(1)
        return float(away[asked].mean())


def routing(results: Results, row: int = -1) -> Routing | None:
    """Routes after stage `row` (default: the last), or None for a method that chooses no module.

    An image of a learned domain belongs to the module of that name, to one of later images of the same domain
    or of those that they are later than, or to the one that serves all. One of a
    background domain belongs to the untouched base, so any module that is not a learned task's is right. An
    unseen domain has no right answer.
    """
    row = row if row >= 0 else len(results.stages) + row
    scores = [score for score in results.scores.get(row, ()) if score.route]
    if not scores:
        return None
    used = {score.route for score in scores}
    domains = tuple(c for c in results.columns if any(score.column == c for score in scores))
    able = OUTSIDE in used or any(not math.isnan(score.p_value) for score in scores)
    others = sorted(used - set(results.columns) - {OUTSIDE})
    modules = (*(c for c in results.columns if c in used), *others, *([OUTSIDE] if able else []))
    counts = np.zeros((len(domains), len(modules)), dtype=np.int64)
    for score in scores:
        counts[domains.index(score.column), modules.index(score.route)] += 1
    learned = {column for column, stage in results.learned_at.items() if stage <= row}
    tasks = learned - results.background
    right = np.full(len(domains), np.nan)
    for k, domain in enumerate(domains):
        if domain in learned:
            own = results.domain_of(domain)
            belongs = [
                m not in tasks and m != MERGED
                if domain in results.background
                else results.domain_of(m) in (own, MERGED)
                for m in modules
            ]
            right[k] = counts[k, belongs].sum() / counts[k].sum()
    return Routing(domains, modules, counts, right, np.array([d in learned for d in domains]))
