"""Merged: one adapter per domain, merged by any rule into one that serves all of them.

    domain 1 --> adapter 1 --+
    domain 2 --> adapter 2 --+--> rule --> one adapter --> every image
    domain T --> adapter T --+

Model merging becomes a continual learner by merging again after each domain. The learner is
`domains.merging.learner`; docs/merging.md compares the rules: their sources, what each needs and what it
keeps. RegCL, a rule with a method of its own, is `methods.regcl`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from everseg.config import Checked, Share, Size, before
from everseg.domains.adapters.kinds import AdapterKind
from everseg.domains.cache import CacheConfig
from everseg.domains.merging import MergerConfig
from everseg.domains.merging.contribution import MeasureConfig
from everseg.domains.merging.learner import MergedLearner
from everseg.domains.tune import TuneConfig
from everseg.merge import RULES
from everseg.merge.gram import GramConfig
from everseg.types import Weighting


@dataclass(frozen=True)
class MergedConfig(Checked):
    """One adapter per domain, merged by any rule."""

    adapter: AdapterKind = "lora"
    """Kind of adapter of each domain: SAMCL's module, LoRA beside the attention, or LoRA on linear layers."""
    rank: Size = 10
    """Rank of each domain's adapter."""
    merger: MergerConfig = field(default_factory=MergerConfig)
    """The merging rule and its options."""
    start: Literal["indi", "sequ", "merged"] = "indi"
    """Adapters start from a common start, the last domain's own, or the merged one. [sequ: MagMax]"""
    measure: Literal["needed", "all"] = "needed"
    """Measure what the rule needs of a domain, or all, so that its contribution can be merged by any rule."""
    fisher: Size = 256
    """Training rows for the Fisher information, where it is measured. [Matena and Raffel]"""
    samples: Size = 32
    """Training rows to keep for calibration, where they are kept: features, clicks and truth."""
    weighting: Weighting = "equal"
    """Weight of each domain: equal, or by its images or objects."""
    gram: GramConfig = field(default_factory=GramConfig)
    """How the inputs of the adapter's layers are measured."""
    abstain: Share = field(default=0.001, metadata=before(0.0))
    """Use the untouched base where an image's p-value is below this for every domain merged; 0: never.
    [ours]"""
    tune: TuneConfig = field(default_factory=TuneConfig.paper)
    """How adapters are trained, as for SAMCL."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    """Where the base's features are kept, as for SAMCL."""

    @classmethod
    def presets(cls) -> dict[str, MergedConfig]:
        return {"paper": cls(), "reference": cls(tune=TuneConfig.reference(), abstain=0.0)}

    @classmethod
    def rules(cls) -> list[str]:
        """The rules that a run of this method can merge by."""
        return list(RULES)

    def by(self, rule: str) -> MergedConfig:
        """The same with another rule, whose options are its own."""
        options = self.merger.options if self.merger.rule == rule else {}
        return replace(self, merger=replace(self.merger, rule=rule, options=options))

    @property
    def measured(self) -> MeasureConfig:
        """What is measured of a domain beside its adapter."""
        needs, everything = self.merger.build().needs, self.measure == "all"
        return MeasureConfig(
            grams=everything or "moments" in needs,
            gram=self.gram,
            fisher=self.fisher if everything or "fisher" in needs else 0,
            samples=self.samples if everything or "samples" in needs else 0,
        )


class MergedLoRA(MergedLearner):
    """One merged adapter, and what its rule must keep to continue."""

    Config = MergedConfig
