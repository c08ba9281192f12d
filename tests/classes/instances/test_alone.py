"""An instance alone, as a crop of its own image would show it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from everseg.classes.crops import random_crop
from everseg.classes.instances import HarvestConfig, Instance, cut, find_instances, instance_crop
from everseg.classes.instances.alone import MEAN_COLOUR
from everseg.classes.settings import ClassTuneConfig
from everseg.seed import torch_generator
from everseg.types import VOID

LOSSLESS = HarvestConfig(quality=0, margin=0, max_area=1.0)
TUNE = replace(ClassTuneConfig.sigmoid(), crop=64, area=(0.3, 0.9))


def one(*box: int) -> tuple[torch.Tensor, torch.Tensor, Instance]:
    """Noise with a rectangle of class 3, and that cut out."""
    image = torch.randint(0, 256, (3, 96, 128), generator=torch.Generator().manual_seed(0)).byte()
    labels = torch.zeros(96, 128, dtype=torch.uint8)
    labels[box[0] : box[2], box[1] : box[3]] = 3
    (found,) = find_instances(labels, [3], "a", LOSSLESS)
    return image, labels, cut(image, labels, found, 0, LOSSLESS)


@pytest.mark.parametrize(("outside", "value"), [("void", VOID), ("background", 0)])
def test_nothing_but_the_instance_is_shown(outside: str, value: int) -> None:
    *_, instance = one(20, 30, 60, 90)
    image, labels = instance_crop(instance, TUNE, torch_generator(1), outside=outside)  # type: ignore[arg-type]
    assert image.shape == (3, 64, 64) and set(labels.unique().tolist()) == {3, value}
    rest = image[:, labels == value]
    assert torch.equal(rest, torch.tensor(MEAN_COLOUR, dtype=torch.uint8)[:, None].expand_as(rest))


@pytest.mark.parametrize("seed", range(12))
def test_scale_and_place_are_those_of_a_crop_of_its_image(seed: int) -> None:
    """The published loader crops and then masks; here the instance is put where the same crop has it."""
    image, labels, instance = one(20, 30, 60, 90)
    _, cropped = random_crop(image, labels, TUNE, torch_generator(seed))
    _, alone = instance_crop(instance, TUNE, torch_generator(seed))
    different = ((cropped == 3) != (alone == 3)).float().mean()
    assert different < 0.05, "but for the rounding of its edge"


def test_a_large_instance_may_fill_the_crop() -> None:
    *_, instance = one(2, 2, 94, 126)
    shares = [
        (instance_crop(instance, TUNE, torch_generator(seed))[1] == 3).float().mean() for seed in range(20)
    ]
    assert max(shares) > 0.95


def test_a_small_instance_is_shown_where_that_is_asked_for() -> None:
    *_, instance = one(4, 4, 12, 12)
    config = replace(TUNE, area=(0.05, 0.1))
    shown = {
        visible: sum(
            bool((instance_crop(instance, config, torch_generator(seed), visible=visible)[1] == 3).any())
            for seed in range(30)
        )
        for visible in (0.0, 0.25)
    }
    assert shown[0.25] == 30 and shown[0.0] < 20
