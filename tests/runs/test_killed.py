"""Commands that are killed at any moment: nothing is lost, and run again they end with the same bytes."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import everseg
from everseg.data import Stream, SyntheticDomain
from everseg.files import sha256_file
from everseg.methods import configure
from everseg.models.promptable.load import load_base
from everseg.runs.folder import read_record
from everseg.runs.history import restore
from everseg.runs.learn import run_stages
from everseg.runs.run import RunConfig
from everseg.types import Stage
from tests.runs.test_discover import COUNT, SMALL, add, write

TRIES = 6
pytestmark = pytest.mark.slow

RESTORE = """
import sys
from pathlib import Path
from everseg.runs.history import restore
print("ready", flush=True)
restore(Path(sys.argv[1]), 1)
print("done", flush=True)
"""

LEARN = """
import sys
import torch
import everseg
from everseg.models.promptable.load import load_base
torch.set_num_threads(1)
stream, out, base = sys.argv[1:]
loaded = load_base(base)
print("ready", flush=True)
everseg.learn(stream, out=out, base=loaded, **SMALL)
print("done", flush=True)
"""


def begin(script: str, *given: Path) -> subprocess.Popen[str]:
    """A process that has imported everything and begins its work."""
    command = [sys.executable, "-c", script, *map(str, given)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def finish(script: str, *given: Path) -> float:
    """Let it come to its end; returns the seconds of its work."""
    process = begin(script, *given)
    began = time.perf_counter()
    assert process.stdout is not None and process.stdout.readline() == "done\n"
    seconds = time.perf_counter() - began
    process.communicate()
    assert process.returncode == 0
    return seconds


def kill(seconds: float, script: str, *given: Path) -> bool:
    """Kill it after so many seconds of its work; returns whether it was still at it."""
    process = begin(script, *given)
    time.sleep(seconds)
    process.kill()
    told, _ = process.communicate()
    return told != "done\n"


def counts(folder: Path) -> dict[str, str]:
    """What counts of a run now, to the byte."""
    record = read_record(folder)
    return {name: sha256_file(folder / name) for name in ("run.json", record.state, record.results)}


def test_a_restore_that_is_killed(micro: Any, tmp_path: Path) -> None:
    domains = ("lesions", "cracks", "nuclei")
    stages = [
        Stage(i, d, SyntheticDomain(d, 4, size=64), SyntheticDomain(d, 2, size=64, split="test"))
        for i, d in enumerate(domains)
    ]
    small = ["tune.fit.epochs=1", "tune.fit.batch=2"]
    config = RunConfig("regcl", configure("regcl", assignments=small), "micro")
    states = {
        current.record.number: counts(current.folder)
        for current in run_stages(Stream(tuple(stages)), config, tmp_path / "run", micro)
    }
    whole = Path(shutil.copytree(tmp_path / "run", tmp_path / "whole"))
    seconds = finish(RESTORE, whole)
    assert counts(whole) == states[1]
    generator, broken = random.Random(0), 0
    for number in range(TRIES):
        folder = Path(shutil.copytree(tmp_path / "run", tmp_path / f"{number}"))
        broken += kill(generator.uniform(0, seconds), RESTORE, folder)
        assert counts(folder) in (states[1], states[3])
        for state in (1, 2, 3, 1):
            restore(folder, state)
            assert counts(folder) == states[state], (number, state)
        assert not list(folder.rglob(".*.partial"))
    assert broken


def test_a_discovery_that_is_killed(micro_folder: Path, tmp_path: Path) -> None:
    """While the first batch is discovered and learned, and while a later one is."""
    torch.set_num_threads(1)
    small = SMALL | {"tune__fit__steps": 12}
    script = f"SMALL = {small!r}\n{LEARN}"
    base, generator, broken = load_base(str(micro_folder)), random.Random(0), 0
    pile, path = tmp_path / "pile", tmp_path / "pile" / "pile.yaml"
    add(pile / "b1", "shadows", COUNT)
    add(pile / "b1", "nuclei", 2 * COUNT)
    add(pile / "b2", "polyps", COUNT, seed=1)
    add(pile / "b2", "nuclei", COUNT, seed=1)
    before: dict[Path, bytes] = {}  # of the files beside the stream file
    for batches in (1, 2):
        write(pile, batches)
        whole, earlier = tmp_path / f"whole-{batches}", tmp_path / f"whole-{batches - 1}"

        def reset(out: Path, kept: dict[Path, bytes] = before, earlier: Path = earlier) -> None:
            for file in pile.glob("pile.domains.csv*"):
                file.unlink()
            for file, content in kept.items():
                file.write_bytes(content)
            if earlier.exists():
                shutil.copytree(earlier, out)

        reset(whole)
        seconds = finish(script, path, whole, micro_folder)
        tables = {file: file.read_bytes() for file in pile.glob("pile.domains.csv*")}
        assert len(tables) == 2
        for number in range(TRIES // 2):
            out = tmp_path / f"{batches}-{number}"
            reset(out)
            broken += kill(generator.uniform(0, seconds), script, path, out, micro_folder)
            everseg.learn(path, out=out, base=base, **small)
            assert counts(out) == counts(whole), (batches, number)
            assert {file: file.read_bytes() for file in pile.glob("pile.domains.csv*")} == tables
            assert not list(out.rglob(".*.partial")) and not list(pile.glob(".*.partial"))
        before = tables
    assert broken
