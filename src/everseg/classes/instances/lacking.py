"""Say which classes have nothing in a pool: what is not kept cannot be replayed."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from everseg.classes.instances.harvest import HarvestConfig
from everseg.progress import remark


def remark_lacking(
    names: Sequence[str],
    channels: Sequence[int],
    found: Collection[int],
    kept: Collection[int],
    harvest: HarvestConfig,
) -> None:
    """Remark on the classes of a step of which a pool keeps nothing.

    names: of the classes.
    channels: their channels.
    found: the channels of which instances were found.
    kept: the channels of which the pool has some.
    """
    labels = dict(zip(channels, names, strict=True))
    unfound = [name for label, name in labels.items() if label not in found]
    full = [name for label, name in labels.items() if label in found and label not in kept]
    if unfound:
        remark(
            f"nothing of {', '.join(unfound)} is kept for replay: no part of it covers "
            f"{harvest.min_area:g} to {harvest.max_area:g} of its image; change harvest.min_area or "
            "harvest.max_area"
        )
    if full:
        remark(
            f"nothing of {', '.join(full)} is kept for replay: no instance fits into the budget; "
            "raise count or max_bytes"
        )
