"""Domains found among embeddings: whole, apart, whatever the order and the batches, and strangers wait."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from everseg.domains.discover import LEAST, discover
from everseg.domains.plausible import Gaussian

WIDTH = 24


def domain(seed: int, count: int, scale: float = 1.0) -> Tensor:
    """Embeddings of a made-up domain around a centre of its own, correlated, wide or narrow."""
    generator = torch.Generator().manual_seed(seed)
    centre = 12 * torch.randn(WIDTH, generator=generator)
    mixing = scale * torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5
    return centre + torch.randn(count, WIDTH, generator=generator) @ mixing.T


def three() -> tuple[Tensor, list[int]]:
    """Domains of unequal sizes and widths, the largest first."""
    sizes = [80, 50, 30]
    parts = [domain(i, n, s) for i, (n, s) in enumerate(zip(sizes, (3.0, 1.0, 0.3), strict=True))]
    return torch.cat(parts), [i for i, n in enumerate(sizes) for _ in range(n)]


def test_domains_are_found_whole_apart_and_by_size() -> None:
    embeddings, truth = three()
    assert discover(embeddings) == truth


def test_the_order_does_not_matter() -> None:
    embeddings, truth = three()
    order = torch.randperm(len(truth), generator=torch.Generator().manual_seed(5))
    assert discover(embeddings[order]) == [truth[i] for i in order.tolist()]


@pytest.mark.parametrize("natural", [False, True])
def test_the_unit_of_a_feature_does_not_matter(natural: bool) -> None:
    embeddings, truth = three()
    units = torch.logspace(-2, 2, WIDTH, dtype=torch.float64)
    known = Gaussian.fit((torch.randn(200, WIDTH) * 20).double() * units) if natural else None
    assert discover(embeddings.double() * units, None, known) == truth


def test_one_domain_is_not_torn() -> None:
    assert set(discover(domain(0, 200))) == {0}


def test_images_that_are_all_alike_are_one_domain() -> None:
    assert set(discover(torch.ones(50, WIDTH))) == {0}


@pytest.mark.parametrize("count", [0, 1, LEAST - 1])
def test_too_few_images_wait(count: int) -> None:
    assert discover(domain(0, count)) == [None] * count


def test_a_handful_beside_a_domain_waits_and_later_opens_its_own() -> None:
    large, other = domain(0, 80), domain(7, 40)
    first = discover(torch.cat([large, other[:8]]))
    assert first[:80] == [0] * 80 and first[80:] == [None] * 8
    later = discover(other, {"a": large})
    assert later == [0] * 40


def test_images_of_known_domains_are_theirs_and_others_open_new_ones() -> None:
    embeddings, truth = three()
    known = {"a": domain(0, 200, 3.0)[80:], "c": domain(2, 200, 0.3)[30:]}
    found = discover(embeddings, known)
    assert found == [{0: "a", 1: 0, 2: "c"}[i] for i in truth]


def test_known_domains_alone_open_nothing() -> None:
    rows = domain(0, 300)
    found = discover(rows[200:], {"a": rows[:200]})
    assert found.count("a") >= 98 and set(found) <= {"a", None}
