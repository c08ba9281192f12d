"""The posterior of classes by an untrained backbone: its sums, its formula, and what it may change."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from everseg.classes.posterior import BY_CHANCE, FAR, Gaussians, Posterior, moments
from everseg.methods import METHODS as ALL
from everseg.methods import find
from everseg.models.semantic.packaged import EFFICIENTNET_LITE1
from everseg.models.semantic.segmenter import Output
from everseg.testing import micro_backbone, micro_image, micro_step
from everseg.testing.classes import ClassTrial
from everseg.types import NoScratch

METHODS = tuple(m for m in ALL if getattr(find(m), "learns", "domains") == "classes")

pytestmark = pytest.mark.usefixtures("micro_backbone")


def drawn(seed: int, images: int, width: int = 4) -> Tensor:
    """Mean features of images, (N, D), about a point of their own, wider along some axes than others."""
    draw = torch.Generator().manual_seed(seed)
    centre = 3 * torch.randn(width, generator=draw, dtype=torch.float64)
    spread = torch.tensor([0.2, 0.5, 1.0, 3.0], dtype=torch.float64)
    return centre + spread * torch.randn(images, width, generator=draw, dtype=torch.float64)


def appended(*groups: list[Tensor]) -> Gaussians:
    """Each group of classes taken in at once."""
    known = Gaussians(groups[0][0].shape[1])
    for group in groups:
        counts = torch.tensor([float(len(rows)) for rows in group], dtype=torch.float64)
        sums = torch.stack([rows.sum(0) for rows in group])
        known.append(counts, sums, sum((rows.T @ rows for rows in group), torch.zeros(4, 4)))
    return known


# ---------------------------------------------------------------- Gaussians


def test_steps_one_by_one_are_all_classes_at_once() -> None:
    a, b, c = drawn(0, 9), drawn(1, 5), drawn(2, 12)
    whole, parts = appended([a, b, c]), appended([a], [b, c])
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value)


def test_discriminants_are_those_of_normal_densities() -> None:
    """By the definition, in numpy: log N(f; m_k, S) less what the classes share; and OAS."""
    groups = [drawn(0, 9), drawn(1, 5)]
    known = appended(groups)
    centred = np.concatenate([rows.numpy() - rows.numpy().mean(0) for rows in groups])
    n, d = centred.shape
    found = sum(np.outer(row, row) for row in centred) / n
    squares, trace = np.trace(found @ found), np.trace(found)
    share = min(1.0, ((1 - 2 / d) * squares + trace**2) / ((n + 1 - 2 / d) * (squares - trace**2 / d)))
    assert 0 < share < 1, "the case decides nothing"
    shrunk = (1 - share) * found + share * trace / d * np.eye(d)
    np.testing.assert_allclose(known.covariance().numpy(), shrunk, rtol=1e-5, atol=1e-6)
    f = drawn(5, 1)[0].numpy()
    direction, offset = (x.numpy() for x in known.discriminants())
    gaps = [f - rows.numpy().mean(0) for rows in groups]
    density = [-gap @ np.linalg.inv(shrunk) @ gap / 2 for gap in gaps]
    ours = direction @ f + offset
    np.testing.assert_allclose(ours[0] - ours[1], density[0] - density[1], rtol=1e-4)


def test_moments_of_a_mask_count_places_by_their_share() -> None:
    features = torch.arange(8.0).reshape(2, 2, 2)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:2, :2] = True  # All of the first place,
    mask[2, 3] = True  # a quarter of the last.
    mean, square = moments(features, mask)
    a, b = torch.tensor([0.0, 4.0]).double(), torch.tensor([3.0, 7.0]).double()
    torch.testing.assert_close(mean, 0.8 * a + 0.2 * b)
    torch.testing.assert_close(square, 0.8 * torch.outer(a, a) + 0.2 * torch.outer(b, b))


@pytest.mark.parametrize("images", [0, 1])
def test_few_images_give_finite_discriminants(images: int) -> None:
    known = appended([drawn(0, images)], [drawn(1, images)])
    assert all(torch.isfinite(x).all() for x in known.discriminants())


def test_a_class_without_an_image_is_never_the_likeliest() -> None:
    known = appended([drawn(0, 6)], [drawn(1, 8)], [drawn(2, 0)])
    direction, offset = known.discriminants()
    for f in (known.mean[0], known.mean[1], known.mean[:2].mean(0), torch.zeros(4)):
        ours = direction @ f.double() + offset
        torch.testing.assert_close(ours[2], ours[:2].mean())


@pytest.mark.parametrize("images", [3, 30])
def test_classes_are_foreign_that_are_far_from_all_before(images: int) -> None:
    """On both sides of the limit, by classes that are shifted copies of one."""
    rows = drawn(0, images)
    axis = torch.tensor([0.0, 0.0, 1.0, 0.0]).double()
    spread = float(torch.linalg.inv(appended([rows, rows]).covariance())[2, 2]) ** -0.5
    limit = (FAR + BY_CHANCE * 4 * 2 / images) ** 0.5
    near, far = rows + 0.97 * limit * spread * axis, rows + 1.03 * limit * spread * axis
    assert appended([rows], [near]).nearest(1) == 0
    assert appended([rows], [far]).nearest(1) is None
    beside, away = rows + spread * axis, rows + 3 * limit * spread * axis
    assert appended([rows], [away, away + spread * axis]).nearest(2) is None
    assert appended([rows], [away, beside]).nearest(2) == 0, "one of them is near"
    assert appended([away, rows], [beside]).nearest(1) == 1, "an old one is near"
    assert appended([away, rows], [away + 2 * spread * axis]).nearest(1) == 0


def test_a_class_without_images_is_not_foreign_and_hides_nothing() -> None:
    rows, none = drawn(0, 30), drawn(1, 0)
    assert appended([rows], [none]).nearest(1) == 0 and appended([none], [rows]).nearest(1) == 0
    assert appended([rows, none], [none]).nearest(1) == 1
    assert appended([rows, none], [rows + 1e3]).nearest(1) is None
    assert appended([rows, none], [none, rows]).nearest(2) == 0


# ---------------------------------------------------------------- corrected logits


def asked(logits: Tensor, offset: list[float], weight: float = 1.0, experts: Sequence[int] = ()) -> Tensor:
    """Corrected logits of one image whose features are as likely in all classes, which have these offsets and
    experts."""
    base = micro_backbone()
    posterior = Posterior(base.backbone, base.backbone, weight, 32)
    posterior.direction = torch.ones(len(offset), base.backbone.channels)
    posterior.offset = torch.tensor(offset)
    posterior.expert = list(experts or [0] * len(offset))
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return posterior(Output(logits, logits, (), (64, 64)), pixels).logits


def some_logits(classes: int) -> Tensor:
    return torch.randn(1, 1 + classes, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("classes", [1, 3])
def test_classes_that_are_equally_likely_change_nothing(classes: int) -> None:
    logits = some_logits(classes)
    torch.testing.assert_close(asked(logits, [2.0] * classes), logits)


def test_the_likely_class_is_chosen_with_the_mean_of_two_scores() -> None:
    logits = some_logits(2)
    found = asked(logits, [0.0, 50.0])
    torch.testing.assert_close(found[:, 0], logits[:, 0])
    assert (found[:, 2] > found[:, 1]).all()
    torch.testing.assert_close(found[:, 2], (logits[:, 1:].amax(1) + logits[:, 2]) / 2)
    torch.testing.assert_close(asked(logits, [0.0, 50.0], weight=0.0), logits)


def test_the_score_is_of_the_classes_of_one_expert() -> None:
    logits = some_logits(3)
    found = asked(logits, [0.0, 0.0, 50.0], experts=[0, 1, 1])
    assert (found[:, 3] > found[:, 1:3].amax(1)).all()
    torch.testing.assert_close(found[:, 3], (logits[:, 2:].amax(1) + logits[:, 3]) / 2)
    alone = asked(logits, [0.0, 0.0, 50.0], experts=[0, 0, 1])
    torch.testing.assert_close(alone[:, 3], logits[:, 3])


def test_pixels_reach_another_backbone_normalised_for_it() -> None:
    base = micro_backbone().backbone
    other = copy.deepcopy(base)
    other.mean, other.std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.4)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def normalised(backbone: Any) -> Tensor:
        mean, std = (torch.tensor(x)[:, None, None] for x in (backbone.mean, backbone.std))
        return (image - mean) / std

    with torch.no_grad():
        wanted = other(normalised(other)).last
        found = Posterior(other, base, 1.0, 1).features(normalised(base))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------- learners


def taught(method: str, *settings: str) -> Any:
    return ClassTrial(find(method), ("tune.posterior=1", *settings)).taught(micro_step(0), micro_step(1))


@pytest.mark.parametrize("method", [m for m in METHODS if m != "joint-classes"])
def test_every_method_can_have_it_and_keep_it(method: str) -> None:
    learner = taught(method, "tune.first.epochs=1", "tune.later.epochs=1")
    kept = learner.posterior.known
    assert kept.mean.shape[0] == 3 and kept.images.tolist() == [2.0, 2.0, 4.0]
    again = ClassTrial(find(method), ("tune.posterior=1",)).fresh()
    again.load_state_dict(copy.deepcopy(learner.state_dict()))
    query = micro_image(50, (1, 3)).query()
    assert torch.equal(again.scores(query), learner.scores(query))


@pytest.mark.skipif(not EFFICIENTNET_LITE1.installed(), reason=EFFICIENTNET_LITE1.install)
def test_efficientnet_can_have_the_say() -> None:
    own, other = (
        taught("eir", f"tune.posterior_backbone={name}", "tune.first.epochs=1", "tune.later.epochs=1")
        for name in ("base", "efficientnet-lite1")
    )
    widths = [len(learner.posterior.known.scatter) for learner in (own, other)]
    assert widths == [own.model.backbone.channels, 320]
    again = ClassTrial(
        find("eir"), ("tune.posterior=1", "tune.posterior_backbone=efficientnet-lite1")
    ).fresh()
    again.load_state_dict(copy.deepcopy(other.state_dict()))
    query = micro_image(50, (1, 3)).query()
    assert torch.equal(again.scores(query), other.scores(query))
    assert not torch.equal(other.scores(query), own.scores(query)), "the two say different things"
    assert all(torch.equal(own.model.state_dict()[k], v) for k, v in other.model.state_dict().items())


def test_before_anything_is_learned_all_is_background() -> None:
    fresh = ClassTrial(find("eir"), ("tune.posterior=1",)).fresh()
    assert not fresh.predict([micro_image(50, (1, 3)).query()])[0].any()


def test_training_is_the_same_with_and_without_it() -> None:
    with_it = taught("eir").model.state_dict()
    without = ClassTrial(find("eir")).taught(micro_step(0), micro_step(1)).model.state_dict()
    assert all(torch.equal(with_it[name], value) for name, value in without.items())


def test_what_is_kept_does_not_depend_on_training() -> None:
    """Neither on the network, nor on the method, nor on who trained the first step."""
    ours = taught("eir", "tune.first.epochs=1", "tune.later.epochs=0").posterior.known.state_dict()
    other = ClassTrial(find("dkd"), ("tune.posterior=1", "tune.first.lr=0.1"))
    learner = other.fresh()
    learner.take_first(micro_step(0), ClassTrial(find("eir")).taught(micro_step(0)))
    learner.learn(micro_step(1), NoScratch())
    theirs = learner.posterior.known.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_backbone_is_copied_and_rests() -> None:
    base = micro_backbone()
    before = copy.deepcopy(base.backbone.state_dict())
    posterior = Posterior(base.backbone, base.backbone, 1.0, 32).train()
    assert posterior.backbone is not base.backbone and not posterior.backbone.training
    assert not any(p.requires_grad for p in posterior.parameters())
    assert all(torch.equal(base.backbone.state_dict()[name], value) for name, value in before.items())
