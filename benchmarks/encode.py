"""Images a second through our trunk and tail, without an adapter, against transformers' own encoder.

    python benchmarks/encode.py [BASE ...] [--seconds 60] [--batch 1] [--precision fp32]

BASE: vit-b and hiera-tiny take the architecture of SAM ViT-B and SAM 2.1 Hiera-tiny with weights that mean
nothing, since speed does not depend on them; anything else is a base as `everseg learn --base` has it. By
default tiny, vit-b and hiera-tiny, which takes about four minutes on one idle core: `--seconds` for each base
are filled with pairs, of which there are at least three.

The weights, the pixels and the batch are the same. A pair is one pass of each, in turns first, so that what
else the machine does meets both alike. Prints for each base the images per second of both (medians), the
median and the quartiles of the pairs' ratios (ours to theirs in images per second; the requirement is 0.98),
and the largest difference between the two outputs. The exit code is 1 where a median is below that.
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
from everseg.models.promptable.sam import Sam
from everseg.models.promptable.sam2 import Sam2

RANDOM: dict[str, Callable[[], Any]] = {
    "vit-b": lambda: Sam(SamModel(SamConfig()), "vit-b"),
    "hiera-tiny": lambda: Sam2(Sam2Model(Sam2Config()), "hiera-tiny"),
}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
REQUIRED = 0.98
PAIRS = 3
"""At least so many, however long they take."""


def seconds(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def compare(name: str, given: argparse.Namespace, device: torch.device) -> float:
    """Print the figures of one base; the median ratio."""
    torch.manual_seed(0)
    base = (RANDOM[name]() if name in RANDOM else load_base(name)).to(device)
    base.precision = given.precision
    pixels = torch.randn(given.batch, 3, base.image_size, base.image_size, device=device)
    half = given.precision != "fp32"
    amp = torch.autocast(device.type, TYPES[given.precision]) if half else nullcontext()

    def ours() -> Tensor:
        return base.tail(base.trunk(pixels))["image"]

    def theirs() -> Tensor:
        with amp:
            found = base.model.get_image_embeddings(pixels)
        return found if isinstance(found, Tensor) else found[-1]

    end = time.perf_counter() + given.seconds
    difference = float((ours() - theirs().float()).abs().max())  # and warm up
    own, other = list[float](), list[float]()
    while len(own) < PAIRS or time.perf_counter() < end:
        if len(own) % 2:
            own.append(seconds(ours, device))
            other.append(seconds(theirs, device))
        else:
            other.append(seconds(theirs, device))
            own.append(seconds(ours, device))
    rate, plain = (given.batch / statistics.median(times) for times in (own, other))
    low, ratio, high = statistics.quantiles((b / a for a, b in zip(own, other, strict=True)), n=4)
    print(
        f"{name}, {given.precision}, {device.type}, {torch.get_num_threads()} threads, batch {given.batch}: "
        f"ours {rate:.3g} images/s, transformers {plain:.3g} images/s, ratio {ratio:.3f} "
        f"({low:.3f} to {high:.3f}, {len(own)} pairs), largest difference {difference:.1e}",
        flush=True,
    )
    return ratio


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bases", nargs="*", metavar="BASE", default=["tiny", *RANDOM])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", choices=TYPES, default="fp32")
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ratios = [compare(name, given, device) for name in given.bases]
    raise SystemExit(int(min(ratios) < REQUIRED))


if __name__ == "__main__":
    main()
