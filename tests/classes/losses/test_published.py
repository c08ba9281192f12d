"""PLOP's and RCIL's published lists, factors and medians, against numbers that plain loops give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from everseg.classes.losses import BinnedMedians, EntropyMedians, completed, supervised
from everseg.classes.methods.plop import PLOP, PLOPConfig
from everseg.classes.methods.rcil import RCIL, RCILConfig
from everseg.methods import configure
from everseg.models.semantic.segmenter import Output
from everseg.testing import micro_step
from everseg.testing.classes import ClassTrial
from everseg.types import NoScratch

Array = NDArray[np.float64]


def output(channels: int, seed: int) -> Output:
    """Four stages of 2, 3, 2 and 3 channels, features of 4, and logits, all of 8 x 8 pixels."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(width: int) -> Tensor:
        return torch.rand(2, width, 8, 8, generator=generator) * 2 - 0.5

    return Output(drawn(channels), drawn(4).relu(), tuple(drawn(c) for c in (2, 3, 2, 3)), (16, 16))


NEW, OLD = output(6, 1), output(4, 2)


def folded(logits: Tensor, old: int) -> Array:
    x = logits.double().numpy()
    return np.concatenate([x[:, :1] + x[:, old:].sum(1, keepdims=True), x[:, 1:old]], 1)


def lists(features: bool) -> list[tuple[Array, Array]]:
    """What the published code puts into its list of maps: the stages, the head's output, the logits."""
    pairs = list(zip(NEW.stages, OLD.stages, strict=True))
    pairs += [(NEW.features, OLD.features)] if features else []
    arrays = [(a.double().numpy(), b.double().numpy()) for a, b in pairs]
    return [*arrays, (folded(NEW.logits, 4), OLD.logits.double().numpy())]


def pod(a: Array, b: Array) -> float:
    """Mean over images of the norm of the difference of all strips' means."""
    found = []
    for image in range(len(a)):
        gaps: list[float] = []
        for s in (1, 2, 4):
            side = 8 // s
            for channel in range(a.shape[1]):
                for y in range(s):
                    for x in range(s):
                        window = (
                            image,
                            channel,
                            slice(y * side, (y + 1) * side),
                            slice(x * side, (x + 1) * side),
                        )
                        one, two = a[window] ** 2, b[window] ** 2
                        gaps += [*(one.mean(0) - two.mean(0)), *(one.mean(1) - two.mean(1))]
        found.append(math.sqrt(sum(g * g for g in gaps)))
    return sum(found) / len(found)


def cube(a: Array, b: Array, side: int) -> float:
    """Mean over images of the norm of the difference, averaged over windows of `side` with zeros around."""
    gap = np.pad(a**2 - b**2, ((0, 0), (0, 0), (side // 2,) * 2, (side // 2,) * 2))
    places = range(gap.shape[-1] - side + 1)
    norms = []
    for image in gap:
        total = 0.0
        for y in places:
            for x in places:
                total += float((image[:, y : y + side, x : x + side].mean((1, 2)) ** 2).sum())
        norms.append(math.sqrt(total))
    return sum(norms) / len(norms)


def channels(a: Array, b: Array) -> float:
    gap = a**2 - b**2
    width = gap.shape[1]
    means = [
        sum((gap[:, c] for c in (k - 1, k, k + 1) if 0 <= c < width), np.zeros_like(gap[:, 0])) / 3
        for k in range(width)
    ]
    squares = sum(((m**2).sum((1, 2)) for m in means), np.zeros(len(gap)))
    return float(np.sqrt(squares).mean())


def learner(kind: type[Any], config: Any) -> Any:
    """Nothing of it is used but its settings."""
    made = object.__new__(kind)
    made.config = config
    return made


def published(kind: type[Any]) -> Any:
    return kind.presets()["reference"]


@pytest.mark.parametrize("head", [True, False])
def test_the_maps_that_plop_compares(head: bool) -> None:
    """Published: five maps at 0.01 and the logits at 0.0005, over six. In the paper's preset four, over
    five."""
    config = published(PLOPConfig) if head else PLOPConfig()
    assert config.head == head
    *maps, ends = lists(head)
    expected = (sum(0.01 * pod(*pair) for pair in maps) + 0.0005 * pod(*ends)) / (6 if head else 5)
    assert float(learner(PLOP, config).kept(NEW, OLD)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("head", [True, False])
def test_the_maps_that_rcil_compares(head: bool) -> None:
    """Published: spatial, five maps at 0.01 and the logits at 0.0005, over six; channels, the same without
    the logits, over five, whose last, the head's output, has 0.0005."""
    config = published(RCILConfig) if head else RCILConfig()
    *maps, ends = lists(head)
    pools = (4, 8, 12, 16, 20, 24)

    def spatial(pair: tuple[Array, Array]) -> float:
        return sum(cube(*pair, side) for side in pools) / 6

    weights = [0.01] * 4 + [0.0005] * head
    s = (sum(0.01 * spatial(pair) for pair in maps) + 0.0005 * spatial(ends)) / (6 if head else 5)
    c = sum(w * channels(*pair) for w, pair in zip(weights, maps, strict=True)) / len(maps)
    assert float(learner(RCIL, config).cubes(NEW, OLD)) == pytest.approx(s + c, rel=1e-5)


@pytest.mark.usefixtures("micro_backbone")
@pytest.mark.parametrize("method", ["plop", "rcil"])
def test_the_background_counts_among_the_classes_seen(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two classes, then one more: sqrt(3 / 1), published sqrt(4 / 1)."""
    name = "kept" if method == "plop" else "cubes"
    losses = {}
    for counted in (False, True):
        trial = ClassTrial(
            type(trial_of(method)), (f"count_background={counted}", "pseudo=false")[: 1 + (method == "plop")]
        )
        found = trial.fresh()
        found.load_state_dict(trial_of(method).state_dict())
        monkeypatch.setattr(type(found), name, lambda self, out, before: out.logits.sum() * 0 + 100.0)
        losses[counted] = found.learn(micro_step(1), NoScratch())["loss"]
        monkeypatch.undo()
    new = len(micro_step(1).classes)
    seen = len(micro_step(0).classes) + new
    gap = 100 * (math.sqrt((seen + 1) / new) - math.sqrt(seen / new))
    assert losses[True] - losses[False] == pytest.approx(gap, rel=1e-3)


_ONE: dict[str, Any] = {}


def trial_of(method: str) -> Any:
    """A learner of the first micro step."""
    if method not in _ONE:
        _ONE[method] = ClassTrial({"plop": PLOP, "rcil": RCIL}[method]).one
    return _ONE[method]


def test_a_first_step_may_be_divided_by_all_pixels() -> None:
    labels = torch.randint(0, 4, (2, 16, 16), generator=torch.Generator().manual_seed(3))
    labels[:, :4] = 255
    plain, whole = (supervised(OLD.full(), labels, "ce", void_in_mean=void) for void in (False, True))
    assert float(whole) == pytest.approx(0.75 * float(plain), rel=1e-6)
    for method in ("plop", "rcil"):
        assert configure(method, "reference").void_in_mean and not configure(method).void_in_mean


@pytest.mark.usefixtures("micro_backbone")
@pytest.mark.parametrize("method", ["lwf", "ilt", "mib"])
def test_void_may_be_background_to_methods_of_mibs_code(method: str) -> None:
    assert configure(method, "reference").void_as_background and not configure(method).void_as_background


# ---------------------------------------------------------------- the median


def drawn_logits(pixels: int = 8000, old: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    sure = 2 + 10 * torch.rand(pixels, generator=generator)
    return sure * torch.randn(1, old, 1, pixels, generator=generator)


def published_threshold(entropies: Sequence[float]) -> float:
    """The code's approximation of a median, from the entropies of one class."""
    counts = [0] * 100
    for value in entropies:
        counts[min(99, int(value * 100))] += 1
    half, passed = len(entropies) / 2, 0.0
    for k in range(100):
        if passed <= half <= passed + counts[int(k / 100 * 100)]:
            break
        passed += k / 100 * 100
    return max(0.001, k / 100 + (half - passed) / counts[int(k / 100 * 100)] / 100)


def test_the_published_median_is_one_of_its_bins() -> None:
    """The threshold is half the pixels of a class over those in the first bin, times its width. As an entropy
    between 0 and 1 that is nearly the same for every class, and most pixels lie under it; an exact median has
    half of them."""
    logits, seen = drawn_logits(), 17
    labels = torch.zeros(1, 1, logits.shape[-1], dtype=torch.long)
    p = logits[0, :, 0].double().softmax(0).numpy()
    values = -(p * np.log(p)).mean(0) / math.log(len(p)) / math.log(seen)
    best = p.argmax(0)
    published, exact = BinnedMedians(16, seen), EntropyMedians(16)
    for medians in (published, exact):
        medians.add(logits, labels)
    expected = [published_threshold(values[best == c].tolist()) for c in range(16)]
    assert published.thresholds().tolist() == pytest.approx(expected, rel=1e-4)
    as_entropy = published.thresholds() * 16 * math.log(seen)
    assert float(as_entropy.max() - as_entropy.min()) < 0.1
    shares = [
        float(completed(labels, logits, m.thresholds(), m.measure(logits))[1]) for m in (published, exact)
    ]
    assert shares[0] > 0.6 and abs(shares[1] - 0.5) < 0.02


def test_a_class_never_predicted_has_the_floor() -> None:
    medians = BinnedMedians(3, 4)
    medians.add(torch.tensor([5.0, 0, 0])[None, :, None, None], torch.zeros(1, 1, 1))
    assert medians.thresholds().tolist()[1:] == pytest.approx([0.001, 0.001])


def test_reference_has_the_published_median() -> None:
    assert published(PLOPConfig).median == "binned" and PLOPConfig().median == "exact"
    assert replace(PLOPConfig(), median="binned") != PLOPConfig()
