"""Fine-tuning on the classes of one step after another, and joint training on all classes at once.

Each of them is a bound. In a later step every old class is labelled background, so fine-tuning teaches that
the old classes are absent: this is what forgetting looks like. Joint training needs every old image.

    FineTuning     step 1 --> step 2 --> ... --> step T    each on the labels of its own classes

    JointClasses   step 1 --+
                   step 2 --+--> one training              the upper bound
                   step T --+

    L = CE(z, y)    or    L = sum_c BCE(sigmoid(z_c), [y = c]),    over the labelled pixels

With "bce", gamma times the positive part: DKD and EIR weigh positive pixels, and so may their bounds.

Source: the lower and upper bounds of MiB (Cermelli et al., CVPR 2020) with "ce", those of DKD and EIR with
"bce".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from everseg.classes.crops import Batch, Crops
from everseg.classes.learner import ClassLearner
from everseg.classes.losses import Loss, supervised
from everseg.classes.settings import ClassTuneConfig
from everseg.classes.tune import begin, train
from everseg.config import Amount
from everseg.models.semantic.base import SemanticBase
from everseg.models.semantic.segmenter import Rule
from everseg.types import Scratch, Stage


@dataclass(frozen=True)
class FineTuningConfig:
    """Settings of fine-tuning and of joint training."""

    loss: Loss = "ce"
    """Loss: "ce", one softmax over all classes, or "bce", a sigmoid per class."""
    gamma: Amount = 1.0
    """Weight of positive pixels where `loss` is "bce". [ours; DKD's first step: 2 on PASCAL VOC]"""
    tune: ClassTuneConfig = field(default_factory=ClassTuneConfig.softmax)
    """How a step is trained."""

    @classmethod
    def presets(cls) -> dict[str, FineTuningConfig]:
        """`sigmoid`: the bound of the methods with a sigmoid for each class, under their schedule."""
        return {"paper": cls(), "reference": cls(), "sigmoid": cls("bce", tune=ClassTuneConfig.sigmoid())}


class FineTuning(ClassLearner):
    """One segmenter; each step trains all of it on the labels of its own classes."""

    Config = FineTuningConfig

    def __init__(self, base: SemanticBase, config: FineTuningConfig | None = None, *, seed: int = 0) -> None:
        config = config or FineTuningConfig()
        self.rule: Rule = "softmax" if config.loss == "ce" else "sigmoid"
        self.detached = config.loss == "bce"
        weight = "" if config.gamma == 1 else f" (positives times {config.gamma:g})"
        self.first_loss = "cross-entropy" if config.loss == "ce" else f"BCE{weight}"
        super().__init__(base, config, seed=seed)

    def learn_step(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        model, config = self.model, self.config
        begin(model, stage, config.tune, "fresh", seed=self.seed)

        def loss(batch: Batch) -> Tensor:
            out = model(model.pixels(batch.images))
            return supervised(out.full(), batch.labels.to(model.device), config.loss, gamma=config.gamma)

        return train(
            model,
            Crops(stage.train, config.tune, self.seed, stage.name),
            loss,
            config.tune,
            scratch=scratch,
            validate=self.validate(stage),
        )


class JointClasses(FineTuning):
    """Trained once, on all images with all their labels: a bound, not a way to live."""

    all_at_once = True
