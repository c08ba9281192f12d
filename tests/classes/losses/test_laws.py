"""Laws of the semantic losses: against the plain formula with one-hot targets, and in parts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everseg.classes.losses import (
    EntropyMedians,
    channel_distance,
    entropy,
    feature_mse,
    fold_logits,
    local_pod,
    masked_mean,
    new_region,
    soft_bce,
    softmax_kd,
    spatial_distance,
    supervised,
    unbiased_ce,
)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def dense(under: Tensor, over: Tensor, share: Tensor, channels: int) -> Tensor:
    """The target that nobody should build: (B, K, H, W)."""

    def one_hot(index: Tensor) -> Tensor:
        return F.one_hot(torch.where(index == 255, channels, index).long(), channels + 1)[..., :channels]

    out = one_hot(under).double()
    for layer, part in zip(over.unbind(1), share.double().unbind(1), strict=True):
        out = part[..., None] * one_hot(layer) + (1 - part[..., None]) * out
    return out.permute(0, 3, 1, 2)


@pytest.mark.parametrize("gamma", [None, torch.tensor([1.0, 4.0, 0.5, 1.0, 2.0])])
@pytest.mark.parametrize("layers", [1, 3])
def test_soft_bce_is_bce_against_the_dense_target(layers: int, gamma: torch.Tensor | None) -> None:
    z = drawn(2, 5, 6, 7).requires_grad_()
    under = torch.randint(0, 6, (2, 6, 7)).where(torch.rand(2, 6, 7) > 0.2, 255)
    under = under.where(under < 5, 255)
    over = torch.randint(0, 5, (2, layers, 6, 7))
    share = torch.rand(2, layers, 6, 7).where(torch.rand(2, layers, 6, 7) > 0.5, 0)
    target = dense(under, over, share, 5)
    more = None if gamma is None else gamma[:, None, None]
    theirs = F.binary_cross_entropy_with_logits(z, target, reduction="none", pos_weight=more).sum(1)
    (expected,) = torch.autograd.grad(theirs[target.sum(1) > 0].mean(), z)
    loss, valid = soft_bce(z, under, over, share, gamma)
    assert torch.equal(valid, target.sum(1) > 0)
    assert torch.allclose(loss, theirs, atol=1e-6)
    (found,) = torch.autograd.grad(masked_mean(loss, valid), z)
    assert torch.allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize("gamma", [None, torch.tensor([1.0, 0.5, 3.0])])
def test_the_gradient_of_soft_bce_is_its_derivative(gamma: torch.Tensor | None) -> None:
    z = drawn(1, 3, 2, 2).requires_grad_()
    under, over = torch.tensor([[[0, 1], [255, 2]]]), torch.tensor([[[[2, 2], [2, 0]]]])
    share = torch.tensor([[[[0.5, 0], [0.25, 1]]]])
    assert torch.autograd.gradcheck(lambda x: soft_bce(x, under, over, share, gamma)[0], z)


def test_gamma_weighs_the_positive_pixels_of_the_classes_alone() -> None:
    z, labels = drawn(2, 4, 5, 6), torch.randint(0, 4, (2, 5, 6))
    labels[0, :2] = 255
    one, three = (float(supervised(z, labels, "bce", gamma=gamma)) for gamma in (1.0, 3.0))
    of_class = (labels > 0) & (labels != 255)
    own = z.gather(1, torch.where(of_class, labels, 0)[:, None])[:, 0]
    positive = float(F.softplus(-own)[of_class].sum() / (labels != 255).sum())
    assert three - one == pytest.approx(2 * positive, rel=1e-9)
    assert float(supervised(z, labels, "ce", gamma=3.0)) == float(supervised(z, labels, "ce"))


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    z, under = drawn(4, 3, 5, 5), torch.randint(0, 3, (4, 5, 5))
    under[1:3, :4] = 255
    loss, valid = soft_bce(z, under)
    parts = [masked_mean(loss[i : i + 2], valid[i : i + 2], valid.sum()) for i in (0, 2)]
    assert torch.allclose(torch.stack(parts).sum(), masked_mean(loss, valid))
    assert float(masked_mean(loss, torch.zeros_like(valid))) == 0


def test_without_old_classes_unbiased_is_plain_cross_entropy() -> None:
    z, y = drawn(2, 4, 3, 3), torch.randint(0, 4, (2, 3, 3))
    y[0, 0] = 255
    loss, valid = unbiased_ce(z, y, 1)
    plain = F.cross_entropy(z, y, ignore_index=255, reduction="none")
    assert torch.allclose(loss, plain) and torch.equal(valid, y != 255)


def test_distillation_is_least_at_the_old_model() -> None:
    old = drawn(1, 4, 3, 3)
    same, other = softmax_kd(old, old).sum(), softmax_kd(drawn(1, 4, 3, 3), old).sum()
    assert same < other


def test_the_new_region_follows_what_is_pasted() -> None:
    labels, new = torch.tensor([[[3, 4, 0, 255, 3, 0]]]), range(3, 5)
    assert new_region(labels, new).tolist() == [[[True, True, False, False, True, False]]]
    share = torch.tensor([[[[0, 0.5, 0.5, 0, 0.2, 0.2]]]])
    old, own = torch.full((1, 1, 1, 6), 2), torch.full((1, 1, 1, 6), 4)
    assert new_region(labels, new, old, share).tolist() == [[[True, False, False, False, False, False]]]
    assert new_region(labels, new, own, share).tolist() == [[[True, True, True, False, True, False]]]
    both = torch.cat([own, old], 1), torch.cat([share, share.flip(-1)], 1)
    assert new_region(labels, new, *both).tolist() == [[[False, False, True, False, False, False]]]


def test_medians_of_a_stream_are_those_of_all_at_once() -> None:
    old, labels = 3 * drawn(6, 4, 16, 16), torch.zeros(6, 16, 16, dtype=torch.uint8)
    labels[:, :4] = 255
    medians = EntropyMedians(5)
    padded = torch.cat([old, torch.full((6, 1, 16, 16), -1e3, dtype=torch.float64)], 1)
    for part in (slice(0, 1), slice(1, 6)):
        medians.add(padded[part], labels[part])
    found, values = medians.thresholds(), entropy(padded)[labels == 0]
    best = padded.argmax(1)[labels == 0]
    for channel in range(4):
        assert float(found[channel]) == pytest.approx(float(values[best == channel].median()), abs=1 / 4096)
    assert float(found[4]) == pytest.approx(0.001), "a class that is never predicted lets nothing pass"


def test_local_pod_is_zero_between_equals_and_ignores_the_sign() -> None:
    maps = [drawn(2, 3, 9, 8), drawn(2, 5, 4, 4)]
    assert not local_pod(maps, maps).any() and not local_pod(maps, [-m for m in maps]).any()
    assert local_pod(maps, [m + 1 for m in maps]).shape == (2,)
    assert not feature_mse(maps[0], maps[0]).any()
    assert torch.allclose(feature_mse(maps[0] + 2, maps[0]), torch.full((2,), 4.0, dtype=torch.float64))


def test_pooled_cubes_are_zero_between_equals_and_average_over_windows_and_channels() -> None:
    new, old = drawn(2, 5, 9, 7), drawn(2, 5, 9, 7)
    for distance in (spatial_distance, channel_distance):
        assert not distance(new, new).any() and not distance(new, -new).any()
        assert torch.allclose(distance(new, old), distance(old, new))
    squares = new.square(), old.square()
    whole = [
        (F.avg_pool2d(squares[0], k, 1, k // 2) - F.avg_pool2d(squares[1], k, 1, k // 2))
        .flatten(1)
        .norm(dim=1)
        for k in (4, 24)
    ]
    assert torch.allclose(spatial_distance(new, old, (4, 24)), (whole[0] + whole[1]) / 2)
    gap = F.pad(squares[0] - squares[1], (0, 0, 0, 0, 1, 1))
    thirds = (gap[:, :-2] + gap[:, 1:-1] + gap[:, 2:]) / 3
    assert torch.allclose(channel_distance(new, old), thirds.flatten(1).norm(dim=1))


def test_folded_logits_give_the_background_what_is_new() -> None:
    z = drawn(1, 5, 2, 2)
    folded = fold_logits(z, 3)
    assert torch.allclose(folded[:, 0], z[:, 0] + z[:, 3] + z[:, 4]) and torch.equal(folded[:, 1:], z[:, 1:3])
