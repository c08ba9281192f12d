"""What a stage costs in memory, by its number of images: opening it, its fingerprint, and learning it.

    python benchmarks/memory.py [--images 1000 10000] [--base tiny] [--folder FOLDER]

Paints the images, 64 x 64 pixels each, and measures every number in a process of its own: the most memory
held so far after each step, beyond what the program and the base take. The feature cache has a budget of its
own, which is 0 here. The last line says what one more image costs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

PARTS = ("opening", "fingerprint", "reading test data", "learning and scoring")


def measure(folder: Path, base_name: str) -> None:
    """Print seconds and bytes of each part, one part a line."""
    import torch

    from everseg import load_base
    from everseg.data import Stream
    from everseg.distributed import process_peak
    from everseg.methods import configure
    from everseg.models.promptable.sam import Sam
    from everseg.runs import learn as learning
    from everseg.runs.data import fingerprints, read_ahead
    from everseg.runs.run import RunConfig
    from everseg.testing import micro_sam

    torch.set_num_threads(1)
    base = Sam(micro_sam(), "micro") if base_name == "micro" else load_base(base_name)
    # What a run takes whatever its data are: a stage of a few images first.
    settings = ["cache.budget=0", "tune.fit.steps=4", "selector.epochs=1"]
    config = RunConfig("samcl", configure("samcl", assignments=settings), base.name, baseline=False)
    with TemporaryDirectory() as out:
        learning.run(Stream.from_yaml(folder / "few.yaml"), config, Path(out) / "few", base)
        before = process_peak()
        began = time.perf_counter()

        def done() -> None:
            nonlocal began
            print(f"{time.perf_counter() - began:.3f} {max(0, process_peak() - before)}", flush=True)
            began = time.perf_counter()

        stream = Stream.from_yaml(folder / "stream.yaml")
        done()
        fingerprints(stream, stream.stages[0])
        done()
        read_ahead(stream.stages[0].test, "stage", 0, by_name=True)
        done()
        learning.run(stream, config, Path(out) / "run", base)
        done()


def paint(folder: Path, images: int) -> Path:
    """A stage of so many training images, and of 32."""
    from everseg.data import write_synthetic

    for name, count in (("train", images), ("few", 32)):
        if not (folder / name).exists():
            write_synthetic(folder / name, "polyps", count, split="train", size=64)
    test = folder / "test"
    if not test.exists():
        write_synthetic(test, "polyps", images, split="test", size=64)
    for name, train, tested in (("stream", "train", "test"), ("few", "few", "few")):
        text = f"stages: [{{name: polyps, train: {train}, test: {tested}}}]\n"
        (folder / f"{name}.yaml").write_text(text)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--base", default="tiny", help="or 'micro', a small SAM with random weights")
    parser.add_argument("--folder", type=Path, help="where to paint, and to find what was painted before")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        measure(given.measure, given.base)
        return
    with TemporaryDirectory() as temporary:
        found: dict[int, list[int]] = {}
        for images in given.images:
            folder = paint((given.folder or Path(temporary)) / str(images), images)
            command = [sys.executable, __file__, "--base", given.base, "--measure", str(folder)]
            lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
            found[images] = [int(line.split()[1]) for line in lines]
            for part, line in zip(PARTS, lines, strict=True):
                seconds, taken = line.split()
                print(
                    f"{images} + {images} images, {part}: {seconds} s, {int(taken) / 2**20:.1f} MiB",
                    flush=True,
                )
    few, many = min(found), max(found)
    for part, a, b in zip(PARTS, found[few], found[many], strict=True):
        print(f"{part}: {(b - a) / max(1, many - few):.0f} bytes per image of each split")


if __name__ == "__main__":
    main()
