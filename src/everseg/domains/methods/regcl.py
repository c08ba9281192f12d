"""RegCL: the domains' adapters merged in closed form into one, which serves them all and never grows.

"RegCL: Continual Adaptation of Segment Anything Model via Model Merging" (2025), with the closed form of
RegMean (Jin et al., ICLR 2023).

    for each domain:
        an adapter is tuned on the frozen base, from one common start or from the last domain's adapter
        one more pass over its images takes the second moments G_k of the adapter's inputs  (everseg.merge)
        sums over domains:  S += G_k,  R += W_k G_k,  of biases and norms the mean
        the adapter in use becomes  W* = R S^-1

No image is kept, and of the domains only the sums, whose size does not depend on their number.

What the `paper`, `reference`, `robust` and `delta` presets differ in is listed in docs/regcl.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from everseg.config import at_least
from everseg.domains.adapters.kinds import AdapterKind, AnyAdapter, fresh_adapter, pairs
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
from everseg.domains.merging.sums import Sums
from everseg.domains.tune import TuneConfig, predict, with_adapter
from everseg.errors import UserError
from everseg.merge import GramConfig, RegMeanConfig
from everseg.merge.osrm import osrm
from everseg.models.promptable.protocol import Promptable
from everseg.seed import torch_generator
from everseg.types import Archive, Forgotten, PromptPrediction, Query, Scratch, Stage, State, Weighting


@dataclass(frozen=True)
class RegCLConfig:
    """adapter: "aug" (SAMCL's module with a matrix C for each block), "lora" (in parallel to the attention)
    or "linear" (on each linear layer of the blocks, which folds into the base). rank: of any of them.
    start: where a domain's adapter sets out from: "indi", one start common to all; "sequ", the last domain's
        adapter as it was tuned, never the merged one; "osrm", for low-rank pairs on products, a start along
        the directions in which the domains before have least energy.
    on: "factors" merges the adapter's matrices each by itself, "products" the B A of low-rank pairs, cut back
        to `merged_rank` (0: the adapter's).
    weighting: whether every domain counts the same, or by its images or objects.
    prompt_branch: also measure and merge in closed form the layers that read the clicks.
    gram: how inputs are measured. merge: how the sums are solved. tune, cache: as for SAMCL.
    """

    adapter: AdapterKind = "aug"
    rank: int = 10
    start: Literal["indi", "sequ", "osrm"] = "indi"
    on: Literal["factors", "products"] = "factors"
    merged_rank: int = 0
    weighting: Weighting = "equal"
    prompt_branch: bool = False
    gram: GramConfig = field(default_factory=GramConfig)
    merge: RegMeanConfig = field(default_factory=RegMeanConfig)
    tune: TuneConfig = field(default_factory=TuneConfig.paper)
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        at_least(self, 1, "rank")
        if self.on == "products" and self.adapter == "aug":
            raise UserError("an AugModule is no product of two matrices; set adapter=lora with on=products")
        if self.start == "osrm" and self.on != "products":
            raise UserError("start=osrm gives every domain other directions; set on=products with it")
        if self.on == "products" and self.merge.arithmetic != "fp64":
            raise UserError("products are merged in float64; set merge.arithmetic=fp64 with on=products")

    @classmethod
    def presets(cls) -> dict[str, RegCLConfig]:
        gram, merge = GramConfig.presets(), RegMeanConfig.presets()
        return {
            "paper": cls(),
            "reference": cls(
                start="sequ",
                gram=gram["reference"],
                merge=merge["reference"],
                tune=TuneConfig.reference(),
            ),
            "robust": cls(
                prompt_branch=True,
                gram=GramConfig(affine=True, zero_rows="drop"),
                merge=merge["robust"],
            ),
            "delta": cls(
                adapter="lora",
                on="products",
                gram=GramConfig(affine=True),
                merge=merge["robust"],
            ),
        }

    @property
    def merger(self) -> MergerConfig:
        """How contributions are merged."""
        rule = "regmean" if self.on == "factors" else "regmean-products"
        return MergerConfig(rule, self.on, self.merged_rank, regmean=self.merge)


class RegCL:
    """One merged adapter, and the sums it is solved from."""

    Config = RegCLConfig

    def __init__(self, base: Promptable, config: RegCLConfig | None = None, *, seed: int = 0) -> None:
        self.base = base
        self.config = config or RegCLConfig()
        self.seed = seed
        self.cache = FeatureCache(base, self.config.cache)
        # Float64 sums; for the published arithmetic, which solves from every stored adapter, all of those.
        self.sums = self._fresh_merger()
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
        adapter, config = self._start(), self.config
        start = on_cpu(dict((adapter if config.start == "osrm" else self._fresh()).state_dict()))
        figures, brought = tune_domain(
            adapter,
            self.base,
            stage,
            MeasureConfig(gram=config.gram, prompt_branch=config.prompt_branch),
            config.tune,
            config.cache,
            kind=config.adapter,
            start=start,
            after=() if config.start == "indi" else tuple(self.weights),
            seed=self.seed,
            scratch=scratch,
        )
        if brought is None:  # Nothing was learned: there is nothing to merge.
            return figures
        return {**figures, **self.take_in(brought, weight_of(brought, config.weighting))}

    def take_in(self, brought: Contribution, weight: float = 1.0) -> Mapping[str, float]:
        """Merge one domain more, tuned here or elsewhere; figures of the merge."""
        self.sums.add(brought, weight)
        self.weights[brought.domain] = weight
        self.newest = brought
        if self.config.start == "sequ":
            self.last = dict(brought.weights)
        return self._serve()

    def _start(self) -> AnyAdapter:
        adapter = self._fresh()
        if self.config.start == "sequ" and self.last is not None:
            adapter.load_state_dict(self.last)
        if self.config.start == "osrm" and self.weights:
            assert isinstance(self.sums, Sums)
            weights = dict(adapter.state_dict())
            for x in pairs(weights):
                down = weights[f"down.{x}.weight"]
                second = self.sums.sums.layers[x].second[: down.shape[1], : down.shape[1]]
                # As long as a random start's rows, so that learning begins at the same pace.
                weights[f"down.{x}.weight"] = (
                    osrm(second, len(down)).to(down) * down.norm() / len(down) ** 0.5
                )
            adapter.load_state_dict(weights)
        return adapter

    def _serve(self) -> Mapping[str, float]:
        """Put the merged adapter in use; a fresh one, which is the identity, where nothing is merged."""
        self.merged = self._fresh()
        if not self.weights:
            return {}
        merged = self.sums.solve()
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
        self.sums, found = forget_domain(
            self.sums, self._fresh_merger, self.weights, domain, tainted, archive
        )
        if domain == order[-1] and self.last is not None:
            before = archive(order[-2]) if len(order) > 1 else None
            self.last = None if before is None else before["weights"]
        del self.weights[domain]
        self._serve()
        return found

    def reweigh(self, domain: str, weight: float, archive: Archive) -> None:
        """Let a domain count `weight` in the merge."""
        reweigh_domain(self.sums, self.weights, domain, weight, archive)
        self.weights[domain] = weight
        self._serve()

    def _fresh_merger(self) -> Merger:
        return merger(self.config.merger, self.base, self.seed)

    def state_dict(self) -> State:
        kept = "sums" if isinstance(self.sums, Sums) else "contributions"
        return {
            "adapter": dict(self.merged.state_dict()),
            "rank": self.merged.config.rank,
            "weights": dict(self.weights),
            "last": self.last,
            kept: self.sums.state_dict(),
        }

    def load_state_dict(self, state: State) -> None:
        self.merged = self._fresh(state["rank"])
        self.merged.load_state_dict(state["adapter"])
        self.weights, self.last, self.newest = dict(state["weights"]), state["last"], None
        self.sums = self._fresh_merger()
        self.sums.load_state_dict(state["sums" if isinstance(self.sums, Sums) else "contributions"])
