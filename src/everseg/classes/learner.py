"""Base class of methods that learn classes: a segmenter that grows, and its predictions.

Where the classes of a step look like none before, a method can leave its segmenter alone and begin another:
an expert for these classes and for those like them that follow. What the first one learned stays as it is.
The posterior says which expert a place of an image is for, by the features of a backbone that is never
trained. It may be wrong where classes are alike, and those share an expert.

Source: the idea of Aljundi et al., "Expert Gate: Lifelong Learning with a Network of Experts" (CVPR 2017), in
which an autoencoder of each task's images chooses the expert.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from everseg.classes.posterior import Posterior
from everseg.classes.scoring import ClassScoreConfig, score_classes
from everseg.classes.settings import ClassTuneConfig
from everseg.classes.tune import Validate
from everseg.distributed import world
from everseg.errors import UserError
from everseg.models.batching import images_at_once
from everseg.models.semantic.base import SemanticBase
from everseg.models.semantic.efficientnet import load_efficientnet_lite
from everseg.models.semantic.segmenter import Output, Rule, Segmenter, decide
from everseg.progress import remark
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
    parts: tuple[str, ...] = ("experts",)
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
        self.divides = bool(getattr(self.config, "experts", False))  # Not all methods have the setting.
        if self.divides and not tune.posterior:
            raise UserError(
                "experts=true needs a posterior to tell the experts' classes apart; set tune.posterior=1 as "
                "well, or experts=false"
            )
        self.experts, self.newest = nn.ModuleList([self._untaught()]), 0
        self.posterior: Posterior | None = None
        if tune.posterior:
            own = tune.posterior_backbone == "base"
            backbone = base.backbone if own else load_efficientnet_lite()
            self.posterior = Posterior(backbone, base.backbone, tune.posterior, tune.crop)
            self.posterior.to(self.model.device)
            self.parts = (*self.parts, "posterior")

    def _untaught(self) -> Segmenter:
        """A segmenter without classes."""
        how: dict[str, Any] = {"detached": self.detached, "rule": self.rule, "fine": self.config.tune.fine}
        return self.base.segmenter(**how, seed=self.seed).eval()

    def _segmenters(self) -> list[Segmenter]:
        return list(cast("Iterable[Segmenter]", self.experts))

    @property
    def model(self) -> Segmenter:
        """The expert that learns, or learned last."""
        return self._segmenters()[self.newest]

    def learn(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        steps = self.model.counts
        self._collect(stage, self.model.channels)
        if self.posterior is not None and self.divides and steps:
            self._choose(stage, steps, self.posterior)
        return self.learn_step(stage, scratch)

    def learn_step(self, stage: Stage, scratch: Scratch) -> Mapping[str, float]:
        """Train the segmenter on a stage and remember what the method keeps of it; returns figures."""
        raise NotImplementedError

    def _choose(self, stage: Stage, steps: Sequence[int], posterior: Posterior) -> None:
        """Make the expert whose classes are most like a stage's the model, or a new one if all are far from
        them; the posterior has collected the stage's already. It gets channels for the classes of the steps
        that others learned.

        steps: numbers of classes of all steps before.
        """
        new = len(stage.classes)
        near = posterior.known.nearest(new)
        if near is None:
            self.experts.append(self._untaught())
        if world().main and (near is None or len(self.experts) > 1):
            like = "unlike all before; it gets a network of its own"
            if near is not None:
                like = f"most like those of class {near + 1}; it trains the network that learned that"
            remark(f"{stage.name}: its images look {like}")
        self.newest = len(self.experts) - 1 if near is None else posterior.expert[near]
        posterior.expert[-new:] = [self.newest] * new
        model = self.model
        if near is None:
            model.began = len(steps)
        for classes in steps[len(model.counts) :]:
            model.grow(classes, "absent", seed=self.seed)

    def own_channels(self) -> set[int]:
        """The channels of the model's classes, without those of other experts."""
        if self.posterior is None:
            return set(range(1, self.model.channels))
        return self.posterior.owned(self.newest)

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
        self.experts.eval()
        with torch.inference_mode():
            pixels = self.model.pixels(torch.stack([query.image for query in queries]))
            return self.score_maps(self.output(pixels))

    def output(self, pixels: Tensor) -> Output:
        """The segmenter's output for normalised pixels (B, 3, H, W), corrected by the posterior if there is
        one."""
        if self.posterior is None:
            return self.model(pixels)
        one = len(self.experts) == 1
        return self.posterior(self.model(pixels) if one else self._joined(pixels, self.posterior), pixels)

    def _joined(self, pixels: Tensor, posterior: Posterior) -> Output:
        """The logits of each class by its expert; all else is the first expert's."""
        outs = [expert(pixels) for expert in self._segmenters()]
        found = [outs[owner].logits[:, k, None] for k, owner in enumerate(posterior.expert, 1)]
        return outs[0]._replace(logits=torch.cat([outs[0].logits[:, :1], *found], 1))

    def score_maps(self, out: Output) -> Tensor:
        """What a pixel's channel is chosen by, (B, K, H, W)."""
        return out.full()

    def choose(self, scores: Tensor) -> Tensor:
        """(B, K, H, W) -> (B, H, W)."""
        if scores.shape[1] == 1:
            return torch.zeros_like(scores[:, 0])
        return decide(scores, self.rule)

    def state_dict(self) -> State:
        first, *further = (dict(expert.state_dict()) for expert in self._segmenters())
        kept: State = {} if self.posterior is None else {"posterior": self.posterior.state()}
        if further:
            kept["experts"] = {str(number): state for number, state in enumerate(further, 1)}
        return {"segmenter": first, **kept}

    def load_state_dict(self, state: State) -> None:
        further = state.get("experts", {})
        states = [state["segmenter"], *(further[str(number)] for number in range(1, len(further) + 1))]
        self.experts = nn.ModuleList([self.experts[0], *(self._untaught() for _ in further)])
        for expert, weights in zip(self._segmenters(), states, strict=True):
            expert.load(weights)
        self.newest = max(range(len(states)), key=lambda number: self._segmenters()[number].channels)
        if self.posterior is not None:
            self.posterior.load(state["posterior"])
            over = list(accumulate(self.model.counts))
            for number, expert in enumerate(self._segmenters()[1:], 1):
                expert.began = bisect_right(over, min(self.posterior.owned(number)) - 1)


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
