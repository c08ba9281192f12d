"""What the feature cache saves: epochs of SAMCL's training with and without it, in one process.

    python benchmarks/cache.py [--images 64] [--epochs 4]

Prints seconds of each and their ratio. The alternative is the same training with the trunk run for every
batch.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

from everseg import SAMCL, Stage, load_base
from everseg.config import override
from everseg.data import SyntheticDomain
from everseg.domains.methods.samcl import SAMCLConfig
from everseg.types import NoScratch


def seconds(where: str, images: int, epochs: int) -> float:
    base = load_base("tiny")
    config = override(SAMCLConfig(), [f"cache.where={where}", f"tune.fit.epochs={epochs}"])
    train = [SyntheticDomain("polyps", images, seed=0)[i] for i in range(images)]
    train = [replace(sample, key=f"polyps-{i}") for i, sample in enumerate(train)]
    learner = SAMCL(base, config)
    began = time.perf_counter()
    learner.learn(Stage(0, "polyps", train, ()), NoScratch())
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args()
    seconds("memory", 8, 1)  # warm up
    without = seconds("off", given.images, given.epochs)
    cached = seconds("memory", given.images, given.epochs)
    print(f"trunk every batch {without:.1f} s, cached {cached:.1f} s, ratio {without / cached:.2f}")


if __name__ == "__main__":
    main()
