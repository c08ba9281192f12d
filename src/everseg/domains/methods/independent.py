"""Independent modules: one AugModule per domain and no selector.

                        +--> module 1 --> mask, predicted IoU --+
    image --> trunk ----+--> module 2 --> mask, predicted IoU --+--> the mask with the highest predicted IoU
                        +--> module T --> mask, predicted IoU --+

With the domain given (`predict_as`), its score is the upper bound of SAMCL's routing. Without it, every
module is tried and the mask that SAM's IoU head rates highest is kept: routing without training, at the cost
of T passes through the tail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from everseg.domains.adapters.aug import AugConfig, AugModule
from everseg.domains.cache import CacheConfig, FeatureCache
from everseg.domains.prepare import prepare
from everseg.domains.tune import TuneConfig, fit_adapter, predict, with_adapter
from everseg.files import sha256_tensors
from everseg.models.promptable.protocol import Promptable
from everseg.seed import torch_generator
from everseg.types import PromptPrediction, Query, Route, Scratch, Stage, State
from everseg.types.abilities import Archive, Forgotten


@dataclass(frozen=True)
class IndependentConfig:
    """Settings of one module per domain."""

    aug: AugConfig = field(default_factory=AugConfig)
    """Shape of the modules."""
    tune: TuneConfig = field(default_factory=TuneConfig.paper)
    """How a module is trained."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    """Where the features of the frozen trunk are kept."""

    @classmethod
    def presets(cls) -> dict[str, IndependentConfig]:
        return {"paper": cls(), "reference": cls(tune=TuneConfig.reference())}


class Independent:
    """One module per domain, chosen by the predicted IoU or by an oracle."""

    Config = IndependentConfig

    def __init__(self, base: Promptable, config: IndependentConfig | None = None, *, seed: int = 0) -> None:
        self.base = base
        self.config = config or IndependentConfig()
        self.seed = seed
        self.cache = FeatureCache(base, self.config.cache)
        self.modules: dict[str, AugModule] = {}

    @property
    def held_out(self) -> float:
        return self.config.tune.val

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        if stage.background:
            return {}
        module = AugModule.beside(
            self.base, self.config.aug, torch_generator(self.seed, stage.name, "module")
        )
        prepared = prepare(
            stage.train, self.base, self.config.cache, self.config.tune.fit, stage.name, embedded=()
        )
        figures = fit_adapter(
            module,
            self.base,
            prepared,
            self.config.tune,
            seed=self.seed,
            name=stage.name,
            scratch=scratch,
            val=stage.val,
        )
        self.modules[stage.name] = module
        return figures

    def predict(self, queries: Sequence[Query]) -> list[PromptPrediction]:
        names = list(self.modules)
        if not names or not queries:
            return predict(queries, self.base, self.cache, with_adapter(None))
        tried = [self.predict_as(queries, name) for name in names]
        rated = torch.stack([torch.stack([p.iou.mean() for p in row]) for row in tried])  # (T, queries)
        confidence = rated.softmax(0)
        out = []
        for i, best in enumerate(rated.argmax(0).tolist()):
            p = tried[best][i]
            sure = dict(zip(names, confidence[:, i].tolist(), strict=True))
            out.append(PromptPrediction(p.logits, p.iou, p.size, Route(names[best], sure[names[best]], sure)))
        return out

    def predict_as(self, queries: Sequence[Query], stage_name: str) -> list[PromptPrediction]:
        return predict(queries, self.base, self.cache, with_adapter(self.modules.get(stage_name)))

    def forget(self, domain: str, archive: Archive) -> Forgotten:
        """Drop the domain's module."""
        self.modules.pop(domain, None)
        remaining = {name: sha256_tensors(dict(m.state_dict())) for name, m in self.modules.items()}
        statement = (
            f"the module of {domain!r} is deleted and the others are unchanged to the bit: the run is what "
            f"it would be had it never learned {domain!r}"
        )
        return Forgotten(True, statement, remaining)

    def state_dict(self) -> State:
        return {"modules": {name: dict(module.state_dict()) for name, module in self.modules.items()}}

    def load_state_dict(self, state: State) -> None:
        self.modules = {}
        for name, weights in state["modules"].items():
            self.modules[name] = AugModule.beside(self.base, self.config.aug)
            self.modules[name].load_state_dict(weights)
