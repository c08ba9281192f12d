"""A continual learner that merges one adapter per domain into a single one that serves all of them.

    for each domain:
        an adapter is tuned on the frozen base, and what the rule needs of the domain is measured
        the adapter in use becomes the rule's answer to all domains so far          (everseg.domains.merging)

`regcl` and `merged` are this learner with different configurations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

from torch import Tensor

from everseg.domains.adapters.kinds import AdapterKind, AnyAdapter, fresh_adapter, pairs
from everseg.domains.cache import CacheConfig, FeatureCache
from everseg.domains.guard import Guard
from everseg.domains.merging import Merger, MergerConfig, merger
from everseg.domains.merging.contribution import (
    Contribution,
    MeasureConfig,
    on_cpu,
    tune_domain,
    weight_of,
)
from everseg.domains.merging.removal import forget_domain, reweigh_domain
from everseg.domains.merging.sums import Sums
from everseg.domains.tune import Choice, TuneConfig, predict, with_adapter_where
from everseg.merge.osrm import osrm
from everseg.models.promptable.protocol import Features, Promptable
from everseg.seed import torch_generator
from everseg.types import MERGED, PromptPrediction, Query, Scratch, Stage, State, Weighting
from everseg.types.abilities import Archive, Forgotten


class MergingConfig(Protocol):
    """Fields that the configuration of this learner has."""

    @property
    def adapter(self) -> AdapterKind: ...

    @property
    def rank(self) -> int: ...

    @property
    def abstain(self) -> float: ...

    @property
    def start(self) -> str:
        """Where a domain's adapter sets out from: "indi", one start common to all domains; "sequ", the last
        domain's adapter as it was tuned, never the merged one; "merged", the one in use; "osrm", the
        directions in which the domains before have least energy."""

    @property
    def weighting(self) -> Weighting: ...

    @property
    def tune(self) -> TuneConfig: ...

    @property
    def cache(self) -> CacheConfig: ...

    @property
    def merger(self) -> MergerConfig:
        """How contributions are merged."""

    @property
    def measured(self) -> MeasureConfig:
        """What is measured of a domain beside its adapter."""


class MergedLearner:
    """One merged adapter, and what its rule must keep to continue."""

    Config: ClassVar[type[MergingConfig]]

    def __init__(self, base: Promptable, config: MergingConfig | None = None, *, seed: int = 0) -> None:
        self.base = base
        self.config = config or self.Config()
        self.seed = seed
        self.cache = FeatureCache(base, self.config.cache)
        self.merger = self._fresh_merger()
        self.merged = self._fresh()
        self.weights: dict[str, float] = {}  # of the domains merged, in their order
        self.guard = Guard(self.config.abstain, base.natural)
        self.last: dict[str, Tensor] | None = None
        self.newest: Contribution | None = None

    @property
    def kept_as(self) -> str:
        """The name in this learner's state of what its rule keeps."""
        return "merger"

    def _fresh_merger(self) -> Merger:
        return merger(self.config.merger, self.base, self.seed)

    def _fresh(self, rank: int = 0) -> AnyAdapter:
        """The start that is common to all domains."""
        generator = torch_generator(self.seed, "adapter")
        return fresh_adapter(self.config.adapter, self.base, rank or self.config.rank, generator, mix=True)

    def _start(self) -> AnyAdapter:
        """The adapter that the next domain sets out from."""
        adapter, start = self._fresh(), self.config.start
        if start == "sequ" and self.last is not None:
            adapter.load_state_dict(self.last)
        if start == "merged" and self.weights:
            adapter.load_state_dict(self.merged.state_dict())
        if start == "osrm" and self.weights:
            adapter.load_state_dict(self._quiet(dict(adapter.state_dict())))
        return adapter

    def _quiet(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Low-rank pairs that read the directions in which the domains before have least energy."""
        assert isinstance(self.merger, Sums), "RegMean's sums hold the second moments"
        for x in pairs(weights):
            down = weights[f"down.{x}.weight"]
            second = self.merger.sums.layers[x].second[: down.shape[1], : down.shape[1]]
            # As long as a random start's rows, so that learning begins at the same pace.
            weights[f"down.{x}.weight"] = osrm(second, len(down)).to(down) * down.norm() / len(down) ** 0.5
        return weights

    @property
    def held_out(self) -> float:
        return self.config.tune.val

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        if stage.background:  # The base is right there: nothing to tune on, and no adapter to merge.
            return {}
        adapter, config = self._start(), self.config
        # An OSRM start is the domain's own; the others start from the common one or from its successors.
        start = adapter if config.start == "osrm" else self._fresh()
        figures, brought = tune_domain(
            adapter,
            self.base,
            stage,
            config.measured,
            config.tune,
            config.cache,
            kind=config.adapter,
            start=on_cpu(dict(start.state_dict())),
            after=() if config.start == "indi" else tuple(self.weights),
            seed=self.seed,
            scratch=scratch,
        )
        if brought is None:  # Nothing was learned: there is nothing to merge.
            return figures
        return {**figures, **self.take_in(brought, weight_of(brought, config.weighting))}

    def take_in(self, brought: Contribution, weight: float = 1.0) -> Mapping[str, float]:
        """Merge one more domain, tuned here or elsewhere; returns figures of the merge."""
        self.merger.add(brought, weight)
        self.weights[brought.domain] = weight
        self.guard.add(brought.domain, brought.gaussian)
        self.newest = brought
        if self.config.start == "sequ":
            self.last = dict(brought.weights)
        return self._serve()

    def _serve(self) -> Mapping[str, float]:
        """Put the merged adapter in use; a fresh one, which is the identity, where nothing is merged."""
        self.merged = self._fresh()
        if not self.weights:
            return {}
        merged = self.merger.solve()
        self.merged = self._fresh(merged.rank)
        self.merged.load_state_dict(merged.weights)
        return merged.figures

    def predict(self, queries: Sequence[Query]) -> list[PromptPrediction]:
        return predict(queries, self.base, self.cache, self.choose)

    def choose(self, features: Features) -> Choice:
        """The merged adapter, but for images that none of the domains could have brought."""
        routes = self.guard.routes(self.weights, features)
        inside = [route is None or route.name == MERGED for route in routes]
        return with_adapter_where(self.merged, inside, routes)

    def exports(self) -> AnyAdapter:
        return self.merged

    def contribution(self) -> State | None:
        """What the last learned stage brought, for the run's archive and for merges elsewhere."""
        return None if self.newest is None else self.newest.to_state()

    def forget(self, domain: str, archive: Archive) -> Forgotten:
        """Take a domain out of the merge; see `merging.removal`."""
        order = list(self.weights)
        later = order[order.index(domain) + 1 :] if domain in order else []
        tainted = later if self.config.start != "indi" else []
        self.merger, found = forget_domain(
            self.merger, self._fresh_merger, self.weights, domain, tainted, archive
        )
        if domain == order[-1] and self.last is not None:
            before = archive(order[-2]) if len(order) > 1 else None
            self.last = None if before is None else before["weights"]
        del self.weights[domain]
        self.guard.known.drop(domain)
        self._serve()
        return found

    def reweigh(self, domain: str, weight: float, archive: Archive) -> None:
        """Let a domain count `weight` in the merge."""
        reweigh_domain(self.merger, self.weights, domain, weight, archive)
        self.weights[domain] = weight
        self._serve()

    def state_dict(self) -> State:
        known = self.guard.known.state_dict()
        return {
            **({"gaussians": known} if known else {}),  # Earlier versions had none.
            "adapter": dict(self.merged.state_dict()),
            "rank": self.merged.config.rank,
            "weights": dict(self.weights),
            "last": self.last,
            self.kept_as: self.merger.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        self.merged = self._fresh(state["rank"])
        self.merged.load_state_dict(state["adapter"])
        self.weights, self.last, self.newest = dict(state["weights"]), state["last"], None
        self.guard.known.load_state_dict(state.get("gaussians", {}))
        self.merger = self._fresh_merger()
        self.merger.load_state_dict(state[self.kept_as])
