"""What merging from sums costs and loses, against storing every domain's Gram and inverting in float32.

    python benchmarks/merge.py [--repeat 10] [--rows 2000] [--domains 5]

Prints first what the pass that measures the moments costs beside the forward pass it rides on. For adapters
of five blocks of SAM ViT-B (width 768, rank 10), prints milliseconds of one merge, the bytes it
is made from, and the excess over the best objective at several conditions of the inputs; then the same for
all orders of the domains, of which sums need only the subsets. The alternative is the published recipe:
float32 means, every adapter and Gram kept, W* = (sum W_k G_k) inv(sum G_k) without a ridge.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import SamConfig, SamModel

from everseg.domains.adapters.kinds import fresh_adapter, linears
from everseg.merge.average import average
from everseg.merge.collect import GramCollector
from everseg.merge.gram import Gram, GramConfig
from everseg.merge.regmean import RegMeanConfig, regmean
from everseg.merge.regmean_sums import RegMeanSums
from everseg.models.promptable.load import load_base
from everseg.models.promptable.protocol import TAP
from everseg.models.promptable.sam import Sam

WIDTH, RANK, BLOCKS = 768, 10, 5
REFERENCE = RegMeanConfig.presets()["reference"]

# Shapes (out, in) of the measured layers: one pair for each block; or one A for all blocks, and a C for each.
ADAPTERS = {
    "LoRA": {f"down.{i}": (RANK, WIDTH) for i in range(BLOCKS)}
    | {f"up.{i}": (WIDTH, RANK) for i in range(BLOCKS)},
    "AugModule": {"down": (RANK, WIDTH)}
    | {f"mix.{i}": (RANK, RANK) for i in range(BLOCKS)}
    | {f"up.{i}": (WIDTH, RANK) for i in range(BLOCKS)},
}

Domain = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]
"""An adapter, its Grams for the sums (float64) and for the alternative (float32)."""


def milliseconds(work: Callable[[], object], repeat: int) -> float:
    work()
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def inputs(domains: int, width: int, rows: int, condition: float, seed: int) -> list[Tensor]:
    """Rows of each domain whose second moment has about this condition, float32; one basis for all."""
    g = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, width, generator=g, dtype=torch.float64))[0]
    spectrum = torch.logspace(0, -math.log10(condition) / 2, width, dtype=torch.float64)
    draws = [torch.randn(rows, width, generator=g, dtype=torch.float64) for _ in range(domains)]
    return [(z * spectrum @ basis.T).float() for z in draws]


def measured(x: Tensor, config: GramConfig) -> Tensor:
    gram = Gram(x.shape[1], config)
    for part in x.split(500):
        gram.update(part)
    return gram.mean()


def adapters(shapes: dict[str, tuple[int, int]], domains: int, rows: int, condition: float) -> list[Domain]:
    g = torch.Generator().manual_seed(1)
    out: list[Domain] = [({}, {}, {}) for _ in range(domains)]
    ours, theirs = GramConfig(), GramConfig.presets()["reference"]
    for number, (name, (high, wide)) in enumerate(shapes.items()):
        xs = inputs(domains, wide, rows, condition, number)
        for (weights, wide_grams, short_grams), x in zip(out, xs, strict=True):
            weights[f"{name}.weight"] = torch.randn(high, wide, generator=g)
            weights[f"{name}.bias"] = torch.randn(high, generator=g)
            wide_grams[name], short_grams[name] = measured(x, ours), measured(x, theirs)
    return out


def summed(domains: list[Domain]) -> RegMeanSums:
    sums = RegMeanSums()
    for weights, moments, _ in domains:
        sums.add(weights, moments)
    return sums


def naive(domains: list[Domain]) -> dict[str, Tensor]:
    return regmean([d[0] for d in domains], [d[2] for d in domains], REFERENCE)[0]


def naive_bytes(domains: list[Domain]) -> int:
    return sum(t.nbytes for weights, _, moments in domains for t in [*weights.values(), *moments.values()])


def excess(domains: int, rows: int, condition: float) -> tuple[float, float, float]:
    """Relative excess over the optimum, of the sums, of the alternative and of the mean, for one layer A."""
    xs = inputs(domains, WIDTH, rows, condition, 0)
    g = torch.Generator().manual_seed(1)
    weights = [torch.randn(RANK, WIDTH, generator=g) for _ in xs]
    exact = [x.double().T @ x.double() / len(x) for x in xs]
    models = [{"l.weight": w} for w in weights]
    # In the rows themselves, because the closed form is what is on trial.
    stacked = torch.cat([x.double() / len(x) ** 0.5 for x in xs])
    goal = torch.cat([x.double() @ w.double().T / len(x) ** 0.5 for x, w in zip(xs, weights, strict=True)])
    best = torch.linalg.lstsq(stacked, goal).solution.T

    def objective(w: Tensor) -> float:
        gaps = [w.double() - own.double() for own in weights]
        return sum(float((d @ m * d).sum()) for d, m in zip(gaps, exact, strict=True))

    mine = regmean(models, [{"l": measured(x, GramConfig())} for x in xs])[0]["l.weight"]
    config = GramConfig.presets()["reference"]
    theirs = regmean(models, [{"l": measured(x, config)} for x in xs], REFERENCE)[0]["l.weight"]
    mean = torch.stack(weights).mean(0)
    least = objective(best)
    return tuple(max(0.0, objective(w) / least - 1) for w in (mine, theirs, mean))  # type: ignore[return-value]


def orders(domains: list[Domain], repeat: int) -> None:
    """Every prefix of every order: as many merges as there are subsets, or as prefixes."""
    count = len(domains)
    began = time.perf_counter()
    merged = {}
    for size in range(1, count + 1):
        for subset in itertools.combinations(range(count), size):
            merged[frozenset(subset)] = summed([domains[k] for k in subset]).solve()[0]
    mine = time.perf_counter() - began
    # The alternative merges every prefix again; timed once for each length.
    each = [milliseconds(lambda n=n: naive(domains[:n]), max(1, repeat // 5)) for n in range(1, count + 1)]  # type: ignore[misc]
    number = math.factorial(count)
    theirs = number * sum(each) / 1000
    whole = merged[frozenset(range(count))]
    backwards = summed(domains[::-1]).solve()[0]
    gap = max(float((backwards[n] - t).abs().max() / t.abs().max()) for n, t in whole.items())
    print(
        f"  all {number} orders of {count} domains, every prefix: {mine:.2f} s for {len(merged)} subsets; "
        f"the alternative {theirs:.1f} s for {number * count} merges (from one of each length), "
        f"x{theirs / mine:.0f}; forwards and backwards differ by {gap:.0e}"
    )


def gram_pass(repeat: int) -> None:
    """What measuring moments adds to the forward pass it rides on: the adapted blocks of the base, cached
    features in, without the decoder. Passes with and without alternate, and the median of their ratios
    counts.
    """
    bases = {"embedded base, 16 rows": (load_base("tiny"), 16), "ViT-B, 1 row": (vit_b(), 1)}
    for what, (base, rows) in bases.items():
        tap = torch.randn(rows, base.grid, base.grid, base.width)
        heat = torch.rand(rows, base.grid, base.grid)
        for kind in ("aug", "lora"):
            draw = torch.Generator().manual_seed(0)
            adapter = fresh_adapter(kind, base, RANK, draw, mix=True)  # type: ignore[arg-type]
            collector = GramCollector(linears(adapter, False), GramConfig())

            def observe(name: str, x: Tensor, collector: GramCollector = collector) -> None:
                if name in collector.modules:
                    collector.see(name, x)

            def once(watched: bool) -> float:
                began = time.perf_counter()
                with torch.inference_mode():
                    base.tail({TAP: tap}, adapter.bind(heat, observe if watched else None))  # noqa: B023
                return time.perf_counter() - began

            once(True)
            ratios = sorted(
                once(True) / once(False) for _ in range(4 * repeat if rows > 1 else 1 + repeat // 2)
            )
            print(f"Gram pass, {kind} on {what}: {statistics.median(ratios):.3f} of the forward pass alone")


def vit_b() -> Sam:
    """SAM ViT-B with random weights: its cost is that of the real one."""
    torch.manual_seed(0)
    return Sam(SamModel(SamConfig()), "random ViT-B")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--domains", type=int, default=5)
    given = parser.parse_args()
    gram_pass(given.repeat)
    for name, shapes in ADAPTERS.items():
        domains = adapters(shapes, given.domains, given.rows, 1e4)
        sums = summed(domains)
        mine = milliseconds(lambda sums=sums: sums.solve(), given.repeat)  # type: ignore[misc]
        theirs = milliseconds(lambda domains=domains: naive(domains), given.repeat)  # type: ignore[misc]
        mean = milliseconds(lambda d=domains: average([m[0] for m in d]), given.repeat)  # type: ignore[misc]
        kept, stored = sums.nbytes / 2**20, naive_bytes(domains) / 2**20
        print(
            f"{name}, {given.domains} domains: merge {mine:.1f} ms from {kept:.2f} MiB of sums that stay as "
            f"large; the alternative {theirs:.1f} ms from {stored:.2f} MiB, "
            f"{stored / given.domains:.2f} more with each domain; averaging {mean:.1f} ms"
        )
        orders(domains, given.repeat)
    print("one layer (10, 768): relative excess over the best objective")
    for condition in (1e2, 1e4, 1e6, 1e8):
        mine, theirs, mean = excess(given.domains, given.rows, condition)
        print(
            f"  condition {condition:.0e}: sums {mine:.1e}, the alternative {theirs:.1e}, "
            f"averaging {mean:.1e}"
        )


if __name__ == "__main__":
    main()
