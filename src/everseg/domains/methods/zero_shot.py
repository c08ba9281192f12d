"""Zero-shot: the untouched base. It learns nothing and forgets nothing, and every method must beat it.

No part of the base is changed:

    image ---> trunk (frozen) --> tail (frozen) --+
                                                  +--> decoder (frozen) --> mask
    clicks, box ----------------------------------+
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from everseg.domains.cache import CacheConfig, FeatureCache
from everseg.domains.tune import predict, with_adapter
from everseg.models.promptable.protocol import Promptable
from everseg.types import PromptPrediction, Query, Scratch, Stage, State


@dataclass(frozen=True)
class ZeroShotConfig:
    """Settings of the untouched base."""

    cache: CacheConfig = field(default_factory=CacheConfig)
    """Where the features of the frozen trunk are kept."""

    @classmethod
    def presets(cls) -> dict[str, ZeroShotConfig]:
        return {"paper": cls(), "reference": cls()}


class ZeroShot:
    """The base as it is."""

    Config = ZeroShotConfig

    def __init__(self, base: Promptable, config: ZeroShotConfig | None = None, *, seed: int = 0) -> None:
        self.base = base
        self.cache = FeatureCache(base, (config or ZeroShotConfig()).cache)

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        return {}

    def predict(self, queries: Sequence[Query]) -> list[PromptPrediction]:
        return predict(queries, self.base, self.cache, with_adapter(None))

    def state_dict(self) -> State:
        return {}

    def load_state_dict(self, state: State) -> None:
        return None
