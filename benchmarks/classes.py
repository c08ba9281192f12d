"""Methods of class-incremental segmentation side by side on one stream, from first steps that they share.

    python benchmarks/classes.py STREAM --out FOLDER [--seeds 0 1 2] [--jobs 2] [--method eir ...]
        [--first 700] [--later 600 | --later-epochs 5] [--batch 8] [--crop 192] [--bytes 1000000]
        [--set KEY=VALUE ...] [--set-later KEY=VALUE ...] [--set-family FAMILY KEY=VALUE ...] [--json FILE]

For each seed the first step is learned once for all methods with a softmax, once for DKD, DKD-M and EIR, and
once each for SSUL and STAR, and every method continues from its own. Nothing is proposed from
the data. Later steps have `--later` gradient steps each, or go over their images `--later-epochs` times, with
what a memory adds. Joint training gets as many gradient steps as all steps of fine-tuning together. EIR keeps
instances and DKD-M images of no more than `--bytes` bytes each. Prints, over seeds, the mean IoU (in each
image's own pixels) of old, new and all classes after the last step and their harmonic mean, the bytes that a
method stores of images, and its seconds; `--json` keeps the IoU of every class after every step. Runs lie in
FOLDER as `everseg learn` makes them; none is run twice.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rows import write_rows

from everseg.data import Stream
from everseg.data.classes.legend import BACKGROUND_NAME as BACKGROUND
from everseg.fit import FitConfig, steps_of
from everseg.results.classes import class_means
from everseg.runs.folder import load
from everseg.types import Stage


@dataclass(frozen=True)
class Family:
    """Methods that share a first step. given: what learns it. first, later: settings of the steps."""

    given: tuple[str, ...]
    first: tuple[str, ...]
    later: tuple[str, ...]


REGION = ("--set", "background=true", "--set", "kind=region")
SIGMOID = ("lr=0.003",), ("lr=0.001",)
FAMILIES = {
    "softmax": Family(("--method", "fine-tuning"), ("lr=0.01",), ("lr=0.001",)),
    "bce": Family(("--method", "fine-tuning", "--preset", "sigmoid"), *SIGMOID),
    "dkd": Family(("--method", "dkd"), *SIGMOID),
    "star": Family(("--method", "star"), *SIGMOID),
    "region": Family(("--method", "eir", *REGION), *SIGMOID),
    "ssul": Family(("--method", "ssul"), *SIGMOID),
}

Entry = tuple[str, tuple[str, ...]]
BYTES = ("--set", "max_bytes={bytes}")
SHORT = ("--set", "sure=0.5")  # See docs/eir.md.
NEST = ("--set", "tune.nest=5")
STORED = ("pool", "memory", "prototypes", "features")
METHODS: dict[str, Entry] = {
    "joint": ("bce", ("--method", "joint-classes", "--preset", "sigmoid")),
    "joint-ce": ("softmax", ("--method", "joint-classes")),
    "fine-tuning": ("softmax", ("--method", "fine-tuning")),
    "fine-tuning-bce": ("bce", ("--method", "fine-tuning", "--preset", "sigmoid")),
    "lwf": ("softmax", ("--method", "lwf")),
    "ilt": ("softmax", ("--method", "ilt")),
    "mib": ("softmax", ("--method", "mib")),
    "plop": ("softmax", ("--method", "plop")),
    "mib-nest": ("softmax", ("--method", "mib", *NEST)),
    "plop-nest": ("softmax", ("--method", "plop", *NEST)),
    "rcil": ("softmax", ("--method", "rcil")),
    "ssul": ("ssul", ("--method", "ssul")),
    "dkd": ("dkd", ("--method", "dkd")),
    "dkd-m": ("dkd", ("--method", "dkd", "--set", "memory=10000", *BYTES)),
    "dkd-nest": ("dkd", ("--method", "dkd", *NEST)),
    "star": ("star", ("--method", "star")),
    "star-m": ("star", ("--method", "star", "--set", "memory=10000", *BYTES)),
    "eir-features": ("dkd", ("--method", "eir-features", "--set", "count=10000", *BYTES)),
    "eir": ("dkd", ("--method", "eir", "--set", "count=10000", *BYTES, *SHORT)),
    "eir-region": ("region", ("--method", "eir", "--set", "count=10000", *BYTES, *REGION)),
}
WANTED = ["joint", "fine-tuning", "mib", "plop", "dkd", "dkd-m", "eir"]


@dataclass(frozen=True)
class Job:
    """One `everseg learn`. after: what must be there before it."""

    out: Path
    words: tuple[str, ...]
    after: Path | None = None


def job_of(
    given: argparse.Namespace,
    out: Path,
    seed: int,
    family: str,
    words: tuple[str, ...],
    *,
    steps: int,
    after: Path | None = None,
) -> Job:
    """A method's words with the settings that all share and those of its family."""
    how = [f"crop={given.crop}", f"first.batch={given.batch}", f"later.batch={given.batch}"]
    how += [f"first.steps={steps}"]
    how += [f"later.epochs={given.later_epochs}"] if given.later_epochs else [f"later.steps={given.later}"]
    how += [f"first.{s}" for s in FAMILIES[family].first] + [f"later.{s}" for s in FAMILIES[family].later]
    settings = [*(f"tune.{h}" for h in how), *given.settings, *(given.set_later if after else ())]
    settings += [s for name, *of in given.set_family if name == family for s in of]
    own = [word.format(bytes=given.bytes) for word in words]
    if after:
        own += ["--first-stage", str(after)]
    common = ["--no-baseline", "--score", "size=original", "--defaults", "preset"]
    common += ["--seed", str(seed), "--out", str(out)]
    return Job(out, (str(given.stream), *own, *(w for s in settings for w in ("--set", s)), *common), after)


def later_steps(given: argparse.Namespace, stage: Stage) -> int:
    """How many gradient steps a method without a memory makes of a later step."""
    steps = 0 if given.later_epochs else given.later
    how = FitConfig(epochs=given.later_epochs, steps=steps, batch=given.batch, drop_last=True)
    return steps_of(how, len(stage.train))


def jobs_of(given: argparse.Namespace, stream: Stream) -> list[Job]:
    """All runs: first steps before those that continue from them."""
    first, *later = stream.stages
    firsts, rest = [], []
    for seed in given.seeds:
        families = dict.fromkeys(METHODS[m][0] for m in given.method if not m.startswith("joint"))
        shared = {family: given.out / f"first-{family}-{seed}" for family in families}
        for family, out in shared.items():
            words = (*FAMILIES[family].given, "--until", first.name)
            firsts.append(job_of(given, out, seed, family, words, steps=given.first))
        for name in given.method:
            family, words = METHODS[name]
            joint = name.startswith("joint")
            steps = given.first + (sum(later_steps(given, s) for s in later) if joint else 0)
            after = None if joint else shared[family]
            out = given.out / f"{name}-{seed}"
            rest.append(job_of(given, out, seed, family, words, steps=steps, after=after))
    return [*firsts, *rest]


def learn(job: Job, threads: int, before: Future[str] | None) -> str:
    """Run one job in a process of its own; what it said last if it failed."""
    if before is not None and before.result():
        return ""  # Said where it failed.
    done = subprocess.run(
        [sys.executable, "-m", "everseg", "learn", *job.words],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["?"])[-1]


def line(given: argparse.Namespace, name: str, stream: Stream) -> str:
    """A row of the table: means over seeds, and their spread where there are several."""
    old = (BACKGROUND, *stream.stages[0].classes)
    rows, kept, seconds = [], [], []
    for seed in given.seeds:
        done = load(given.out / f"{name}-{seed}")
        means = class_means(done.results.matrix("iou"), old=old)
        rows.append((means.old, means.new, means.all, means.harmonic))
        summary = done.summary()
        kept.append(sum(v for k, v in summary["stored_bytes"].items() if k in STORED))
        seconds.append(sum(summary["stage_seconds"]))
    cells = []
    for values in zip(*rows, strict=True):
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.3f}{spread}")
    stored = f"{statistics.mean(kept) / 1000:.0f} kB" if any(kept) else "none"
    return f"| {name} | {' | '.join(cells)} | {stored} | {statistics.mean(seconds):.0f} |"


def row_of(out: Path, method: str, seed: int) -> dict[str, Any]:
    """What a run scored, for the tables: the IoU of each class after each stage, the bytes of images that it
    keeps, and its figures of each stage."""
    done = load(out)
    matrix = done.results.matrix("iou")
    iou = {
        stage: {name: float(v) for name, v in zip(matrix.columns, matrix.values[i], strict=True) if v == v}
        for i, stage in enumerate(matrix.stages)
    }
    summary = done.summary()
    return {
        "method": method,
        "seed": seed,
        "iou": iou,
        "bytes_of_images": sum(v for k, v in summary["stored_bytes"].items() if k in STORED),
        "seconds": round(sum(summary["stage_seconds"]), 1),
        "figures": {s.name: dict(s.figures) for s in done.record.learned if s.figures},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stream", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--method", nargs="+", choices=METHODS, default=WANTED)
    parser.add_argument("--first", type=int, default=700)
    parser.add_argument("--later", type=int, default=600)
    parser.add_argument("--later-epochs", type=int, default=0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=192)
    parser.add_argument("--bytes", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="write what was run and scored to this file")
    parser.add_argument("--set", dest="settings", nargs="+", default=[], help="of every run alike")
    parser.add_argument("--set-later", nargs="+", default=[], help="of those that continue from a first step")
    parser.add_argument(
        "--set-family",
        nargs="+",
        action="append",
        default=[],
        metavar=("FAMILY", "KEY=VALUE"),
        help=f"of those that share a first step: {', '.join(FAMILIES)}",
    )
    given = parser.parse_args()
    for name, *_ in given.set_family:
        if name not in FAMILIES:
            parser.error(f"--set-family {name}: the families are {', '.join(FAMILIES)}")
    stream = Stream.from_yaml(given.stream)
    given.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    threads = max(1, (os.cpu_count() or 1) // given.jobs)
    running: dict[Path | None, Future[str]] = {}
    with ThreadPoolExecutor(given.jobs) as pool:
        for job in jobs_of(given, stream):  # In this order, so that what is waited for has begun.
            running[job.out] = pool.submit(learn, job, threads, running.get(job.after))
        names = {future: out for out, future in running.items()}
        for done in as_completed(names):
            if done.result():
                pool.shutdown(cancel_futures=True)
                sys.exit(f"{names[done]}: {done.result()}")
    print("| | old | new | all | harmonic | of images | seconds |\n|---|---|---|---|---|---|---|")
    for name in given.method:
        print(line(given, name, stream))
    if given.json:
        rows = [
            row_of(given.out / f"{name}-{seed}", name, seed) for name in given.method for seed in given.seeds
        ]
        write_rows(given.json, f"{stream.name}: IoU of every class after every step.", given.seeds, rows)
    print(f"\n{(time.perf_counter() - began) / 60:.0f} minutes for all that was not there yet")


if __name__ == "__main__":
    main()
