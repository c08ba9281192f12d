"""A damaged run folder: whatever is wrong with a file, one sentence names it, and nothing is changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everseg.data import Stream, SyntheticDomain
from everseg.errors import UserError
from everseg.methods import configure
from everseg.report.collect import collect
from everseg.runs.folder import load, load_scores, read_record
from everseg.runs.forget import forget
from everseg.runs.learn import run
from everseg.runs.run import Run, RunConfig
from everseg.types import Stage

SMALL = ("tune.fit.epochs=1", "tune.fit.batch=4", "selector.size=3", "selector.epochs=1")


def stream(*names: str) -> Stream:
    def stage(index: int, name: str) -> Stage:
        test = SyntheticDomain(name, 2, size=64, split="test")
        return Stage(index, name, SyntheticDomain(name, 4, size=64), test)

    return Stream(tuple(stage(index, name) for index, name in enumerate(names)))


CONFIG = RunConfig("samcl", configure("samcl", assignments=SMALL), "micro")


@pytest.fixture(scope="module")
def whole(micro: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two domains. Nobody writes to it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(stream("lesions", "cracks"), CONFIG, folder, micro)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def report(folder: Path, micro: Any) -> object:
    return collect(load(folder, micro), None)


def compare(folder: Path, micro: Any) -> object:
    current = load_scores(folder)
    return current.figures(), current.summary()


def learn(folder: Path, micro: Any) -> object:
    return run(stream("lesions", "cracks", "nuclei"), CONFIG, folder, micro)


def forget_one(folder: Path, micro: Any) -> object:
    return forget(folder, "cracks", base=micro)


def evaluate(folder: Path, micro: Any) -> object:
    current = load(folder, micro)
    return current.problem.now(current, stream("lesions"), current.config.score, oracle=False)


VERBS: tuple[Callable[[Path, Any], object], ...] = (report, compare, learn, forget_one, evaluate)


def refused(folder: Path, micro: Any, name: str) -> None:
    """Every verb gives one sentence that names the file, and the folder stays as it is."""

    def content() -> dict[str, str]:
        files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"]
        return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    before = content()
    for verb in VERBS:
        with pytest.raises(UserError) as caught:
            verb(folder, micro)
        assert name in str(caught.value) and "\n" not in str(caught.value), verb.__name__
        assert content() == before, verb.__name__


RECORDS: dict[str, Any] = {
    "no method": lambda r: r["config"].pop("method"),
    "a number for the method": lambda r: r["config"].update(method=5),
    "settings are a list": lambda r: r["config"].update(settings=[]),
    "an unknown setting's value": lambda r: r["config"]["settings"]["tune"].update(fit="fast"),
    "a seed of text": lambda r: r["config"].update(seed="zero"),
    "no fingerprint": lambda r: r["base"].pop("fingerprint"),
    "stages are a dict": lambda r: r.update(learned={}),
    "a stage without a name": lambda r: r["learned"][0].pop("name"),
    "a stage's name is a list": lambda r: r["learned"][0].update(name=["a"]),
    "figures of text": lambda r: r["learned"][0].update(figures={"loss": "low"}),
    "no figures": lambda r: r["learned"][1].pop("figures"),
    "classes are a number": lambda r: r["learned"][1].update(classes=3),
    "images are text": lambda r: r["learned"][1].update(images="four"),
    "an oracle of text": lambda r: r.update(oracle={"lesions": "good"}),
    "certificates are text": lambda r: r.update(forgotten=["cracks"]),
    "a path out of the folder": lambda r: r.update(state="../state-001.safetensors"),
    "no digest": lambda r: r["sha256"].pop("results"),
    "digests are a list": lambda r: r.update(sha256=[]),
    "a stream that is a number": lambda r: r.update(stream=7),
}


@pytest.mark.parametrize("what", RECORDS)
def test_a_record_of_other_types(folder: Path, micro: Any, what: str) -> None:
    path = folder / "run.json"
    record = json.loads(path.read_text())
    RECORDS[what](record)
    path.write_text(json.dumps(record))
    refused(folder, micro, "run.json")


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b'"text"', b"\xff\xfe{}", b"[" * 5000])
def test_a_record_that_is_none(folder: Path, micro: Any, content: bytes) -> None:
    (folder / "run.json").write_bytes(content)
    refused(folder, micro, "run.json")


RESULTS: dict[str, Any] = {
    "no format": lambda r: r.pop("format"),
    "no stages": lambda r: r.pop("stages"),
    "stages of numbers": lambda r: r.update(stages=[1, 2]),
    "columns are text": lambda r: r.update(columns="lesions"),
    "a row that is missing": lambda r: r["values"]["iou"].pop(),
    "values of text": lambda r: r["values"].update(iou=[["a", "b"], ["c", "d"]]),
    "no baseline": lambda r: r.pop("baseline"),
    "learned_at of text": lambda r: r["learned_at"].update(lesions="first"),
    "scores are a list": lambda r: r.update(scores=[]),
    "a score without a route": lambda r: r["scores"]["0"].pop("route"),
    "scores of unequal lengths": lambda r: r["scores"]["0"]["image"].pop(),
    "no columns": lambda r: r.update(columns=[]),
    "an infinite row": lambda r: r["learned_at"].update(cracks=float("inf")),
    "a row that is not there": lambda r: r["learned_at"].update(cracks=7),
    "an infinite score": lambda r: r["baseline"]["f1"].__setitem__(0, float("inf")),
    "a score of another domain": lambda r: r["scores"]["0"]["column"].__setitem__(0, "nuclei"),
    "scores without a metric": lambda r: r["scores"]["0"]["values"].pop("mae"),
    "a metric that is missing": lambda r: r["values"].pop("f1"),
}


@pytest.mark.parametrize("what", RESULTS)
def test_results_of_other_types(folder: Path, micro: Any, what: str) -> None:
    """Changed by somebody who also changed the checksum: otherwise that differs."""
    record = json.loads((folder / "run.json").read_text())
    path = folder / record["results"]
    results = json.loads(path.read_text())
    RESULTS[what](results)
    path.write_text(json.dumps(results))
    record["sha256"]["results"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "run.json").write_text(json.dumps(record))
    refused(folder, micro, record["results"])


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"5",
        b'{"seconds": 1.0}',
        b'{"stage": "lesions"}',
        b'{"stage": 3, "seconds": 1.0}',
        b'{"stage": "lesions", "seconds": "long"}',
        b'{"stage": "lesions", "seconds": 1.0, "peak_memory_bytes": "much"}',
        b'{"stage": "lesions", "seconds": 1.0, "loss": [1]}',
        b'{"stage": "\xff"}',
        b'{"event": "nothing", "stage": "lesions"}',
        b'{"event": "progress", "stage": "lesions"}',
        b'{"event": [1], "stage": "lesions"}',
        b'{"event": "curve", "stage": "lesions", "fit": "lesions", "epochs": [1], "losses": ["low"]}',
    ],
)
def test_a_damaged_log(folder: Path, micro: Any, line: bytes) -> None:
    log = folder / "events.jsonl"
    log.write_bytes(log.read_bytes() + line + b"\n")
    refused(folder, micro, "events.jsonl")


def test_a_line_that_was_cut_short_is_left_out_with_a_remark(
    folder: Path, micro: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    log = folder / "events.jsonl"
    lines = [line for line in log.read_bytes().splitlines(keepends=True) if b'"event"' not in line]
    log.write_bytes(lines[0][:30] + b"\n" + lines[1])
    assert [event.stage for event in load(folder, micro).events()] == ["cracks"]
    said = capsys.readouterr().err
    assert "events.jsonl, line 1 is incomplete and was left out" in said and said.count("\n") == 1
    assert read_record(folder).names == ["lesions", "cracks"]


def test_scores_are_read_without_the_base(whole: Path, micro: Any) -> None:
    light, full = load_scores(whole), load(whole, micro)
    assert light.figures() == full.figures() and light.means() == full.means()
    with pytest.raises(AssertionError, match="read for its scores"):
        light.learner.predict([])


def test_a_run_says_what_it_is_in_a_few_lines(whole: Path, micro: Any) -> None:
    found: Run = load(whole, micro)
    assert len(repr(found)) < 500 and "samcl" in repr(found) and "lesions, cracks" in repr(found)
