"""What a posterior of classes costs in predictions: EIR on MobileNetV2 with it and without.

    python benchmarks/posterior.py [--images 24] [--side 192 256] [--rounds 5] [--json FILE]

In each round both predict the same images, in turns first, one image at a time and in one thread. The bound
is the time without it and that of the backbone alone. Prints the milliseconds per image of each (medians) and
the medians of the ratios to the time without. The weights of head and classifiers mean nothing, since speed
does not depend on them.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rows import write_rows

from everseg.config import assign
from everseg.methods import configure, find
from everseg.models.semantic.base import load_semantic_base
from everseg.types import ImageQuery, SemanticSample


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--side", nargs=2, type=int, default=[192, 256], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with_it = find("eir")(load_semantic_base(), assign(configure("eir"), {"tune.posterior": 0.5}))
    with_it.model.grow(2)
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (given.images, 3, *given.side), dtype=torch.uint8, generator=draw)
    labels = torch.randint(0, 3, given.side, dtype=torch.uint8, generator=draw)
    samples = [SemanticSample(image, labels, "") for image in images[:4]]
    with_it.posterior.collect(samples, range(1, 3), with_it.model.pixels, name="")
    without = copy.copy(with_it)
    without.posterior = None

    def predicts(learner: Any) -> Callable[[], object]:
        return lambda: [learner.predict([ImageQuery(image)]) for image in images]

    def backbone() -> None:
        with torch.inference_mode():
            for image in images:
                with_it.posterior.backbone(with_it.model.pixels(image[None]))

    works = {"without": predicts(without), "with": predicts(with_it), "backbone": backbone}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for name in works:
        works[name]()  # Warm up.
    for round_ in range(given.rounds):
        for name in list(works) if round_ % 2 else list(works)[::-1]:
            start = time.perf_counter()
            works[name]()
            seconds[name].append((time.perf_counter() - start) / given.images)
    ratio = statistics.median(a / b for a, b in zip(seconds["with"], seconds["without"], strict=True))
    bound = statistics.median(
        (a + b) / b for a, b in zip(seconds["backbone"], seconds["without"], strict=True)
    )
    row = {name: 1000 * statistics.median(each) for name, each in seconds.items()}
    row |= {"ratio": ratio, "bound": bound}
    for name, value in row.items():
        print(f"{name}: {value:.3g}")
    if given.json:
        about = "Milliseconds per image that EIR on MobileNetV2 predicts, with a posterior of classes or not."
        write_rows(given.json, about, [0], [row], "Linux, one x86 core, CPU")


if __name__ == "__main__":
    main()
