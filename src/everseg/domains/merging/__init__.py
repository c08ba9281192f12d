"""Merge domains' contributions into one adapter, by any rule of `everseg.merge`.

A merger takes in one contribution after another and gives the merged adapter at any time. Sums and steps keep
what does not grow with the domains; the other rules keep every contribution.

    on factors    the adapter's tensors as they are, each by itself: that presupposes one start
    on products   the matrices B A that low-rank pairs amount to, merged and cut back to a rank
"""

from __future__ import annotations

from everseg.domains.merging.base import Merged, Merger
from everseg.domains.merging.kept import Kept
from everseg.domains.merging.rules import MergerConfig
from everseg.domains.merging.steps import Steps
from everseg.domains.merging.sums import Sums
from everseg.merge.rule import Joint, Stepped, Summed
from everseg.models.promptable.protocol import Promptable


def merger(config: MergerConfig, base: Promptable, seed: int = 0) -> Merger:
    """A merger that has seen no domain yet.

    base: the model on which rules that calibrate run the adapter.
    seed: what their and DARE's random draws are derived from.
    """
    rule = config.build()
    if isinstance(rule, Summed):
        return Sums(config, rule)
    if isinstance(rule, Stepped):
        return Steps(config, rule)
    assert isinstance(rule, Joint), "a rule adds up, folds, or merges jointly"
    return Kept(config, rule, base, seed)


__all__ = ["Merged", "Merger", "MergerConfig", "merger"]
