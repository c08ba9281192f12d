"""RegCL: the adapters of all domains, merged in closed form into one whose size does not grow.

Averaging adapters that were trained apart serves no domain well. RegCL asks for the one adapter whose layers
answer each domain's inputs as that domain's own adapter did. That is a least-squares problem, which needs
only the second moments of the inputs and no image:

    domain 1 --> adapter W_1, moments G_1 --+
    domain 2 --> adapter W_2, moments G_2 --+--> S = sum G_k,  R = sum W_k G_k --> W* = R S^-1 --> every image
    domain T --> adapter W_T, moments G_T --+

W_k is the weight of one linear layer of the adapter, G_k the mean of x x^T over its inputs x. Each adapter is
trained on the frozen base, from one common start or from the last domain's adapter; one more pass over the
images measures G_k (`everseg.merge.gram`). Biases and norms are averaged. Only the sums are kept, whose size
does not depend on the number of domains.

docs/regcl.md lists the differences of the presets `paper`, `reference`, `robust` and `delta`.

Source: "RegCL: Continual Adaptation of Segment Anything Model via Model Merging" (2025); the closed form is
RegMean's (Jin et al., ICLR 2023).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from everseg.config import Checked, Count, Share, Size, before
from everseg.domains.adapters.kinds import AdapterKind
from everseg.domains.cache import CacheConfig
from everseg.domains.merging import MergerConfig
from everseg.domains.merging.contribution import MeasureConfig
from everseg.domains.merging.learner import MergedLearner
from everseg.domains.tune import TuneConfig
from everseg.errors import UserError
from everseg.merge.gram import GramConfig
from everseg.merge.regmean import RegMeanConfig
from everseg.types import Weighting

RULE_ON = {"factors": "regmean", "products": "regmean-products"}
"""The rule that RegCL merges by, on factors and on products."""


@dataclass(frozen=True)
class RegCLConfig(Checked):
    """One adapter per domain, merged in closed form."""

    adapter: AdapterKind = "aug"
    """SAMCL's module with matrices C, LoRA beside the attention, or LoRA on linear layers. [aug: RegCL]"""
    rank: Size = 10
    """Rank of each domain's adapter. [RegCL]"""
    start: Literal["indi", "sequ", "osrm"] = "indi"
    """A common start, the last domain's own adapter, or OSRM's. [indi: paper; sequ: the published code]"""
    on: Literal["factors", "products"] = "factors"
    """Merge the adapter's matrices each by itself, or the products B A of low-rank pairs. [factors: RegCL]"""
    merged_rank: Count = 0
    """Rank of the merged adapter on products; 0 is that of the adapters."""
    weighting: Weighting = "equal"
    """Weight of each domain: equal, or by its images or objects. [equal: RegCL]"""
    prompt_branch: bool = False
    """Also measure the layers that read the clicks, and merge them in closed form."""
    gram: GramConfig = field(default_factory=GramConfig)
    """How the inputs of the adapter's layers are measured."""
    merge: RegMeanConfig = field(default_factory=RegMeanConfig)
    """How the sums are solved."""
    abstain: Share = field(default=0.001, metadata=before(0.0))
    """Use the untouched base where an image's p-value is below this for every domain merged; 0: never.
    [ours; RegCL: 0]"""
    tune: TuneConfig = field(default_factory=TuneConfig.paper)
    """How adapters are trained, as for SAMCL."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    """Where the base's features are kept, as for SAMCL."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on == "products" and self.adapter == "aug":
            raise UserError("an AugModule is not a matrix product; set adapter=lora with on=products")
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
                abstain=0.0,
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

    @classmethod
    def rules(cls) -> list[str]:
        """The rules that a run of this method can merge by."""
        return list(RULE_ON.values())

    def by(self, rule: str) -> RegCLConfig:
        """The same with another rule."""
        on: Literal["factors", "products"] = "products" if rule == RULE_ON["products"] else "factors"
        return replace(self, on=on)

    @property
    def merger(self) -> MergerConfig:
        """How contributions are merged."""
        return MergerConfig(RULE_ON[self.on], self.on, self.merged_rank, regmean=self.merge)

    @property
    def measured(self) -> MeasureConfig:
        """What is measured of a domain beside its adapter."""
        return MeasureConfig(gram=self.gram, prompt_branch=self.prompt_branch)


class RegCL(MergedLearner):
    """One merged adapter, and the sums it is solved from.

    For the published arithmetic, which solves from every stored adapter, it keeps all of those.
    """

    Config = RegCLConfig

    @property
    def kept_as(self) -> str:
        return "sums" if self.merger.rule.forgets == "subtract" else "contributions"
