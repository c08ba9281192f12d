"""A batch whose rows have different modules, against plain SAM and against the other ways to run it.

    python benchmarks/mixed_batch.py [--base tiny vit-b] [--domains 4 100] [--rows 16] [--repeat 30] [--whole]
        [--ways grouped half]

Each line is one way to run the rows through the tail, in images per second and as a ratio to plain SAM:

    plain       the untouched base
    one module  all rows have the same module
    grouped     rows of one module stand side by side in one pass: what everseg does
    half        the same, and every other row has no module
    gathered    one pass in which each row multiplies with its own copy of the weights
    by row      a pass per row, as SAMCL's published code does

With --whole, a pass is trunk, tail and decoder. ViT-B has random weights and a frame of 256 x 256 pixels
(--side), because a tail of 16 images of 1024 x 1024 pixels takes a minute on a CPU. With fewer tokens the
modules' share is, if anything, larger.

The last line compares predictions (`SAMCL.predict`, selector included) of a run with the most domains, in
which every image is of another domain, with those of a run with one domain.

The ways take turns within one process. Times are medians and ratios are medians of each round's ratios; the
ratio of the least times is printed beside them.
--clock cpu counts the processor's time instead of the wall clock's, for a machine that is busy with other
work; use OMP_NUM_THREADS=1 with it.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rows import write_rows
from torch import Tensor
from torch.nn import functional as F

from everseg.domains.adapters.aug import AugAdaptation, AugModule
from everseg.domains.cache import CacheConfig
from everseg.domains.methods.samcl import SAMCL, SAMCLConfig
from everseg.domains.prepare import pool
from everseg.domains.selector import train_selector
from everseg.domains.tune import bind_rows
from everseg.models.promptable.load import load_base
from everseg.models.promptable.protocol import TAP, Adaptation, FramePrompts, Promptable, plus
from everseg.models.promptable.sam import Sam
from everseg.types import Prompts, Query

WAYS = ("one module", "grouped", "half", "gathered", "by row")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Gathered(AugAdaptation):
    """AugModules whose weights have a leading B: each row has its own."""

    def _linear(self, name: str, x_BMi: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return torch.baddbmm(bias[:, None], x_BMi, weight.transpose(1, 2))

    def _norm(self, name: str, x_BMr: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(x_BMr, weight.shape[-1:]) * weight[:, None] + bias[:, None]

    def add_attention(self, out: Tensor, block: int, tokens: Tensor, window: int) -> Tensor:
        return plus(out, self.attention(block, tokens, window))

    def add_neck_in(self, x: Tensor) -> Tensor:
        return plus(x, self.neck_in())

    def add_neck_out(self, x: Tensor) -> Tensor:
        return plus(x, self.neck_out())


def gathered(stacked: Mapping[str, Tensor], like: AugModule, rows: Tensor, heat: Tensor) -> Gathered:
    weights = {name: weight[rows] for name, weight in stacked.items()}
    # The map's layer is computed by broadcasting, so its rows need a dimension for the tokens.
    for part in ("map_layer.weight", "map_layer.bias"):
        weights[part] = weights[part][:, None]
    return Gathered(weights, like.blocks, like.config, heat)


def vit_b(side: int) -> Sam:
    """A random SAM ViT-B for frames of `side` x `side` pixels."""
    from transformers.models.sam.configuration_sam import SamConfig, SamPromptEncoderConfig, SamVisionConfig
    from transformers.models.sam.modeling_sam import SamModel

    vision, prompt = SamVisionConfig(image_size=side), SamPromptEncoderConfig(image_size=side)
    return Sam(SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompt)), "vit-b")


def trained(base: Promptable) -> AugModule:
    """A module that adds something everywhere."""
    module = AugModule.beside(base)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return module


def in_turns(
    works: Mapping[str, Callable[[], object]], repeat: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each work in each round."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeat + 1):  # the first round warms up
        for name, work in works.items():
            began = clock()
            work()
            times[name].append(clock() - began)
    return {name: found[1:] for name, found in times.items()}


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def mixed(base: Promptable, rows: int, domains: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    modules = [trained(base) for _ in range(domains)]
    stacked = {
        name: torch.stack([dict(m.named_parameters())[name].detach() for m in modules])
        for name, _ in modules[0].named_parameters()
    }
    index = (torch.arange(rows) % domains).sort().values
    chosen = [modules[i] for i in index.tolist()]
    half = [module if row % 2 else None for row, module in enumerate(chosen)]
    half.sort(key=lambda module: -1 if module is None else modules.index(module))
    pixels = torch.randn(rows, 3, base.image_size, base.image_size, device=base.device)
    side = float(base.image_size)
    prompts = FramePrompts(side * torch.rand(rows, 1, 1, 2), torch.ones(rows, 1, 1).long(), None)
    heat = torch.rand(rows, base.grid, base.grid)
    taps = base.trunk(pixels)[TAP]

    def run(adaptation: Adaptation | None, part: slice = slice(None)) -> None:
        if given.whole:
            base.decode(base.tail(base.trunk(pixels[part]), adaptation), prompts[part])
        else:
            base.tail({TAP: taps[part]}, adaptation)

    def by_row() -> None:
        for row, module in enumerate(chosen):
            part = slice(row, row + 1)
            run(module.bind(heat[part]), part)

    works: dict[str, Callable[[], object]] = {
        "plain": lambda: run(None),
        "one module": lambda: run(modules[0].bind(heat)),
        "grouped": lambda: run(bind_rows(chosen)(heat)),
        "half": lambda: run(bind_rows(half)(heat)),
        "gathered": lambda: run(gathered(stacked, modules[0], index, heat)),
        "by row": by_row,
    }
    works = {name: work for name, work in works.items() if name in ("plain", *given.ways)}
    times = in_turns(works, given.repeat, CLOCKS[given.clock])
    found = []
    for name, seconds in times.items():
        row = {"base": base.name, "rows": rows, "domains": domains, "way": name, "repeat": given.repeat}
        row["images_per_second"] = rows / statistics.median(seconds)
        row["of_plain"] = ratio(times["plain"], seconds)
        row["of_plain_least"] = min(times["plain"]) / min(seconds)
        found.append(row)
        print(
            f"{base.name:6s} {rows:3d} rows {domains:4d} domains  {name:10s} "
            f"{row['images_per_second']:8.2f} images/s  {row['of_plain']:.3f} of plain  "
            f"{row['of_plain_least']:.3f} by the least times",
            flush=True,
        )
    return found


def learned(base: Promptable, images: Sequence[Tensor], domains: int) -> SAMCL:
    """SAMCL with so many domains: of image i, and of noise around its embedding."""
    learner = SAMCL(base, SAMCLConfig(cache=CacheConfig("off")))
    names = [f"domain {i}" for i in range(domains)]
    for name, image in zip(names, images, strict=False):
        embedding = pool(base.trunk(base.pixels([image])))
        spread = 0.02 * embedding.std() * torch.randn(20, base.width)
        learner.modules[name] = trained(base)
        learner.remembered.add(name, (embedding + spread).cpu(), len(spread))
    draw = torch.Generator().manual_seed(0)
    learner.selector.grow(names, draw)
    with torch.inference_mode(False), torch.enable_grad():
        train_selector(learner.selector, learner.remembered.lessons(), learner.config.selector, draw)
    return learner


def predictions(base: Promptable, rows: int, most: int, given: argparse.Namespace) -> None:
    coarse = [torch.rand(1, 3, 4, 4) for _ in range(most)]
    size = (base.image_size, base.image_size)
    images = [(255 * F.interpolate(c, size=size, mode="bilinear")[0]).byte() for c in coarse]
    few, many = learned(base, images, 1), learned(base, images, most)
    clicks = Prompts(torch.tensor([[[40.0, 50.0]]]), torch.ones(1, 1).long())
    queries = [Query(image, clicks) for image in images[:rows]]
    used = {p.route.name for p in many.predict(queries) if p.route is not None}
    works = {"1": lambda: few.predict(queries), "most": lambda: many.predict(queries)}
    times = in_turns(works, given.repeat, CLOCKS[given.clock])
    print(
        f"{base.name:6s} predictions with {most} domains, {len(used)} of them in {rows} images: "
        f"{ratio(times['most'], times['1']):.3f} times as long as with one domain",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--base", nargs="+", choices=["tiny", "vit-b"], default=["tiny", "vit-b"])
    parser.add_argument("--domains", type=int, nargs="+", default=[4, 100])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.manual_seed(0)
    print(
        f"{torch.get_num_threads()} threads, {given.clock} clock, {'whole pass' if given.whole else 'tail'}"
    )
    found = []
    for name in given.base:
        base = load_base("tiny") if name == "tiny" else vit_b(given.side)
        with torch.inference_mode():
            for domains in given.domains:
                found += mixed(base, given.rows, domains, given)
        if name == "tiny":
            predictions(base, given.rows, max(given.domains), given)
    if given.json is not None:
        about = "A batch whose rows have different modules, in images per second, as a ratio to plain SAM: "
        about += f"medians of ratios within a round, {given.clock} clock, {torch.get_num_threads()} threads."
        loads = " ".join(f"{load:.1f}" for load in os.getloadavg())
        write_rows(
            given.json, about, [0], found, f"{platform.machine()}, {os.cpu_count()} cores, load {loads}"
        )


if __name__ == "__main__":
    main()
