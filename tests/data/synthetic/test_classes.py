"""Synthetic class streams: the same for ever, what they say they hold, and such that the old is forgotten."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import nn

from everseg.classes.confusion import Confusion
from everseg.data import Stream, SyntheticClasses, check, folder_maps, write_synthetic_classes
from everseg.data.synthetic.objects import LOOKS
from everseg.errors import UserError
from everseg.types import Stage

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_a_sample_depends_on_its_number_alone() -> None:
    short, long = SyntheticClasses(3, "train", size=64), SyntheticClasses(30, "train", size=64)
    again = pickle.loads(pickle.dumps(long))
    for i in (2, 0):
        a, b = short[i], again[i]
        assert torch.equal(a.image, b.image) and torch.equal(a.labels, b.labels) and a.key == b.key
        assert a.image.shape == (3, 64, 64) and a.image.dtype == a.labels.dtype == torch.uint8
    assert torch.equal(long[10:20][1].image, long[11].image) and long[10:20].objects(1) == long.objects(11)
    assert short[-1].name == "train-00002.png" and short.content(0) != short.content(1)
    others = [SyntheticClasses(3, "test", size=64), SyntheticClasses(3, "train", size=64, seed=1)]
    assert len({s.key for samples in (short, *others) for s in samples}) == 9


@pytest.mark.parametrize("size", [48, 100, 128])
def test_class_maps_show_the_objects_that_were_placed(size: int) -> None:
    """Each object is a 4-connected part by itself, where it was placed, and nothing else is labelled."""
    samples = SyntheticClasses(40, "train", size=size, seed=3)
    present = samples.presence()
    for i, sample in enumerate(samples):
        labels, placed = sample.labels.numpy(), samples.objects(i)
        assert np.array_equal(
            np.flatnonzero(np.bincount(labels.ravel(), minlength=256)), present[i].nonzero()[0]
        )
        for label in np.unique(labels[labels > 0]):
            own = [o for o in placed if o.label == label]
            parts, count = ndimage.label(labels == label)
            assert count == len(own)
            middles = ndimage.center_of_mass(labels == label, parts, range(1, count + 1))
            for o in own:
                far = min(np.hypot((x + 0.5) / size - o.x, (y + 0.5) / size - o.y) for y, x in middles)
                assert far < 0.15 * o.radius + 1 / size
        assert labels[[0, -1]].max() == labels[:, [0, -1]].max() == 0, "an object is cut off"


def test_classes_look_different_and_their_pixels_are_theirs() -> None:
    """Inside an object the image differs from the ground around it, in every class."""
    for kind in LOOKS:
        sample = SyntheticClasses(1, "train", kinds=[kind])[0]
        inside = ndimage.binary_erosion(sample.labels.numpy() == 1, iterations=2)
        around = ndimage.binary_dilation(sample.labels.numpy() == 1, iterations=6) & (
            sample.labels.numpy() == 0
        )
        image = sample.image.numpy().astype(float)
        assert np.abs(image[:, inside].std(1) - image[:, around].std(1)).max() > 5
        assert 0.01 < inside.mean() < 0.6


@pytest.mark.parametrize("setting", ["overlapped", "disjoint", "sequential"])
def test_every_step_has_its_classes_and_hides_the_others(setting: str) -> None:
    train, test = SyntheticClasses(64, "train", size=48), SyntheticClasses(16, "test", size=48)
    stream = Stream.of_classes(train, test, "4-2", setting=setting)  # type: ignore[arg-type]
    assert [len(s.classes) for s in stream.stages] == [4, 2, 2]
    known: set[int] = set()
    for stage in stream.stages:
        new = {len(known) + k for k in range(1, len(stage.classes) + 1)}
        seen = set(np.flatnonzero(stage.train.presence().any(0)).tolist()) - {0}
        assert seen == (new if setting != "sequential" else known | new)
        known |= new
        assert set(np.flatnonzero(stage.test.presence().any(0)).tolist()) - {0} == known
    # Background shift is real: most images of a later step show an old class, without a label.
    places = stream.stages[1].train.places
    assert train.presence()[places, 1:5].any(1).mean() > (0.5 if setting == "overlapped" else 0.3)


def test_each_class_is_in_its_share_of_the_images() -> None:
    present = SyntheticClasses(80, "train").presence()[:, 1:9]
    assert (present.sum(0) >= 10).all() and (present.sum(1) >= 2).all() and (present.sum(1) <= 4).all()


def test_a_written_stream_is_clean_and_the_same(tmp_path: Path) -> None:
    path = write_synthetic_classes(tmp_path / "s", "5-3", train=16, test=8, seed=2, size=48)
    some = next((tmp_path / "s" / "train" / "masks").iterdir())
    colours = np.array(Image.open(some).getpalette()).reshape(-1, 3)
    assert colours[[0, 1, 8]].tolist() == [[0, 0, 0], [128, 0, 0], [64, 0, 0]]
    stream = Stream.from_yaml(path)
    assert [len(s.classes) for s in stream.stages] == [5, 3] and check(stream).ok
    written, made = folder_maps(tmp_path / "s" / "train"), SyntheticClasses(16, "train", size=48, seed=2)
    for a, b in zip(written, made, strict=True):
        assert torch.equal(a.image, b.image) and torch.equal(a.labels, b.labels) and a.name == b.name
    with Image.open(tmp_path / "s" / "train" / "masks" / made[0].name) as classes:
        assert classes.mode == "P"
    lazy = Stream.of_classes(made, SyntheticClasses(8, "test", size=48, seed=2), "5-3")
    for a, b in zip(stream.stages, lazy.stages, strict=True):
        assert a.classes == b.classes and len(a.train) == len(b.train) and len(a.test) == len(b.test)
    with pytest.raises(UserError, match="is not empty"):
        write_synthetic_classes(tmp_path / "s")


def test_the_example_needs_no_files() -> None:
    stream = Stream.from_yaml(EXAMPLES / "synthetic_classes.yaml")
    assert [len(s.classes) for s in stream.stages] == [4, 2, 2] and stream.stages[2].train[0].image.shape[
        1
    ] == 128
    assert stream.fingerprint(stream.stages[0]) != stream.fingerprint(stream.stages[1])


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'ring'"):
        SyntheticClasses(3, "train", kinds=["rings"])
    with pytest.raises(UserError, match="two numbers are named 'ball'"):
        SyntheticClasses(3, "train", kinds=["ball", "ball"])
    for count, size in ((0, 64), (3, 47)):
        with pytest.raises(UserError, match="give a count from 1"):
            SyntheticClasses(count, "train", size=size)
    with pytest.raises(UserError, match="choose other numbers"):
        write_synthetic_classes(tmp_path / "s", "4-3")
    assert not (tmp_path / "s").exists()


# ---------------------------------------------------------------- learnable, and forgotten


@pytest.fixture
def micro_tensors() -> None:
    """By this name `tests/conftest.py` gives a test one thread: two wait longer than they work."""


def fit(net: nn.Module, stage: Stage, rounds: int) -> None:
    images = torch.stack([s.image for s in stage.train]).float() / 128 - 1
    labels = torch.stack([s.labels for s in stage.train]).long()
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for i in range(rounds):
        chosen = torch.arange(16 * i, 16 * i + 16) % len(images)
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(images[chosen]), labels[chosen]).backward()
        optimiser.step()


@pytest.mark.slow
@pytest.mark.usefixtures("micro_tensors")
def test_a_small_network_learns_the_classes_and_forgets_them() -> None:
    """Plain fine-tuning on the steps' own labels: what was learned first is called background in the end."""
    made = SyntheticClasses(96, "train", size=48), SyntheticClasses(24, "test", size=48)
    stages = Stream.of_classes(*made, "4-4").stages
    net = nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 9, 1), nn.Upsample(scale_factor=4, mode="bilinear"),
    )  # fmt: skip

    def old() -> float:
        confusion = Confusion(("background", *stages[0].classes, *stages[1].classes))
        net.eval()
        with torch.inference_mode():
            for s in stages[1].test:
                confusion.add(net(s.image[None].float() / 128 - 1).argmax(1)[0], s.labels)
        net.train()
        return float(confusion.iou()[1:5].mean())

    fit(net, stages[0], 60)
    first = old()
    fit(net, stages[1], 60)
    assert first > 0.4 and old() < 0.1
