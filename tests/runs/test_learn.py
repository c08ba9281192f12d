"""A run: what it leaves in its folder, and that nothing which happens on the way changes it by a bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import runpy
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from everseg.data import Stream, SyntheticDomain, write_synthetic_stream
from everseg.errors import UserError
from everseg.files import load_state, locked
from everseg.methods import configure
from everseg.models.promptable.load import load_base
from everseg.models.promptable.sam import Sam
from everseg.results import BASE, average
from everseg.runs.folder import learned_stages, load
from everseg.runs.learn import run, run_stages
from everseg.runs.run import RunConfig
from everseg.types import Stage

SMALL = ("tune.fit.epochs=2", "tune.fit.batch=2", "selector.size=3", "selector.epochs=2")
KEPT = ("run.json", "state-{}.safetensors", "results-{}.json")


def config(method: str = "samcl", *more: str, **changed: Any) -> RunConfig:
    known = {"samcl": SMALL, "zero-shot": ()}.get(method, SMALL[:2])
    return RunConfig(method, configure(method, assignments=[*known, *more]), "micro", **changed)


def stage(index: int, domain: str, **changed: Any) -> Stage:
    made: dict[str, Any] = {"count": 4, "seed": 0, "background": False, **changed}
    train = SyntheticDomain(domain, made["count"], size=64, seed=made["seed"])
    test = SyntheticDomain(domain, 2, size=64, seed=made["seed"], split="test")
    return Stage(index, domain, train, test, background=made["background"])


def stream(*domains: str, unseen: Sequence[str] = (), background: bool = False) -> Stream:
    names = domains or ("lesions", "cracks")
    stages = [stage(i, d) for i, d in enumerate(names)]
    if background:
        stages.append(stage(len(names), "natural", background=True))
    later = [Stage(len(stages) + i, d, (), stage(0, d).test) for i, d in enumerate(unseen)]
    return Stream(tuple(stages), tuple(later))


def kept(folder: Path) -> dict[str, bytes]:
    """What counts of a run, to the byte; the log of seconds is not part of it."""
    learned = len(json.loads((folder / "run.json").read_bytes())["learned"])
    return {name: (folder / name.format(f"{learned:03d}")).read_bytes() for name in KEPT}


@pytest.fixture(scope="module")
def whole(micro: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages that nothing happened to. Nobody writes to it."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(stream(), config(), out, micro)
    return out


def copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


# ---------------------------------------------------------------- what a run is


def test_the_folder_holds_what_it_says(whole: Path) -> None:
    assert sorted(p.name for p in whole.iterdir()) == [
        ".lock",
        "events.jsonl",
        "history",
        "results-002.json",
        "run.json",
        "state-002.safetensors",
    ]
    record = json.loads((whole / "run.json").read_text())
    assert [s["name"] for s in record["learned"]] == ["lesions", "cracks"]
    assert [s["images"] for s in record["learned"]] == [4, 4]
    assert set(record["oracle"]) == {"lesions", "cracks"}
    assert learned_stages(whole) == ("lesions", "cracks")
    assert learned_stages(whole / "nowhere") == ()
    assert set(load_state(whole / record["state"])) == {"modules", "buffer", "counts", "selector"}


def test_the_results_have_a_row_for_each_stage_and_one_for_the_base(whole: Path, micro: Any) -> None:
    results = load(whole, micro).results
    assert results.stages == results.columns == ("lesions", "cracks")
    assert results.learned_at == {"lesions": 0, "cracks": 1}
    assert set(results.cells) == {(row, column) for row in (BASE, 0, 1) for column in results.columns}
    for row in (BASE, 0, 1):
        assert [(s.column, s.image) for s in results.scores[row]] == [
            (d, f"{d}-test-{i:05d}.png") for d in ("lesions", "cracks") for i in range(2)
        ]
    assert all(s.route for s in results.scores[1])
    assert not any(s.route for s in results.scores[BASE])


def test_the_baseline_is_the_untouched_base(whole: Path, micro: Any, tmp_path: Path) -> None:
    plain = run(stream(), config("zero-shot"), tmp_path / "plain", micro)
    ours, theirs = load(whole, micro).results.matrix("iou"), plain.results.matrix("iou")
    assert ours.baseline.tolist() == theirs.baseline.tolist() == theirs.values[-1].tolist()
    without = run(stream(), config("zero-shot", baseline=False), tmp_path / "without", micro)
    assert BASE not in without.results.scores


def test_a_run_read_back_predicts_as_before_and_knows_its_costs(whole: Path, micro: Any) -> None:
    found = load(whole, micro)
    assert found.config == config()
    samples = list(stream().stages[0].test)
    predictions = found.learner.predict([s.query() for s in samples])
    assert [p.route for p in predictions] == [
        p.route for p in found.learner.predict([s.query() for s in samples])
    ]
    summary = found.summary()
    assert set(summary["stored_bytes"]) == {"modules", "buffer", "selector"}
    assert summary["stored_bytes"]["buffer"] == 2 * 3 * 32 * 4
    assert summary["trainable_parameters"] == found.learner.modules["lesions"].total_parameters  # type: ignore[attr-defined]
    assert len(summary["stage_seconds"]) == len(summary["peak_memory_bytes"]) == 2
    assert all(s > 0 for s in summary["stage_seconds"])
    assert 0 <= summary["routing_accuracy"] <= 1
    assert summary["base_hash"] == micro.fingerprint


def test_the_same_command_twice_is_the_same_bytes(whole: Path, micro: Any, tmp_path: Path) -> None:
    torch.manual_seed(77)
    run(stream(), config(), tmp_path / "again", micro)
    assert kept(tmp_path / "again") == kept(whole)


def test_a_finished_run_is_left_as_it_is(whole: Path, micro: Any, tmp_path: Path) -> None:
    out = copy(whole, tmp_path / "run")
    assert list(run_stages(stream(), config(), out, micro)) == []
    assert run(stream(), config(), out, micro).learned == ["lesions", "cracks"]
    assert kept(out) == kept(whole)


def test_evaluate_says_which_domains_are_scored(micro: Any, tmp_path: Path) -> None:
    three = stream("lesions", "cracks", "nuclei")
    seen = {}
    for evaluate in ("next", "all"):
        done = run(three, config("zero-shot", evaluate=evaluate, baseline=False), tmp_path / evaluate, micro)
        seen[evaluate] = [len({s.column for s in done.results.scores[row]}) for row in range(3)]
    assert seen == {"next": [2, 3, 3], "all": [3, 3, 3]}


def test_unseen_domains_are_scored_at_the_end_and_never_learned(micro: Any, tmp_path: Path) -> None:
    done = run(stream(unseen=("nuclei",)), config(), tmp_path / "run", micro)
    assert done.learned == ["lesions", "cracks"]
    assert done.results.columns == ("lesions", "cracks", "nuclei")
    assert "nuclei" not in done.results.learned_at
    assert [(row, "nuclei") in done.results.cells for row in (BASE, 0, 1)] == [True, False, True]
    assert set(done.record.oracle) == {"lesions", "cracks"}


def test_the_oracle_is_each_domains_own_module(whole: Path, micro: Any) -> None:
    found = load(whole, micro)
    for s in stream().stages:
        told = found.learner.predict_as([x.query() for x in s.test], s.name)  # type: ignore[attr-defined]
        both = [(p.masks(), x.masks) for p, x in zip(told, s.test, strict=True)]
        wanted = [float((p & t).sum() / max(1, (p | t).sum())) for p, t in both]
        assert found.record.oracle[s.name]["iou"] == pytest.approx(sum(wanted) / len(wanted))


def test_a_background_stage_is_a_column_but_no_task(micro: Any, tmp_path: Path) -> None:
    done = run(stream(background=True), config(), tmp_path / "run", micro)
    assert done.learned == ["lesions", "cracks", "natural"]
    assert done.results.background == {"natural"}
    matrix = done.results.matrix("iou")
    assert average(matrix) == pytest.approx(matrix.values[-1, :2].mean())
    assert set(done.learner.state_dict()["modules"]) == {"lesions", "cracks"}
    assert set(done.record.oracle) == {"lesions", "cracks"}


@pytest.mark.parametrize("method", ["zero-shot", "sequential", "independent", "joint"])
def test_every_method_runs_and_resumes(method: str, micro: Any, tmp_path: Path) -> None:
    given = stream(background=True, unseen=("nuclei",))
    settings = config(method)
    done = run(given, settings, tmp_path / "run", micro)
    wanted = 1 if method == "joint" else 3
    assert len(done.learned) == len(done.results.stages) == wanted
    assert done.results.columns == ("lesions", "cracks", "natural", "nuclei")
    before = kept(tmp_path / "run")
    run(given, settings, tmp_path / "run", micro)
    assert kept(tmp_path / "run") == before


def test_joint_learns_everything_but_the_background_at_once(micro: Any, tmp_path: Path) -> None:
    done = run(stream(background=True), config("joint"), tmp_path / "run", micro)
    assert done.record.learned[0].images == 8
    assert done.results.learned_at == {"lesions": 0, "cracks": 0, "natural": 0}
    assert done.results.background == {"natural"}
    with pytest.raises(UserError, match="other data"):  # A longer stream is another joint run.
        run(stream("lesions", "cracks", "nuclei"), config("joint"), tmp_path / "run", micro)


def test_joint_takes_the_joint_stage_of_a_stream_that_has_one(micro: Any, tmp_path: Path) -> None:
    given = stream()
    own = replace(given, joint=Stage(0, "everything", given.stages[0].train[:3], ()))
    done = run(own, config("joint"), tmp_path / "run", micro)
    assert done.learned == ["everything"] and done.record.learned[0].images == 3


# ---------------------------------------------------------------- growing


def test_an_appended_stage_is_all_that_is_learned(whole: Path, micro: Any, tmp_path: Path) -> None:
    out = copy(whole, tmp_path / "run")
    before = load_state(out / "state-002.safetensors")["modules"]
    shown = [r.learned for r in run_stages(stream("lesions", "cracks", "nuclei"), config(), out, micro)]
    assert shown == [["lesions", "cracks", "nuclei"]]
    after = load_state(out / "state-003.safetensors")["modules"]
    assert list(after) == ["lesions", "cracks", "nuclei"]
    for name, weights in before.items():
        assert all(torch.equal(weights[k], after[name][k]) for k in weights)
    assert not (out / "state-002.safetensors").exists()
    assert not (out / "results-002.json").exists()
    results = load(out, micro).results
    assert results.stages == results.columns == ("lesions", "cracks", "nuclei")
    assert {column for row, column in results.cells if row == BASE} == {"lesions", "cracks", "nuclei"}
    assert (1, "nuclei") not in results.cells


def test_growing_is_learning_it_all_in_one_go(micro: Any, tmp_path: Path) -> None:
    for end in (1, 2, 3):
        names = ("lesions", "cracks", "nuclei")[:end]
        run(stream(*names), config(), tmp_path / "grown", micro)
    run(stream("lesions", "cracks", "nuclei"), config(), tmp_path / "at-once", micro)
    grown, at_once = (load_state(tmp_path / n / "state-003.safetensors") for n in ("grown", "at-once"))
    for name, weights in at_once["modules"].items():
        assert all(torch.equal(weights[k], grown["modules"][name][k]) for k in weights)
    for name, value in at_once["selector"]["weights"].items():
        assert torch.equal(value, grown["selector"]["weights"][name])


def test_a_domain_appended_before_the_background_is_learned_after_it(micro: Any, tmp_path: Path) -> None:
    run(stream("lesions", background=True), config(), tmp_path / "run", micro)
    done = run(stream("lesions", "cracks", background=True), config(), tmp_path / "run", micro)
    assert done.learned == ["lesions", "natural", "cracks"]
    assert done.results.background == {"natural"}
    assert {c for row, c in done.results.cells if row == 2} == {"lesions", "natural", "cracks"}


def test_the_data_of_learned_stages_may_be_gone(micro: Any, tmp_path: Path) -> None:
    source = write_synthetic_stream(
        tmp_path / "data", ("lesions", "cracks"), train=4, test=2, size=64, background=False
    )
    out = tmp_path / "run"
    done = run(Stream.from_yaml(source), config(), out, micro)
    assert done.record.stream == str(source.resolve())
    shutil.rmtree(tmp_path / "data" / "lesions")
    with pytest.raises(UserError, match="lesions"):
        Stream.from_yaml(source)
    assert run(Stream.from_yaml(source, learned_stages(out)), config(), out, micro).learned == done.learned
    more = write_synthetic_stream(tmp_path / "more", ("nuclei",), train=4, test=2, size=64, background=False)
    shutil.move(more.parent / "nuclei", tmp_path / "data" / "nuclei")
    appended = "- {name: nuclei, train: nuclei/train, test: nuclei/test}\n"
    source.write_text(source.read_text() + appended)
    grown = run(Stream.from_yaml(source, learned_stages(out)), config(), out, micro)
    assert grown.learned == ["lesions", "cracks", "nuclei"]
    assert {c for row, c in grown.results.cells if row == 2} == {"cracks", "nuclei"}


def test_the_stage_itself_may_be_gone_from_the_stream(whole: Path, micro: Any, tmp_path: Path) -> None:
    out = copy(whole, tmp_path / "run")
    done = run(stream("cracks", "nuclei"), config(), out, micro)
    assert done.learned == ["lesions", "cracks", "nuclei"]


# ---------------------------------------------------------------- interruptions


class Breaks:
    """Breaks off before or after the n-th file takes its place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, after: bool) -> None:
        self.count = 0
        replace_file = Path.replace

        def breaking(this: Path, target: Any) -> Any:
            self.count += 1
            if self.count == at and not after:
                raise KeyboardInterrupt
            done = replace_file(this, target)
            if self.count == at:
                raise KeyboardInterrupt
            return done

        monkeypatch.setattr(Path, "replace", breaking)


@pytest.mark.slow
def test_broken_off_at_any_write_it_ends_with_the_same_bytes(
    micro: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Stream((stage(0, "lesions", count=2), stage(1, "cracks", count=2)))
    settings, whole = config(baseline=False), tmp_path / "whole"
    with monkeypatch.context() as patch:
        counting = Breaks(patch, at=0, after=False)
        run(small, settings, whole, micro)
    writes = counting.count
    # Two stages: what the work is made of, two epochs, state, results, run.json. The second time, the first
    # state's tensors and its entry in the history, too.
    assert writes == 14
    for at in range(1, writes + 1):
        out = tmp_path / f"run-{at}"
        with monkeypatch.context() as patch:
            Breaks(patch, at, after=at % 2 == 0)
            with pytest.raises(KeyboardInterrupt):
                run(small, settings, out, micro)
        done = run(small, settings, out, micro)
        assert kept(out) == kept(whole), f"broken off at write {at}"
        assert len(done.summary()["stage_seconds"]) == 2
        assert not list(out.glob(".*.partial"))
        assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in whole.iterdir())


CHILD = """
import torch
torch.set_num_threads(1)
from everseg.models.promptable.load import load_base
from everseg.runs.learn import run
run(stream, config, out, load_base(config.base))
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_with_the_same_bytes(micro_folder: Path, tmp_path: Path) -> None:
    """SIGKILL: nothing is caught, nothing is tidied up."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["everseg"])
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    settings = replace(config("samcl", "tune.fit.epochs=25"), base=str(micro_folder))
    base = load_base(str(micro_folder))
    run(stream(), settings, tmp_path / "whole", base)
    given = {"stream": stream(), "config": settings, "out": tmp_path / "run"}
    chance = random.Random(0)
    for _ in range(3):
        child = context.Process(target=runpy.run_path, args=(str(script), given))
        child.start()
        # From the first file on: before it there is nothing to lose.
        while child.is_alive() and not (tmp_path / "run" / ".lock").exists():
            child.join(0.02)
        child.join(chance.uniform(0.1, 0.9))
        if child.is_alive():
            os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
    run(stream(), settings, tmp_path / "run", base)
    assert kept(tmp_path / "run") == kept(tmp_path / "whole")
    assert not list((tmp_path / "run").glob(".*.partial"))


@pytest.mark.parametrize("change", ["settings", "data", "base"])
def test_unfinished_work_of_something_else_is_not_gone_on_from(
    micro: Any, micro_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Interrupted before anything was learned, then started with a change: as if it were the first start."""
    with monkeypatch.context() as patch:
        Breaks(patch, at=2, after=True)
        with pytest.raises(KeyboardInterrupt):
            run(stream(), config(), tmp_path / "run", micro)
    assert (tmp_path / "run" / "work" / "lesions").is_dir()
    settings, given, base = config(), stream(), micro
    if change == "settings":
        settings = config("samcl", "tune.fit.lr=0.001")
    elif change == "data":
        given = replace(given, stages=(stage(0, "lesions", seed=5), given.stages[1]))
    else:
        model = type(micro_model)(micro_model.config)
        model.load_state_dict(micro_model.state_dict())
        with torch.no_grad():
            model.vision_encoder.layers[0].mlp.lin1.bias += 0.1
        base = Sam(model, "micro")
    run(given, settings, tmp_path / "run", base)
    run(given, settings, tmp_path / "fresh", base)
    assert kept(tmp_path / "run") == kept(tmp_path / "fresh")


def test_a_torn_last_line_of_the_log_is_passed_over(whole: Path, micro: Any, tmp_path: Path) -> None:
    out = copy(whole, tmp_path / "run")
    with (out / "events.jsonl").open("a") as file:
        file.write('{"stage": "nuc')
    assert len(load(out, micro).events()) == 2
    done = run(stream("lesions", "cracks", "nuclei"), config(), out, micro)
    assert [event.stage for event in done.events()] == ["lesions", "cracks", "nuclei"]


def test_a_full_disk_loses_nothing(
    whole: Path, micro: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = copy(whole, tmp_path / "run")
    before = kept(out)

    def full(tensors: Any, path: Path, **more: Any) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    three = stream("lesions", "cracks", "nuclei")
    with monkeypatch.context() as patch:
        patch.setattr("everseg.files.save_file", full)
        with pytest.raises(UserError, match=r"cannot write .*No space left.*run the same command again"):
            run(three, config(), out, micro)
    assert kept(out) == before
    assert not list(out.rglob(".*.partial"))
    assert run(three, config(), out, micro).learned == ["lesions", "cracks", "nuclei"]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changed", "said", "option"),
    [
        (
            config("samcl", "tune.fit.lr=0.1"),
            r"settings\.tune\.fit\.lr is 0\.1 now and was 0\.005",
            r"--set tune\.fit\.lr=0\.005",
        ),
        (config(seed=3), "seed is 3 now and was 0", "--seed 0"),
        (config(evaluate="all"), "evaluate is 'all' now and was 'next'", "--evaluate next"),
        (config(baseline=False), "baseline is False now and was True", "--baseline"),
        (replace(config(), preset="reference"), "preset is 'reference' now", "--preset paper"),
        (config("independent"), r"\(method is 'independent' now and was 'samcl'\)", "--method samcl"),
        (
            replace(config(), score=replace(config().score, size=96)),
            "score.size is 96 now and was 'original'",
            "--score size=original",
        ),
    ],
)
def test_a_run_of_other_settings_is_refused_with_the_options_that_continue_it(
    whole: Path, micro: Any, changed: RunConfig, said: str, option: str
) -> None:
    with pytest.raises(
        UserError, match=rf"other settings.*{said}.* with {option}( and its|, or) .*another --out"
    ):
        run(stream(), changed, whole, micro)


@pytest.mark.slow
def test_what_is_this_machines_business_may_change(whole: Path, micro: Any, tmp_path: Path) -> None:
    out = copy(whole, tmp_path / "run")
    settings = ("cache.where=disk", f"cache.folder={tmp_path / 'features'}", "tune.fit.workers=1")
    changed = replace(config("samcl", *settings), base="elsewhere")
    assert run(stream("lesions", "cracks", "nuclei"), changed, out, micro).learned[-1] == "nuclei"
    assert json.loads((out / "run.json").read_text())["config"]["base"] == "elsewhere"
    at_once = run(stream("lesions", "cracks", "nuclei"), config(), tmp_path / "at-once", micro)
    states = [next(f.glob("state-*.safetensors")).read_bytes() for f in (out, at_once.folder)]
    assert states[0] == states[1]


def test_another_base_is_refused(whole: Path, micro_model: Any) -> None:
    other = Sam(micro_model, "micro")
    other.fingerprint = "f" * 64
    for act in (lambda: run(stream(), config(), whole, other), lambda: load(whole, other)):
        with pytest.raises(
            UserError, match=r"was made with base micro \([0-9a-f]{12}\), but micro is ffffffffffff"
        ):
            act()


def test_changed_data_of_a_learned_stage_are_refused(whole: Path, micro: Any, tmp_path: Path) -> None:
    changed = replace(stream(), stages=(stage(0, "lesions", seed=9), stage(1, "cracks")))
    with pytest.raises(UserError, match="stage 'lesions' was learned from other data"):
        run(changed, config(), copy(whole, tmp_path / "run"), micro)


def test_a_folder_of_something_else_is_left_alone(micro: Any, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        run(stream(), config(), tmp_path, micro)
    assert (tmp_path / "photo.jpg").read_bytes() == b"mine"


def test_only_one_may_write(micro: Any, tmp_path: Path) -> None:
    with (
        locked(tmp_path / "run"),
        pytest.raises(UserError, match=r"another command is writing to .*run; wait for it"),
    ):
        run(stream(), config(), tmp_path / "run", micro)
    assert run(stream("lesions"), config("zero-shot"), tmp_path / "run", micro).learned == ["lesions"]


@pytest.mark.parametrize("file", ["state-002.safetensors", "results-002.json", "run.json"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "rubbish", "missing"])
def test_a_damaged_file_is_named(whole: Path, micro: Any, tmp_path: Path, file: str, damage: str) -> None:
    out = copy(whole, tmp_path / "run")
    content = (out / file).read_bytes()
    left = {"truncated": content[: len(content) // 2], "empty": b"", "rubbish": b'[1, {"a": NaN}]'}
    if damage == "missing":
        (out / file).unlink()
    else:
        (out / file).write_bytes(left[damage])
    with pytest.raises(
        UserError, match=file if file != "results-002.json" or damage != "rubbish" else "results"
    ):
        load(out, micro)


@pytest.mark.parametrize("key", ["config", "base", "learned", "state", "results", "sha256", "format"])
def test_a_record_with_a_hole_is_damaged(whole: Path, micro: Any, tmp_path: Path, key: str) -> None:
    out = copy(whole, tmp_path / "run")
    record = json.loads((out / "run.json").read_text())
    for value in (None, 5):
        (out / "run.json").write_text(json.dumps({**record, key: value}))
        with pytest.raises(UserError, match=r"run\.json"):
            load(out, micro)


@pytest.mark.parametrize("file", ["state-002.safetensors", "results-002.json"])
def test_a_flipped_bit_is_noticed(whole: Path, micro: Any, tmp_path: Path, file: str) -> None:
    out = copy(whole, tmp_path / "run")
    content = bytearray((out / file).read_bytes())
    content[-9] ^= 1
    (out / file).write_bytes(content)
    with pytest.raises(UserError, match=rf"{file} is not what this run wrote \(its checksum differs\)"):
        load(out, micro)


def test_the_state_of_another_run_is_refused(whole: Path, micro: Any, tmp_path: Path) -> None:
    other = run(stream("lesions"), config("sequential"), tmp_path / "other", micro)
    out = copy(whole, tmp_path / "run")
    shutil.copy(other.folder / "state-001.safetensors", out / "state-002.safetensors")
    with pytest.raises(UserError, match=r"state-002\.safetensors is not what this run wrote"):
        load(out, micro)
