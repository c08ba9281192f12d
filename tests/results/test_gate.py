"""The verdict: pass, fail or cannot tell, and how often it is right."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from everseg.errors import UserError
from everseg.results.gate import GateConfig, Judgement, judge, verdict_of
from everseg.results.paired import Pairs

ROOT = Path(__file__).resolve().parents[2]


def column(name: str, difference: np.ndarray, prompt: str = "clicks", flips: bool = True) -> Pairs:
    units = tuple(f"{n}.png" for n in range(len(difference)))
    old = np.full(len(difference), 0.6)
    return Pairs(name, "learned", prompt, units, old, old + difference, flips)


def noise(n: int, size: float = 0.03, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, size, n)
    return values - values.mean()


def finding(found: Judgement, name: str, prompt: str = "clicks") -> str:
    return next(c.finding for c in found.comparisons if (c.column, c.prompt) == (name, prompt))


@pytest.mark.parametrize("n", [1, 2, 300])
def test_scores_that_did_not_change_pass_however_few_there_are(n: int) -> None:
    found = judge([column("a", np.zeros(n)), column("a", np.zeros(n), "box")])
    assert found.verdict == "pass" and found.tests == 0 and not found.flips
    (first, _) = found.comparisons
    assert (first.changed, first.reason) == (0, "no score changed")
    assert first.unseen_share == pytest.approx(1 - 0.05 ** (1 / n))


def test_enough_images_without_a_drop_pass_and_few_cannot_tell() -> None:
    assert judge([column("a", noise(200)), column("b", noise(200, seed=1))]).verdict == "pass"
    found = judge([column("a", noise(200)), column("b", noise(8, seed=1))])
    assert found.verdict == "cannot tell"
    assert (finding(found, "a"), finding(found, "b")) == ("not worse", "cannot tell")
    one = judge([column("a", np.array([-0.001]))])
    assert (
        one.verdict == "cannot tell"
        and one.comparisons[0].reason == "it changed, and one image has no spread"
    )


def test_a_drop_on_one_domain_with_one_kind_of_prompt_fails_there_alone() -> None:
    found = judge(
        [
            column("a", noise(200)),
            column("a", noise(200, seed=1) - 0.03, "box"),
            column("b", noise(200, seed=2)),
            column("b", noise(200, seed=3), "box"),
        ]
    )
    assert found.verdict == "fail"
    assert finding(found, "a", "box") == "worse"
    assert [finding(found, *c) for c in (("a", "clicks"), ("b", "clicks"), ("b", "box"))] == ["not worse"] * 3


def test_a_drop_within_the_margin_does_not_fail() -> None:
    shifted = [column("a", noise(200) - 0.03)]
    assert judge(shifted, GateConfig(margin=0.02)).verdict == "fail"
    assert judge(shifted, GateConfig(margin=0.05)).verdict == "pass"


def test_a_few_images_that_are_harmed_badly_fail_though_the_mean_rises() -> None:
    difference = noise(200, 0.01) + 0.04
    difference[:12] = -0.5
    found = judge([column("a", difference)])
    assert difference.mean() > 0
    assert found.verdict == "fail" and found.comparisons[0].drop_p > 0.5
    assert found.comparisons[0].reason == "12 of 200 fall by 0.2 or more, 0 rise by 0.18 or more"
    assert len(found.flips) == 12 and found.flips[0].old - found.flips[0].new == pytest.approx(0.5)
    # As many that are helped as badly is what two trainings of one quality look like.
    difference[12:24] = 0.5
    assert judge([column("a", difference)]).verdict != "fail"
    # Noise about a drop that is accepted harms more than it helps, and is no harm beyond it.
    accepted = noise(4000, 0.1) - 0.01
    judged = judge([column("a", np.concatenate([accepted, -0.02 - accepted]))]).comparisons[0]
    assert judged.harmed == judged.helped and judged.finding != "worse"
    # What is no score of an image has no tail.
    difference[12:24] = 0.04
    assert not judge([column("a", difference, flips=False)]).flips


def test_all_images_together_see_what_no_column_can() -> None:
    columns = []
    for n in range(6):
        difference = noise(40, 0.001, seed=n)
        difference[:3] = -0.5
        columns.append(column(f"{n}", difference))
    found = judge(columns)
    assert [c.column for c in found.comparisons if c.finding == "worse"] == ["all images"]


def test_numbers_out_of_range_are_refused() -> None:
    for given in ({"margin": 0.0}, {"margin": math.nan}, {"flip": 1.5}):
        with pytest.raises(UserError, match="give a number between 0 and 1"):
            GateConfig(**given)
    assert verdict_of([]) == "pass"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/gate.py, which has the planted regressions and imports its neighbours by name."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location("benchmark_of_the_gate", ROOT / "benchmarks" / "gate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # Its dataclasses look themselves up there.
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("planted", "images"),
    [("none", 38), ("margin", 38), ("box", 100), pytest.param("tail", 400, marks=pytest.mark.slow)],
)
def test_planted_regressions_are_caught_and_nothing_else(benchmark: Any, planted: str, images: int) -> None:
    cell = benchmark.tried(benchmark.read_scores(benchmark.SCORES), planted, images, 3)
    assert cell.good
    if planted in ("none", "margin"):
        assert cell.failed <= 1
    else:
        assert cell.seen > 0 and cell.caught == cell.seen
