"""The feature cache: what it returns is what the trunk says, and it never stands in the way."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everseg.data import SyntheticDomain
from everseg.domains.adapters.aug import AugModule
from everseg.domains.cache import CacheConfig, FeatureCache
from everseg.domains.prepare import prepare
from everseg.domains.tune import TuneConfig, fit_adapter
from everseg.fit import FitConfig
from everseg.models.promptable.protocol import TAP
from everseg.models.promptable.sam import Sam
from everseg.types import NoScratch, Prompts, Query

CLICK = Prompts(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[1]]))


def queries(count: int = 5, keyed: bool = True) -> list[Query]:
    generator = torch.Generator().manual_seed(4)
    return [
        Query(
            torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8, generator=generator), CLICK, f"k{i}" * keyed
        )
        for i in range(count)
    ]


class Counting:
    """A base that counts the images that go through its trunk."""

    def __init__(self, base: Any) -> None:
        self.base = base
        self.images: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.base, name)

    def trunk(self, pixels: Tensor) -> Any:
        self.images.append(len(pixels))
        return self.base.trunk(pixels)


@pytest.fixture
def base(micro: Any) -> Any:
    return Counting(micro)


def truth(base: Any, asked: Sequence[Query]) -> Tensor:
    with torch.no_grad():
        found: Tensor = base.base.trunk(base.base.pixels([q.image for q in asked]))[TAP]
    return found


def settings(where: Any, tmp_path: Path, precision: Any = "fp32", **more: Any) -> CacheConfig:
    return CacheConfig(where, precision, folder=str(tmp_path / "features"), **more)


@pytest.mark.parametrize("where", ["memory", "disk", "off"])
def test_full_precision_is_the_trunk_itself(base: Any, tmp_path: Path, where: Any) -> None:
    cache = FeatureCache(base, settings(where, tmp_path))
    asked = queries()
    for _ in range(2):
        found = cache.features(asked)[TAP]
        assert torch.equal(found, truth(base, asked))
        assert found.dtype == torch.float32
        assert not found.requires_grad
    assert base.images == ([5, 5] if where == "off" else [5])
    assert (cache.hits, cache.misses) == ((0, 10) if where == "off" else (5, 5))


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_half_precision_is_close_and_found_as_it_was_computed(base: Any, tmp_path: Path, where: Any) -> None:
    cache = FeatureCache(base, settings(where, tmp_path, "fp16"))
    asked = queries()
    first = cache.features(asked)[TAP]
    exact = truth(base, asked)
    assert torch.equal(first, exact.half().float())
    torch.testing.assert_close(first, exact, rtol=2**-10, atol=1e-6)
    assert torch.equal(cache.features(asked)[TAP], first)
    # Hits beside misses, in any order, are the same rows.
    mixed = [asked[3], *queries(7)[5:], asked[0]]
    found = cache.features(mixed)[TAP]
    assert torch.equal(found[[0, 3]], first[[3, 0]])
    assert base.images == [5, 2]


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_a_spent_budget_ends_keeping_and_changes_no_value(base: Any, tmp_path: Path, precision: Any) -> None:
    size = 8 * 8 * 32 * (2 if precision == "fp16" else 4)
    asked = queries()
    wanted = FeatureCache(base, settings("memory", tmp_path, precision)).features(asked)[TAP]
    cache = FeatureCache(base, settings("memory", tmp_path, precision, budget=2 * size + 1))
    base.images.clear()
    for _ in range(2):
        torch.testing.assert_close(cache.features(asked)[TAP], wanted, rtol=1e-3, atol=1e-5)
    assert base.images == [5, 3]
    assert (cache.bytes, len(cache.entries)) == (2 * size, 2)
    assert [cache.holds(q.key) for q in asked] == [True, True, False, False, False]
    held = sum(v.numel() * v.element_size() for e in cache.entries.values() for v in e.values())
    stored = sum(v.untyped_storage().nbytes() for e in cache.entries.values() for v in e.values())
    assert held == stored == cache.bytes  # No row keeps its batch alive.


def test_the_budget_counts_what_the_folder_holds_already(base: Any, tmp_path: Path) -> None:
    FeatureCache(base, settings("disk", tmp_path)).features(queries())
    files = list((tmp_path / "features").iterdir())
    assert len(files) == 5
    FeatureCache(base, settings("disk", tmp_path, budget=1000)).features(queries(7))
    assert len(list((tmp_path / "features").iterdir())) == 5


def test_one_image_with_several_prompts_is_encoded_once(base: Any, tmp_path: Path) -> None:
    one, other = queries(2)
    asked = [one, other, one, replace(one, prompts=Prompts(boxes=torch.zeros(1, 4)))]
    found = FeatureCache(base, settings("memory", tmp_path)).features(asked)[TAP]
    assert base.images == [2]
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[0], found[3])
    assert not torch.equal(found[0], found[1])


def test_without_a_key_nothing_is_kept_or_confused(base: Any, tmp_path: Path) -> None:
    cache = FeatureCache(base, settings("memory", tmp_path))
    asked = queries(keyed=False)
    for _ in range(2):
        assert torch.equal(cache.features(asked)[TAP], truth(base, asked))
    assert not cache.entries
    assert not cache.holds("")


def test_a_new_cache_finds_what_an_old_one_left_on_the_disk(base: Any, tmp_path: Path) -> None:
    first = FeatureCache(base, settings("disk", tmp_path)).features(queries())[TAP]
    again = FeatureCache(base, settings("disk", tmp_path)).features(queries())[TAP]
    assert torch.equal(first, again)
    assert base.images == [5]


@pytest.mark.parametrize("content", [b"", b"123", None], ids=["empty", "rubbish", "truncated"])
def test_a_damaged_file_is_a_miss_and_is_written_anew(
    base: Any, tmp_path: Path, content: bytes | None
) -> None:
    cache = FeatureCache(base, settings("disk", tmp_path))
    asked = queries(1)
    cache.features(asked)
    [file] = (tmp_path / "features").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-7] if content is None else content)
    assert torch.equal(cache.features(asked)[TAP], truth(base, asked))
    assert file.read_bytes() == whole
    assert base.images == [1, 1]
    assert len(list((tmp_path / "features").iterdir())) == 1


def test_another_base_another_tap_and_another_precision_do_not_hit(
    micro: Any, micro_model: Any, tmp_path: Path
) -> None:
    asked = queries(2)
    FeatureCache(micro, settings("disk", tmp_path)).features(asked)
    other = copy.deepcopy(micro_model)
    with torch.no_grad():
        other.vision_encoder.layers[0].mlp.lin1.bias += 1
    others = [(Sam(micro_model, "micro", first=1), "fp32"), (micro, "fp16"), (Sam(other, "micro"), "fp32")]
    for base, precision in others:
        cache = FeatureCache(base, settings("disk", tmp_path, precision))
        cache.features(asked)
        assert (cache.hits, cache.misses) == (0, 2)


def test_a_folder_that_cannot_be_written_costs_speed_only(
    base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    cache = FeatureCache(base, settings("disk", tmp_path))
    monkeypatch.setattr("everseg.domains.cache.save_file", full)
    for _ in range(2):
        assert torch.equal(cache.features(queries())[TAP], truth(base, queries()))
    assert list((tmp_path / "features").iterdir()) == []


# ---------------------------------------------------------------- training on cached features


class Losses(NoScratch):
    """Records the loss of every epoch; with one batch an epoch that is every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def save(self, name: str, state: Any) -> None:
        self.seen.append(state["losses"][-1])


def training(base: Any, cache: CacheConfig) -> tuple[list[float], AugModule, Any]:
    config = TuneConfig(fit=FitConfig(epochs=8, batch=6, optimiser="adamw"))
    prepared = prepare(SyntheticDomain("nuclei", 6, size=64), base, cache, config.fit, "nuclei")
    module = AugModule.beside(base, None, torch.Generator().manual_seed(0))
    scratch = Losses()
    fit_adapter(module, base, prepared, config, seed=0, name="nuclei", scratch=scratch)
    return scratch.seen, module, prepared


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_training_on_cached_features_is_training(micro: Any, tmp_path: Path, where: Any) -> None:
    """The published check of a cached prefix: the same losses step by step (specs: SAMCL, golden checks,
    6)."""
    wanted, _, _ = training(micro, settings("off", tmp_path))
    found, _, _ = training(micro, settings(where, tmp_path))
    assert found == pytest.approx(wanted, abs=1e-5)
    assert wanted[-1] < wanted[0]
    rounded, _, _ = training(micro, settings(where, tmp_path, "fp16"))
    assert rounded == pytest.approx(wanted, abs=2e-2)


def test_where_the_features_are_kept_no_image_is_decoded_twice(micro: Any, tmp_path: Path) -> None:
    class Watched(SyntheticDomain):
        decoded = 0

        def __getitem__(self, index: Any) -> Any:
            Watched.decoded += 1
            return super().__getitem__(index)

    samples = Watched("nuclei", 4, size=64)
    config = TuneConfig(fit=FitConfig(epochs=3, batch=2))
    for cache, decoded in ((settings("memory", tmp_path), 4), (settings("off", tmp_path), 16)):
        Watched.decoded = 0
        prepared = prepare(samples, micro, cache, config.fit, "nuclei")
        module = AugModule.beside(micro)
        fit_adapter(module, micro, prepared, config, seed=0, name="nuclei", scratch=NoScratch())
        assert Watched.decoded == decoded


def test_features_that_vanish_from_the_disk_while_training_are_computed_anew(
    micro: Any, tmp_path: Path
) -> None:
    """Kept rows must not stand in for the image with a stub of it."""
    config = TuneConfig(fit=FitConfig(epochs=2, batch=2))
    samples = SyntheticDomain("nuclei", 4, size=64)

    def learned(vanish: bool) -> dict[str, Tensor]:
        prepared = prepare(samples, micro, settings("disk", tmp_path), config.fit, "nuclei")
        if vanish:
            for file in (tmp_path / "features").iterdir():
                file.unlink()
        module = AugModule.beside(micro, None, torch.Generator().manual_seed(0))
        fit_adapter(module, micro, prepared, config, seed=0, name="nuclei", scratch=NoScratch())
        return dict(module.state_dict())

    wanted, found = learned(False), learned(True)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4)
