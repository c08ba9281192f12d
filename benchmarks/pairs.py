"""Two classes of PASCAL VOC, one after the other, with `everseg learn`'s default settings.

    python benchmarks/pairs.py $EVERSEG_DATA/voc2012_256 --out FOLDER [--pairs horse-sheep cat-dog ...]
        [--images 60] [--joint] [--seeds 0 1] [--set KEY=VALUE ...] [--json FILE]

Each pair is a stream of two steps: --images training images of the first class, then as many of the second,
none of which shows both. Half as many other training images of each are scored, so that no test image of
VOC is looked at; images of 2007 are left out, because labels are painted into them. The order of the images
is that of hashes of their names, the same on every machine. --joint also learns both classes at once, in as
many gradient steps and with the same crops, which shows how well they can be told apart at all. --set changes
the second step. Streams and runs lie in FOLDER; none is run twice.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rows import write_rows

from everseg.classes.scoring import score_classes
from everseg.data import Stream
from everseg.data.classes.legend import BACKGROUND_NAME as BACKGROUND
from everseg.data.classes.legend import VOC
from everseg.runs.folder import load

PAIRS = ["horse-sheep", "person-horse", "cow-cat", "cat-dog"]
LEAST = 0.002
"""Share of an image that a class covers if the image counts as one of it."""


def shown(voc: Path) -> dict[str, set[str]]:
    """The classes that each training image shows, by its name, in the order of a hash."""
    names = (voc / "ImageSets/Segmentation/train_aug.txt").read_text().split()
    names = [name for name in names if not name.startswith("2007")]
    found = {}
    for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        labels = np.asarray(Image.open(voc / f"SegmentationClassAug/{name}.png"))
        share = np.bincount(labels.ravel(), minlength=256) / labels.size
        found[name] = {label for i, label in enumerate(VOC, 1) if share[i] > LEAST}
    return found


def write_stream(voc: Path, out: Path, pair: str, images: int, found: dict[str, set[str]]) -> Path:
    """The stream of a pair: a file, and lists of images beside links to the pictures."""
    classes = pair.split("-")
    lists: dict[str, list[str]] = {"train": [], "held": []}
    for one, other in (classes, classes[::-1]):
        own = [name for name, labels in found.items() if one in labels and other not in labels]
        if len(own) < images * 3 // 2:
            sys.exit(f"{pair}: only {len(own)} images show {one} and not {other}; lower --images")
        lists["train"] += own[:images]
        lists["held"] += own[images : images * 3 // 2]
    folder = out / "voc" / "ImageSets/Segmentation"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("JPEGImages", "SegmentationClassAug"):
        if not (out / "voc" / name).exists():
            (out / "voc" / name).symlink_to((voc / name).resolve())
    for split, names in lists.items():
        (folder / f"{pair}-{split}.txt").write_text("\n".join(names) + "\n")
    stages = "".join(f"  - {{name: {one}, classes: [{one}]}}\n" for one in classes)
    file = out / f"{pair}.yaml"
    file.write_text(
        f"name: {pair}\nroot: {out.resolve()}\nsetting: overlapped\n"
        f"train: {{kind: voc, path: voc, split: {pair}-train}}\n"
        f"test: {{kind: voc, path: voc, split: {pair}-held}}\nstages:\n{stages}"
    )
    return file


def learn(stream: Path, out: Path, *words: str) -> Any:
    """A finished run."""
    command = [sys.executable, "-m", "everseg", "learn", str(stream), *words, "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return load(out)


def iou_of(run: Any) -> dict[str, dict[str, float]]:
    """IoU of each class after each step."""
    matrix = run.results.matrix("iou")
    return {
        stage: {name: float(v) for name, v in zip(matrix.columns, matrix.values[i], strict=True) if v == v}
        for i, stage in enumerate(matrix.stages)
    }


def untaught(run: Any, stream: Path) -> float:
    """IoU of the first class on the test images of both, by a run that has not learned the second."""
    first, second = Stream.from_yaml(stream).stages
    classes = [BACKGROUND, *first.classes, *second.classes]
    confusion = score_classes(run.learner.predict, second.test, classes, run.config.score)
    return float(confusion.scores("zero")[classes[1]])


def joint_words(run: Any) -> list[str]:
    """Joint training as the steps of a run were trained: the same crops and rates, and all steps together."""
    tune = run.config.settings.tune
    steps = tune.first.steps + tune.later.steps
    settings = [f"crop={tune.crop}", f"area=[{tune.area[0]},{tune.area[1]}]", f"first.steps={steps}"]
    settings += [f"first.{name}={getattr(tune.first, name)}" for name in ("batch", "lr")]
    words = ["--method", "joint-classes", "--preset", "sigmoid", "--defaults", "preset"]
    return [*words, "--score", "size=original", *(w for s in settings for w in ("--set", f"tune.{s}"))]


def run_name(given: argparse.Namespace, pair: str, seed: int) -> str:
    return "-".join(["run", *given.set, pair, str(seed)])


def learn_pair(
    stream: Path, given: argparse.Namespace, pair: str, seed: int
) -> tuple[Any, Any, dict[str, Any]]:
    """The run after its first step, the one that went on to the second, and the row of a table."""
    words = ["--seed", str(seed)]
    start = given.out / f"first-{pair}-{seed}"
    began = learn(stream, start, *words, "--until", pair.partition("-")[0])
    words += [word for setting in given.set for word in ("--set", setting)]
    run = learn(stream, given.out / run_name(given, pair, seed), *words, "--first-stage", str(start))
    row = {"pair": pair, "seed": seed, "set": given.set, "images": given.images, "iou": iou_of(run)}
    return began, run, row


def print_row(row: dict[str, Any], last: str) -> None:
    """A line of the table. last: its last cell."""
    (first, after), (second, end) = row["iou"].items()
    ends = f"{after[first]:.3f} | {end[first]:.3f} | {end[second]:.3f}"
    print(f"| {first}, then {second} | {row['seed']} | {ends} | {last} |", flush=True)


def write_pairs(given: argparse.Namespace, of: str, rows: Sequence[dict[str, Any]]) -> None:
    """The rows, if a file is wanted. of: what the two classes are of."""
    if given.json:
        how = "settings tried in the second step" if given.set else "default settings"
        about = f"Two classes of {of} in two steps, {how}, MobileNetV2; held-out training images."
        write_rows(given.json, about, given.seeds, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("voc", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", nargs="+", default=PAIRS)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--joint", action="store_true")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = shown(given.voc)
    rows = []
    print("| pair | seed | first class after its step | at the end | second class | both at once |")
    print("|---|---|---|---|---|---|")
    for pair, seed in product(given.pairs, given.seeds):
        stream = write_stream(given.voc, given.out, pair, given.images, found)
        began, run, row = learn_pair(stream, given, pair, seed)
        row["untaught"] = untaught(began, stream)
        if given.joint:
            out = given.out / f"joint-{run_name(given, pair, seed)}"
            (row["joint"],) = iou_of(learn(stream, out, *joint_words(run), "--seed", str(seed))).values()
        rows.append(row)
        both = [f"{row['joint'][name]:.3f}" for name in pair.split("-")] if given.joint else []
        print_row(row, ", ".join(both))
    write_pairs(given, "PASCAL VOC", rows)


if __name__ == "__main__":
    main()
