"""Two columns of scores: intervals, tests and what could have been seen."""

import math

import numpy as np
import pytest
from scipy import stats

from everseg.errors import UserError
from everseg.results.paired import (
    Pairs,
    detectable_drop,
    detectable_flips,
    drop_p_value,
    flip_p_value,
    grouped,
    holm,
    mean_interval,
    pooled,
    units_needed,
    unseen_share,
)


def pairs(old: list[float], new: list[float], column: str = "a", names: tuple[str, ...] = ()) -> Pairs:
    units = names or tuple(f"{n}.png" for n in range(len(old)))
    return Pairs(column, "learned", "clicks", units, np.array(old), np.array(new))


def test_an_interval_is_students_or_wider_and_has_no_width_where_nothing_changed() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 3, 20):
        values = rng.normal(0.01, 0.05, n)
        found = mean_interval(values, samples=2000, seed=0, name="a")
        low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
        assert found.estimate == values.mean()
        assert found.low <= low + 1e-12 and found.high >= high - 1e-12
        assert found == mean_interval(values, samples=2000, seed=0, name="a")
    still = mean_interval(np.zeros(5), samples=100, seed=0, name="a")
    assert (still.low, still.high) == (0, 0)
    assert math.isnan(mean_interval(np.array([0.1]), samples=100, seed=0, name="a").low)


@pytest.mark.parametrize("skewed", [False, True])
def test_intervals_of_small_samples_cover_the_mean(skewed: bool) -> None:
    rng = np.random.default_rng(1)
    held = 0
    for draw in range(200):
        values = rng.normal(0, 1, 12) if not skewed else rng.exponential(1, 12) - 1
        found = mean_interval(values, samples=400, seed=draw, name="a")
        held += found.low <= 0 <= found.high
    assert held >= (186 if not skewed else 176)


def test_a_drop_beyond_the_margin_has_a_small_p_value_and_one_within_it_has_not() -> None:
    values = np.full(20, -0.03)
    values[::2] -= 0.002
    assert drop_p_value(values, 0.01, samples=4000, seed=0, name="a") == 1 / 4001
    assert drop_p_value(values, 0.05, samples=4000, seed=0, name="a") > 0.9
    # Exactly: of the eight ways to flip three equal values one is as low as all minus.
    found = drop_p_value(np.full(3, -0.03), 0.01, samples=40_000, seed=0, name="a")
    assert found == pytest.approx(1 / 8, abs=0.01)


def test_the_tail_takes_more_than_the_share_and_more_than_are_helped() -> None:
    assert flip_p_value(5, 0, 100, 0.01) == pytest.approx(max(stats.binom.sf(4, 100, 0.01), 1 / 32))
    assert flip_p_value(10, 10, 100, 0.01) > 0.5
    assert flip_p_value(10, 0, 1000, 0.01) > 0.5
    assert flip_p_value(0, 0, 10, 0.01) == 1


def test_what_can_be_seen_is_seen_with_the_power_that_was_said() -> None:
    rng = np.random.default_rng(2)
    tests, n, seen = 10, 80, 0
    share = detectable_flips(2, 400, 0.01, 0.05, 0.95, tests)
    for draw in range(200):
        values = rng.normal(0, 0.04, n)
        drop = detectable_drop(values, 0.01, 0.05, 0.95, tests)
        assert 0.02 < drop < 0.06
        seen += drop_p_value(values - drop, 0.01, samples=2000, seed=draw, name="a") <= 0.05 / tests
    assert seen >= 186
    harmed = rng.binomial(400, share, 400)
    assert np.mean([flip_p_value(int(h), 2, 400, 0.01) <= 0.05 / tests for h in harmed]) >= 0.93


def test_little_data_see_nothing() -> None:
    assert math.isinf(detectable_drop(np.array([0.1]), 0.01, 0.05, 0.95, 1))
    assert math.isinf(detectable_drop(np.array([0.1, 0.2, 0.1, 0.0, 0.1]), 0.01, 0.05, 0.95, 10))
    assert math.isinf(detectable_flips(0, 4, 0.01, 0.05, 0.95, 10))
    assert unseen_share(1) == pytest.approx(0.95) and unseen_share(300) == pytest.approx(0.00994, abs=1e-4)
    assert units_needed(np.array([0.05, -0.05]), 0.01) == 393
    assert units_needed(np.array([0.1]), 0.01) == 0


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1, 1] and holm([]) == []


def test_images_of_one_patient_count_once() -> None:
    of = pairs([0.2, 0.4, 0.6], [0.1, 0.1, 0.6], names=("p1/a.png", "p1/b.png", "p2/a.png"))
    found = grouped(of, "^([^/]+)/")
    assert found.units == ("p1", "p2")
    assert found.old == pytest.approx([0.3, 0.6]) and found.new == pytest.approx([0.1, 0.6])
    assert grouped(of, "p[0-9]").units == ("p1", "p2")
    with pytest.raises(UserError, match=r"does not match image 'p1/a.png' of 'a'"):
        grouped(of, "^q")
    with pytest.raises(UserError, match="is not a regular expression"):
        grouped(of, "(")


def test_columns_are_pooled_under_names_of_their_own() -> None:
    found = pooled([pairs([0.1], [0.2]), pairs([0.3], [0.4], "b")], "all images")
    assert found.units == ("a/0.png", "b/0.png") and found.difference == pytest.approx([0.1, 0.1])
