"""Two runs at the gate: what may be compared, on what, and that a run is never worse than itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

import everseg
from everseg.data import Stream, SyntheticDomain, write_synthetic_stream
from everseg.errors import UserError
from everseg.methods import configure
from everseg.results.gate import GateConfig
from everseg.runs.folder import write_record
from everseg.runs.gate import Gate, decide, gate, open_sides
from everseg.runs.learn import run
from everseg.runs.run import Run, RunConfig
from everseg.runs.verdict import advice, headline, powers
from everseg.types import Stage

SETTINGS = ("tune.fit.steps=1", "tune.fit.batch=2", "selector.epochs=1")


def domains(*names: str, images: int = 2) -> list[Stage]:
    return [
        Stage(
            n,
            name,
            SyntheticDomain(name, 2, size=32),
            SyntheticDomain(name, images, size=32, split="test"),
        )
        for n, name in enumerate(names)
    ]


def learned(stream: Stream, out: Path, base: Any, seed: int = 0, method: str = "samcl") -> Run:
    settings = configure(method, assignments=SETTINGS if method == "samcl" else SETTINGS[:2])
    return run(stream, RunConfig(method, settings, "micro", seed=seed), out, base)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gate") / "data"
    return write_synthetic_stream(folder, ("lesions", "cracks"), train=2, test=2, size=32)


@pytest.fixture(scope="module")
def made(micro: Any, file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Two runs of one stream that differ in their seed."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    stream = Stream.from_yaml(file)
    return learned(stream, folder / "old", micro), learned(stream, folder / "new", micro, seed=1)


def refused(sentence: str, *arguments: Any, **given: Any) -> None:
    with pytest.raises(UserError, match=sentence):
        open_sides(*arguments, **given)


# ---------------------------------------------------------------- verdicts


def test_a_run_passes_against_itself_and_against_a_copy(
    made: tuple[Run, Run], micro: Any, tmp_path: Path
) -> None:
    old, _ = made
    shutil.copytree(old.folder, tmp_path / "copy")
    found = gate(tmp_path / "copy", old.folder, base=micro)
    assert found.verdict == "pass" and found.same and not found.flips
    assert all(c.changed == 0 for c in found.comparisons)
    assert "the same run to the bit" in headline(found)
    assert "harm to fewer than 77.6 % of such images could still go unseen" in "\n".join(powers(found))


def test_every_column_is_compared_with_clicks_and_with_a_box(made: tuple[Run, Run]) -> None:
    old, new = made
    unseen = Stream(tuple(domains("polyps")), name="more")
    found = gate(new, old, stream=unseen, samples=200)
    assert [(c.column, c.prompt, c.kind) for c in found.comparisons] == [
        *((name, prompt, kind) for name, kind in COLUMNS for prompt in ("clicks", "box")),
        ("all images", "clicks", "all"),
        ("all images", "box", "all"),
    ]
    assert not found.same
    plain = gate(new, "plain", stream=unseen, samples=200)
    assert plain.old == "plain" and plain.comparisons[0].kind == "unseen"
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["verdict"] == found.verdict and told["settings"]["samples"] == 200
    assert told["images"][0]["column"] == "polyps" and len(told["images"][0]["old"]) == 2
    again = gate(new, old, stream=unseen, samples=200)
    assert again.to_json() == found.to_json()


COLUMNS = [("polyps", "unseen"), ("lesions", "learned"), ("cracks", "learned"), ("natural", "natural")]


@pytest.mark.slow
def test_a_module_that_is_damaged_fails_on_its_domain_alone(micro: Any, tmp_path: Path) -> None:
    """The micro base segments nothing, so one side finds everything, and the other loses a domain."""
    stream = Stream(tuple(domains("lesions", "cracks", images=14)))
    old = learned(stream, tmp_path / "old", micro, method="independent")
    new = learned(stream, tmp_path / "new", micro, method="independent")
    assert gate(new, old, stream=stream, samples=500).verdict == "pass"
    lost = {sample.key for sample in (stream.stages[0].test[n] for n in range(14))}
    sides = open_sides(new, old, stream=stream)

    def everything(queries: Sequence[Any]) -> list[Any]:
        return [replace(one, logits=one.logits * 0 + 1) for one in old.learner.predict(queries)]

    def damaged(queries: Sequence[Any]) -> list[Any]:
        return [
            replace(one, logits=-one.logits) if query.key in lost else one
            for query, one in zip(queries, everything(queries), strict=True)
        ]

    judged = decide(replace(sides, predict_old=everything, predict_new=damaged), GateConfig(samples=500))
    assert judged.verdict == "fail"
    assert {c.column for c in judged.worse} <= {"lesions", "all images"} and judged.worse
    assert all(c.changed == 0 for c in judged.comparisons if c.column == "cracks")
    assert any("do not deploy" in text for text in advice(judged))


def test_a_domain_whose_test_images_are_gone_is_not_passed_over(
    made: tuple[Run, Run], file: Path, tmp_path: Path
) -> None:
    old, _ = made
    shutil.copytree(file.parent, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "cracks")
    sides = open_sides(old, old)
    own = Stream.from_yaml(tmp_path / "data" / "stream.yaml", old.learned)
    assert own.gone == {"cracks"}
    kept = tuple(pair for pair in sides.tested if pair[0].name != "cracks")
    left = replace(sides, tested=kept, left_out=("'cracks' is not compared, since its test images are gone",))
    found = decide(left)
    assert found.verdict == "cannot tell" and "'cracks'" in headline(found)
    assert any("Restore its test images" in text for text in advice(found))
    moved = replace(old.record, stream=str(tmp_path / "data" / "stream.yaml"))
    gone = open_sides(replace(old, record=moved), old)
    assert gone.left_out == () and {s.name for s, _ in gone.tested} == {"lesions", "natural", "cracks"}
    both = replace(old, record=moved)
    assert open_sides(both, both).left_out == left.left_out


# ---------------------------------------------------------------- what cannot be compared


def test_runs_that_cannot_be_compared(made: tuple[Run, Run], micro: Any, tmp_path: Path) -> None:
    old, new = made
    refused("holds no run", tmp_path / "none", old)
    refused("holds no run", new, tmp_path / "none")
    refused("the new run cannot be 'plain'; name a run, and give 'plain' as the old one", "plain", old)
    refused("a run is of type int", 3)
    refused("the stream is of type int", new, old, stream=3)
    shutil.copytree(old.folder, tmp_path / "other")
    other = replace(old.record, base=replace(old.record.base, name="other", fingerprint="0" * 64))
    write_record(tmp_path / "other", other)
    refused("was made with base other .* compare runs of one base", new, tmp_path / "other")
    shutil.copytree(old.folder, tmp_path / "classes")
    eir = replace(old.record, config={**old.record.config, "method": "eir"}, base=other.base)
    write_record(tmp_path / "classes", eir)
    refused(
        "learned domains and .*classes classes; compare runs that learn the same", new, tmp_path / "classes"
    )
    apart = learned(Stream(tuple(domains("nuclei"))), tmp_path / "apart", micro)
    refused(r"have no learned domain in common \(lesions, cracks, natural; nuclei\)", new, apart)
    elsewhere = learned(Stream(tuple(domains("lesions", images=3))), tmp_path / "elsewhere", micro)
    refused("were scored on different images of 'lesions'", new, elsewhere)
    refused("was not made from a stream file; name one with --stream", apart)
    named = Stream(tuple(domains("lesions", "nuclei")))
    assert open_sides(new, elsewhere, stream=named).tested[0][0] is named.stages[0]
    assert open_sides(apart, stream=named).tested[1][1] == "learned"


def test_a_run_that_is_being_written_or_is_damaged(made: tuple[Run, Run], micro: Any, tmp_path: Path) -> None:
    old, _ = made
    folder = tmp_path / "run"
    shutil.copytree(old.folder, folder)
    with FileLock(folder / ".lock"):
        refused("is being written by another command", folder, old.folder, base=micro)
    assert open_sides(folder, old.folder, base=micro).same
    state = folder / old.record.state
    state.write_bytes(state.read_bytes()[:-8])
    refused("restore it from a copy", folder, old.folder, base=micro)


def test_the_front_door(made: tuple[Run, Run]) -> None:
    old, _ = made
    found = everseg.gate(old, old, samples=100, margin=0.5)
    assert isinstance(found, Gate) and found.judgement.config.margin == 0.5
    with pytest.raises(UserError, match="the margin is 2"):
        everseg.gate(old, old, margin=2)
