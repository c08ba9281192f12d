"""Losses against published-code figures, and the laws that let them be cut up."""

import pytest
import torch
from torch.nn import functional as F

from everseg.domains.losses import (
    REFERENCE,
    LossConfig,
    dice,
    focal,
    hard_iou,
    match,
    reduce_samcl,
    samcl_loss,
    samcl_terms,
)

Pair = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def published() -> Pair:
    """The inputs of the golden figures: one image of 1024 x 1024."""
    i = torch.arange(2**20, dtype=torch.float64)
    logits = (4 * torch.sin(0.001 * i) + torch.cos(0.37 * i)).float().view(1, 1024, 1024)
    return logits, (torch.sin(0.0011 * i) > 0.2).view(1, 1024, 1024)


@pytest.fixture
def some() -> Pair:
    """Two images, logits at a quarter of the truth's side."""
    generator = torch.Generator().manual_seed(5)
    logits = 3 * torch.randn(2, 8, 8, generator=generator)
    return logits, torch.rand(2, 32, 32, generator=generator) < torch.tensor([0.3, 0.7]).view(2, 1, 1)


def test_the_published_figures(published: Pair) -> None:
    logits, truth = published
    assert focal(logits, truth).item() == pytest.approx(0.96524328, abs=2e-6)
    assert dice(logits, truth).item() == pytest.approx(0.53674412, abs=2e-6)
    assert hard_iou(logits, truth).item() == pytest.approx(0.28566349, abs=1e-7)
    terms = samcl_terms(logits, truth, torch.tensor([0.7]), REFERENCE)
    assert terms.mse.item() == pytest.approx(0.17167474, abs=1e-7)
    assert samcl_loss(logits, truth, torch.tensor([0.7]), REFERENCE).item() == pytest.approx(
        6.50435925, abs=1e-5
    )
    assert reduce_samcl(*terms, 1, "reference").item() == pytest.approx(6.50435925, abs=1e-5)


def test_focal_is_its_formula(some: Pair) -> None:
    logits, truth = some
    z, g, _ = match(logits, truth, "nearest")
    bce = F.binary_cross_entropy_with_logits(z, g, reduction="none")
    wanted = (0.8 * (1 - torch.exp(-bce)) ** 2 * bce).mean((1, 2))
    torch.testing.assert_close(focal(z, g), wanted)


def test_far_logits_give_finite_losses_and_gradients() -> None:
    logits = torch.tensor([[[-200.0, 200.0], [0.0, 30.0]]], requires_grad=True)
    truth = torch.tensor([[[True, False], [True, True]]])
    loss = focal(logits, truth) + dice(logits, truth)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert logits.grad[0, 0, 0] < 0 < logits.grad[0, 0, 1]


def test_hard_iou_has_no_gradient_and_counts_by_the_logit() -> None:
    logits = torch.tensor([[[0.4, 0.6], [0.6, -1.0]]], requires_grad=True)
    truth = torch.tensor([[[True, True], [False, False]]])
    iou = hard_iou(logits, truth)
    assert not iou.requires_grad
    assert iou.item() == pytest.approx(1 / 3)
    assert hard_iou(logits, truth, threshold=0.0).item() == pytest.approx(2 / 3)
    assert hard_iou(torch.full((1, 2, 2), -1.0), torch.zeros(1, 2, 2)).item() == 0.0


@pytest.mark.parametrize("term", range(3))
def test_averaged_truth_equals_nearest_upsampling(some: Pair, term: int) -> None:
    """Every term, not only those that look linear, and the gradient too."""
    values, gradients = [], []
    for upsample in ("none", "nearest"):
        logits = some[0].clone().requires_grad_()
        z, g, pixels = match(logits, some[1], upsample)
        assert pixels == (16 if upsample == "none" else 1)
        losses = [focal(z, g), dice(z, g, pixels), hard_iou(z, g, 0.5, pixels=pixels)]
        values.append(losses[term].detach())
        if losses[term].requires_grad:
            gradients.append(torch.autograd.grad(losses[term].sum(), logits)[0])
    torch.testing.assert_close(*values, rtol=1e-6, atol=1e-6)
    if gradients:
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)


def test_the_published_figures_from_averaged_truth(published: Pair) -> None:
    """The same on the golden truth: logits of 256 x 256, repeated or not."""
    logits = published[0][:, ::4, ::4].contiguous()
    iou_hat = torch.tensor([0.7])
    near = samcl_terms(logits, published[1], iou_hat, LossConfig(upsample="nearest", iou_threshold=0.5))
    none = samcl_terms(logits, published[1], iou_hat, REFERENCE)
    for a, b in zip(near, none, strict=True):
        assert a.item() == pytest.approx(b.item(), abs=2e-6)


def test_bilinear_differs_from_nearest_but_not_at_full_size(some: Pair) -> None:
    logits, truth = some
    iou_hat = torch.tensor([0.5, 0.5])
    losses = [samcl_loss(logits, truth, iou_hat, LossConfig(upsample=u)) for u in ("bilinear", "nearest")]
    assert (losses[0] - losses[1]).abs().min() > 1e-3
    full = F.interpolate(logits[:, None], size=(32, 32), mode="bilinear")[:, 0]
    for upsample in ("bilinear", "nearest", "none"):
        torch.testing.assert_close(samcl_loss(full, truth, iou_hat, LossConfig(upsample=upsample)), losses[0])


def test_images_do_not_meet(some: Pair) -> None:
    logits, truth = some
    both = samcl_loss(logits, truth, torch.tensor([0.2, 0.9]), LossConfig())
    for i, iou_hat in enumerate((0.2, 0.9)):
        alone = samcl_loss(logits[i : i + 1], truth[i : i + 1], torch.tensor([iou_hat]), LossConfig())
        torch.testing.assert_close(both[i], alone[0])


@pytest.mark.parametrize("reduction", ["mean", "reference"])
def test_parts_of_a_batch_add_up_to_the_batch(reduction: str) -> None:
    generator = torch.Generator().manual_seed(1)
    terms = [torch.rand(7, generator=generator) for _ in range(3)]
    whole = reduce_samcl(*terms, 7, reduction)
    parts = [
        reduce_samcl(*(t[rows] for t in terms), 7, reduction)
        for rows in (slice(0, 3), slice(3, 7), slice(7, 7))
    ]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


def test_the_two_reductions() -> None:
    focal_, dice_, mse = torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.1]), torch.tensor([0.2, 0.4])
    assert reduce_samcl(focal_, dice_, mse, 2, "reference").item() == pytest.approx(4 + 6 + 0.3)
    assert reduce_samcl(focal_, dice_, mse, 2, "mean").item() == pytest.approx(2 + 3 + 0.3)
    assert reduce_samcl(focal_, dice_, mse, 2, "mean", dice_weight=1.0).item() == pytest.approx(2 + 0.3 + 0.3)


def test_half_precision_logits_are_reduced_in_single() -> None:
    logits = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    truth = torch.ones(1, 64, 64, dtype=torch.bool)
    assert samcl_loss(logits, truth, torch.tensor([0.5]).bfloat16(), LossConfig()).dtype == torch.float32
    assert torch.equal(dice(logits, truth), dice(logits.float(), truth))
