"""Base class of methods that learn classes: a segmenter that grows, and its predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everseg.classes.posterior import Posterior
from everseg.classes.scoring import ClassScoreConfig, score_classes
from everseg.classes.settings import ClassTuneConfig
from everseg.classes.tune import Validate
from everseg.errors import UserError
from everseg.models.batching import images_at_once
from everseg.models.semantic.base import SemanticBase
from everseg.models.semantic.efficientnet import load_efficientnet_lite
from everseg.models.semantic.segmenter import Output, Rule, decide
from everseg.types import ImageQuery, Scratch, Stage, State

PREDICT_BATCH = 8
"""Images of one size in one pass where no gradient is taken."""


class ClassLearner:
    """A segmenter that grows with the classes. A method adds `learn_step` and further state.

    rule: how the class of a pixel is decided.
    detached: whether channel 0 reads detached features; see `Segmenter`.
    convolutional: whether the backbone must consist of convolutions with batch normalisation.
    first_loss: description of the loss of the first step; learners with equal descriptions train the same
        segmenter in it. "" if no other method trains the same.
    """

    learns = "classes"
    Config: Any
    rule: Rule = "sigmoid"
    detached = True
    convolutional = False
    first_loss = ""
    parts: tuple[str, ...] = ("model",)
    """Attributes that are the modules which take part in a prediction."""

    def __init__(self, base: SemanticBase, config: Any = None, *, seed: int = 0) -> None:
        self.base, self.seed = base, seed
        self.config = config or self.Config.presets()["paper"]
        if self.convolutional and not base.backbone.convolutional:
            raise UserError(
                f"{type(self).__name__} needs a base of convolutions with batch normalisation, and "
                f"{base.name!r} is not one; choose a ResNet or MobileNetV2 with --base, or another method"
            )
        tune: ClassTuneConfig = self.config.tune
        how: dict[str, Any] = {"detached": self.detached, "rule": self.rule, "fine": tune.fine}
        self.model = base.segmenter(**how, seed=seed).eval()
        self.posterior: Posterior | None = None
        if tune.posterior:
            own = tune.posterior_backbone == "base"
            backbone = base.backbone if own else load_efficientnet_lite()
            self.posterior = Posterior(backbone, base.backbone, tune.posterior, tune.crop)
            self.posterior.to(self.model.device)
            self.parts = (*self.parts, "posterior")

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        self._collect(stage, self.model.channels)
        self.model.backbone_lr = self._backbone_lr(stage)
        return self.learn_step(stage, scratch)

    def learn_step(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        """Train the segmenter on a stage and remember what the method keeps of it; returns figures."""
        raise NotImplementedError

    def _backbone_lr(self, stage: Stage) -> float:
        """How fast the backbone learns in a step, of which the posterior knows the classes already."""
        if self.posterior is not None and self.posterior.known.foreign(len(stage.classes)):
            return float(self.config.tune.foreign_backbone)
        return 1.0

    def _collect(self, stage: Stage, first: int) -> None:
        """What the posterior needs of a stage's classes, of which the channels begin at `first`."""
        if self.posterior is not None:
            channels, how = range(first, first + len(stage.classes)), self.config.tune.first
            self.posterior.collect(
                stage.train, channels, self.model.pixels, name=stage.name, workers=how.workers
            )

    def take_first(self, stage: Stage, other: Any) -> Mapping[str, float]:
        """`learn` of the first stage, with another learner's segmenter instead of training.

        Raises:
            UserError: the two do not train the same in their first step.
        """
        theirs = getattr(other, "first_loss", "")
        if not self.first_loss or self.first_loss != theirs:
            raise UserError(
                f"{_trains(self)}, but {_trains(other)}; reuse the first step of a method with the same "
                "loss, or leave --first-stage out"
            )
        if self.config.tune.fine != other.config.tune.fine:
            theirs = str(other.config.tune.fine).lower()
            raise UserError(
                f"the run whose first step is to be reused was learned with tune.fine={theirs}, and this one "
                f"has another head; add --set tune.fine={theirs}, or leave --first-stage out"
            )
        self.model.load(other.model.state_dict())
        self._collect(stage, self.model.new().start)
        return self.remember(stage)

    def remember(self, stage: Stage) -> Mapping[str, float]:
        """What a method keeps of a stage that its segmenter has learned; returns figures."""
        return {}

    @property
    def held_out(self) -> float:
        return float(self.config.tune.val)

    def validate(self, stage: Stage) -> Validate:
        """How the best epoch of a stage is chosen: by the mean IoU of the classes that occur in the labels of
        its `val`, without the background, on the centre square of the side of a training crop."""

        def score(workers: int) -> float:
            names = [str(channel) for channel in range(self.model.channels)]
            how = ClassScoreConfig(size=self.config.tune.crop, absent="exclude", workers=workers)
            found = score_classes(self.predict, stage.val, names, how).iou("exclude")[1:]
            known = found[~found.isnan()]
            return float(known.mean()) if len(known) else 0.0

        return Validate(score, len(stage.val))

    @property
    def decides(self) -> tuple[str, str]:
        """What its scores are, and how a pixel's channel is chosen by them, for people."""
        if self.rule == "softmax":
            return "logits of a softmax over all channels", "the highest channel"
        said = "the highest of channels 1 and up if its logit is above 0, else channel 0"
        return "logits, a sigmoid for each channel", said

    def write_model(self, form: str, folder: Path, classes: Sequence[str], side: int) -> dict[str, Any]:
        """See `everseg.types.abilities.WritesModel`."""
        from everseg.classes.export import write

        return write(self, form, folder, classes, side)

    def predict(self, queries: Sequence[ImageQuery]) -> list[Tensor]:
        """The channel of each pixel, (H, W) uint8 on the CPU, for each image at its own size: 0 is the
        background."""
        found: dict[int, Tensor] = {}
        sizes: dict[tuple[int, ...], list[int]] = {}
        for i, query in enumerate(queries):
            sizes.setdefault(tuple(query.image.shape[-2:]), []).append(i)
        for size, alike in sizes.items():
            together = images_at_once(PREDICT_BATCH, size[0] * size[1], self.model.device)
            for start in range(0, len(alike), together):
                part = alike[start : start + together]
                scores = self._scored([queries[i] for i in part])
                with torch.inference_mode():
                    said = self.choose(scores).to("cpu", torch.uint8)
                found.update(zip(part, said.clone().unbind(), strict=True))
        return [found[i] for i in range(len(queries))]

    def scores(self, query: ImageQuery) -> Tensor:
        """What a pixel's channel is decided by, (K, H, W) float32 on the CPU; see `tiles.ScoresPixels`."""
        return self._scored([query])[0].float().cpu()

    def decide(self, scores: Tensor) -> Tensor:
        """The channel of each pixel, (H, W) uint8, by scores (K, H, W)."""
        return self.choose(scores[None])[0].to(torch.uint8)

    def _scored(self, queries: Sequence[ImageQuery]) -> Tensor:
        """Scores of images of one size, (B, K, H, W)."""
        self.model.eval()
        with torch.inference_mode():
            pixels = self.model.pixels(torch.stack([query.image for query in queries]))
            return self.score_maps(self.output(pixels))

    def output(self, pixels: Tensor) -> Output:
        """The segmenter's output for normalised pixels (B, 3, H, W), corrected by the posterior if there is
        one."""
        out = self.model(pixels)
        return out if self.posterior is None else self.posterior(out, pixels)

    def score_maps(self, out: Output) -> Tensor:
        """What a pixel's channel is chosen by, (B, K, H, W)."""
        return out.full()

    def choose(self, scores: Tensor) -> Tensor:
        """(B, K, H, W) -> (B, H, W)."""
        if scores.shape[1] == 1:
            return torch.zeros_like(scores[:, 0])
        return decide(scores, self.rule)

    def state_dict(self) -> State:
        kept = {} if self.posterior is None else {"posterior": self.posterior.state()}
        return {"segmenter": dict(self.model.state_dict()), **kept}

    def load_state_dict(self, state: State) -> None:
        self.model.load(state["segmenter"])
        if self.posterior is not None:
            self.posterior.load(state["posterior"])


def auxiliary_first_loss(gamma: float, auxiliary: float, more: str = "") -> str:
    """What EIR and DKD train in their first step, for `ClassLearner.first_loss`."""
    return f"BCE (positives times {gamma:g}){more} and {auxiliary:g} times AC"


def softmax_first_loss(*, void_as_background: bool = False, void_in_mean: bool = False) -> str:
    """What methods with a softmax train in their first step, for `ClassLearner.first_loss`."""
    void = " with void as background" if void_as_background else ""
    return f"cross-entropy{void}{' over all pixels' if void_in_mean else ''}"


def _trains(learner: Any) -> str:
    loss = getattr(learner, "first_loss", "") or "what no other method does"
    return f"{type(learner).__name__} trains {loss} in its first step"
