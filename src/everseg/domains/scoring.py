"""Score a learner on test images: every image once, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import DataLoader, Subset

from everseg.config import MACHINE, Checked, Count, Size
from everseg.distributed import gather, shard
from everseg.domains.moved import insensitivities
from everseg.progress import bar
from everseg.results import ImageScore
from everseg.results.metrics import binary_scores
from everseg.types import PromptPrediction, PromptSample, Query
from everseg.types.pixels import stretched

BATCH = 16
"""Images decoded and predicted together."""


@dataclass(frozen=True)
class ScoreConfig(Checked):
    """How the masks of a domain are compared with the truth."""

    size: Literal["original"] | Size = "original"
    """Pixels in which masks are compared: "original", or the side of the square that both are stretched to.
    [SAMCL's code: 1024]"""
    resize: Literal["bilinear", "nearest"] = "bilinear"
    """How logits are resized to that size. [SAMCL's code: nearest]"""
    workers: Count = field(default=0, metadata=MACHINE)
    """Processes that decode images; 0: decode in the main process."""
    insensitivity: bool = field(default=True, metadata=MACHINE)
    """After the last stage, also measure how little masks change when the prompts point elsewhere. Images of
    one object are predicted once more for it, from features that are cached. [ours]"""

    @classmethod
    def presets(cls) -> dict[str, ScoreConfig]:
        """`reference`: as the published code, at 1024 x 1024 after nearest upsampling."""
        return {"paper": cls(), "reference": cls(size=1024, resize="nearest")}


Predict = Callable[[Sequence[Query]], Sequence[PromptPrediction]]


def score(
    predict: Predict,
    samples: Sequence[PromptSample],
    column: str,
    config: ScoreConfig,
    *,
    last: bool = False,
) -> list[ImageScore]:
    """IoU, F1 and MAE of every test image, in the order of `samples`; an image's value is the mean over its
    objects.

    last: after the last stage, so that what is measured only then is measured, too.

    The images are shared out among the processes, and every process returns all scores.
    """
    mine = shard(range(len(samples)))
    loader: DataLoader[Any] = DataLoader(
        Subset(samples, mine),  # type: ignore[arg-type]  # any sequence serves
        batch_size=BATCH,
        collate_fn=list,
        num_workers=config.workers,
    )
    scores: list[tuple[int, ImageScore]] = []
    with bar(f"score {column}", len(loader)) as advance:
        for batch in loader:
            predictions = predict([s.query() for s in batch])
            places = mine[len(scores) : len(scores) + len(batch)]
            # Scores are kept by name, and a sample need have none.
            names = [s.name or f"{place:05d}" for s, place in zip(batch, places, strict=True)]
            found = [_score(s, p, column, config) for s, p in zip(batch, predictions, strict=True)]
            if last and config.insensitivity:
                moved = insensitivities(predict, batch, names, predictions)
                found = [replace(s, insensitivity=m) for s, m in zip(found, moved, strict=True)]
            named = (replace(s, image=name) for s, name in zip(found, names, strict=True))
            scores += zip(places, named, strict=True)
            advance("")
    everyone = [pair for part in gather(scores) for pair in part]
    return [s for _, s in sorted(everyone, key=lambda pair: pair[0])]


def _score(
    sample: PromptSample, prediction: PromptPrediction, column: str, config: ScoreConfig
) -> ImageScore:
    pred, truth = compared(prediction, sample.masks, config)
    values = {name: float(value.mean()) for name, value in binary_scores(pred, truth).items()}
    route: dict[str, Any] = {}
    if prediction.route is not None:
        route = {"route": prediction.route.name, "probability": prediction.route.probability}
        if prediction.route.p_values:
            route["p_value"] = max(prediction.route.p_values.values())
    return ImageScore(column, sample.name, values, **route)


def compared(prediction: PromptPrediction, truth: Tensor, config: ScoreConfig) -> tuple[Tensor, Tensor]:
    """Prediction and truth, (N, H, W) bool, in the pixels that the configuration compares them in."""
    if config.size == "original":
        return prediction.masks(mode=config.resize), truth
    size = (config.size, config.size)
    return prediction.masks(size, config.resize), stretched(truth, config.size)
