"""Model merging as a continual learner: an adapter a domain, merged by any rule into one for all of them.

    for each domain:
        an adapter is tuned on the frozen base, and what the rule wants of the domain is measured
        the adapter in use becomes the rule's answer to all domains so far          (everseg.domains.merging)

The rules, their sources, what each wants and what it keeps: `everseg.merge.RULES` and docs/merging.md. RegCL,
the rule with a method of its own, is in `methods.regcl`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from everseg.config import at_least
from everseg.domains.adapters.kinds import AdapterKind, AnyAdapter, fresh_adapter
from everseg.domains.cache import CacheConfig, FeatureCache
from everseg.domains.merging import Merger, MergerConfig, merger
from everseg.domains.merging.contribution import (
    Contribution,
    MeasureConfig,
    on_cpu,
    tune_domain,
    weight_of,
)
from everseg.domains.merging.removal import forget_domain, reweigh_domain
from everseg.domains.tune import TuneConfig, predict, with_adapter
from everseg.merge import RULES, GramConfig
from everseg.models.promptable.protocol import Promptable
from everseg.seed import torch_generator
from everseg.types import Archive, Forgotten, PromptPrediction, Query, Scratch, Stage, State, Weighting


@dataclass(frozen=True)
class MergedConfig:
    """adapter, rank: of each domain. merger: the rule and its options.
    start: where a domain's adapter sets out from: "indi", one start common to all; "sequ", the last domain's
        adapter as it was tuned (MagMax's way); "merged", the one in use.
    measure: of each domain what the rule needs, or "all", so that its contribution can be merged by any rule.
    fisher, samples: rows for the Fisher information and rows to keep for calibration, where they are measured
        at all. Samples are features, clicks and truth of training images.
    weighting: whether every domain counts the same, or by its images or objects.
    gram: how inputs are measured. tune, cache: as for SAMCL.
    """

    adapter: AdapterKind = "lora"
    rank: int = 10
    merger: MergerConfig = field(default_factory=MergerConfig)
    start: Literal["indi", "sequ", "merged"] = "indi"
    measure: Literal["needed", "all"] = "needed"
    fisher: int = 256
    samples: int = 32
    weighting: Weighting = "equal"
    gram: GramConfig = field(default_factory=GramConfig)
    tune: TuneConfig = field(default_factory=TuneConfig.paper)
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        at_least(self, 1, "rank", "fisher", "samples")

    @classmethod
    def presets(cls) -> dict[str, MergedConfig]:
        return {"paper": cls(), "reference": cls(tune=TuneConfig.reference())}

    @property
    def measured(self) -> MeasureConfig:
        """What is taken of a domain beside its adapter."""
        rule, everything = RULES[self.merger.rule], self.measure == "all"
        return MeasureConfig(
            grams=everything or rule.statistics == "gram",
            gram=self.gram,
            fisher=self.fisher if everything or rule.statistics == "fisher" else 0,
            samples=self.samples if everything or rule.data != "none" else 0,
        )


class MergedLoRA:
    """One merged adapter, and what its rule must keep to go on."""

    Config = MergedConfig

    def __init__(self, base: Promptable, config: MergedConfig | None = None, *, seed: int = 0) -> None:
        self.base = base
        self.config = config or MergedConfig()
        self.seed = seed
        self.cache = FeatureCache(base, self.config.cache)
        self.merger = self._fresh_merger()
        self.merged = self._fresh()
        self.weights: dict[str, float] = {}  # of the domains merged, in their order
        self.last: dict[str, Tensor] | None = None
        self.newest: Contribution | None = None

    def _fresh(self, rank: int = 0) -> AnyAdapter:
        """The start that is common to all domains."""
        generator = torch_generator(self.seed, "adapter")
        return fresh_adapter(self.config.adapter, self.base, rank or self.config.rank, generator, mix=True)

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        if stage.background:  # The base is right there: nothing to tune on, and no adapter to merge.
            return {}
        config = self.config
        figures, brought = tune_domain(
            self._start(),
            self.base,
            stage,
            config.measured,
            config.tune,
            config.cache,
            kind=config.adapter,
            start=on_cpu(dict(self._fresh().state_dict())),
            after=() if config.start == "indi" else tuple(self.weights),
            seed=self.seed,
            scratch=scratch,
        )
        if brought is None:  # Nothing was learned: there is nothing to merge.
            return figures
        return {**figures, **self.take_in(brought, weight_of(brought, config.weighting))}

    def take_in(self, brought: Contribution, weight: float = 1.0) -> Mapping[str, float]:
        """Merge one domain more, tuned here or elsewhere; figures of the merge."""
        self.merger.add(brought, weight)
        self.weights[brought.domain] = weight
        self.newest = brought
        if self.config.start == "sequ":
            self.last = dict(brought.weights)
        return self._serve()

    def _start(self) -> AnyAdapter:
        adapter = self._fresh()
        if self.config.start == "sequ" and self.last is not None:
            adapter.load_state_dict(self.last)
        if self.config.start == "merged" and self.weights:
            adapter.load_state_dict(self.merged.state_dict())
        return adapter

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
        return predict(queries, self.base, self.cache, with_adapter(self.merged))

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
        self._serve()
        return found

    def reweigh(self, domain: str, weight: float, archive: Archive) -> None:
        """Let a domain count `weight` in the merge."""
        reweigh_domain(self.merger, self.weights, domain, weight, archive)
        self.weights[domain] = weight
        self._serve()

    def _fresh_merger(self) -> Merger:
        return merger(self.config.merger, self.base, self.seed)

    def state_dict(self) -> State:
        return {
            "adapter": dict(self.merged.state_dict()),
            "rank": self.merged.config.rank,
            "weights": dict(self.weights),
            "last": self.last,
            "merger": self.merger.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        self.merged = self._fresh(state["rank"])
        self.merged.load_state_dict(state["adapter"])
        self.weights, self.last, self.newest = dict(state["weights"]), state["last"], None
        self.merger = self._fresh_merger()
        self.merger.load_state_dict(state["merger"])
