"""Click maps against the published bytes, and their laws."""

import hashlib

import pytest
import torch

from everseg.domains.heatmap import _TAPS, click_heatmap, taps_for

# Entries of the published Kvasir training clicks, in the 1024 frame, and the sha256 of their maps, x first.
THREE = [(462, 165), (584, 125), (680, 231)]
OTHER = [(638, 591), (543, 833), (534, 945)]
CORNERS = [(0, 0), (3, 5), (1023, 1023)]
SHA = {
    "three": "87213b53156f31eb47f689c41811aede5bf65c225d0b40bab7684f40dfa86994",
    "other": "63225304de6aaf17442dedad1a4ca988ad612f77d7e723fe3cb322d9ad514855",
    "corners": "7f51de95fa3ce73bbde1c56185b1068acbf61c49fc8ce869d08008ad538e6a49",
}


def rows(*clicks: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    points = torch.tensor(clicks, dtype=torch.float32)
    return points, torch.ones(points.shape[:2], dtype=torch.long)


def published(*clicks: list[tuple[int, int]]) -> torch.Tensor:
    return click_heatmap(*rows(*clicks), 1024, 64, transposed=True)


def sha(heat: torch.Tensor) -> str:
    return hashlib.sha256(heat.contiguous().numpy().tobytes()).hexdigest()


@pytest.mark.parametrize(("clicks", "name"), [(THREE, "three"), (OTHER, "other"), (CORNERS, "corners")])
def test_the_published_bytes(clicks: list[tuple[int, int]], name: str) -> None:
    assert sha(published(clicks)[0]) == SHA[name]


def test_the_published_figures() -> None:
    heat = published(THREE)[0]
    assert [heat[cell].item() for cell in ((28, 10), (36, 7), (42, 14))] == [14.007568359375] * 3
    assert heat.max().item() == 14.007568359375
    assert heat.count_nonzero().item() == 231
    assert heat.sum().item() == 765.0
    wanted = [
        0.9338379,
        3.0349731,
        7.003784,
        11.906433,
        14.007568,
        11.906433,
        7.003784,
        3.0349731,
        0.9338379,
        0,
    ]
    assert heat[28, 6:16].tolist() == pytest.approx(wanted, abs=1e-6)


def test_the_published_corner_figures() -> None:
    heat = published(CORNERS)[0]
    assert heat[0, 0].item() == heat[63, 63].item() == pytest.approx(14.007568)
    assert heat[0, 4].item() == pytest.approx(0.9338379)
    assert heat[1, 0].item() == pytest.approx(11.906433)
    assert heat.sum().item() == pytest.approx(194.26940918, abs=1e-6)


def test_rows_are_y_unless_transposed() -> None:
    heat = click_heatmap(*rows([(800, 320)]), 1024, 64)[0]
    assert divmod(int(heat.argmax()), 64) == (20, 50)
    assert torch.equal(click_heatmap(*rows([(800, 320)]), 1024, 64, transposed=True)[0], heat.T)


def test_only_clicks_on_the_object_count() -> None:
    points, labels = rows(THREE)
    more = torch.cat([points, torch.tensor([[[900.0, 900.0], [0.0, 0.0]]])], 1)
    marked = torch.cat([labels, torch.tensor([[0, -10]])], 1)
    assert torch.equal(click_heatmap(more, marked, 1024, 64), click_heatmap(points, labels, 1024, 64))


def test_rows_of_a_batch_do_not_meet() -> None:
    both = published(THREE, OTHER)
    assert torch.equal(both[0], published(THREE)[0])
    assert torch.equal(both[1], published(OTHER)[0])


def test_repeated_clicks_do_not_add_up() -> None:
    assert torch.equal(published([THREE[0]] * 3), published([THREE[0]]))


def test_fractions_are_cut_and_outsiders_moved_to_the_border() -> None:
    points = torch.tensor([[[15.99, 1024.0]], [[15.0, 1023.0]], [[-3.0, 5000.0]], [[0.0, 1023.0]]])
    heat = click_heatmap(points, torch.ones(4, 1), 1024, 64)
    assert torch.equal(heat[0], heat[1])
    assert torch.equal(heat[2], heat[3])


def test_without_points_nothing_is_marked() -> None:
    heat = click_heatmap(None, None, 1024, 64, 3)
    assert heat.shape == (3, 64, 64)
    assert not heat.any()
    assert not click_heatmap(*rows(THREE)[:1], torch.full((1, 3), -10), 1024, 64).any()


@pytest.mark.parametrize(("grid", "taps"), [(8, 3), (16, 3), (24, 3), (32, 5), (48, 7), (64, 9), (128, 9)])
def test_the_blur_keeps_its_share_of_the_grid(grid: int, taps: int) -> None:
    assert taps_for(grid) == taps
    heat = click_heatmap(*rows([(512, 512)]), 1024, grid)[0]
    middle = grid // 2
    peak = 255 * (_TAPS[taps][taps // 2] / 256) ** 2
    assert heat[middle, middle].item() == pytest.approx(peak, rel=1e-6)
    assert heat.count_nonzero().item() == taps**2
    assert heat.sum().item() == 255.0


def test_tables_are_normalised_and_even() -> None:
    for size, taps in _TAPS.items():
        assert len(taps) == size
        assert sum(taps) == 256
        assert taps == taps[::-1]


def test_autocast_leaves_the_bytes_alone() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert sha(published(THREE)[0]) == SHA["three"]
