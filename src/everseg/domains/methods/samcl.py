"""SAMCL: one small module per domain on a frozen SAM, and a selector that picks the module from the image.

Fine-tuning one model on domain after domain overwrites what it learned first. SAMCL trains a fresh module for
each domain and never changes it again, so the only thing that can go wrong later is the choice of the module:

    image --> trunk (frozen) --> tap --+--> mean over the image --> p-values --> selector --+
                                       |                                                    |
                                       +--> tail (frozen) + module 1 to T, or none <--------+
                                                          |
    clicks, box ------------------------------------> decoder (frozen) --> mask

Learning a domain:
    a fresh AugModule is trained on the frozen base                                 (adapters.aug, tune)
    300 of its images' mean tap features, the embeddings, join the buffer           (domains.remembered)
    the selector continues training on the whole buffer                             (domains.selector)
Predicting on an image of unknown domain:
    p-values exclude every domain that the image does not fit                       (domains.plausible)
    the selector chooses among the others; if none is left, no module is used
Learning later images of a known domain:
    held-out images choose between its module, a tuned copy and a new module        (domains.later)

docs/samcl.md lists how the presets `paper` and `reference` differ from each other and from the published
code.

Source: Z. Wang et al., "SAMCL: Empowering SAM to Continually Learn from Dynamic Domains with Extreme Storage
Efficiency", AAAI 2026, arXiv 2412.05012.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from everseg.domains.adapters.aug import RELEASED, AugConfig, AugModule
from everseg.domains.cache import CacheConfig, FeatureCache
from everseg.domains.later import go_on
from everseg.domains.prepare import Prepared, pool, prepare
from everseg.domains.remembered import Remembered
from everseg.domains.removal import forget_stage
from everseg.domains.selector import (
    REFERENCE,
    ModuleSelector,
    SelectorConfig,
    draw_rows,
    train_selector,
)
from everseg.domains.tune import Choice, TuneConfig, fit_adapter, predict, with_adapter
from everseg.errors import UserError
from everseg.models.promptable.protocol import Features, Promptable
from everseg.seed import torch_generator
from everseg.types import NATURAL, OUTSIDE, PromptPrediction, Query, Route, Scratch, Stage, State
from everseg.types.abilities import Archive, Forgotten, Later


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
    """Modules, selector and what is remembered of the domains so far."""

    Config = SAMCLConfig

    def __init__(self, base: Promptable, config: SAMCLConfig | None = None, *, seed: int = 0) -> None:
        self.base = base
        self.config = config or SAMCLConfig()
        self.seed = seed
        self.cache = FeatureCache(base, self.config.cache)
        self.modules: dict[str, AugModule] = {}
        self.later: dict[str, str] = {}  # of each stage of later images its domain
        self.chosen: Later | None = None
        natural = base.natural if self.config.selector.natural else None
        self.remembered = Remembered(self.config.selector, seed, natural)
        self.selector = self.fresh_selector()

    def fresh_selector(self) -> ModuleSelector:
        generator = torch_generator(self.seed, "selector")
        known = () if self.remembered.natural is None else (NATURAL,)
        selector = ModuleSelector(self.base.width, known, self.config.selector.mask_unseen, generator)
        return selector.to(self.base.device)

    def natural_images(self) -> State | None:
        known = self.remembered.natural
        return None if known is None else known.to_state()

    @property
    def held_out(self) -> float:
        return self.config.tune.val

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        if bare := [name for name in self.selector.names if name not in self.remembered]:
            raise UserError(
                f"the buffer holds no embeddings of {', '.join(bare)}, so the selector would forget them "
                f"while it learns {stage.name!r}; import the modules again with --stream and their "
                "training images"
            )
        self.chosen = None
        if stage.later_of in self.modules:
            found, figures, self.chosen = go_on(self, stage, scratch)
            self.modules, self.later = found.modules, found.later
            self.remembered, self.selector = found.remembered, found.selector
            return figures
        prepared = self.prepare(stage)
        figures = {} if stage.background else self.train(stage, prepared, scratch)
        return figures | self.take_in(stage, prepared)

    def prepare(self, stage: Stage) -> Prepared:
        """The stage's images, and embeddings of some of them."""
        kept = draw_rows(len(stage.train), self.config.selector.size, self.draw(stage.name))
        return prepare(
            stage.train, self.base, self.config.cache, self.config.tune.fit, stage.name, embedded=kept
        )

    def draw(self, name: str) -> torch.Generator:
        return torch_generator(self.seed, name, "selector")

    def train(self, stage: Stage, prepared: Prepared, scratch: Scratch, start: str = "") -> dict[str, float]:
        """Train the stage's module, from scratch or from a copy of another one. Returns figures."""
        module = AugModule.beside(
            self.base, self.config.aug, torch_generator(self.seed, stage.name, "module")
        )
        if start:
            module.load_state_dict(self.modules[start].state_dict())
        figures = fit_adapter(
            module,
            self.base,
            prepared,
            self.config.tune,
            seed=self.seed,
            name=f"{stage.name} from {start}" if start else stage.name,
            scratch=scratch,
            val=stage.val,
        )
        self.modules[stage.name] = module
        return figures

    def take_in(self, stage: Stage, prepared: Prepared) -> dict[str, float]:
        """Remember the stage's embeddings, as a class of its own or, where its domain's module serves it, as
        part of the domain's, and let the selector learn. Returns figures."""
        draw, images = self.draw(stage.name), len(stage.train)
        draw_rows(images, self.config.selector.size, draw)
        if stage.later_of in self.modules:
            self.later[stage.name] = stage.later_of
        part_of = "" if stage.name in self.modules else self.later.get(stage.name, "")
        self.remembered.add(stage.name, prepared.embeddings, images, part_of)
        self.selector.grow([part_of or stage.name], draw)
        told = train_selector(self.selector, self.remembered.lessons(), self.config.selector, draw)
        return {f"selector_{key}": value for key, value in told.items()}

    def copy(self) -> SAMCL:
        """Another learner that knows the same; what it learns further, this one does not."""
        other = SAMCL(self.base, self.config, seed=self.seed)
        other.modules, other.later = dict(self.modules), dict(self.later)
        other.remembered, other.selector = self.remembered.copy(), copy.deepcopy(self.selector)
        return other

    def chosen_later(self) -> Later | None:
        return self.chosen

    def forget(self, domain: str, archive: Archive) -> Forgotten:
        """Drop the domain's module and what is kept of its embeddings; see `domains.removal`."""
        return forget_stage(self, domain)

    def predict(self, queries: Sequence[Query]) -> list[PromptPrediction]:
        return predict(queries, self.base, self.cache, self.choose)

    def predict_as(self, queries: Sequence[Query], stage_name: str) -> list[PromptPrediction]:
        """As if the selector had answered `stage_name`; the untouched base where there is no such module."""
        served = self.later.get(stage_name, stage_name) if stage_name not in self.modules else stage_name
        return predict(queries, self.base, self.cache, with_adapter(self.modules.get(served)))

    def route(self, features: Features) -> list[Route]:
        """For each image the module that the selector finds most probable (section "Module Selector",
        inference), of those whose domain could have brought it.

        A class without a module is never excluded: the untouched base is always a sound answer.
        """
        e_BD, names = pool(features), self.selector.names
        probability_BC = self.selector.probabilities(e_BD).cpu()
        p_values = self.remembered.p_values(e_BD)
        possible_BC = self.remembered.possible(names, p_values) & self.selector.seen.cpu()
        bare_C = torch.tensor([name not in self.modules for name in names])
        best_B = probability_BC.masked_fill(~(possible_BC | bare_C), -1).argmax(1)
        return [
            Route(names[best], row[best], dict(zip(names, row, strict=True)), own)
            if possible
            else Route(OUTSIDE, 1 - max(own.values()), dict(zip(names, row, strict=True)), own)
            for best, row, own, possible in zip(
                best_B.tolist(), probability_BC.tolist(), p_values, possible_BC.any(1), strict=True
            )
        ]

    def choose(self, features: Features) -> Choice:
        """The module of each image, and its route; the untouched base before anything is learned."""
        if not bool(self.selector.seen.any()):
            return with_adapter(None)(features)
        routes = self.route(features)
        return [self.modules.get(route.name) for route in routes], routes

    def state_dict(self) -> State:
        return {
            "modules": {name: dict(module.state_dict()) for name, module in self.modules.items()},
            **self.remembered.state_dict(),
            "selector": {"names": list(self.selector.names), "weights": dict(self.selector.state_dict())},
            **({"later": dict(self.later)} if self.later else {}),
        }

    def load_state_dict(self, state: State) -> None:
        self.modules = {}
        for name, weights in state["modules"].items():
            self.modules[name] = AugModule.beside(self.base, self.config.aug)
            self.modules[name].load_state_dict(weights)
        self.later, self.chosen = dict(state.get("later", {})), None
        parts = {stage: of for stage, of in self.later.items() if stage not in self.modules}
        self.remembered.load_state_dict(state, parts)
        self.selector = self.fresh_selector()
        self.selector.grow(state["selector"]["names"])
        self.selector.load_state_dict(state["selector"]["weights"])
        self.selector.eval()
