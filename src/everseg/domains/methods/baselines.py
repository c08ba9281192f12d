"""Fine-tuning one adapter: on one domain after another, or on all domains at once.

Each of them is a bound. `Sequential` shows what forgetting looks like: nothing protects what earlier domains
taught. `Joint` shows what one adapter can reach when every old image is still there.

    Sequential   base + adapter --> domain 1 --> domain 2 --> ... --> domain T   each overwrites the last

    Joint        domain 1 --+
                 domain 2 --+--> base + adapter                                  needs every old image
                 domain T --+

A stage of `Sequential` continues from the last stage's adapter with a fresh optimiser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from everseg.config import Checked, Size
from everseg.domains.adapters.kinds import AdapterKind, AnyAdapter, fresh_adapter
from everseg.domains.cache import CacheConfig, FeatureCache
from everseg.domains.prepare import prepare
from everseg.domains.tune import TuneConfig, fit_adapter, predict, with_adapter
from everseg.models.promptable.protocol import Promptable
from everseg.seed import torch_generator
from everseg.types import PromptPrediction, Query, Scratch, Stage, State


@dataclass(frozen=True)
class FineTuneConfig(Checked):
    """Settings of one adapter that goes from domain to domain."""

    adapter: AdapterKind = "lora"
    """What is trained: "lora" in parallel to the attention, "aug" SAMCL's module, "linear" on each linear
    layer of the blocks, which folds into the base. [SAMCL, baselines: lora]"""
    rank: Size = 10
    """Rank of the adapter. [SAMCL]"""
    tune: TuneConfig = field(default_factory=TuneConfig.paper)
    """How the adapter is trained."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    """Where the features of the frozen trunk are kept."""

    @classmethod
    def presets(cls) -> dict[str, FineTuneConfig]:
        return {"paper": cls(), "reference": cls(tune=TuneConfig.reference())}


class Sequential:
    """One adapter for the whole stream; each stage continues from the last with a fresh optimiser."""

    Config = FineTuneConfig

    def __init__(self, base: Promptable, config: FineTuneConfig | None = None, *, seed: int = 0) -> None:
        self.base = base
        self.config = config or FineTuneConfig()
        self.seed = seed
        self.cache = FeatureCache(base, self.config.cache)
        generator = torch_generator(seed, "adapter")
        self.adapter = fresh_adapter(self.config.adapter, base, self.config.rank, generator)

    @property
    def held_out(self) -> float:
        return self.config.tune.val

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        if stage.background:  # The base is right there: nothing to tune on.
            return {}
        prepared = prepare(
            stage.train, self.base, self.config.cache, self.config.tune.fit, stage.name, embedded=()
        )
        return fit_adapter(
            self.adapter,
            self.base,
            prepared,
            self.config.tune,
            seed=self.seed,
            name=stage.name,
            scratch=scratch,
            val=stage.val,
        )

    def predict(self, queries: Sequence[Query]) -> list[PromptPrediction]:
        return predict(queries, self.base, self.cache, with_adapter(self.adapter))

    def exports(self) -> AnyAdapter:
        return self.adapter

    def state_dict(self) -> State:
        return {"adapter": dict(self.adapter.state_dict())}

    def load_state_dict(self, state: State) -> None:
        self.adapter.load_state_dict(state["adapter"])


class Joint(Sequential):
    """Trained once, on all domains at once. Needs every old image: an upper bound, not a continual method."""

    all_at_once = True
