"""Merging what was trained apart: the same as one run on all of it, whatever the order."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from everseg.data import Stream, SyntheticDomain
from everseg.errors import UserError
from everseg.files import load_state
from everseg.merge.ties import Ties
from everseg.methods import configure
from everseg.runs.folder import load
from everseg.runs.learn import run
from everseg.runs.merge import merge_runs
from everseg.runs.run import RunConfig
from everseg.types import Stage

DOMAINS = ("lesions", "cracks", "nuclei", "shadows", "polyps")
SMALL = ("tune.fit.epochs=1", "tune.fit.batch=3", "rank=3")


def stream(*domains: str) -> Stream:
    def stage(index: int, name: str) -> Stage:
        train = SyntheticDomain(name, 3, size=64)
        return Stage(index, name, train, SyntheticDomain(name, 2, size=64, split="test"))

    return Stream(tuple(stage(i, name) for i, name in enumerate(domains)), ())


def learn(
    base: Any, out: Path, *domains: str, method: str = "regcl", more: tuple[str, ...] = (), seed: int = 0
) -> Path:
    settings = configure(method, assignments=[*SMALL, *more])
    run(stream(*domains), RunConfig(method, settings, "micro", seed=seed, baseline=False), out, base)
    return out


def adapter(folder: Path) -> torch.Tensor:
    record = json.loads((folder / "run.json").read_text())
    return torch.cat([v.double().flatten() for v in load_state(folder / record["state"])["adapter"].values()])


def distance(ours: Path, theirs: Path) -> float:
    a, b = adapter(ours), adapter(theirs)
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def sites(micro: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Five sites, each of which has learned one domain. Nobody writes to them."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("sites")
    return {name: learn(micro, root / f"site-{name}", name) for name in DOMAINS}


@pytest.fixture(scope="module")
def central(micro: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run that has seen all five."""
    return learn(micro, tmp_path_factory.mktemp("central") / "run", *DOMAINS)


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(DOMAINS, marks=pytest.mark.slow),
        DOMAINS[::-1],
        pytest.param((*DOMAINS[2:], *DOMAINS[:2]), marks=pytest.mark.slow),
    ],
)
def test_five_sites_are_one_run(
    sites: dict[str, Path], central: Path, micro: Any, tmp_path: Path, order: tuple[str, ...]
) -> None:
    merge_runs([sites[name] for name in order], tmp_path / "merged", model=micro)
    assert distance(tmp_path / "merged", central) < 1e-8
    assert load(tmp_path / "merged", micro).learned == list(order)


def test_files_are_as_good_as_runs_and_merges_can_be_merged(
    sites: dict[str, Path], central: Path, micro: Any, tmp_path: Path
) -> None:
    files = [sites[n] / "domains" / f"{n}.safetensors" for n in DOMAINS[3:]]
    merge_runs([sites[n] for n in DOMAINS[:2]], tmp_path / "two", model=micro)
    merge_runs([tmp_path / "two", sites[DOMAINS[2]], *files], tmp_path / "all", model=micro)
    assert distance(tmp_path / "all", central) < 1e-8


def test_a_merged_run_goes_on_learning(
    sites: dict[str, Path], central: Path, micro: Any, tmp_path: Path
) -> None:
    merge_runs([sites[n] for n in DOMAINS[:4]], tmp_path / "merged", model=micro)
    learn(micro, tmp_path / "merged", *DOMAINS)
    assert distance(tmp_path / "merged", central) < 1e-8
    assert load(tmp_path / "merged", micro).learned == list(DOMAINS)


def test_every_domain_has_its_row_as_if_learned_in_turn(
    sites: dict[str, Path], central: Path, micro: Any, tmp_path: Path
) -> None:
    merge_runs([sites[n] for n in DOMAINS], tmp_path / "merged", stream=stream(*DOMAINS), model=micro)
    ours, theirs = (load(f, micro).results for f in (tmp_path / "merged", central))
    assert ours.stages == theirs.stages and ours.columns == theirs.columns
    for cell, values in theirs.cells.items():
        if cell[0] >= 0:
            assert ours.cells[cell] == pytest.approx(values, abs=1e-3)
    bare = merge_runs([sites[n] for n in DOMAINS[:2]], tmp_path / "bare", model=micro)
    assert bare.results.stages == DOMAINS[:2] and not bare.results.cells


def test_another_rule_of_the_same_contributions(sites: dict[str, Path], micro: Any, tmp_path: Path) -> None:
    chosen = [sites[n] for n in DOMAINS[:3]]
    found = merge_runs(
        chosen, tmp_path / "ties", "ties", settings=["merger.options={keep: 0.5}"], model=micro
    )
    assert found.config.method == "merged"
    assert found.config.settings.merger.rule == "ties"
    assert found.config.settings.merger.build() == Ties(keep=0.5)
    assert found.config.settings.adapter == "aug" and found.config.settings.rank == 3
    assert load(tmp_path / "ties", micro).learned == list(DOMAINS[:3])
    again = merge_runs([tmp_path / "ties"], tmp_path / "average", "average", model=micro)
    assert again.config.settings.merger.options == {}


def test_weights_and_weighting(sites: dict[str, Path], micro: Any, tmp_path: Path) -> None:
    chosen = [sites[n] for n in DOMAINS[:2]]
    plain = merge_runs(chosen, tmp_path / "plain", model=micro)
    twice = merge_runs(chosen, tmp_path / "twice", weights={"lesions": 2.0}, model=micro)
    assert twice.learner.state_dict()["weights"] == {"lesions": 2.0, "cracks": 1.0}
    assert distance(tmp_path / "plain", tmp_path / "twice") > 1e-4
    images = merge_runs(chosen, tmp_path / "images", weighting="images", model=micro)
    assert images.learner.state_dict()["weights"] == {"lesions": 3.0, "cracks": 3.0}
    assert distance(tmp_path / "plain", tmp_path / "images") < 1e-7, "equal weights, whatever they are"
    assert plain.record.merged.rule == "regmean"


def test_equal_runs_have_equal_records(sites: dict[str, Path], micro: Any, tmp_path: Path) -> None:
    """Seconds are in the log, and nothing that differs between equal runs is in run.json."""
    records = []
    for name in ("one", "two"):
        settings = ("merger.rule=opcm", "measure=all", "fisher=2", "samples=2")
        learn(micro, tmp_path / name, *DOMAINS[:2], method="merged", more=settings)
        merge_runs([sites[n] for n in DOMAINS[:2]], tmp_path / f"merged-{name}", model=micro)
        lines = map(json.loads, (tmp_path / name / "events.jsonl").read_text().splitlines())
        assert all(line["statistics_seconds"] > 0 for line in lines if "event" not in line)
        records.append([(tmp_path / run / "run.json").read_bytes() for run in (name, f"merged-{name}")])
    assert records[0] == records[1]


def test_what_cannot_be_merged_leaves_nothing(sites: dict[str, Path], micro: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    elsewhere = learn(micro, tmp_path / "elsewhere", "cracks", seed=1)
    twin = learn(micro, tmp_path / "twin", "lesions")
    modules = learn(micro, tmp_path / "modules", "lesions", method="sequential", more=())
    damaged = shutil.copytree(sites["cracks"], tmp_path / "damaged")
    path = damaged / "domains" / "cracks.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    lesions = sites["lesions"]
    for sources, said in (
        ([], "nothing to merge"),
        ([tmp_path / "nowhere"], "neither a run folder nor"),
        ([lesions, twin], "both named 'lesions'"),
        ([lesions, elsewhere], "started from different weights"),
        ([modules], "kept nothing that can be merged"),
        ([lesions, damaged], "is missing or was changed after its run wrote it"),
    ):
        with pytest.raises(UserError, match=said):
            merge_runs(sources, out, model=micro)
        assert not (out / "run.json").exists()
    with pytest.raises(UserError, match=r"--weight names 'lesion'"):
        merge_runs([lesions], out, weights={"lesion": 2.0}, model=micro)
    with pytest.raises(UserError, match="has no stage 'lesions'"):
        merge_runs([lesions], tmp_path / "other", stream=stream("cracks"), model=micro)
    merge_runs([lesions], out, model=micro)
    with pytest.raises(UserError, match="holds a run already"):
        merge_runs([lesions], out, model=micro)
