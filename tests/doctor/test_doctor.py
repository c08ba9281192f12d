"""The doctor: what is here, what a run would take, and whether the forecast is what a run then measures."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from everseg import RunConfig, cli, configure, doctor
from everseg.data import Stream, SyntheticDomain, write_synthetic_stream
from everseg.doctor import examine, text
from everseg.doctor import machine as machines
from everseg.doctor.advice import advise
from everseg.doctor.forecast import Forecast, forecast
from everseg.doctor.machine import Machine, host_memory, look
from everseg.doctor.probe import WEIGHED, Cost, Probe, Spread, affordable, measure, measurements
from everseg.errors import UserError
from everseg.types import Stage

MIB = 2**20
GIB = 2**30


def a_probe(**changed: Any) -> Probe:
    """A base for which a row takes a second and 100 MiB, whatever is done with it."""
    costs = [Cost(1, 1.0, 100 * MIB, 0), Cost(8, 8.0, 800 * MIB, 0)]
    learned = (1, WEIGHED), (2, 2 * WEIGHED), (3, 3 * WEIGHED + 1), (3, 4 * WEIGHED + 1)
    state = [{"modules": 50 + 100 * n, "buffer": 8 * images} for n, images in learned]
    probe = Probe(
        doing="",
        host=500 * MIB,
        feature_bytes=MIB,
        row_bytes=MIB // 4,
        read=costs,
        step=costs,
        look=costs,
        again=[Cost(1, 0.5, 0, 0)],
        state=state,
    )
    return dataclasses.replace(probe, **changed)


def a_config(*settings: str, method: str = "samcl") -> RunConfig:
    return RunConfig(method, configure(method, "paper", settings))


def a_stream(*trains: int, test: int = 10, background: bool = False) -> Stream:
    """Domains of so many images each; the last may be the background."""
    last = len(trains) - 1
    stages = [
        Stage(i, f"d{i}", range(n), range(test), background=background and i == last)
        for i, n in enumerate(trains)
    ]
    return Stream(tuple(stages))


def a_machine(**changed: Any) -> Machine:
    here = Machine("Linux", 2, 2, 16 * GIB, 16 * GIB, "", 0, 0, "disk", 100 * GIB, {})
    return dataclasses.replace(here, **changed)


def foretold(
    *settings: str, stream: Stream | None = None, probe: Probe | None = None, **how: Any
) -> Forecast:
    config = dataclasses.replace(a_config(*settings), **how)
    return forecast(probe or a_probe(), config, stream or a_stream(100, 100))


# ---------------------------------------------------------------- what is here


def test_the_machine_is_looked_at(tmp_path: Path) -> None:
    found = look(tmp_path / "not" / "there")
    assert found.disk == str(tmp_path)
    assert 0 < found.memory_free <= found.memory
    assert found.cores >= 1 and found.disk_free > 0
    assert found.versions["torch"] == torch.__version__.partition("+")[0] or "+" in found.versions["torch"]


def test_a_container_may_take_less_than_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, use = tmp_path / "max", tmp_path / "current"
    there = SimpleNamespace(total=16 * GIB, available=8 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: there)
    monkeypatch.setattr(machines, "GROUP_LIMITS", ((limit, use),))
    assert host_memory() == (16 * GIB, 8 * GIB)
    limit.write_text("max\n")
    use.write_text("1\n")
    assert host_memory() == (16 * GIB, 8 * GIB)
    limit.write_text(f"{4 * GIB}\n")
    use.write_text(f"{GIB}\n")
    assert host_memory() == (4 * GIB, 3 * GIB)


def test_a_peak_is_of_what_came_after_the_reset() -> None:
    held = torch.ones(64 * MIB, dtype=torch.uint8)
    first = machines.peak()[0]
    del held
    machines.reset_peak()
    assert psutil.Process().memory_info().rss // 2 <= machines.peak()[0] <= first


# ---------------------------------------------------------------- counting


def test_memory_is_the_base_what_is_kept_and_what_works() -> None:
    found = foretold("tune.fit.batch=8")
    # Reading 16 rows takes the most. In the last stage the test images of all domains are kept besides.
    assert found.peak == {
        "the program and the base": 500 * MIB,
        "features in the cache": 120 * MIB,
        "training objects": 25 * MIB,
        "reading images": 1600 * MIB,
    }
    assert [s.peak_memory_bytes for s in found.stages] == sorted(s.peak_memory_bytes for s in found.stages)
    assert found.stages[-1].peak_memory_bytes == found.peak_memory_bytes == 2245 * MIB


@pytest.mark.parametrize("where", ["disk", "off"])
def test_features_elsewhere_take_no_memory(where: str) -> None:
    found = foretold(f"cache.where={where}")
    assert not found.peak["features in the cache"] and not found.peak["training objects"]


def test_the_budget_bounds_what_is_kept_and_costs_time() -> None:
    whole, half = foretold(), foretold(f"cache.budget={50 * MIB}")
    assert half.peak["features in the cache"] < whole.peak["features in the cache"]
    assert half.stages[0].training == pytest.approx(whole.stages[0].training * 1.5, rel=0.05)


def test_micro_batches_take_less_memory_and_the_same_time() -> None:
    look_at = a_probe(read=[Cost(1, 1.0, 0, 0)], look=[Cost(1, 1.0, 0, 0)])
    whole, pieces = (foretold(f"tune.fit.micro_batch={n}", probe=look_at) for n in (0, 2))
    assert whole.peak["a training step"] == 800 * MIB
    assert pieces.peak["a training step"] == 200 * MIB
    assert whole.seconds == pieces.seconds


def test_seconds_are_counts_times_costs() -> None:
    settings, stream = ["tune.fit.epochs=2", "tune.fit.batch=8"], a_stream(100, 50)
    first, last = foretold(*settings, stream=stream, baseline=False).stages
    assert (first.reading, last.reading) == (100.0, 50.0)
    assert (first.training, last.training) == (2 * 13 * 8, 2 * 7 * 8)
    # After the first stage its own images and the next domain's are new. After the last all are scored again,
    # and once more with the module that an oracle names.
    assert (first.scoring, last.scoring) == (20 * 1.0, 20 * 0.5 + 20 * 0.5)
    # The untouched base sees each image for the first time.
    assert foretold(*settings, stream=stream).stages[1].scoring == 20 * 0.5 + 20 * 0.5 + 20 * 1.0
    assert foretold("tune.fit.steps=7", stream=stream).stages[0].training == 7 * 8
    two = a_probe(objects=2.0)
    assert foretold("tune.fit.epochs=1", stream=stream, probe=two).stages[0].training == 25 * 8


def test_what_is_kept_is_counted_by_domains_and_images() -> None:
    """The probe keeps 100 bytes a module and 8 an image, in a buffer of at most `selector.size` images."""
    found = foretold("selector.size=300", stream=a_stream(40, 500, 30, background=True))
    assert found.stored == {"modules": 250, "buffer": 8 * (40 + 300 + 30)}
    assert found.stored_a_domain == 100 + 8 * 300


def test_a_method_for_all_at_once_has_one_stage() -> None:
    found = forecast(a_probe(), a_config(method="joint"), a_stream(100, 100, 30, background=True))
    (only,) = found.stages
    assert (only.name, only.reading) == ("all-domains", 200.0)


# ---------------------------------------------------------------- does it fit


def advised(free: float, *settings: str, stream: Stream | None = None, **here: Any) -> tuple[bool, list[str]]:
    probe = a_probe(read=[Cost(1, 1.0, 0, 0)], look=[Cost(1, 1.0, 0, 0)])
    stream, config = stream or a_stream(100, 100), a_config(*settings)
    machine = a_machine(memory_free=int(free * MIB), **here)
    return advise(forecast(probe, config, stream), probe, config, stream, machine)


def test_a_run_that_fits_needs_no_advice() -> None:
    assert advised(2000) == (True, [])


def test_smaller_pieces_come_first_then_the_disk() -> None:
    fits, (said,) = advised(1300)
    assert (
        not fits
        and said == "it fits with --set tune.fit.micro_batch=4 (the same gradients in smaller pieces)"
    )
    fits, (said,) = advised(700)
    assert said.startswith("it fits with --set tune.fit.micro_batch=1 --set cache.where=disk (")
    fits, (said,) = advised(400)
    assert not fits and "smaller base" in said


def test_a_small_disk_and_a_small_budget_are_told() -> None:
    fits, (said,) = advised(2000, "cache.where=disk", disk_free=MIB)
    assert not fits and "disk has 1.0 MiB free" in said
    fits, (said,) = advised(2000, f"cache.budget={10 * MIB}")
    assert fits and f"--set cache.budget={100 * MIB}" in said


# ---------------------------------------------------------------- what is measured


def test_samples_are_spread_over_the_stream_and_new_to_the_cache() -> None:
    samples = SyntheticDomain("polyps", count=4, size=64)
    both = Spread(samples, 2)
    two, five = list(both), list(Spread(samples, 5))
    assert [s.name for s in two] == [samples[0].name, samples[2].name]
    assert len({s.key for s in (*two, *five)}) == 7


def test_rows_are_bound_by_time_and_memory() -> None:
    assert affordable(16, seconds=0.5, heavy=100 * MIB, free=16 * GIB) == 16
    assert affordable(16, seconds=5.0, heavy=100 * MIB, free=16 * GIB) == 4
    assert affordable(16, seconds=500.0, heavy=100 * MIB, free=16 * GIB) == 2
    assert affordable(16, seconds=0.5, heavy=2 * GIB, free=10 * GIB) == 3
    assert affordable(16, seconds=500.0, heavy=2 * GIB, free=2 * GIB) == 1
    assert affordable(1, seconds=0.5, heavy=MIB, free=GIB) == affordable(0, 0.5, MIB, GIB) == 1


@pytest.fixture(scope="module")
def small_stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stream") / "data"
    return write_synthetic_stream(folder, ("lesions",), train=3, test=2, size=64)


@pytest.fixture(scope="module")
def measured(micro_folder: Path, small_stream: Path) -> Probe:
    """The micro base, measured in a process of its own, once for all tests."""
    config = RunConfig("samcl", configure("samcl", "paper", ["selector.epochs=1"]), str(micro_folder))
    return measure(config, Stream.from_yaml(small_stream))


@pytest.mark.slow
def test_a_small_stream_is_measured_as_it_is(measured: Probe) -> None:
    for costs in (measured.read, measured.step, measured.look):
        assert [c.rows for c in costs] == [1, 3, 3, 3]
    assert [c.rows for c in measured.again] == [3]
    assert measured.seconds > 0 and not measured.error and not measured.doing


def test_a_probe_that_the_system_ends_says_what_it_did(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script, sent = tmp_path / "python", tmp_path / "probe"
    sent.write_bytes(pickle.dumps(Probe(doing="it measured read of 16", host=5)) + b"a part of")
    script.write_text(f"#!/bin/sh\ncat {sent}\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    found = examine(a_config())
    assert found.probe.host == 5 and not found.fits and found.forecast is None
    told = text(found).splitlines()
    assert "memory ran out while it measured read of 16" in told[-2] and "smaller base" in told[-1]
    script.write_text("#!/bin/sh\necho 'RuntimeError: no such thing' >&2\nexit 1\n")
    with pytest.raises(UserError, match="failed while it loaded the base: RuntimeError: no such thing"):
        examine(a_config())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's children")
def test_an_interrupt_ends_the_probe_too() -> None:
    command = [sys.executable, "-m", "everseg", "doctor", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (probes := [p for p in children(process.pid) if "answer()" in command_of(p)]):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(1)  # Begun it is; now it is listened to.
    process.send_signal(signal.SIGINT)
    said, complaint = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "") and complaint.startswith("interrupted")
    assert not Path(f"/proc/{probes[0]}").exists()


def command_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # ended between
        return ""


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def everseg(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "everseg", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default", **environment},
        capture_output=True,
        text=True,
    )


def here(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The command in this process: its exit code."""
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sys, "argv", ["everseg", "doctor", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended, warnings.catch_warnings():
        cli.main()
    signal.signal(signal.SIGINT, before)
    return int(ended.value.code or 0)


@pytest.mark.slow
def test_the_command_on_a_small_base(
    micro_folder: Path,
    small_stream: Path,
    measured: Probe,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(doctor, "measure", lambda *given: measured)
    flags = ["--stream", small_stream, "--base", micro_folder, "--set", "tune.fit.epochs=2"]
    assert here(monkeypatch, *flags) == 0
    said = capsys.readouterr()
    assert said.err == ""
    words = "machine versions base speed forecast lesions natural time memory kept features fits".split()
    for word in words:
        assert re.search(f"^ *{word} ", said.out, re.MULTILINE), said.out
    assert "fits      yes: " in said.out


def test_without_a_base_the_rest_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "measure", lambda *given: list(measurements(*given))[-1])
    assert here(monkeypatch, "--base", tmp_path / "no such", "--json") == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: base ") and said.err.count("\n") == 1
    told = json.loads(said.out)
    assert told["machine"]["cores"] >= 1 and told["forecast"] is None and told["base"]["error"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--method", "none"], "unknown method"),
        (["--set", "tune.fit.batch=0"], "batch is 0"),
        (["--stream", "no.yaml"], "no.yaml"),
    ],
)
def test_bad_input_is_one_sentence(
    given: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here(monkeypatch, *given) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("samcl", ["cache.where=disk", "tune.fit.micro_batch=2"]),
        ("independent", []),
        ("sequential", ["adapter=aug"]),
        ("regcl", ["adapter=lora"]),
        ("merged", ["merger.rule=opcm"]),
        ("zero-shot", []),
    ],
)
def test_every_kind_of_method_has_a_forecast(
    method: str, settings: list[str], micro_folder: Path, tmp_path: Path
) -> None:
    stream = write_synthetic_stream(tmp_path / "data", ("lesions", "cracks"), train=6, test=2, size=64)
    flags = ["--base", micro_folder, "--method", method]
    flags += [flag for s in (*settings, "tune.fit.steps=2") for flag in ("--set", s) if method != "zero-shot"]
    done = everseg("doctor", "--stream", stream, "--json", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    learned = everseg("learn", stream, "--out", tmp_path / "run", "--json", *flags)
    told = json.loads(done.stdout)["forecast"]
    assert told["stored"] == json.loads(learned.stdout)["stored_bytes"]
    assert all(s["scoring"] > 0 for s in told["stages"])
    assert any(s["training"] > 0 for s in told["stages"]) == (method != "zero-shot")


# ---------------------------------------------------------------- against what a run measures


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "settings"),
    [
        pytest.param(20, ["tune.fit.epochs=1"], id="a small stream"),
        pytest.param(
            160,
            ["tune.fit.batch=32", "tune.fit.steps=3", "cache.precision=fp32"],
            id="large batches and features",
        ),
        pytest.param(20, ["cache.where=off", "tune.fit.steps=2"], id="no cache"),
    ],
)
def test_the_forecast_is_what_a_run_measures(train: int, settings: list[str], tmp_path: Path) -> None:
    stream = write_synthetic_stream(tmp_path / "data", ("polyps", "cracks"), train=train, test=8)
    flags = [flag for setting in settings for flag in ("--set", setting)]
    told = json.loads(everseg("doctor", "--stream", stream, "--json", *flags).stdout)
    done = everseg("learn", stream, "--out", tmp_path / "run", "--json", *flags)
    assert done.returncode == 0, done.stderr
    found, learned = told["forecast"], json.loads(done.stdout)
    lines = map(json.loads, (tmp_path / "run" / "events.jsonl").read_text().splitlines())
    events = [line for line in lines if "event" not in line]
    measured = max(e["peak_memory_bytes"] for e in events)
    # The gaps that the allocator leaves differ from process to process by a tenth either way. The forecast
    # takes the widest of three rounds, which a run of two batches may not reach, so it may be above by more.
    assert 0.85 * measured < found["peak_memory_bytes"] < 1.3 * measured
    assert found["stored"] == learned["stored_bytes"]
    taken = sum(e["seconds"] + e["scoring_seconds"] for e in events)
    assert taken / 4 < found["seconds"] < taken * 4  # Other work comes and goes between the two.
