"""Losses against numbers computed by hand elsewhere, to their printed digits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everseg.classes.losses import (
    auxiliary_loss,
    completed,
    entropy,
    masked_mean,
    pod_descriptor,
    pseudo_labels,
    region_kd,
    sigmoid_kd,
    soft_bce,
    softmax_kd,
    split_scores,
    unbiased_ce,
    weighted_bce,
)
from everseg.classes.losses.softmax import Background, Where
from everseg.fit.schedule import lr_at

DIGITS = 5e-7


def pixel(*logits: float) -> Tensor:
    """One pixel's logits: (1, K, 1, 1)."""
    return torch.tensor(logits, dtype=torch.float64)[None, :, None, None]


def labels(*values: int) -> Tensor:
    """Pixels side by side: (1, 1, W)."""
    return torch.tensor(values, dtype=torch.uint8)[None, None]


OLD = pixel(1, 2, -1)
A = pixel(0.5, 1.5, -0.5, 1)  # one new class
B = pixel(0.5, 1.5, -0.5, 1, 0)  # two


# ---------------------------------------------------------------- binary cross-entropy


def test_bce_leaves_void_out() -> None:
    one, valid = soft_bce(pixel(0.2, -1, 2), labels(2))
    assert float(masked_mean(one, valid)) == pytest.approx(1.238329, abs=DIGITS)
    two = torch.cat([pixel(0.2, -1, 2), pixel(9, 9, 9)], 3)
    assert float(masked_mean(*soft_bce(two, labels(2, 255)))) == pytest.approx(1.238329, abs=DIGITS)


def test_bce_of_a_shared_label_and_of_a_paste_upon_void() -> None:
    share = torch.tensor([[[[0.25]]]])
    one, valid = soft_bce(pixel(0.2, -1, 2), labels(0), labels(2)[:, None], share)
    assert float(masked_mean(one, valid)) == pytest.approx(2.588329, abs=DIGITS)
    two = torch.cat([pixel(0.2, -1, 2), pixel(1, 1, 1)], 3)
    loss, valid = soft_bce(two, labels(0, 255), labels(2, 2)[:, None], share.expand(1, 1, 1, 2))
    assert valid.all() and float(masked_mean(loss, valid)) == pytest.approx(3.139057, abs=DIGITS)


def test_weighted_bce() -> None:
    logits = pixel(0.4, -0.3)
    assert float(weighted_bce(logits[:, :1], labels(3), range(3, 4), 2.0)) == pytest.approx(
        1.026031, abs=DIGITS
    )
    assert float(weighted_bce(logits[:, 1:], labels(3), range(4, 5), 2.0)) == pytest.approx(
        0.554355, abs=DIGITS
    )
    both = float(weighted_bce(logits, labels(3), range(3, 5), 2.0))
    assert both == pytest.approx(1.026031 + 0.554355, abs=2 * DIGITS)
    void = float(weighted_bce(logits, labels(255), range(3, 5), 2.0))
    assert void == pytest.approx(float(F.softplus(logits).sum()))


def test_the_auxiliary_is_trained_to_say_no() -> None:
    assert float(auxiliary_loss(pixel(0.3))) == pytest.approx(0.854355, abs=DIGITS)


# ---------------------------------------------------------------- distillation under a softmax


def test_old_probabilities() -> None:
    assert OLD.softmax(1).flatten().tolist() == pytest.approx([0.259496, 0.705385, 0.035119], abs=DIGITS)


@pytest.mark.parametrize(("new", "value"), [(A, 0.274511), (B, 0.290187)])
def test_mibs_distillation(new: Tensor, value: float) -> None:
    absorb = [0, *range(3, new.shape[1])]
    assert float(softmax_kd(new, OLD, absorb)) == pytest.approx(value, abs=DIGITS)


@pytest.mark.parametrize("new", [A, B])
def test_lwfs_distillation_knows_no_new_class(new: Tensor) -> None:
    assert float(softmax_kd(new[:, :3], OLD)) == pytest.approx(0.245780, abs=DIGITS)


@pytest.mark.parametrize(
    ("new", "inside", "where", "background", "value"),
    [
        (A, True, "both", "new", 0.315518),
        (B, True, "both", "new", 0.321933),
        (A, False, "both", "new", 0.358767),
        (B, False, "both", "new", 0.392279),
        (A, True, "new", "new", 0.315518),
        (A, False, "new", "new", 0),
        (B, True, "old", "new", 0),
        (B, False, "old", "new", 0.392279),
        (A, True, "new", "bg+new", 0.274511),
        (A, False, "new", "bg+new", 0),
        (B, False, "old", "bg+new", 0.290187),
        (B, True, "both", "bg+new", 0.290187),
    ],
)
def test_distillation_by_regions(
    new: Tensor, inside: bool, where: Where, background: Background, value: float
) -> None:
    region = torch.tensor([[[inside]]])
    assert float(region_kd(new, OLD, region, where, background)) == pytest.approx(value, abs=DIGITS)


@pytest.mark.parametrize(("new", "value"), [(A, math.inf), (B, 0.435528)])
def test_the_released_region_loss_is_infinite_for_one_class(new: Tensor, value: float) -> None:
    """What the published code computes: the background is absorbed by the new classes without the first. Kept
    here as the reason why `region_kd` takes its channels from a list that cannot be empty."""
    p, p_old = new.softmax(1), OLD.softmax(1)
    absorbed = p[:, 4:].sum(1).log()
    loss = -(p_old[:, 0] * absorbed + (p_old[:, 1:] * p[:, 1:3].log()).sum(1)) / 3
    assert float(loss) == pytest.approx(value, abs=DIGITS)
    with pytest.raises(AssertionError, match="infinite"):
        softmax_kd(A, OLD, absorb=[])


def test_mibs_cross_entropy() -> None:
    assert float(unbiased_ce(A, labels(0), 3)[0]) == pytest.approx(0.338961, abs=DIGITS)
    assert float(unbiased_ce(A, labels(3), 3)[0]) == pytest.approx(1.246567, abs=DIGITS)


# ---------------------------------------------------------------- distillation class by class


def test_dkds_distillation() -> None:
    new, old = pixel(1.5, -0.5), pixel(2, -1)
    each = [float(sigmoid_kd(new[:, c : c + 1], old[:, c : c + 1])) for c in range(2)]
    assert each == pytest.approx([0.380218, 0.608548], abs=DIGITS)
    assert float(sigmoid_kd(new, old)) == pytest.approx(0.988765, abs=DIGITS)


def test_dkds_parts_add_up_to_the_score() -> None:
    generator = torch.Generator().manual_seed(0)
    features = 1e5 * torch.rand(2, 16, 3, 3, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, 16, generator=generator, dtype=torch.float64)
    bias = torch.randn(4, generator=generator, dtype=torch.float64)
    plus, minus = split_scores(features, weight)
    whole = F.conv2d(features, weight[:, :, None, None], bias)
    assert float((plus + minus + bias[:, None, None] - whole).abs().max()) < 1e-9
    assert bool((plus >= 0).all()) and bool((minus <= 0).all())


# ---------------------------------------------------------------- PLOP


def test_the_local_pod_descriptor() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4).square()
    descriptor = pod_descriptor(x)
    assert descriptor.shape == (1, 1, 56)
    assert float(descriptor.norm()) == pytest.approx(770.1383, abs=5e-5)


def test_plops_entropy_averages_over_channels() -> None:
    even = torch.zeros(1, 16, 1, 1)
    assert float(entropy(even)) == pytest.approx(1)
    assert float(entropy(even, "mean")) == pytest.approx(0.0625)


def test_plop_completes_the_background_where_it_is_sure() -> None:
    sure, unsure = [9.0, 0, 0], [0.1, 0, 0]
    old = torch.tensor([[sure[1:] + sure[:1], sure, unsure, sure]]).permute(0, 2, 1)[:, :, None]
    found, share = completed(labels(0, 0, 0, 3), old, torch.tensor([0.2, 0.2, 0.2]))
    assert found.flatten().tolist() == [2, 0, 255, 3]
    assert share.tolist() == pytest.approx([2 / 3])


# ---------------------------------------------------------------- EIR's pseudo-labels, and the schedule


@pytest.mark.parametrize(
    ("label", "best", "score", "becomes"),
    [(0, 3, 0.70, 3), (0, 3, 0.699, 0), (0, 0, 0.99, 0), (5, 3, 0.99, 5), (255, 3, 0.99, 255)],
)
def test_pseudo_labels(label: int, best: int, score: float, becomes: int) -> None:
    scores = torch.full((1, 6, 1, 1), 0.1, dtype=torch.float64)
    scores[0, best] = score
    assert pseudo_labels(labels(label), scores, 0.7).item() == becomes


@pytest.mark.parametrize(
    ("percent", "factor"), [(0, 1), (25, 0.771890), (50, 0.535887), (75, 0.287175), (90, 0.125893)]
)
def test_the_poly_schedule(percent: int, factor: float) -> None:
    assert lr_at(percent, 100, 1.0, "poly") == pytest.approx(factor, abs=DIGITS)
