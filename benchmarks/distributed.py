"""One process and two: how much faster the pass through a stage and its training become.

    python benchmarks/distributed.py [--images 128] [--epochs 2] [--pairs 3]

Each process has one thread. Runs alternate, and the ratio is the median over pairs. Beside seconds, which
other work on the machine spoils, it prints what that does not change: processor time and images that go
through the trunk, of the process that has most of each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PARTS = ("pass", "learn")


def measure(images: int, epochs: int, out: Path) -> None:
    """Prepare a stage, then learn it with SAMCL, which prepares it again; write this process's figures."""
    import torch
    from torch import Tensor

    from everseg import SAMCL, Stage, load_base
    from everseg.config import override
    from everseg.data import SyntheticDomain
    from everseg.distributed import wait, world
    from everseg.domains.methods.samcl import SAMCLConfig
    from everseg.domains.prepare import prepare
    from everseg.types import NoScratch

    torch.set_num_threads(1)
    base = load_base("tiny")
    encoded, trunk = 0, base.trunk

    def counted(pixels: Tensor) -> Any:
        nonlocal encoded
        encoded += len(pixels)
        return trunk(pixels)

    base.trunk = counted  # type: ignore[method-assign]
    config = override(SAMCLConfig(), [f"tune.fit.epochs={epochs}"])
    train = SyntheticDomain("polyps", images)
    stage = Stage(0, "polyps", train, ())
    prepare(train[:16], base, config.cache, config.tune.fit, "warm up")
    found = {}
    for part in PARTS:
        encoded = 0
        wait()
        began, worked = time.perf_counter(), time.process_time()
        if part == "pass":
            prepare(train, base, config.cache, config.tune.fit, "polyps")
        else:
            SAMCL(base, config).learn(stage, NoScratch())
        wait()
        found[part] = {
            "seconds": time.perf_counter() - began,
            "processor": time.process_time() - worked,
            "images": encoded,
        }
    out.with_suffix(f".{world().rank}").write_text(json.dumps(found))


def run(processes: int, given: argparse.Namespace, folder: Path) -> dict[str, dict[str, float]]:
    """The largest figures of so many processes."""
    script = [__file__, "--images", str(given.images), "--epochs", str(given.epochs)]
    command = [*script, "--out", str(folder / str(processes))]
    if processes > 1:
        options = ["--standalone", "--nproc-per-node", str(processes)]
        command = ["-m", "torch.distributed.run", *options, *command]
    subprocess.run([sys.executable, *command], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    each = [json.loads((folder / f"{processes}.{rank}").read_text()) for rank in range(processes)]
    return {part: {k: max(e[part][k] for e in each) for k in each[0][part]} for part in PARTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.out is not None:
        measure(given.images, given.epochs, given.out)
        return
    with TemporaryDirectory() as folder:
        pairs = [[run(n, given, Path(folder)) for n in (1, 2)] for _ in range(given.pairs)]
    for part in PARTS:
        ratio = {
            key: statistics.median(one[part][key] / two[part][key] for one, two in pairs)
            for key in ("seconds", "processor", "images")
        }
        one, two = ([pair[n][part] for pair in pairs] for n in (0, 1))
        print(
            f"{part}: one process {statistics.median(o['seconds'] for o in one):.1f} s, two "
            f"{statistics.median(t['seconds'] for t in two):.1f} s, {ratio['seconds']:.2f} times as fast; "
            f"one process takes {ratio['processor']:.2f} times the processor time and has "
            f"{ratio['images']:.2f} times the images through its trunk"
        )


if __name__ == "__main__":
    main()
