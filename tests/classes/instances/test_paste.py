"""Pasting: the published geometry, its quirks, and the laws that the `paper` preset keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from everseg.classes.instances import (
    InstancePool,
    PasteConfig,
    choose_classes,
    paste,
    seen_classes,
)
from everseg.classes.instances.paste import Pasted, _blend
from everseg.classes.instances.place import best_window, covered, filling_size, native_size, ranked_cells
from everseg.errors import UserError

PAPER, REFERENCE = replace(PasteConfig(), rows=1.0), PasteConfig.presets()["reference"]


def scene(foreground: bool = True) -> tuple[Tensor, Tensor]:
    """An image of 512 x 512 pixels; with foreground a thing of class 6 and a strip of void."""
    image = torch.randint(0, 256, (3, 512, 512), generator=torch.Generator().manual_seed(9)).byte()
    labels = torch.zeros(512, 512, dtype=torch.uint8)
    if foreground:
        labels[100:400, 100:400] = 6
        labels[90:100, 100:400] = 255
    return image, labels


# ---------------------------------------------------------------- geometry


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((2, 2), (166, 166)),
        ((10, 10), (227, 227)),
        ((50, 100), (123, 247)),
        ((106, 258), (102, 249)),
        ((250, 250), (249, 249)),
        ((400, 300), (249, 187)),
        ((512, 512), (249, 249)),
        ((512, 40), (249, 19)),
        ((1, 40), None),
        ((40, 1), None),
    ],
)
def test_the_published_size_fills_the_cell(box: tuple[int, int], size: tuple[int, int] | None) -> None:
    assert filling_size(box, 250) == size


def test_the_published_cells() -> None:
    taken = np.zeros((512, 512), bool)
    assert ranked_cells(taken, 250) == [(0, 0), (0, 250), (250, 0)]
    taken[:250, :250] = True
    taken[:100, 250:] = True
    assert ranked_cells(taken, 250) == [(250, 0), (250, 250), (0, 250)]
    assert ranked_cells(taken, 250, "least_free") == [(0, 0), (0, 250), (250, 0)]
    with pytest.raises(UserError, match="do not fit into an image of 400 x 400"):
        ranked_cells(taken[:400, :400], 250)


@pytest.mark.parametrize("size", [(20, 33), (70, 90), (1, 1), (8, 16), (69, 2)])
def test_the_best_window_is_the_freest(size: tuple[int, int], generator: np.random.Generator) -> None:
    taken = np.random.default_rng(1).random((70, 90)) < 0.3
    every = {
        (y, x): int(taken[y : y + size[0], x : x + size[1]].sum())
        for y in range(0, 71 - size[0], 8)
        for x in range(0, 91 - size[1], 8)
    }
    assert covered(taken, size, 8).ravel().tolist() == [*every.values()]
    assert every[best_window(taken, size, 8, generator)] == min(every.values())


def test_equal_windows_are_drawn_from(generator: np.random.Generator) -> None:
    taken = np.zeros((64, 64), bool)
    assert len({best_window(taken, (8, 8), 8, generator) for _ in range(40)}) > 10


def test_the_native_size_has_its_caps() -> None:
    assert native_size((40, 60), (40, 60), (512, 512), 1.5, 2.0, 0.5) == (60, 90)
    assert native_size((40, 60), (20, 30), (512, 512), 1.5, 1.0, 0.5) == (20, 30)
    assert native_size((400, 600), (256, 256), (512, 512), 1.0, 2.0, 0.5) == (170, 256)


# ---------------------------------------------------------------- blending


def test_mixup_blends_image_and_label() -> None:
    for dtype in (torch.float64, torch.float32):
        under, over = torch.zeros(1, 1, dtype=torch.uint8), torch.zeros(1, 1, 1, dtype=torch.uint8)
        out = Pasted(torch.full((3, 1, 1), -1.0, dtype=dtype), under, over, torch.zeros(1, 1, 1), 0)
        inside = torch.ones(1, 1, dtype=torch.bool)
        _blend(out, 4, torch.full((3, 1, 1), 2.0), inside, 0.3, (slice(0, 1), slice(0, 1)), 0)
        assert out.image.flatten().tolist() == pytest.approx([-0.1] * 3)
        assert (out.under.item(), out.over.item(), out.share.item()) == (0, 4, pytest.approx(0.3))


def forced(monkeypatch: pytest.MonkeyPatch, amount: float, config: PasteConfig, pool: InstancePool) -> Pasted:
    """A paste with the given lambda."""
    from everseg.classes.instances import paste as module_function  # the function hides its module

    module = __import__("sys").modules[module_function.__module__]
    original = module._blend
    monkeypatch.setattr(module, "_blend", lambda o, k, p, i, a, w, n: original(o, k, p, i, amount, w, n))
    result = paste(*scene(), pool, np.random.default_rng(3), config)
    monkeypatch.setattr(module, "_blend", original)
    return result


@pytest.mark.parametrize("config", [PAPER, REFERENCE], ids=["paper", "reference"])
def test_lambda_0_is_the_identity_and_1_a_hard_paste(
    pool: InstancePool, config: PasteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, _ = scene()
    nothing = forced(monkeypatch, 0.0, config, pool)
    assert nothing.pastes and torch.equal(nothing.image, image) and not nothing.share.any()
    full = forced(monkeypatch, 1.0, config, pool)
    hard = forced(monkeypatch, 1.0, replace(config, blend="hard"), pool)
    assert torch.equal(full.image, hard.image) and hard.over.shape == (0, 512, 512)
    flat = full.under.clone()
    for over, share in zip(full.over, full.share, strict=True):
        flat = torch.where(share > 0, over, flat)
    assert torch.equal(flat, hard.under)


# ---------------------------------------------------------------- what is pasted


@pytest.mark.parametrize(
    ("seen", "pastes"), [([], 3), ([2], 3), ([2, 3], 2), ([1, 2, 3], 3), ([1, 2, 3, 4], 3)]
)
def test_the_published_number_of_pastes(
    seen: list[int], pastes: int, pool: InstancePool, generator: np.random.Generator
) -> None:
    assert paste(*scene(), pool, generator, REFERENCE, seen=seen).pastes == pastes
    chosen = choose_classes(seen, range(1, 6), REFERENCE, generator)
    assert [label for label, _ in chosen][: len(seen)] == seen[:3]
    assert [rank for _, rank in chosen] == ([0, 1, 2][: len(seen)] + [0, 0, 0])[:pastes]


def test_fillers_are_any_old_class_but_in_the_published_code(generator: np.random.Generator) -> None:
    def fillers(config: PasteConfig) -> set[int]:
        return {c for _ in range(99) for c, _ in choose_classes([], range(1, 6), config, generator)}

    assert fillers(PAPER) == {1, 2, 3, 4, 5} and fillers(REFERENCE) == {1, 2, 3, 4}
    assert len(choose_classes([2, 3], range(1, 6), PAPER, generator)) == 3
    assert choose_classes([], [], PAPER, generator) == []


def test_seen_classes_are_those_that_the_labels_lack() -> None:
    labels = torch.tensor([[0, 6, 255, 0]], dtype=torch.uint8)
    completed = torch.tensor([[3, 6, 255, 1]], dtype=torch.uint8)
    assert seen_classes(completed, labels) == [1, 3]


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize("config", [PAPER, REFERENCE], ids=["paper", "reference"])
def test_nothing_changes_outside_the_pastes(
    pool: InstancePool, config: PasteConfig, generator: np.random.Generator
) -> None:
    image, labels = scene()
    before = image.clone(), labels.clone()
    result = paste(image, labels, pool, generator, config)
    assert torch.equal(image, before[0]) and torch.equal(labels, before[1]), "what was given stays"
    outside = ~(result.share > 0).any(0)
    assert torch.equal(result.image[:, outside], image[:, outside]) and torch.equal(result.under, labels)
    assert result.over.max() in range(1, 6) and not result.over[:, outside].any()


@pytest.mark.parametrize("config", [PAPER, REFERENCE], ids=["paper", "reference"])
def test_the_same_seed_gives_the_same_bytes(pool: InstancePool, config: PasteConfig) -> None:
    first, second, other = (paste(*scene(), pool, np.random.default_rng(s), config) for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first[:4], second[:4], strict=True))
    assert not torch.equal(first.image, other.image)


def crowded() -> tuple[Tensor, Tensor]:
    """All four published cells are occupied but for a frame between them."""
    image, labels = scene(False)
    for y in (0, 250):
        for x in (0, 250):
            labels[y + 20 : y + 230, x + 20 : x + 230] = 6
    return image, labels


def hidden(config: PasteConfig, pool: InstancePool, seed: int) -> int:
    """Pixels of the foreground that a paste changed."""
    image, labels = crowded()
    result = paste(image, labels, pool, np.random.default_rng(seed), config)
    foreground = labels == 6
    changed = (result.image != image).any(0) | (result.share > 0).any(0) | (result.under != labels)
    return int((changed & foreground).sum())


def test_foreground_is_never_covered(pool: InstancePool) -> None:
    for seed in range(10):
        assert hidden(PAPER, pool, seed) == 0
        assert hidden(replace(PAPER, blend="hard"), pool, seed) == 0


def test_the_published_code_covers_foreground(pool: InstancePool) -> None:
    assert all(hidden(REFERENCE, pool, seed) > 0 for seed in range(3))


def test_pastes_do_not_cover_each_other_nor_void(pool: InstancePool, generator: np.random.Generator) -> None:
    image, labels = scene()
    small = PasteConfig(most=8, fill_below=8, blend="hard")
    result = paste(image[:, 88:168, 90:200], labels[88:168, 90:200], pool, generator, small)
    cropped = labels[88:168, 90:200]
    assert torch.equal(result.under[cropped != 0], cropped[cropped != 0])
    mixed = paste(image, labels, pool, generator, replace(PAPER, most=20, fill_below=20))
    assert mixed.pastes > 3
    amounts = mixed.share[0].unique()
    assert len(amounts) == mixed.pastes + 1, "each paste has its own lambda, unmixed"


def test_an_image_without_room_stays_as_it_is(pool: InstancePool, generator: np.random.Generator) -> None:
    image, _ = scene()
    result = paste(image, torch.full((512, 512), 6, dtype=torch.uint8), pool, generator)
    assert result.pastes == 0 and torch.equal(result.image, image) and not result.share.any()
    empty = paste(*scene(), InstancePool(), generator)
    assert empty.pastes == 0
