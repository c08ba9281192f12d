"""Synthetic domains: the same for ever, different from each other, and readable as folders once written."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from everseg.data import (
    SCENES,
    FolderReader,
    Stream,
    SyntheticDomain,
    check,
    write_synthetic,
    write_synthetic_stream,
)
from everseg.errors import UserError


@pytest.mark.parametrize("domain", SCENES)
def test_a_sample_depends_on_its_number_alone(domain: str) -> None:
    short, long = SyntheticDomain(domain, 3, size=64), SyntheticDomain(domain, 30, size=64)
    again = pickle.loads(pickle.dumps(long))
    for i in (2, 0):
        a, b = short[i], again[i]
        assert torch.equal(a.image, b.image) and torch.equal(a.masks, b.masks) and a.key == b.key
        assert torch.equal(a.prompts.points, b.prompts.points)
        assert a.image.shape == (3, 64, 64) and a.image.dtype == torch.uint8
    assert len(long[10:20]) == 10 and torch.equal(long[10:20][1].image, long[11].image)
    assert short[-1].name == f"{domain}-train-00002.png"
    keys = {s.key for s in short} | {s.key for s in SyntheticDomain(domain, 3, size=64, split="test")}
    assert len(keys | {SyntheticDomain(domain, 1, size=64, seed=1)[0].key}) == 7
    with pytest.raises(IndexError):
        short[3]


@pytest.mark.parametrize("domain", SCENES)
@pytest.mark.parametrize("size", [32, 100, 256])
def test_masks_are_neither_empty_nor_full_at_any_size(domain: str, size: int) -> None:
    for sample in SyntheticDomain(domain, 12, size=size, seed=5):
        assert 0.002 < sample.masks.float().mean() < 0.75
        x, y = sample.prompts.points[0].long().unbind(1)
        assert sample.masks[0, y, x].all()


def test_domains_differ_in_colour_and_texture() -> None:
    features = []
    for domain in SCENES:
        images = torch.stack([s.image.float() for s in SyntheticDomain(domain, 8, size=64)])
        rough = (images[..., 1:] - images[..., :-1]).abs().mean()
        features.append([*images.mean(dim=(0, 2, 3)).tolist(), 10 * rough.item()])
    distance = np.linalg.norm(np.array(features)[:, None] - np.array(features)[None], axis=2)
    assert (distance + np.eye(len(features)) * 1e6).min() > 15


def test_wrong_arguments() -> None:
    with pytest.raises(UserError, match="did you mean 'polyps'"):
        SyntheticDomain("polyp", 3)
    for count, size in ((0, 64), (3, 31)):
        with pytest.raises(UserError, match="give a count from 1"):
            SyntheticDomain("polyps", count, size=size)


def test_fingerprint() -> None:
    def of(**changed: object) -> str:
        return SyntheticDomain(**{"domain": "cracks", "count": 4, **changed}).fingerprint()  # type: ignore[arg-type]

    assert (
        len({of(), of(count=5), of(size=64), of(seed=1), of(split="test"), of(clicks=2), of(domain="nuclei")})
        == 7
    )
    assert of() == of()


def test_written_folders_hold_the_same_samples(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "d", "nuclei", 3, size=64, seed=2, split="test")
    for written, made in zip(
        FolderReader(tmp_path / "d"), SyntheticDomain("nuclei", 3, 64, 2, "test"), strict=True
    ):
        assert torch.equal(written.image, made.image) and torch.equal(written.masks, made.masks)
    with pytest.raises(UserError, match="not empty"):
        write_synthetic(tmp_path / "d", "nuclei", 3)


def test_a_written_stream_is_clean(tmp_path: Path) -> None:
    path = write_synthetic_stream(tmp_path / "s", ["cracks", "polyps"], train=4, test=2, seed=1, size=64)
    stream = Stream.from_yaml(path)
    assert [(s.name, len(s.train), len(s.test), s.background) for s in stream.stages] == [
        ("cracks", 4, 2, False),
        ("polyps", 4, 2, False),
        ("natural", 4, 2, True),
    ]
    assert check(stream).ok and yaml.safe_load(path.read_text())["seed"] == 1
    again = write_synthetic_stream(tmp_path / "t", ["cracks", "polyps"], train=4, test=2, seed=1, size=64)
    for a, b in zip(stream.stages, Stream.from_yaml(again).stages, strict=True):
        assert stream.fingerprint(a) == stream.fingerprint(b)
    with pytest.raises(UserError, match="did you mean 'polyps'"):
        write_synthetic_stream(tmp_path / "u", ["polyp"])
    with pytest.raises(UserError, match="'polyps' is named more than once"):
        write_synthetic_stream(tmp_path / "u", ["polyps", "cracks", "polyps"])
    assert not (tmp_path / "u").exists()
    assert not (tmp_path / "u").exists()
