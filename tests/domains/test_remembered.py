"""What SAMCL remembers: embeddings, or Gaussians of constant size."""

from __future__ import annotations

import pytest
import torch

from everseg.domains.plausible import FEWEST, Gaussian
from everseg.domains.remembered import Remembered
from everseg.domains.selector import SelectorConfig
from everseg.types import NATURAL

ROWS = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))


def test_a_gaussian_takes_the_place_of_the_embeddings() -> None:
    found = Remembered(SelectorConfig(buffer="gaussian", size=30), seed=0)
    found.add("a", ROWS, images=90)
    state = found.state_dict()
    assert "a" in found and not state["buffer"] and set(state["gaussians"]) == {"a"}
    lessons = found.lessons()
    assert lessons["a"].shape == (30, 8)
    assert torch.equal(lessons["a"], found.lessons()["a"])  # The same draws each time.
    again = Remembered(found.config, seed=0)
    again.load_state_dict(state)
    assert torch.equal(again.lessons()["a"], lessons["a"])
    assert again.p_values(ROWS[:3]) == found.p_values(ROWS[:3])


def test_very_few_images_are_kept_as_they_are_and_never_turned_away() -> None:
    found = Remembered(SelectorConfig(buffer="gaussian"), seed=0)
    found.add("a", ROWS[: FEWEST - 1], images=FEWEST - 1)
    assert torch.equal(found.lessons()["a"], ROWS[: FEWEST - 1])
    assert found.p_values(ROWS[:2]) == [{}, {}]
    assert found.possible(["a"], found.p_values(ROWS[:2])).all()


def test_a_dropped_domain_leaves_nothing() -> None:
    one, both = (Remembered(SelectorConfig(), seed=0) for _ in range(2))
    one.add("a", ROWS, images=40)
    both.add("a", ROWS, images=40)
    both.add("b", ROWS + 5, images=40)
    assert set(both.p_values(ROWS[:1])[0]) == {"a", "b"}
    both.drop("b")
    assert both.p_values(ROWS[:2]) == one.p_values(ROWS[:2])
    state = both.state_dict()
    assert "b" not in {*state["buffer"], *state["counts"], *state.get("gaussians", {})}


def test_natural_images_are_a_class_from_the_start() -> None:
    natural = Gaussian.fit(ROWS + 9).to_state()
    found = Remembered(SelectorConfig(size=12), seed=0, natural=natural)
    assert found.natural is not None and found.lessons()[NATURAL].shape == (12, 8)


def test_without_abstention_nothing_is_computed() -> None:
    found = Remembered(SelectorConfig(abstain=0.0), seed=0)
    found.add("a", ROWS, images=40)
    assert found.p_values(ROWS[:2]) == [{}, {}]


def test_reading_a_run_back_fits_nothing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fitting takes longer than predicting an image, and there may be a hundred domains."""
    found = Remembered(SelectorConfig(), seed=0)
    found.add("a", ROWS, images=40)
    asked, again = found.p_values(ROWS[:3]), Remembered(found.config, seed=0)
    monkeypatch.setattr(Gaussian, "fit", None)
    again.load_state_dict(found.state_dict())
    assert again.p_values(ROWS[:3]) == asked
    assert torch.equal(again.lessons()["a"], ROWS)


def test_a_part_of_a_class_joins_its_lessons_and_its_p_value() -> None:
    found = Remembered(SelectorConfig(), seed=0)
    found.add("a", ROWS, images=40)
    alone = found.p_values(ROWS[:2] + 9)
    found.add("later", ROWS + 9, images=40, part_of="a")
    assert torch.equal(found.lessons()["a"], torch.cat([ROWS, ROWS + 9])) and set(found.lessons()) == {"a"}
    assert torch.equal(found.lessons({"a"})["a"], ROWS)
    joined = found.p_values(ROWS[:2] + 9)
    assert [set(p) for p in joined] == [{"a"}] * 2
    assert all(one["a"] > 0.001 > other["a"] for one, other in zip(joined, alone, strict=True))
    again = Remembered(found.config, seed=0)
    again.load_state_dict(found.state_dict(), found.part_of)
    assert again.p_values(ROWS[:2] + 9) == joined
    found.drop("later")
    assert found.p_values(ROWS[:2] + 9) == alone and set(found.lessons()) == {"a"}


def test_a_copy_is_one_of_its_own() -> None:
    found = Remembered(SelectorConfig(), seed=0)
    found.add("a", ROWS, images=40)
    other = found.copy()
    other.add("b", ROWS + 5, images=40)
    assert "b" not in found and set(found.p_values(ROWS[:1])[0]) == {"a"}
    assert other.p_values(ROWS[:1])[0].keys() == {"a", "b"}
