"""Where one adapter serves several domains: which images are outside all of them, so that the untouched base
answers instead."""

from __future__ import annotations

from collections.abc import Collection

from everseg.domains.plausible import Gaussian, Plausibility
from everseg.domains.prepare import pool
from everseg.models.promptable.protocol import TAP, Features
from everseg.types import MERGED, OUTSIDE, Route, State


class Guard:
    """A Gaussian of each domain's embeddings, whose size does not depend on the number of images.

    abstain: the p-value below which an image is not a domain's; 0: every image goes through the adapter.
    natural: `Promptable.natural` of the base.
    """

    def __init__(self, abstain: float, natural: State | None = None) -> None:
        self.abstain = abstain
        self.known = Plausibility(natural=None if natural is None else Gaussian.from_state(natural))

    def add(self, domain: str, gaussian: Gaussian | None) -> None:
        """Take in what a domain brought; None where it had too few images or came from an earlier version."""
        if gaussian is not None and self.abstain:
            self.known.add(domain, gaussian)

    def routes(self, domains: Collection[str], features: Features) -> list[Route | None]:
        """For each image `MERGED` or `OUTSIDE`, from the trunk's output.

        None for all of them where one of the domains is not known: its images would be turned away.
        """
        if not self.abstain or not domains or any(name not in self.known for name in domains):
            return [None] * len(features[TAP])
        found: list[Route | None] = []
        for own in self.known.by_name(pool(features)):
            most = max(own.values())
            inside = most >= self.abstain
            found.append(Route(MERGED, most, {}, own) if inside else Route(OUTSIDE, 1 - most, {}, own))
        return found
