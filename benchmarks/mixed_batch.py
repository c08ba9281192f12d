"""A batch that mixes domains: one pass through stacked modules against the honest alternatives.

    python benchmarks/mixed_batch.py [--rows 16] [--domains 4] [--repeat 10]

Prints milliseconds for (1) one pass with gathered weights, (2) one pass for each domain's rows, (3) one pass
for each row, as the published code does, and the ratios of (2) and (3) to (1).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from everseg import load_base
from everseg.domains.adapters.aug import AugBank, AugModule
from everseg.models.promptable.protocol import TAP


def milliseconds(work: Callable[[], object], repeat: int) -> float:
    work()
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--domains", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=10)
    given = parser.parse_args()
    base = load_base("tiny")
    modules = [AugModule.beside(base) for _ in range(given.domains)]
    bank = AugBank.stack(modules)
    index = torch.arange(given.rows) % given.domains
    taps = torch.randn(given.rows, base.grid, base.grid, base.width)
    heat = torch.rand(given.rows, base.grid, base.grid)

    def together() -> None:
        base.tail({TAP: taps}, bank.bind(heat, index))

    def by_domain() -> None:
        for domain, module in enumerate(modules):
            rows = index == domain
            base.tail({TAP: taps[rows]}, module.bind(heat[rows]))

    def by_row() -> None:
        for row in range(given.rows):
            base.tail({TAP: taps[row : row + 1]}, modules[int(index[row])].bind(heat[row : row + 1]))

    one, domains, rows = (milliseconds(work, given.repeat) for work in (together, by_domain, by_row))
    print(
        f"one pass {one:.1f} ms, a pass a domain {domains:.1f} ms (x{domains / one:.2f}), "
        f"a pass a row {rows:.1f} ms (x{rows / one:.2f})"
    )


if __name__ == "__main__":
    main()
