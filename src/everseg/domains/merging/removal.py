"""Remove a domain from a merge, or change its weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from everseg.domains.merging.base import Merged, Merger
from everseg.domains.merging.contribution import Contribution
from everseg.errors import UserError
from everseg.types.abilities import Archive, Forgotten


def forget_domain(
    current: Merger,
    fresh: Callable[[], Merger],
    weights: Mapping[str, float],
    domain: str,
    tainted: Sequence[str],
    archive: Archive,
) -> tuple[Merger, Forgotten]:
    """`current` without a domain, and how that was done.

    By subtraction, which takes the domain's own contribution and nothing else; where the rule cannot, by
    merging the others again, which takes theirs. If theirs are there, both are done and compared.

    fresh: a merger that has seen nothing.
    weights: of the domains merged, in their order.
    tainted: those whose adapters started from one that had seen the domain.

    Raises:
        UserError: the contributions that it takes were not kept; `current` is as it was.
    """
    others = {name: _read(name, archive) for name in weights if name != domain}
    whole = all(c is not None for c in others.values())
    own = _read(domain, archive)
    anew = None
    if whole:
        anew = fresh()
        for name, contribution in others.items():
            assert contribution is not None
            anew.add(contribution, weights[name])
    refolds = current.rule.forgets == "refold"
    if refolds:
        if anew is None:
            bare = ", ".join(name for name, c in others.items() if c is None)
            raise UserError(
                f"this rule can forget {domain!r} only by merging the others again, and the contributions "
                f"of {bare} were not kept; nothing was changed"
            )
        left, how = anew, "the other domains' contributions were merged again"
    else:
        if own is None:
            raise UserError(
                f"the contribution of {domain!r} was not kept, and without it nothing can be subtracted; "
                "name its file with --from; nothing was changed"
            )
        current.subtract(own, weights[domain])
        left, how = current, f"the contribution of {domain!r} was subtracted from the sums of all domains"
        if anew is not None and others:
            gap = difference(left.solve(), anew.solve())
            how += (
                f"; merged again from the others' contributions the adapter differs by {gap:.0e} of its size"
            )
    remaining = {name: c.fingerprint for name, c in others.items() if c is not None}
    if not tainted:
        never = f"the run is what it would be had it never learned {domain!r}"
        rounding = "" if refolds else ", to rounding"
        return left, Forgotten(True, f"{how}: {never}{rounding}", remaining)
    statement = (
        f"{how}; this is approximate: {', '.join(tainted)} started from adapters that had seen {domain!r}, "
        "and their own adapters keep traces of it; learn with start=indi where domains must be forgotten "
        "exactly"
    )
    return left, Forgotten(False, statement, remaining)


def reweigh_domain(
    current: Merger, weights: Mapping[str, float], domain: str, weight: float, archive: Archive
) -> None:
    """Let a domain count `weight` in `current`.

    Raises:
        UserError: what it brought was not kept, or the rule weighs all alike; `current` is as it was.
    """
    own = _read(domain, archive)
    if own is None:
        raise UserError(
            f"the contribution of {domain!r} was not kept, and without it its weight cannot be "
            "changed; name its file with --from"
        )
    if not current.rule.weighs:
        raise UserError("this rule weighs all domains alike; merge with another rule to weigh them")
    current.subtract(own, weights[domain])
    try:
        current.add(own, weight)
    except UserError:
        current.add(own, weights[domain])
        raise


def difference(ours: Merged, theirs: Merged) -> float:
    """|ours - theirs| / |theirs|, over all tensors of both."""
    gap = sum(
        float((ours.weights[n].double() - w.double()).square().sum()) for n, w in theirs.weights.items()
    )
    size = sum(float(w.double().square().sum()) for w in theirs.weights.values())
    return float((gap / size) ** 0.5) if size else float(gap**0.5)


def _read(domain: str, archive: Archive) -> Contribution | None:
    state = archive(domain)
    if state is None:
        return None
    found = Contribution.from_state(state, f"the contribution of {domain!r}")
    if found.domain != domain:
        raise UserError(
            f"the contribution given for {domain!r} belongs to {found.domain!r}; give the file of {domain!r}"
        )
    return found
