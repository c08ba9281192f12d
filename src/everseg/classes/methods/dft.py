"""DFT*: after the first step everything is frozen except the classifiers of new classes.

The cheapest way not to forget: whatever scores an old class is never trained again, so old scores stay the
same to the bit. What remains is how well the first step's features suit later classes.

    image --> backbone, head (frozen) --> features --+--> classifiers of old classes (frozen)
                                                     +--> classifiers of this step's classes     <-- trained
                                                     +--> classifiers of classes to come         <-- trained

    first step    L = sum_{c in C_0 and to come} BCE(z_c, [y = c])
    later         L = sum_{c in C_t and to come} BCE(z_c, [y = c])

Classifiers of classes to come exist from the beginning and learn to give every pixel a low score; the classes
of a step take over the next of them.

Source: "DFT*" of arXiv 2508.04267, which found that it rivals methods of continual segmentation. That text
does not state the loss; here each class has a sigmoid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from everseg.classes.crops import Batch, Crops
from everseg.classes.learner import ClassLearner
from everseg.classes.losses import masked_mean, weighted_bce
from everseg.classes.settings import ClassTuneConfig
from everseg.classes.tune import begin, groups_of, train
from everseg.config import Checked, Size
from everseg.fit import Group
from everseg.models.semantic.base import SemanticBase
from everseg.seed import torch_generator
from everseg.types import VOID, Scratch, Stage, State


@dataclass(frozen=True)
class DFTConfig(Checked):
    """Settings of DFT*."""

    allocate: Size = 20
    """Classifiers that exist from the beginning; further classes start fresh."""
    tune: ClassTuneConfig = field(default_factory=ClassTuneConfig.sigmoid)
    """How a step is trained."""

    @classmethod
    def presets(cls) -> dict[str, DFTConfig]:
        """No code is known to us, so `reference` is the same."""
        return {"paper": cls(), "reference": cls()}


class DFT(ClassLearner):
    """Frozen features: a step costs a forward pass and one 1x1 convolution's gradient."""

    Config = DFTConfig

    def __init__(self, base: SemanticBase, config: DFTConfig | None = None, *, seed: int = 0) -> None:
        super().__init__(base, config, seed=seed)
        width = self.model.head.width
        draw = torch_generator(seed, "to come")
        weight = torch.randn(self.config.allocate, width, 1, 1, generator=draw) * math.sqrt(2 / width)
        drawn = (weight.to(base.device), torch.zeros(self.config.allocate, device=base.device))
        self.to_come = nn.ParameterList([nn.Parameter(p) for p in drawn])

    def learn_step(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        model, config = self.model, self.config
        later = begin(model, stage, config.tune, "fresh", seed=self.seed) is not None
        newest = self._take_over(len(stage.classes), later)
        if later:
            model.freeze_norm()
            model.requires_grad_(False)
            newest.requires_grad_(True)
        new = model.new()

        def loss(batch: Batch) -> Tensor:
            labels = batch.labels.to(model.device)
            out = model(model.pixels(batch.images))
            coming = F.conv2d(out.features.float(), *self.to_come)
            mine = torch.cat([out.logits[:, new.start :].float(), coming], 1)
            z = F.interpolate(mine, size=out.size, mode="bilinear", align_corners=False)
            return masked_mean(weighted_bce(z, labels, new), labels != VOID)

        groups = groups_of(model, config.tune)
        if len(self.to_come[0]):
            decay = (config.tune.later if later else config.tune.first).weight_decay
            groups.append(Group("to come", list(self.to_come), config.tune.head_lr, decay))
        crops = Crops(stage.train, config.tune, self.seed, stage.name)
        return train(
            model, crops, loss, config.tune, scratch=scratch, validate=self.validate(stage), groups=groups
        )

    @torch.no_grad()
    def _take_over(self, classes: int, later: bool) -> nn.Conv2d:
        """Let the newest classifier begin as the next of those to come, which are fewer then. Where it has a
        start of its own (`tune.nest`), those are left out."""
        layer = self.model.classifiers[-1]
        assert isinstance(layer, nn.Conv2d) and layer.bias is not None
        for own, kept in zip((layer.weight, layer.bias), self.to_come, strict=True):
            ready = kept[:classes]
            if later and self.config.tune.nest:
                break
            own[: len(ready)].copy_(ready)
        self.to_come = nn.ParameterList([nn.Parameter(p[classes:].clone()) for p in self.to_come])
        return layer

    def state_dict(self) -> State:
        weight, bias = (p.detach() for p in self.to_come)
        return super().state_dict() | {"to_come": {"weight": weight, "bias": bias}}

    def load_state_dict(self, state: State) -> None:
        super().load_state_dict(state)
        kept = state["to_come"]
        device = self.model.device
        self.to_come = nn.ParameterList(
            [nn.Parameter(kept[name].to(device).clone()) for name in ("weight", "bias")]
        )
