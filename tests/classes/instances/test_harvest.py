"""What counts as an instance, and what is kept of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from everseg.classes.instances import HarvestConfig, cut, find_instances

LOSSLESS = HarvestConfig(quality=0)


@pytest.fixture
def labels() -> Tensor:
    """Class 1 in two parts that touch at a corner, class 2 at the border, class 3 tiny, a strip of void."""
    labels = torch.zeros(100, 100, dtype=torch.uint8)
    labels[10:20, 10:20] = 1
    labels[20:30, 20:30] = 1
    labels[40:50, 0:12] = 2
    labels[60, 60:63] = 3
    labels[70:72, :] = 255
    return labels


@pytest.fixture
def image() -> Tensor:
    return torch.randint(0, 256, (3, 100, 100), generator=torch.Generator().manual_seed(0)).byte()


def test_parts_that_touch_at_a_corner_are_two(labels: Tensor) -> None:
    found = find_instances(labels, [1], "a")
    assert [f.box for f in found] == [(10, 10, 20, 20), (20, 20, 30, 30)]
    assert all((f.image, f.label, f.area, f.size) == ("a", 1, 100, (100, 100)) for f in found)


def test_void_and_other_classes_are_no_instances(labels: Tensor) -> None:
    assert {f.label for f in find_instances(labels, range(1, 255))} == {1, 2}
    assert not find_instances(labels, [5])


def test_areas_and_borders_sort_out(labels: Tensor) -> None:
    everything = HarvestConfig(min_area=0, max_area=1)
    assert [f.label for f in find_instances(labels, range(255), config=everything)] == [1, 1, 2, 3]
    inner = replace(everything, border=3)
    assert [f.label for f in find_instances(labels, range(255), config=inner)] == [1, 1, 3]
    labels[:] = 4
    assert not find_instances(labels, [4])


def test_the_published_criterion_wants_every_class_in_one_part(labels: Tensor) -> None:
    reference = HarvestConfig.presets()["reference"]
    assert not find_instances(labels, [2, 3], config=reference), "class 1 lies in two parts"
    assert [f.label for f in find_instances(labels, [1, 2], config=replace(reference, single="class"))] == [2]
    labels[20:30, 20:30] = 0
    assert [f.label for f in find_instances(labels, [1, 2, 3], config=reference)] == [1, 2, 3]


def test_an_instance_is_cut_out_whole_and_alone(labels: Tensor, image: Tensor) -> None:
    """A ring around a part of the same class: their boxes overlap, and each is cut without the other."""
    labels[:] = 0
    labels[10:50, 10:50], labels[20:40, 20:40], labels[25:35, 25:35] = 1, 0, 1
    ring, core = find_instances(labels, [1])
    assert (ring.area, core.area) == (40 * 40 - 20 * 20, 100)
    kept = cut(image, labels, ring, 0, LOSSLESS)
    assert int(kept.inside.sum()) == ring.area
    assert torch.equal(kept.pixels[:, kept.inside], image[:, 10:50, 10:50][:, kept.inside])


def test_nothing_is_kept_beyond_the_margin(labels: Tensor, image: Tensor) -> None:
    labels[:] = 0
    labels[10:50, 10:14], labels[46:50, 10:50] = 1, 1  # an L whose box is mostly empty
    (found,) = find_instances(labels, [1])
    kept = cut(image, labels, found, 0, LOSSLESS)
    far = kept.pixels[:, :30, 10:].flatten(1)
    mean = image[:, 10:50, 10:50][:, kept.inside].float().mean(1).round()
    assert torch.equal(far, mean[:, None].byte().expand_as(far))


def test_a_large_instance_is_shrunk(image: Tensor, labels: Tensor) -> None:
    labels[:] = 0
    labels[10:70, 10:40] = 1
    (found,) = find_instances(labels, [1])
    kept = cut(image, labels, found, 2, HarvestConfig(max_side=16))
    assert kept.pixels.shape == (3, 16, 8) and kept.inside.shape == (16, 8) and bool(kept.inside.all())
    assert (kept.box, kept.step) == ((10, 10, 70, 40), 2)
    assert kept.picture[:2] == b"\xff\xd8" and kept.nbytes < 60 * 30 * 3


def test_arrays_serve_as_well(labels: Tensor) -> None:
    assert find_instances(np.asarray(labels), [1, 2]) == find_instances(labels, [1, 2])
