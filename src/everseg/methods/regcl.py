"""RegCL: the domains' adapters merged in closed form into one, which serves them all and never grows.

"RegCL: Continual Adaptation of Segment Anything Model via Model Merging" (2025), with the closed form of
RegMean (Jin et al., ICLR 2023).

    for each domain:
        an adapter is tuned on the frozen base, from one common start or from the last domain's adapter
        one more pass over its images takes the second moments G_k of the adapter's inputs  (everseg.merge)
        sums over domains:  S += G_k,  R += W_k G_k,  of biases and norms the mean
        the adapter in use becomes  W* = R S^-1

No image is kept, and of the domains only the sums, whose size does not depend on their number.

What the `paper`, `reference` and `robust` presets differ in is listed in docs/regcl.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from everseg.aug import AugConfig, AugModule
from everseg.cache import CacheConfig, FeatureCache
from everseg.config import at_least
from everseg.lora import LoRAConfig, ParallelLoRA
from everseg.merge import (
    GramCollector,
    GramConfig,
    LayerReport,
    RegMeanConfig,
    RegMeanSums,
    add_up_grams,
)
from everseg.merge.regmean import regmean
from everseg.models.promptable import Promptable
from everseg.seed import torch_generator
from everseg.tune import TuneConfig, fit_adapter, observe_inputs, predict, prepare, with_adapter
from everseg.types import PromptPrediction, Query, Scratch, Stage, State

PROMPT_BRANCH = ("map_layer", "neck_in", "neck_out")
"""The linear layers that read the clicks alone; the published code averages them."""


@dataclass(frozen=True)
class RegCLConfig:
    """adapter: "aug" (SAMCL's module with a matrix C for each block) or "lora" (in parallel to the
    attention). rank: of either.
    start: where a domain's adapter sets out from: "indi", one start common to all, or "sequ", the last
        domain's adapter as it was tuned; never the merged one.
    prompt_branch: also measure and merge in closed form the layers that read the clicks.
    gram: how inputs are measured. merge: how the sums are solved. tune, cache: as for SAMCL.
    """

    adapter: Literal["aug", "lora"] = "aug"
    rank: int = 10
    start: Literal["indi", "sequ"] = "indi"
    prompt_branch: bool = False
    gram: GramConfig = field(default_factory=GramConfig)
    merge: RegMeanConfig = field(default_factory=RegMeanConfig)
    tune: TuneConfig = field(default_factory=TuneConfig.paper)
    cache: CacheConfig = field(default_factory=CacheConfig)

    def __post_init__(self) -> None:
        at_least(self, 1, "rank")

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
        }


class RegCL:
    """One merged adapter, and the sums it is solved from."""

    Config = RegCLConfig

    def __init__(self, base: Promptable, config: RegCLConfig | None = None, *, seed: int = 0) -> None:
        self.base = base
        self.config = config or RegCLConfig()
        self.seed = seed
        self.cache = FeatureCache(base, self.config.cache)
        self.merged = self._fresh()
        self.last: AugModule | ParallelLoRA | None = None
        self.sums = RegMeanSums(self.config.merge.affine)
        # The published arithmetic solves from every stored adapter and its moments, and so it grows.
        self.stored: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    def _fresh(self) -> AugModule | ParallelLoRA:
        """The start that is common to all domains."""
        generator, rank = torch_generator(self.seed, "adapter"), self.config.rank
        if self.config.adapter == "aug":
            return AugModule.beside(self.base, AugConfig(rank=rank, mix=True), generator)
        return ParallelLoRA.beside(self.base, LoRAConfig(rank=rank), generator)

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        if stage.background:  # The base is right there: nothing to tune on, and no adapter to merge.
            return {}
        prepared = prepare(stage.train, self.base, self.config.cache, self.config.tune, stage.name)
        adapter = self._fresh()
        if self.config.start == "sequ" and self.last is not None:
            adapter.load_state_dict(self.last.state_dict())
        figures = fit_adapter(
            adapter,
            self.base,
            prepared,
            self.config.tune,
            seed=self.seed,
            name=stage.name,
            scratch=scratch,
        )
        if not len(prepared):  # Nothing was learned: there is nothing to merge.
            return figures
        collector = GramCollector(self._measured(adapter), self.config.gram, seed=self.seed)

        def observe(layer: str, inputs: Tensor) -> None:
            if layer in collector.modules:
                collector.see(layer, inputs)

        observe_inputs(adapter, self.base, prepared, observe, stage.name)
        grams = collector.result()
        add_up_grams(list(grams.values()))
        # The mean over rows: every domain weighs the same, whatever its size.
        moments = {layer: gram.mean() for layer, gram in grams.items()}
        reports = self._merge(dict(adapter.state_dict()), moments)
        if self.config.start == "sequ":
            self.last = adapter
        return figures | _figures(reports)

    def _measured(self, adapter: nn.Module) -> dict[str, nn.Linear]:
        """The layers whose weights the closed form solves for, by name."""
        linears = {name: m for name, m in adapter.named_modules() if isinstance(m, nn.Linear)}
        return {n: m for n, m in linears.items() if self.config.prompt_branch or n not in PROMPT_BRANCH}

    def _merge(self, weights: dict[str, Tensor], moments: dict[str, Tensor]) -> dict[str, LayerReport]:
        how = self.config.merge
        if how.arithmetic == "fp32_inverse":
            kept = {name: value.detach().cpu().clone() for name, value in weights.items()}
            self.stored.append((kept, {layer: g.cpu() for layer, g in moments.items()}))
            merged = kept  # An inverse would blur the first domain's own adapter.
            reports: dict[str, LayerReport] = {}
            if len(self.stored) > 1:
                merged, reports = regmean([w for w, _ in self.stored], [g for _, g in self.stored], how)
        else:
            self.sums.add(weights, moments)
            merged, reports = self.sums.solve(ridge=how.ridge, offdiag=how.offdiag, centre=how.centre)
        self.merged.load_state_dict(merged)
        return reports

    def predict(self, queries: Sequence[Query]) -> list[PromptPrediction]:
        return predict(queries, self.base, self.cache, with_adapter(self.merged))

    def state_dict(self) -> State:
        return {
            "adapter": dict(self.merged.state_dict()),
            "last": None if self.last is None else dict(self.last.state_dict()),
            "sums": self.sums.state_dict(),
            "stored": [{"weights": w, "moments": g} for w, g in self.stored],
        }

    def load_state_dict(self, state: State) -> None:
        self.merged.load_state_dict(state["adapter"])
        self.last = None
        if state["last"] is not None:
            self.last = self._fresh()
            self.last.load_state_dict(state["last"])
        self.sums = RegMeanSums(self.config.merge.affine)
        self.sums.load_state_dict(state["sums"])
        self.stored = [(dict(e["weights"]), dict(e["moments"])) for e in state["stored"]]


def _figures(reports: Mapping[str, LayerReport]) -> dict[str, Any]:
    """The worst condition of the layers merged, and their objective against that of the plain mean."""
    solved = [r for r in reports.values() if r.path != "single"]
    if not solved:
        return {}
    ours, mean = sum(r.objective for r in solved), sum(r.objective_of_mean for r in solved)
    return {
        "merge_condition": max(r.condition for r in solved),
        "merge_objective": ours / mean if mean else 1.0,
        "merge_worse_than_mean": float(sum(r.worse_than_mean for r in solved)),
    }
