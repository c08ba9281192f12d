"""What EIR's later steps are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from everseg.classes.completed import complete
from everseg.classes.crops import Crops, collate
from everseg.classes.instances import HarvestConfig, InstancePool, PasteConfig, cut, find_instances, paste
from everseg.classes.instances.rows import InstanceRows, Paster, completed_in_crops
from everseg.classes.losses import masked_mean, new_region, pseudo_labels, row_mean, sigmoid_kd, soft_bce
from everseg.classes.losses.sigmoid import decomposed_kd, split_scores
from everseg.classes.settings import ClassTuneConfig
from everseg.errors import UserError
from everseg.methods import configure, find
from everseg.testing import micro_step
from everseg.testing.classes import ClassTrial, micro_image
from everseg.types import NoScratch

pytestmark = pytest.mark.usefixtures("micro_backbone")
TUNE = replace(ClassTuneConfig.sigmoid(), crop=32, area=(0.3, 0.9))


def full_pool() -> InstancePool:
    """Instances of the classes 1 and 2."""
    found, given = [], {str(i): micro_image(i, (1 + i % 2,)) for i in range(4)}
    for name, sample in given.items():
        found += find_instances(sample.labels, [1, 2], name)
    pool = InstancePool(10)
    config = HarvestConfig(quality=0)
    pool.refill(
        found, lambda f: cut(given[f.image].image, given[f.image].labels, f, 0, config), seed=0, step=1
    )
    return pool


# ---------------------------------------------------------------- losses


def test_a_row_with_few_pixels_counts_as_much_as_one_with_many() -> None:
    loss = torch.tensor([1.0, 3.0])[:, None, None].expand(2, 8, 8)
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0], mask[1, 0, 0] = True, True
    assert float(row_mean(loss, mask)) == 2.0
    assert float(masked_mean(loss, mask)) == pytest.approx((64 + 3) / 65)
    assert float(row_mean(loss, mask, torch.tensor([1.0, 3.0]))) == pytest.approx(2.5)
    mask[1] = False
    assert float(row_mean(loss, mask)) == 1.0, "a row without a pixel does not count"
    assert float(row_mean(loss, mask & False)) == 0.0


def test_without_the_background_channel_bce_is_that_of_the_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 4, 6, 6, generator=generator, requires_grad=True)
    labels = torch.randint(0, 4, (2, 6, 6), generator=generator)
    labels[0, 0] = 255
    over = torch.randint(1, 4, (2, 1, 6, 6), generator=generator)
    share = torch.rand(2, 1, 6, 6, generator=generator) * (torch.rand(2, 1, 6, 6, generator=generator) > 0.5)
    gamma = torch.tensor([1.0, 1, 2, 2])
    loss, valid = soft_bce(z, labels, over, share, gamma, background=False)
    whole, same = soft_bce(z, labels, over, share, gamma)
    assert torch.equal(valid, same)
    part = ((labels == 0) * (1 - share[:, 0])).detach()
    alone = torch.nn.functional.softplus(z[:, 0]) - part * z[:, 0]
    assert torch.allclose((whole - alone)[valid], loss[valid], atol=1e-5)
    loss[valid].sum().backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None and not z.grad[:, 0].any() and z.grad[:, 1:].any()


def test_the_decomposed_distillation_is_that_of_both_parts() -> None:
    generator = torch.Generator().manual_seed(1)
    new, old = (
        (torch.rand(1, 8, 3, 3, generator=generator), torch.randn(5, 8, generator=generator)) for _ in "ab"
    )
    parts = zip(split_scores(new[0], new[1][1:3]), split_scores(old[0], old[1][1:3]), strict=True)
    expected = sum(float(sigmoid_kd(a, b).mean()) for a, b in parts)
    assert float(decomposed_kd(new, old, slice(1, 3))) == pytest.approx(expected, rel=1e-5)


def test_rskd_needs_the_background_channel() -> None:
    with pytest.raises(UserError, match=r"kind is 'region'.*set background=true"):
        configure("eir", "paper", ["kind=region"])
    assert configure("eir", "reference").background


# ---------------------------------------------------------------- pastes


def test_hard_pastes_leave_the_new_region() -> None:
    """Whether they may cover a new class's pixels or not."""
    pool, image = full_pool(), torch.zeros(3, 64, 64, dtype=torch.uint8)
    labels = torch.full((64, 64), 3, dtype=torch.uint8)
    config = PasteConfig(blend="hard", rows=1.0, strict=False, size="native", place="window")
    made = paste(image, labels, pool, np.random.default_rng(0), config)
    region = new_region(made.under[None], range(3, 4), made.over[None], made.share[None])[0]
    assert made.pastes and torch.equal(region, made.under == 3) and not region.all()


def test_so_many_rows_stay_clean() -> None:
    pool, (image, labels) = full_pool(), (torch.zeros(3, 64, 64).byte(), torch.zeros(64, 64).byte())
    for rows, least, most in ((0.0, 0, 0), (0.5, 30, 70), (1.0, 100, 100)):
        config = PasteConfig(rows=rows)
        made = [paste(image, labels, pool, np.random.default_rng(i), config).pastes > 0 for i in range(100)]
        assert least <= sum(made) <= most


def test_workers_paste_what_the_main_process_would() -> None:
    """A row is finished by its own seed, wherever that is."""
    pool, stage = full_pool(), micro_step(1)
    maps = [s.labels for s in stage.train]
    crops = Crops(stage.train, TUNE, 0, "s", beside=lambda i: maps[i], finish=Paster(pool, PasteConfig()))
    bare = Crops(stage.train, TUNE, 0, "s", beside=lambda i: maps[i])
    ours = collate([crops.at(0)[i] for i in range(4)])
    plain = collate([bare.at(0)[i] for i in range(4)])
    again = collate([Paster(pool, PasteConfig())(bare.at(0)[i]) for i in range(4)])
    assert torch.equal(ours.images, again.images) and not torch.equal(ours.images, plain.images)
    assert ours.share is not None and ours.share.any() and plain.share is None
    assert torch.equal(ours.labels, plain.labels)


def test_new_classes_are_replayed_beside_old_ones_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[set[int]] = []

    class Watched(InstanceRows):
        def __init__(self, pool: InstancePool, *given: Any, **more: Any) -> None:
            super().__init__(pool, *given, **more)
            seen.append({instance.label for instance in self.instances})

    monkeypatch.setattr("everseg.classes.methods.eir.InstanceRows", Watched)
    for asked in ("false", "true"):
        learner = ClassTrial(find("eir"), (f"replay_new={asked}",)).fresh()
        for step in (0, 1):
            learner.learn(micro_step(step), NoScratch())
        old, new = set(range(1, learner.model.new().start)), set(learner.model.new())
        assert seen.pop() == (old | new if asked == "true" else old)


# ---------------------------------------------------------------- what the old model completes


def test_maps_are_completed_once_for_whole_images_of_any_size() -> None:
    learner = ClassTrial(find("eir")).fresh()
    learner.learn(micro_step(0), NoScratch())
    given = [micro_image(i, (3,), size) for i, size in enumerate([(64, 80), (40, 56), (64, 80)])]
    maps = complete(learner.model, given, 0.4, name="s")
    for i, sample in enumerate(given):
        with torch.no_grad():
            scores = learner.model(learner.model.pixels(sample.image[None])).full().sigmoid()
        expected = pseudo_labels(sample.labels[None], scores, 0.4)[0]
        assert maps(i).shape == sample.labels.shape
        assert (maps(i) != expected).float().mean() < 0.01, "a batch may round differently"


def test_crops_are_completed_as_published_where_that_is_asked_for() -> None:
    learner = ClassTrial(find("eir"), ("complete=crop",)).fresh()
    learner.learn(micro_step(0), NoScratch())
    batch = collate([Crops(micro_step(1).train, TUNE, 0, "s").at(0)[i] for i in range(4)])
    done = completed_in_crops(batch, learner.model.frozen_copy(), 0.4, Paster(learner.pool, PasteConfig()))
    assert done.completed is not None and done.share is not None
    assert torch.equal(done.labels, batch.labels) and done.seeds == batch.seeds
