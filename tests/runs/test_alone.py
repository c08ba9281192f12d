"""Whose module was trained alone: own ones first, then other runs' on the same data, and nobody else's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from everseg.data import Stream, SyntheticDomain
from everseg.methods import configure
from everseg.results import further
from everseg.runs.alone import with_alone
from everseg.runs.folder import load_scores
from everseg.runs.learn import run
from everseg.runs.run import Run, RunConfig
from everseg.types import Stage

SMALL = ("tune.fit.epochs=1", "tune.fit.batch=4")


def stage(index: int, domain: str, seed: int = 0) -> Stage:
    train = SyntheticDomain(domain, 4, size=64, seed=seed)
    return Stage(index, domain, train, SyntheticDomain(domain, 2, size=64, split="test"))


def stream(*domains: str, seed: int = 0) -> Stream:
    return Stream(tuple(stage(i, domain, seed) for i, domain in enumerate(domains)))


@pytest.fixture(scope="module")
def runs(micro: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("alone")
    made = {
        "sequential": ("sequential", stream("lesions", "cracks")),
        "apart": ("independent", stream("lesions", "cracks")),
        "cracks": ("sequential", stream("cracks")),
        "other": ("sequential", stream("cracks", seed=1)),
        "plain": ("zero-shot", stream("cracks")),
    }
    for name, (method, of) in made.items():
        small = () if method == "zero-shot" else SMALL
        run(of, RunConfig(method, configure(method, assignments=small), "micro"), folder / name, micro)
    return {name: load_scores(folder / name) for name in made}


def value(of: Run, domain: str, row: int = 0) -> float:
    return of.results.cells[(row, domain)]["iou"]


def test_a_run_with_modules_has_its_own(runs: dict[str, Run]) -> None:
    summary = with_alone(runs["apart"], list(runs.values()))
    assert summary["alone"] == runs["apart"].record.oracle and "alone_from" not in summary


def test_what_a_run_learned_first_it_learned_alone(runs: dict[str, Run]) -> None:
    summary = with_alone(runs["sequential"], ())
    assert set(summary["alone"]) == {"lesions"}
    assert summary["alone"]["lesions"]["iou"] == value(runs["sequential"], "lesions")
    told = further(runs["sequential"].results, "iou", summary).missing
    assert "no score of cracks learned alone is known" in told["plasticity"]


def test_others_give_theirs_and_the_same_method_comes_first(runs: dict[str, Run]) -> None:
    one = runs["sequential"]
    for others, source in ((["apart"], "apart"), (["apart", "cracks"], "cracks")):
        summary = with_alone(one, [runs[name] for name in others])
        assert summary["alone_from"] == {"cracks": source}
        oracle = runs["apart"].record.oracle
        assert oracle is not None
        expected = oracle["cracks"]["iou"] if source == "apart" else value(runs["cracks"], "cracks")
        assert summary["alone"]["cracks"]["iou"] == expected
        figures = one.figures(summary)
        right_after = value(one, "cracks", 1)
        assert figures["scores"]["iou"]["plasticity"] == pytest.approx((right_after - expected) / 2)


def test_other_data_another_base_and_the_untouched_base_are_no_reference(runs: dict[str, Run]) -> None:
    cracks = runs["cracks"]
    mark = replace(cracks.record.base, fingerprint="0" * 64)
    strange = replace(cracks, record=replace(cracks.record, base=mark))
    how = replace(cracks.config, score=replace(cracks.config.score, size=32))
    scaled = replace(cracks, config=how)
    for other in (runs["other"], runs["plain"], strange, scaled):
        assert "cracks" not in with_alone(runs["sequential"], [other])["alone"]
