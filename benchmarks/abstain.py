"""What it costs to ask whether an image could have come from a domain at all.

    python benchmarks/abstain.py [--images 32] [--repeat 5] [--clock cpu] [--json FILE]

Predicts generated images with SAMCL on the embedded base, alternately with and without p-values, with
modules of 1, 4 and 100 domains (random weights and embeddings). Prints milliseconds per image and the
ratios of with to without and of 100 domains to few, as medians over the repeats.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import torch
from rows import write_rows

from everseg import load_base
from everseg.config import override
from everseg.data import SyntheticDomain
from everseg.domains.adapters.aug import AugModule
from everseg.domains.methods.samcl import SAMCL, SAMCLConfig
from everseg.types import Query


def learner(domains: int, abstain: bool, base: object) -> SAMCL:
    config = override(SAMCLConfig(), ["cache.where=off", f"selector.abstain={0.001 if abstain else 0}"])
    found = SAMCL(base, config)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for k in range(domains):
        name = f"domain-{k}"
        found.modules[name] = AugModule.beside(found.base, config.aug, generator)
        rows = torch.randn(300, found.base.width, generator=generator) + torch.randn(1, generator=generator)
        found.remembered.add(name, rows, 300)
    found.selector.grow(list(found.modules), generator)
    found.selector.seen[:] = True
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    base = load_base()
    samples = SyntheticDomain("polyps", args.images, size=256)
    queries = [Query(s.image, s.prompts, key="", lasting=False) for s in samples]
    kinds = {(k, on): learner(k, on, base) for k in (1, 4, 100) for on in (False, True)}
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    times: dict[tuple[int, bool], list[float]] = {kind: [] for kind in kinds}
    for turn in range(args.repeat + 1):
        for kind, found in kinds.items():
            began = clock()
            found.predict(queries)
            if turn:
                times[kind].append(1000 * (clock() - began) / args.images)
    rows = []
    for k in (1, 4, 100):
        off, on, one = times[k, False], times[k, True], times[1, True]
        row = {"domains": k, "images": args.images, "repeat": args.repeat}
        row["without_ms"], row["with_ms"] = statistics.median(off), statistics.median(on)
        row["with_to_without"] = statistics.median(b / a for a, b in zip(off, on, strict=True))
        row["to_one_domain"] = statistics.median(b / a for a, b in zip(one, on, strict=True))
        rows.append(row)
        print("  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    if args.json is not None:
        about = "What p-values add to the time of a prediction by SAMCL on the embedded base; ratios are "
        about += f"medians of each turn's, {args.clock} clock, {torch.get_num_threads()} threads."
        loads = " ".join(f"{load:.1f}" for load in os.getloadavg())
        write_rows(args.json, about, [0], rows, f"{platform.machine()}, {os.cpu_count()} cores, load {loads}")


if __name__ == "__main__":
    main()
