"""Published class-incremental runs as commands.

    python examples/published.py                              # list the splits and the runs
    python examples/published.py voc15-1-overlapped           # the published figures of a split
    python examples/published.py voc15-1-overlapped eir       # write the stream file, print the command

Settings are in published.yaml, figures in published.csv: mIoU in percent on the 512 crop as published, `old`
with the background. The command is printed, not run.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
FIGURES = ("old", "new", "harmonic", "all")
NONE = "\N{EN DASH}"


@cache
def settings() -> dict[str, Any]:
    """published.yaml."""
    found: dict[str, Any] = yaml.safe_load((HERE / "published.yaml").read_text(encoding="utf-8"))
    return found


@cache
def figures() -> list[dict[str, str]]:
    """published.csv: one row per split and run; a figure that nobody published is empty."""
    with (HERE / "published.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def splits() -> list[str]:
    """The names of all splits, such as "voc15-1-overlapped"."""
    return [f"{data}{split}" for data in ("voc", "ade") for split in settings()[data]["images"]]


def parts(split: str) -> tuple[dict[str, Any], str]:
    """What is known of a split's data set, and the split's name in it."""
    return settings()[split[:3]], split[3:]


def run_of(split: str, run: str) -> dict[str, Any]:
    """Method, memory, epochs, batch, learning rates and further settings of a run."""
    data, name = parts(split)
    found = {"memory": 0, "set": {}, **data["runs"][run]}
    for names, runs, size in data["batch"]:
        if name in names and run in runs:
            found["batch"] = size
    for names, runs, more in data.get("also", ()):
        if name in names and run in runs:
            found["set"] = {**found["set"], **more}
    return found


def stream(split: str) -> dict[str, Any]:
    """The stream file of a split."""
    data, name = parts(split)
    steps, _, setting = name.rpartition("-")
    return {"name": split, "root": "${EVERSEG_DATA}", **data["stream"], "steps": steps, "setting": setting}


def command(split: str, run: str, folder: Path) -> list[str]:
    """The command of a run on the stream file `folder`/SPLIT.yaml, as words."""
    found = run_of(split, run)
    given = dict(found["set"])
    if found["memory"]:
        given = {"count" if found["method"] == "eir" else "memory": found["memory"], **given}
    for step, lr in zip(("first", "later"), found["lr"], strict=True):
        given |= {
            f"tune.{step}.epochs": found["epochs"],
            f"tune.{step}.batch": found["batch"],
            f"tune.{step}.lr": lr,
        }
    words = ["everseg", "learn", f"{folder / split}.yaml", "--out", f"{folder / split}/{run}"]
    words += ["--method", found["method"], "--base", found.get("base", settings()["base"])]
    return [*words, *(word for key, value in given.items() for word in ("--set", f"{key}={_text(value)}"))]


def _text(value: Any) -> str:
    """A value as YAML reads it: 5.0e-06, where Python writes 5e-06."""
    return str(yaml.safe_dump(value)).split("\n")[0]


def iterations(split: str, run: str) -> int:
    """Gradient steps of a run over all steps of the split; a memory is trained on in all but the first."""
    data, name = parts(split)
    found = run_of(split, run)
    rows = [count + (found["memory"] if step else 0) for step, count in enumerate(data["images"][name])]
    return int(found["epochs"] * sum(count // found["batch"] for count in rows))


def overview(data: str) -> str:
    """A Markdown table of the figure "all": a row per split, a column per run."""
    names = [split for split in splits() if split.startswith(data)]
    runs = list(settings()[data]["runs"])
    shown = {(row["split"], row["run"]): row["all"] or NONE for row in figures()}
    lines = [f"| split | {' | '.join(runs)} |", "|---" * (len(runs) + 1) + "|"]
    lines += [f"| {name[3:]} | {' | '.join(shown[name, run] for run in runs)} |" for name in names]
    return "\n".join(lines)


def table() -> str:
    """A Markdown table of all figures with their sources."""
    lines = [f"| split | run | {' | '.join(FIGURES)} | source |", "|---" * (len(FIGURES) + 3) + "|"]
    for row in figures():
        numbers = " | ".join(row[figure] or NONE for figure in FIGURES)
        lines.append(f"| {row['split']} | {row['run']} | {numbers} | {row['source'] or 'not published'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("split", nargs="?", choices=splits(), metavar="SPLIT")
    parser.add_argument("run", nargs="?", metavar="RUN")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/published"), help="Folder of stream file and run."
    )
    given = parser.parse_args()
    if given.split is None:
        for name in splits():
            print(f"{name}: {', '.join(parts(name)[0]['runs'])}")
        return
    data, _ = parts(given.split)
    if given.run is None:
        print(f"{data['title']}\nneeds: {data['needs']}\n{data['hardware']}\n{data['differs']}")
        for row in figures():
            if row["split"] == given.split:
                numbers = ", ".join(f"{figure} {row[figure]}" for figure in FIGURES if row[figure])
                source = f" ({row['source']})" if row["source"] else ""
                print(f"{row['run']}: {numbers or 'no published figure'}{source}")
        return
    if given.run not in data["runs"]:
        sys.exit(f"error: no run {given.run!r} of {given.split}; choose one of {', '.join(data['runs'])}")
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"{given.split}.yaml"
    path.write_text(yaml.safe_dump(stream(given.split), sort_keys=False), encoding="utf-8")
    print(shlex.join(command(given.split, given.run, given.out)))


if __name__ == "__main__":
    main()
