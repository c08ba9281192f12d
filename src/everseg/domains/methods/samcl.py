"""SAMCL: a tiny module for each domain on a frozen SAM, and a selector that picks the module from the image.

Z. Wang et al., "SAMCL: Empowering SAM to Continually Learn from Dynamic Domains with Extreme Storage
Efficiency", AAAI 2026, arXiv 2412.05012.

    for each domain:
        a fresh AugModule is tuned on the frozen base                          (adapters.aug, tune)
        300 pooled taps of its images join the buffer
        the Module Selector goes on learning from the whole buffer             (domains.selector)
    for an image of unknown domain:
        the trunk runs once; the selector reads its pooled tap; the tail goes on from there with the chosen
        module

What the `paper` and `reference` presets differ in, and both from the published code, is listed in
docs/samcl.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from everseg.domains.adapters.aug import RELEASED, AugBank, AugConfig, AugModule
from everseg.domains.cache import CacheConfig, FeatureCache
from everseg.domains.prepare import pool, prepare
from everseg.domains.selector import (
    REFERENCE,
    ModuleSelector,
    SelectorConfig,
    draw_rows,
    kept_as,
    train_selector,
)
from everseg.domains.tune import Bind, Choice, TuneConfig, fit_adapter, predict, with_adapter
from everseg.errors import UserError
from everseg.files import sha256_tensors
from everseg.models.promptable.protocol import Adaptation, Features, Promptable
from everseg.seed import torch_generator
from everseg.types import PromptPrediction, Query, Route, Scratch, Stage, State
from everseg.types.abilities import Archive, Forgotten

PLAIN = -1
"""The bank's slot of the untouched base."""


@dataclass(frozen=True)
class SAMCLConfig:
    """Settings of SAMCL."""

    aug: AugConfig = field(default_factory=AugConfig)
    """Shape of the modules."""
    tune: TuneConfig = field(default_factory=TuneConfig.paper)
    """How a module is trained."""
    selector: SelectorConfig = field(default_factory=SelectorConfig)
    """The module selector and its buffer."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    """Where the features of the frozen trunk are kept."""

    @classmethod
    def presets(cls) -> dict[str, SAMCLConfig]:
        return {
            "paper": cls(),
            "reference": cls(aug=RELEASED, tune=TuneConfig.reference(), selector=REFERENCE),
        }


class SAMCL:
    """Modules, selector and buffer for the domains so far."""

    Config = SAMCLConfig

    def __init__(self, base: Promptable, config: SAMCLConfig | None = None, *, seed: int = 0) -> None:
        self.base = base
        self.config = config or SAMCLConfig()
        self.seed = seed
        self.cache = FeatureCache(base, self.config.cache)
        self.modules: dict[str, AugModule] = {}
        self.buffer: dict[str, Tensor] = {}
        # Of how many images each domain's part of the buffer was drawn: what it takes to draw it again.
        self.counts: dict[str, int] = {}
        self.selector = self._fresh_selector()
        self._bank: AugBank | None = None

    def _fresh_selector(self) -> ModuleSelector:
        generator = torch_generator(self.seed, "selector")
        selector = ModuleSelector(self.base.width, (), self.config.selector.mask_unseen, generator)
        return selector.to(self.base.device)

    @property
    def held_out(self) -> float:
        return self.config.tune.val

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        if bare := [name for name in self.selector.names if name not in self.buffer]:
            raise UserError(
                f"the buffer holds no embeddings of {', '.join(bare)}: learning {stage.name!r} would unlearn "
                "which images are theirs; import the modules again with --stream and their training images"
            )
        draw, selector = torch_generator(self.seed, stage.name, "selector"), self.config.selector
        kept = draw_rows(len(stage.train), selector.size, draw)
        prepared = prepare(
            stage.train, self.base, self.config.cache, self.config.tune.fit, stage.name, embedded=kept
        )
        figures: dict[str, float] = {}
        if not stage.background:
            module = AugModule.beside(
                self.base, self.config.aug, torch_generator(self.seed, stage.name, "module")
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
            self._bank = None
        self.buffer[stage.name] = kept_as(prepared.embeddings, selector.precision)
        self.counts[stage.name] = len(stage.train)
        self.selector.grow([stage.name], draw)
        told = train_selector(self.selector, self.buffer, selector, draw)
        return figures | {f"selector_{key}": value for key, value in told.items()}

    def forget(self, domain: str, archive: Archive) -> Forgotten:
        """Drop the domain's module and its part of the buffer, and learn the selector anew from the rest, one
        domain after another with the draws of the first time. No image is needed."""
        if bare := [name for name in self.selector.names if name not in self.buffer and name != domain]:
            raise UserError(
                f"the buffer holds no embeddings of {', '.join(bare)}, from which the selector would be "
                "learned anew; import the modules again with --stream and their training images"
            )
        known = all(name in self.counts for name in self.buffer if name != domain)
        self.modules.pop(domain, None)
        self.buffer.pop(domain, None)
        self.counts.pop(domain, None)
        self._bank = None
        self.selector = self._fresh_selector()
        so_far: dict[str, Tensor] = {}
        for name, rows in self.buffer.items():
            draw = torch_generator(self.seed, name, "selector")
            draw_rows(self.counts.get(name, len(rows)), self.config.selector.size, draw)
            so_far[name] = rows
            self.selector.grow([name], draw)
            train_selector(self.selector, so_far, self.config.selector, draw)
        remaining = {name: sha256_tensors(dict(m.state_dict())) for name, m in self.modules.items()}
        if known:
            statement = (
                f"the module of {domain!r} and its embeddings are deleted, the other modules are unchanged "
                "to the bit, and the selector was learned anew from the other domains' embeddings: the run "
                f"is what it would be had it never learned {domain!r}"
            )
        else:
            statement = (
                f"the module of {domain!r} and its embeddings are deleted and the other modules are "
                "unchanged to the bit; the selector was learned anew from the other domains' embeddings, "
                "but it was imported or learned by an earlier version, so it is not the one that would be "
                "had the domain never been"
            )
        return Forgotten(known, statement, remaining)

    def predict(self, queries: Sequence[Query]) -> list[PromptPrediction]:
        choose = self._select if self.selector.names else with_adapter(None)
        return predict(queries, self.base, self.cache, choose)

    def predict_as(self, queries: Sequence[Query], stage_name: str) -> list[PromptPrediction]:
        """As if the selector had answered `stage_name`; the untouched base where there is no such module."""
        return predict(queries, self.base, self.cache, with_adapter(self.modules.get(stage_name)))

    def _select(self, features: Features) -> Choice:
        """The module that the selector finds most probable for each image (section "Module Selector",
        inference)."""
        rows = self.selector.probabilities(pool(features)).cpu()
        all_names = self.selector.names
        names = [all_names[i] for i in rows.argmax(1).tolist()]
        slots = {name: slot for slot, name in enumerate(self.modules)}
        slot_of_image = torch.tensor([slots.get(name, PLAIN) for name in names], device=self.base.device)
        return self._binder(slot_of_image), [
            Route(name, max(row), dict(zip(all_names, row, strict=True)))
            for name, row in zip(names, rows.tolist(), strict=True)
        ]

    def _binder(self, slot_of_image: Tensor) -> Callable[[Tensor], Bind]:
        if self._bank is None and self.modules:
            self._bank = AugBank.stack(list(self.modules.values()))
        bank = self._bank

        def for_rows(images: Tensor) -> Bind:
            slots = slot_of_image[images]

            def bind(heat: Tensor) -> Adaptation | None:
                return None if bank is None else bank.bind(heat, slots)

            return bind

        return for_rows

    def state_dict(self) -> State:
        return {
            "modules": {name: dict(module.state_dict()) for name, module in self.modules.items()},
            "buffer": dict(self.buffer),
            "counts": dict(self.counts),
            "selector": {"names": list(self.selector.names), "weights": dict(self.selector.state_dict())},
        }

    def load_state_dict(self, state: State) -> None:
        self.modules = {}
        for name, weights in state["modules"].items():
            self.modules[name] = AugModule.beside(self.base, self.config.aug)
            self.modules[name].load_state_dict(weights)
        self.buffer = dict(state["buffer"])
        self.counts = {name: int(count) for name, count in state.get("counts", {}).items()}
        self.selector = self._fresh_selector()
        self.selector.grow(state["selector"]["names"])
        self.selector.load_state_dict(state["selector"]["weights"])
        self.selector.eval()
        self._bank = None
