"""Defaults from the data: crop, scoring size, schedule and weights that suit a stream's images.

The published numbers are those of PASCAL VOC on GPUs: crops of 512 pixels, 24 at a time, sixty times over ten
thousand images. On sixty images of 250 pixels they magnify every image twice and make 150 gradient steps of
hours each on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from everseg.classes.settings import FEWEST
from everseg.config import plain
from everseg.data.samples import take_evenly
from everseg.results import setting_names
from everseg.types import VOID, Stage
from everseg.types.proposal import Proposal

LOOKED_AT = 24
"""Images of each stage that are looked at."""
STRIDE = 32
"""Crops are multiples of this."""
SHOWN = 0.75
"""Side of a crop as a share of an image's short side, where memory and time allow that."""
SMALLEST, LARGEST, LARGEST_CPU = 96, 512, 256
"""Sides of a crop. [DKD, EIR: 512]"""
BATCH, BATCH_CPU = 24, 8
"""Examples per gradient step. [DKD, EIR: 24]"""
FEWEST_FIRST, MOST_CPU = 300, 900
"""Gradient steps of the first stage, at least (of later ones: `FEWEST`), and of each on a CPU, at most."""
FEW = 100
"""Images of a later step up to which EIR without a posterior replays its instances, too; measured with 60."""
POSTERIOR, OBJECTS = 1.0, 2.0
"""Weight of the posterior of classes after short schedules, and how many classes an image shows at most where
it is proposed: it is measured on images of objects, not on scenes of many classes."""
THIN = 16.0
"""Objects narrower than this, in pixels of a crop, get a head that also reads the backbone's first stage.
They are narrower than a place of DeepLabV3's head."""
PER_IMAGE = 38.0
"""Gradient steps on a CPU are so many times the root of the number of images."""
LIGHTEST, HEAVIEST = 1.0, 6.0
"""The weights of positive pixels that are proposed. [DKD: 2 on PASCAL VOC, 35 on ADE20K]"""

PROPOSED = (
    "tune.crop",
    "tune.area",
    "tune.first.batch",
    "tune.first.steps",
    "tune.first.lr",
    "tune.later.batch",
    "tune.later.steps",
    "tune.later.lr",
    "tune.later.clip",
    "tune.steps_for",
    "tune.fine",
    "tune.posterior",
    "tune.posterior_backbone",
    "experts",
    "tune.replay",
    "gamma",
    "gamma_later",
    "sure",
    "replay_new",
    "score.size",
)
"""Names of what `propose` may give values for; a method has some of them."""


@dataclass(frozen=True)
class Facts:
    """Facts about the images of a stream, from a sample of them.

    images: number of images of each stage.
    short, side: median of their short sides, and of the sides of squares of their area, in pixels.
    share, later_share: share of the pixels of a stage's images that one class covers; the median over the
        classes of the first stage, and over those of the others.
    width: of the objects of the class that has the thinnest ones, in pixels (`width_of`).
    shown: how many classes of its stage an image shows; the mean over images.
    """

    images: tuple[int, ...]
    short: int
    side: float
    share: float
    later_share: float
    width: float
    shown: float


def facts_of(stages: Sequence[Stage]) -> Facts:
    """Look at some images of each stage."""
    shorts: list[int] = []
    sides: list[float] = []
    shares: list[list[float]] = []
    widths: list[float] = []
    shown: list[int] = []
    for stage in stages:
        labels = [stage.train[i].labels for i in take_evenly(range(len(stage.train)), LOOKED_AT)]
        pixels = sum((_counts(map_HW) for map_HW in labels), torch.zeros(256))
        edges = sum((_edges(map_HW) for map_HW in labels), torch.zeros(256))
        shorts += [min(map_HW.shape) for map_HW in labels]
        sides += [math.sqrt(map_HW.numel()) for map_HW in labels]
        shares.append(_shares(pixels))
        widths += [width_of(float(pixels[k]), float(edges[k])) for k in range(1, VOID) if pixels[k]]
        shown += [int(_counts(map_HW)[1:VOID].count_nonzero()) for map_HW in labels]
    first, *later = shares
    others = [share for stage in later for share in stage] or first
    return Facts(
        tuple(len(stage.train) for stage in stages),
        int(median(shorts)) if shorts else LARGEST,
        median(sides) if sides else float(LARGEST),
        median(first) if first else 0.5,
        median(others) if others else 0.5,
        min(widths, default=math.inf),
        fmean(shown) if shown else 0.0,
    )


def width_of(pixels: float, edges: float) -> float:
    """The width of strips that cover so many pixels and have so many sides of pixels at their edge: twice the
    area by the length of the outline, which is pi/4 of the sides on average over directions."""
    return 2 * pixels / (math.pi / 4 * edges) if edges else math.inf


def _counts(labels_HW: Tensor) -> Tensor:
    """Pixels of each number."""
    return torch.bincount(labels_HW.flatten().long(), minlength=256)


def _edges(labels_HW: Tensor) -> Tensor:
    """Of each number, the sides of pixels beyond which there is another one."""
    found = torch.zeros(256)
    for one, other in ((labels_HW[1:], labels_HW[:-1]), (labels_HW[:, 1:], labels_HW[:, :-1])):
        differ = one != other
        found += _counts(one[differ]) + _counts(other[differ])
    return found


def _shares(pixels: Tensor) -> list[float]:
    """Of each class that occurs, the share of the labelled pixels."""
    total = float(pixels.sum() - pixels[VOID])
    return [float(n) / total for n in pixels[1:VOID].tolist() if n and total]


def propose(
    stages: Sequence[Stage],
    settings: Any,
    given: Collection[str],
    scored: Collection[str],
    *,
    gpu: bool,
    fine: bool = False,
    posterior_backbone: str = "base",
) -> Proposal:
    """Values for the settings that are not given.

    stages: those that are learned.
    settings: the preset's, with what was given.
    given, scored: dotted names of settings of the method and of scoring that were given.
    gpu: there is an accelerator.
    fine: the base takes `tune.fine`.
    posterior_backbone: what is proposed for `tune.posterior_backbone`.
    """
    facts, names = facts_of(stages), setting_names(plain(settings))
    wanted: dict[str, Any] = {}
    crop = settings.tune.crop if "tune.crop" in given else _crop(facts.short, gpu)
    wanted["tune.crop"] = crop
    wanted["tune.area"] = _area(crop, facts.short)
    batch = BATCH if gpu else BATCH_CPU
    first, *others = facts.images
    later = max(others, default=first)
    for step, images in (("first", first), ("later", later)):
        fit = getattr(settings.tune, step)
        size = fit.batch if f"tune.{step}.batch" in given else batch
        wanted[f"tune.{step}.batch"] = size
        if f"tune.{step}.epochs" not in given:
            fewest = FEWEST_FIRST if step == "first" else FEWEST
            wanted[f"tune.{step}.steps"] = max(fewest, _steps(images, size, fit.epochs, gpu))
    if others and "tune.later.steps" not in given and wanted.get("tune.later.steps", 0) > FEWEST:
        whole = math.inf if gpu else (MOST_CPU / PER_IMAGE) ** 2
        wanted["tune.steps_for"] = round(min(later, whole) * (1 - settings.tune.val))
    wanted |= {"gamma": max(2.0, _weight(facts.share)), "gamma_later": _weight(facts.later_share)}
    area = settings.tune.area if "tune.area" in given else wanted["tune.area"]
    wanted["tune.fine"] = fine and facts.width * _scale(crop, facts.side, area) < THIN
    wanted |= {"tune.later.clip": 5.0, "tune.replay": 0.25, "sure": 0.5}
    posterior = POSTERIOR if not gpu and facts.shown <= OBJECTS else 0.0
    wanted["tune.posterior"] = settings.tune.posterior if "tune.posterior" in given else posterior
    wanted["replay_new"] = later <= FEW and not wanted["tune.posterior"]
    if not gpu:
        wanted |= RATES.get(settings.tune.first.lr, {})
    wanted["experts"] = bool(wanted["tune.posterior"])
    if wanted["tune.posterior"]:
        wanted["tune.posterior_backbone"] = posterior_backbone
    chosen = {name: value for name, value in wanted.items() if name in names and name not in given}
    told = {name: value for name, value in chosen.items() if _value(settings, name) != value}
    score: dict[str, Any] = {}
    if "size" not in scored and facts.short <= LARGEST:
        score["size"] = "original"
    return Proposal(chosen, score, _why(facts, told, score, gpu))


def may_propose(settings: Any) -> list[str]:
    """Names of what `propose` may give values for with these settings."""
    rates = {name for names in RATES.values() for name in names} - set(RATES.get(settings.tune.first.lr, ()))
    own = {"score.size", *setting_names(plain(settings))} - rates
    return [name for name in PROPOSED if name in own]


RATES: dict[float, dict[str, Any]] = {
    1e-3: {"tune.first.lr": 3e-3, "tune.later.lr": 2e-3},
}
"""Learning rates of short schedules, by the published one of the first step. [DKD, EIR: everything learns at
a tenth of the first step's rate]"""


def _crop(short: int, gpu: bool) -> int:
    largest = LARGEST if gpu else LARGEST_CPU
    return max(SMALLEST, min(largest, round(SHOWN * short / STRIDE) * STRIDE))


def _area(crop: int, short: int) -> tuple[float, float]:
    """Shares of an image's area about the one at which a crop has the scale that images are scored at."""
    own = (crop / min(short, LARGEST)) ** 2
    return (max(0.001, round(min(0.5, own / 2), 3)), round(max(0.5, min(1.0, 2 * own)), 3))


def _scale(crop: int, side: float, area: tuple[float, float]) -> float:
    """By how much a crop magnifies an image, where the share of the image that it shows is in the middle."""
    return crop / (side * math.sqrt(math.sqrt(area[0] * area[1])))


def _steps(images: int, batch: int, epochs: int, gpu: bool) -> int:
    if gpu:
        return epochs * max(1, images // batch)
    return int(min(MOST_CPU, PER_IMAGE * math.sqrt(images)))


def _weight(share: float) -> float:
    """Weight of positive pixels of a class that covers this share of them."""
    return round(min(HEAVIEST, max(LIGHTEST, 0.5 * math.sqrt((1 - share) / max(share, 1e-4)))), 1)


def _value(settings: Any, name: str) -> Any:
    for part in name.split("."):
        settings = getattr(settings, part)
    return settings


def _shown(value: Any) -> Any:
    """As it is given to --set."""
    return str(value).lower() if isinstance(value, bool) else plain(value)


def _why(facts: Facts, told: dict[str, Any], score: dict[str, Any], gpu: bool) -> tuple[str, ...]:
    shown = ", ".join(f"{name}={_shown(value)}" for name, value in told.items())
    where = "an accelerator" if gpu else "a CPU"
    images = " + ".join(map(str, facts.images))
    what = (
        f"{images} images with short sides of {facts.short} pixels, of which a class covers {facts.share:.1%}"
    )
    if len(facts.images) > 1:
        what += f", in later stages {facts.later_share:.1%}"
    if math.isfinite(facts.width):
        what += f", with objects from {max(1, round(facts.width))} pixels in width"
    lines = [f"chosen for {what}, on {where}: {shown}"] if told else []
    lines += ["scored at the images' own size (size=original)"] if score else []
    return tuple(lines)
