"""p-values of embeddings: uniform for a domain's own images, small for others, whatever a domain's size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from everseg.domains import plausible
from everseg.domains.plausible import FEWEST, RANK, SHRINK, Distances, Gaussian, Plausibility
from everseg.types import NATURAL

WIDTH = 24


def domain(count: int, seed: int, shift: float = 0.0) -> Tensor:
    """Embeddings of one made-up domain, correlated and of unequal scales, drawn with a seed."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0))
    mixing = mixing * torch.linspace(2, 0.05, WIDTH)
    return torch.randn(count, WIDTH, generator=generator) @ mixing.T + shift


@pytest.mark.parametrize("count", [20, 300])
def test_known_images_are_turned_away_as_rarely_as_the_p_value_says(count: int) -> None:
    shares = []
    for seed in range(20):
        found = Plausibility({"a": Gaussian.fit(domain(count, seed))})
        shares.append(found.p_values(domain(200, 1000 + seed))[:, 0])
    p = np.concatenate(shares)
    assert (p < 0.001).mean() <= 0.003
    assert (p < 0.05).mean() <= 0.08
    assert 0.3 < np.median(p) < 0.75  # Neither everything nor nothing is plausible.


def test_what_lies_elsewhere_is_implausible_and_what_lies_near_less_so() -> None:
    found = Plausibility({"a": Gaussian.fit(domain(100, 1)), "b": Gaussian.fit(domain(100, 2, shift=60))})
    near, far = found.p_values(domain(50, 3)), found.p_values(domain(50, 4, shift=60))
    assert (near[:, 0] > 0.001).mean() > 0.95 and (near[:, 1] < 1e-6).all()
    assert (far[:, 1] > 0.001).mean() > 0.95 and (far[:, 0] < 1e-6).all()


def test_the_distance_is_that_of_the_shrunk_covariance() -> None:
    """With all directions kept it is Mahalanobis' distance, computed here from the covariance itself."""
    assert WIDTH - 1 < RANK
    e_ND, x_BD = domain(200, 5).double(), domain(7, 6).double()
    scale = e_ND.std(0)
    z_ND, z_BD = (e_ND - e_ND.mean(0)) / scale, (x_BD - e_ND.mean(0)) / scale
    values, vectors = torch.linalg.eigh(z_ND.T @ z_ND / 199)
    shrunk = (1 - SHRINK) * values + SHRINK * values.mean()
    expected = ((z_BD @ vectors).square() / shrunk).sum(1).log()
    found = Distances([Gaussian.fit(e_ND)])(x_BD.numpy())[:, 0]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4)


def test_a_few_directions_stand_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Gaussian.fit(domain(200, 5))
    monkeypatch.setattr(plausible, "RANK", 4)
    few = Gaussian.fit(domain(200, 5))
    assert few.directions.shape == (4, WIDTH)
    total = float(whole.variances.sum()) + whole.rest * (WIDTH - len(whole.variances))
    assert float(few.variances.sum()) + few.rest * (WIDTH - 4) == pytest.approx(total, rel=1e-5)


def test_measured_together_or_alone_a_distance_is_the_same() -> None:
    """Domains of several sizes have different numbers of directions."""
    each = [Gaussian.fit(domain(count, count)) for count in (6, 20, 90)]
    x_BD = domain(9, 7).double().numpy()
    together = Distances(each)(x_BD)
    for k, one in enumerate(each):
        np.testing.assert_allclose(together[:, k], Distances([one])(x_BD)[:, 0], rtol=1e-9)


def test_draws_have_the_moments_of_the_domain() -> None:
    e_ND = domain(300, 8, shift=3)
    drawn = Gaussian.fit(e_ND).draw(20000, torch.Generator().manual_seed(0))
    spread = e_ND.std(0)
    assert ((drawn.mean(0) - e_ND.mean(0)).abs() / spread).max() < 0.05
    a, b = torch.corrcoef(drawn.T), torch.corrcoef(e_ND.T)
    assert (a - b).abs().max() < 0.06
    torch.testing.assert_close(drawn.std(0), spread, rtol=0.05, atol=0)


def test_the_state_is_all_there_is() -> None:
    found = Gaussian.fit(domain(30, 9))
    again = Gaussian.from_state(found.to_state())
    x_BD = domain(5, 10)
    np.testing.assert_array_equal(
        Plausibility({"a": found}).p_values(x_BD), Plausibility({"a": again}).p_values(x_BD)
    )
    kept = sum(v.numel() for v in found.to_state().values())
    assert kept <= (RANK + 2) * WIDTH + RANK + 4


@pytest.mark.parametrize("count", [FEWEST, 40])
def test_images_that_are_all_alike(count: int) -> None:
    found = Plausibility({"a": Gaussian.fit(torch.full((count, WIDTH), 0.7))})
    assert found.p_values(torch.full((1, WIDTH), 0.7))[0, 0] > 0.1
    assert found.p_values(torch.full((1, WIDTH), 0.9))[0, 0] < 1e-6


def ball(count: int, seed: int, centre: float, radius: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return centre + radius * torch.randn(count, WIDTH, generator=generator)


def test_a_wide_domain_does_not_take_what_is_as_near_to_natural_images() -> None:
    """It has two kinds of images, and between the two lies another domain, near to natural images."""
    natural = Gaussian.fit(ball(300, 1, 0.0, 1.0))
    rows = torch.cat([ball(100, 2, -4.0, 1.0), ball(100, 3, 4.0, 1.0)])[torch.randperm(200)]
    asked = ball(50, 4, 0.5, 0.5)
    alone = Plausibility({"a": Gaussian.fit(rows, natural)})
    beside = Plausibility({"a": Gaussian.fit(rows, natural), NATURAL: natural})
    own = torch.cat([ball(100, 5, -4.0, 1.0), ball(100, 6, 4.0, 1.0)])
    assert (alone.p_values(asked)[:, 0] > 0.001).all()
    assert (beside.p_values(asked)[:, 0] < alone.p_values(asked)[:, 0]).all()
    assert (beside.p_values(asked)[:, 0] < 0.001).mean() > 0.9
    assert (beside.p_values(own)[:, 0] < 0.001).mean() <= 0.02


@pytest.mark.parametrize("count", [20, 300])
def test_beside_natural_images_known_ones_are_turned_away_no_more_often(count: int) -> None:
    natural = Gaussian.fit(domain(300, 77, shift=3))
    shares = []
    for seed in range(20):
        found = Plausibility({"a": Gaussian.fit(domain(count, seed), natural)}, natural)
        shares.append(found.p_values(domain(200, 1000 + seed))[:, 0])
    p = np.concatenate(shares)
    assert (p < 0.001).mean() <= 0.001
    assert (p < 0.05).mean() <= 0.05


def test_natural_images_are_compared_with_where_both_know_of_them() -> None:
    """Earlier versions kept nothing about the comparison, and not every base knows natural images."""
    natural, rows, asked = Gaussian.fit(domain(90, 2, shift=2)), domain(40, 1), domain(9, 3, shift=1)
    found = Gaussian.fit(rows, natural)
    state = found.to_state()
    assert Gaussian.from_state(state).beside == found.beside is not None
    earlier = Gaussian.from_state(state | {"numbers": state["numbers"][:4]})
    expected = Plausibility({"a": found}).p_values(asked)
    np.testing.assert_allclose(Plausibility({"a": earlier}, natural).p_values(asked), expected, rtol=1e-9)
    both = Plausibility({"a": found, "b": earlier}, natural)
    named = Plausibility({"a": found, "b": earlier, NATURAL: natural})
    for known in (both, named):
        compared, alone = known.p_values(asked)[:, 0], known.p_values(asked)[:, 1]
        assert (
            compared <= np.minimum(2 * alone, 1) + 1e-12
        ).all()  # It is twice the smaller of two p-values.
        assert (compared < alone).any()
    again = Plausibility(natural=natural)
    again.load_state_dict(both.state_dict())
    np.testing.assert_array_equal(again.p_values(asked), both.p_values(asked))


def test_without_a_domain_there_is_no_p_value() -> None:
    assert Plausibility({}).p_values(domain(3, 1)).shape == (3, 0)
