"""What SAMCL remembers of the domains' images. The selector and the p-values both come from it.

Of each stage it keeps a few hundred embeddings and their Gaussian, or the Gaussian alone, and of natural
images a Gaussian. A stage is a class of the selector, or a further part of an earlier stage's class.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from everseg.domains.plausible import FEWEST, Gaussian, Plausibility
from everseg.domains.selector import SelectorConfig, kept_as
from everseg.seed import torch_generator
from everseg.types import NATURAL, State


class Remembered:
    """The buffer. Everything is on the CPU.

    embeddings: {stage: (N, D)}, with `buffer=embeddings`. known: Gaussians of stages and of natural images,
        which are kept because fitting them takes longer than predicting an image.
    counts: of how many images each stage's embeddings were drawn: what it takes to draw them again.
    part_of: the class of a stage that is not a class by itself.
    """

    def __init__(self, config: SelectorConfig, seed: int, natural: State | None = None) -> None:
        self.config = config
        self.seed = seed
        self.embeddings: dict[str, Tensor] = {}
        self.known = Plausibility()
        self.counts: dict[str, int] = {}
        self.part_of: dict[str, str] = {}
        if natural is not None:
            self.known.add(NATURAL, Gaussian.from_state(natural))

    def __contains__(self, name: str) -> bool:
        return name in self.embeddings or name in self.known

    @property
    def natural(self) -> Gaussian | None:
        return self.known.natural

    def copy(self) -> Remembered:
        """Another one that remembers the same."""
        other = Remembered(self.config, self.seed)
        other.embeddings, other.counts = dict(self.embeddings), dict(self.counts)
        other.known, other.part_of = Plausibility(self.known.gaussians), dict(self.part_of)
        return other

    def add(self, name: str, embeddings: Tensor, images: int | None, part_of: str = "") -> None:
        """Remember a stage by these embeddings and their Gaussian, or by the latter alone. Of very few there
        is none to be fitted.

        images: those that the embeddings were drawn from; None where nobody may draw them again.
        """
        if images is not None:
            self.counts[name] = images
        if part_of:
            self.part_of[name] = part_of
        kept = kept_as(embeddings, self.config.precision)
        alone = self.config.buffer == "gaussian"
        if (alone or self.config.abstain) and len(kept) >= FEWEST:
            self.known.add(name, Gaussian.fit(kept, self.natural))
        if not alone or name not in self.known:
            self.embeddings[name] = kept

    def drop(self, name: str) -> None:
        """Delete what is kept of a stage."""
        self.known.drop(name)
        self.embeddings.pop(name, None)
        self.counts.pop(name, None)
        self.part_of.pop(name, None)

    def lessons(self, stages: Collection[str] | None = None) -> dict[str, Tensor]:
        """What the selector learns from: for each class its embeddings, kept or drawn, (N, D).

        stages: those of which it learns; all by default.
        """
        found: dict[str, list[Tensor]] = {}
        for name in dict.fromkeys([*self.known.names, *self.embeddings]):
            if stages is None or name in stages:
                found.setdefault(self.part_of.get(name, name), []).append(self._lesson(name))
        return {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in found.items()}

    def _lesson(self, name: str) -> Tensor:
        if name in self.embeddings:
            return self.embeddings[name]
        gaussian, size = self.known.gaussians[name], self.config.size
        count = size if name == NATURAL else min(size, gaussian.count)
        return gaussian.draw(count, torch_generator(self.seed, name, "embeddings"))

    def p_values(self, e_BD: Tensor) -> list[dict[str, float]]:
        """For each image the p-value of every class of which enough is known, the largest one of its parts;
        of none without `abstain`."""
        if not self.config.abstain:
            return [{}] * len(e_BD)
        found = self.known.by_name(e_BD)
        for own in found if self.part_of else ():
            for part, name in self.part_of.items():
                most = own.pop(part, 0.0)
                if name in own:
                    own[name] = max(own[name], most)
        return found

    def possible(self, names: Sequence[str], p_values: Sequence[Mapping[str, float]]) -> Tensor:
        """Whether each image could have come from each class (B, C). Of a class without a p-value it is not
        known that it could not."""
        return torch.tensor(
            [[own.get(name, 1.0) >= self.config.abstain for name in names] for own in p_values]
        )

    def state_dict(self) -> State:
        state: State = {"buffer": dict(self.embeddings), "counts": dict(self.counts)}
        if known := self.known.state_dict():  # Earlier versions had none.
            state["gaussians"] = known
        return state

    def load_state_dict(self, state: State, part_of: Mapping[str, str] | None = None) -> None:
        self.embeddings = dict(state["buffer"])
        self.counts = {name: int(count) for name, count in state.get("counts", {}).items()}
        self.known.load_state_dict(state.get("gaussians", {}))
        self.part_of = dict(part_of or {})
