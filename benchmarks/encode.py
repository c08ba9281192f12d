"""Images a second through our trunk and tail, without an adapter, against transformers' own encoder.

    python benchmarks/encode.py [--base tiny | --random vit-b | --random hiera-tiny] [--batch 4] [--rounds 10]
                                [--precision fp32]

The weights, the pixels and the batch are the same; the rounds take turns, so that both meet the same machine.
--random takes the architecture of SAM ViT-B or SAM 2.1 Hiera-tiny with weights that mean nothing: speed does
not depend on them. Prints images a second of each, the median of the rounds' ratios (ours to theirs; the
requirement is 0.98) and the largest difference between the two outputs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import Sam2Config, Sam2Model, SamConfig, SamModel

from everseg import load_base
from everseg.models.sam import Sam
from everseg.models.sam2 import Sam2

RANDOM: dict[str, Callable[[], Any]] = {
    "vit-b": lambda: Sam(SamModel(SamConfig()), "random vit-b"),
    "hiera-tiny": lambda: Sam2(Sam2Model(Sam2Config()), "random hiera-tiny"),
}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def seconds(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--base", default="tiny")
    which.add_argument("--random", choices=RANDOM)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--precision", choices=TYPES, default="fp32")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    base = (RANDOM[given.random]() if given.random else load_base(given.base)).to(device)
    pixels = torch.randn(given.batch, 3, base.image_size, base.image_size, device=device)
    base.precision = given.precision
    half = given.precision != "fp32"
    amp = torch.autocast(device.type, TYPES[given.precision]) if half else nullcontext()

    def ours() -> Tensor:
        return base.tail(base.trunk(pixels))["image"]

    def theirs() -> Tensor:
        with amp:
            found = base.model.get_image_embeddings(pixels)
        return found if isinstance(found, Tensor) else found[-1]

    difference = float((ours() - theirs().float()).abs().max())  # and warm up
    ratios, own, other = [], [], []
    for number in range(given.rounds):
        pair = (ours, theirs) if number % 2 else (theirs, ours)
        taken = {work: seconds(work, device) for work in pair}
        own.append(taken[ours])
        other.append(taken[theirs])
        ratios.append(taken[theirs] / taken[ours])
    rate, plain = (given.batch / statistics.median(times) for times in (own, other))
    print(
        f"{base.name}, {given.precision}, {device.type}, batch {given.batch}: ours {rate:.3g} images/s, "
        f"transformers {plain:.3g} images/s, ratio {statistics.median(ratios):.3f}, "
        f"largest difference {difference:.1e}"
    )


if __name__ == "__main__":
    main()
