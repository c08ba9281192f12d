"""Instances kept as features: which places, how exactly, how many bytes, and what is drawn of them."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch

from everseg.classes.instances import Found
from everseg.classes.instances.features import FeaturePool, KeptFeatures, kept_features
from everseg.methods import find
from everseg.testing import micro_step
from everseg.testing.classes import ClassTrial
from everseg.types import NoScratch


def features(height: int = 8, width: int = 8) -> torch.Tensor:
    """(6, h, w): channel 0 says the row, channel 1 the column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.cat([torch.stack([rows, columns]).float(), torch.rand(4, height, width)])


def mask(top: int, left: int, bottom: int, right: int, side: int = 64) -> torch.Tensor:
    made = torch.zeros(side, side, dtype=torch.bool)
    made[top:bottom, left:right] = True
    return made


def test_places_are_those_that_the_mask_covers() -> None:
    kept = kept_features(features(), mask(16, 24, 40, 40), 2, "a", count=100, seed=0)
    back = kept.vectors.float() * kept.scale / 255
    places = {(round(float(v[0])), round(float(v[1]))) for v in back}
    assert places == {(row, column) for row in (2, 3, 4) for column in (3, 4)}
    assert len(kept_features(features(), mask(16, 24, 40, 40), 2, "a", count=4, seed=0).vectors) == 4


def test_a_small_instance_has_the_place_that_it_covers_most() -> None:
    kept = kept_features(features(), mask(9, 18, 12, 22), 1, "a", count=8, seed=0)
    assert len(kept.vectors) == 1
    assert (kept.vectors[0, :2].float() * kept.scale / 255).tolist() == pytest.approx([1, 2], abs=0.02)


def test_eight_bits_are_exact_to_half_a_step() -> None:
    map_Dhw = torch.rand(16, 4, 4) * 3
    kept = kept_features(map_Dhw, torch.ones(64, 64, dtype=torch.bool), 1, "a", count=16, seed=3)
    back, exact = kept.vectors.float() * kept.scale / 255, map_Dhw.flatten(1).T
    gaps = (back[:, None] - exact[None]).abs().amax(2).min(1).values
    assert float(gaps.max()) <= kept.scale / 255 / 2 + 1e-6
    assert kept.vectors.dtype == torch.uint8 and kept.nbytes == 16 * 16 + 4


def made(label: int, number: int) -> KeptFeatures:
    vectors = torch.full((2, 5), number, dtype=torch.uint8)
    return KeptFeatures(vectors, 1.0, label, f"{label}-{number}")


def test_the_room_is_shared_evenly_and_no_byte_too_many() -> None:
    found = [Found(f"{n}", label, (0, 0, 1, 1), (0, 0), 1, (8, 8)) for label in (1, 2, 3) for n in range(9)]

    def look(one: Found) -> KeptFeatures:
        return made(one.label, int(one.image))

    pool = FeaturePool(6)
    pool.refill(found, look, seed=0, step=1)
    assert Counter(item.label for item in pool.items) == {1: 2, 2: 2, 3: 2}
    small = FeaturePool(100, max_bytes=5 * 14 + 3)
    small.refill(found, look, seed=0, step=1)
    assert len(small) == 5 and small.nbytes == 70
    other = FeaturePool(6)
    other.load_state_dict(copy.deepcopy(pool.state_dict()))
    assert [i.key for i in other.items] == [i.key for i in pool.items] and other.nbytes == pool.nbytes


def test_classes_are_drawn_alike_however_many_instances_they_have() -> None:
    pool = FeaturePool(100)
    pool.items = [made(1, n) for n in range(9)] + [made(2, 99)]
    vectors, channels = pool.draw(4000, seed=7)
    assert vectors.shape == (4000, 5) and Counter(channels.tolist())[2] == pytest.approx(2000, abs=150)
    assert torch.allclose(vectors[channels == 2], torch.tensor(99 / 255))
    again, _ = pool.draw(4000, seed=7)
    assert torch.equal(again, vectors)


@pytest.mark.usefixtures("micro_backbone")
def test_a_step_keeps_features_of_its_classes_and_no_pixel() -> None:
    learner = ClassTrial(find("eir-features")).taught(micro_step(0))
    first = {item.key for item in learner.pool.items}
    assert {item.label for item in learner.pool.items} == {1, 2}
    figures = learner.learn(micro_step(1), NoScratch())
    assert {item.label for item in learner.pool.items} == {1, 2, 3} and figures["instances"] == 6
    assert first & {item.key for item in learner.pool.items}, (
        "what is kept of old classes is not looked at again"
    )
    state = learner.state_dict()
    assert set(state) == {"segmenter", "features"} and set(state["features"]) == {"vectors", "records"}
    assert state["features"]["vectors"].shape[1] == learner.model.head.width
    assert figures["feature_bytes"] == sum(item.nbytes for item in learner.pool.items) < 6 * (8 * 32 + 4) + 1


@pytest.mark.usefixtures("micro_backbone")
def test_its_first_step_is_dkds() -> None:
    ours, theirs = (ClassTrial(find(name)).taught(micro_step(0)) for name in ("eir-features", "dkd"))
    assert ours.first_loss == theirs.first_loss
    pairs = zip(ours.model.parameters(), theirs.model.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)
