"""What large pages of memory save on a CPU: one image through SAM ViT-B's encoder, and one training step of
MobileNetV2 with classes.

    python benchmarks/large_pages.py [--rounds 3] [--json FILE]

`everseg` has PyTorch ask for them (THP_MEM_ALLOC_ENABLE=1); a program of your own does not unless you set the
variable. Each round starts a process with them and one without, in turns first, with one thread each. Prints
the seconds, the processor time and the largest memory of each (medians), and the medians of the ratios with
to without. The weights mean nothing, since speed does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIABLE = "THP_MEM_ALLOC_ENABLE"
REPEATS = {"encoder": 2, "training": 12}


def encoder() -> Callable[[], object]:
    import torch
    from encode import RANDOM

    base = RANDOM["vit-b"]()
    pixels = torch.randn(1, 3, base.image_size, base.image_size)

    def work() -> object:
        with torch.inference_mode():
            return base.tail(base.trunk(pixels))

    return work


def training() -> Callable[[], object]:
    import torch

    from everseg.models.semantic.segmenter import load_segmenter

    model = load_segmenter("mobilenet_v2")
    model.grow(1)
    model.train()
    images = torch.randint(0, 256, (8, 3, 128, 128), dtype=torch.uint8)
    return lambda: model(model.pixels(images)).full().square().mean().backward()


def measure(what: str) -> dict[str, float]:
    """Figures of one piece of work in this process."""
    import torch

    from everseg.distributed import process_peak

    torch.set_num_threads(1)
    work = {"encoder": encoder, "training": training}[what]()
    work()  # Warm up.
    wall, own = time.perf_counter(), time.process_time()
    for _ in range(REPEATS[what]):
        work()
    wall, own = time.perf_counter() - wall, time.process_time() - own
    return {
        "seconds": wall / REPEATS[what],
        "processor": own / REPEATS[what],
        "MiB": process_peak() / 2**20,
    }


def started(what: str, large: bool) -> dict[str, float]:
    """The figures of a process of its own."""
    command = [sys.executable, __file__, "--measure", what]
    variables = {**os.environ, VARIABLE: "1" if large else "0"}
    return dict[str, float](json.loads(subprocess.check_output(command, env=variables)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", choices=list(REPEATS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure)))
        return
    rows = []
    for what in REPEATS:
        found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
        for number in range(given.rounds):
            for large in (True, False) if number % 2 else (False, True):
                found[large].append(started(what, large))
        row: dict[str, Any] = {"work": what}
        for large, name in ((True, "large pages"), (False, "small pages")):
            row[name] = {key: statistics.median(f[key] for f in found[large]) for key in found[large][0]}
        pairs = list(zip(found[True], found[False], strict=True))
        row["ratio"] = {key: statistics.median(a[key] / b[key] for a, b in pairs) for key in pairs[0][0]}
        rows.append(row)
        for name, figures in row.items():
            if name != "work":
                print(f"{what}, {name}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()), flush=True)
    if given.json:
        from rows import write_rows

        about = "What large pages of memory save on a CPU: medians of processes with and without, one thread."
        write_rows(given.json, about, [0], rows, f"{platform.system()}, {os.cpu_count()} cores, CPU")


if __name__ == "__main__":
    main()
