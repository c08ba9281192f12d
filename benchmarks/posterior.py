"""What a posterior of classes costs in predictions: EIR on MobileNetV2 without it and with it, by the
features of MobileNetV2 and of EfficientNet-Lite1, and with that and two experts.

    python benchmarks/posterior.py [--images 24] [--side 192 256] [--rounds 5] [--json FILE]

In each round all predict the same images, in turns first, one image at a time and in one thread. The bound
is the time without it, once for each expert, and that of the backbone alone. Prints the milliseconds per
image of each (medians) and the medians of the ratios to the time without. The weights of head and classifiers
mean nothing, since speed does not depend on them.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rows import write_rows

from everseg.config import assign
from everseg.methods import configure, find
from everseg.models.semantic.base import load_semantic_base
from everseg.types import ImageQuery, SemanticSample

BACKBONES = ("base", "efficientnet-lite1")
TWO = "efficientnet-lite1, two experts"


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
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (given.images, 3, *given.side), dtype=torch.uint8, generator=draw)
    labels = torch.randint(0, 3, given.side, dtype=torch.uint8, generator=draw)
    samples = [SemanticSample(image, labels, "") for image in images[:4]]
    learners = {name: _learner(name, samples) for name in BACKBONES}
    without = copy.copy(learners["base"])
    without.posterior = None

    def predicts(learner: Any) -> Callable[[], object]:
        return lambda: [learner.predict([ImageQuery(image)]) for image in images]

    def backbone(learner: Any) -> Callable[[], object]:
        def run() -> None:
            with torch.inference_mode():
                for image in images:
                    learner.posterior.backbone(learner.model.pixels(image[None]))

        return run

    works = {"without": predicts(without)}
    for name, learner in learners.items():
        works |= {name: predicts(learner), f"{name} alone": backbone(learner)}
    works[TWO] = predicts(_two_experts(learners[BACKBONES[-1]]))
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for name in works:
        works[name]()  # Warm up.
    for round_ in range(given.rounds):
        for name in list(works) if round_ % 2 else list(works)[::-1]:
            start = time.perf_counter()
            works[name]()
            seconds[name].append((time.perf_counter() - start) / given.images)
    ms = {name: 1000 * statistics.median(each) for name, each in seconds.items()}
    rows = []
    for name in (*BACKBONES, TWO):
        read, experts = name.partition(",")[0], 2 if name == TWO else 1
        own = zip(seconds[f"{read} alone"], seconds["without"], strict=True)
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["without"], strict=True))
        bound = statistics.median((a + experts * b) / b for a, b in own)
        row = {"posterior_backbone": read, "experts": experts, "without": ms["without"], "with": ms[name]}
        rows.append(row | {"backbone": ms[f"{read} alone"], "ratio": ratio, "bound": bound})
        print(
            ", ".join(
                f"{key}: {value if isinstance(value, str) else f'{value:.3g}'}"
                for key, value in rows[-1].items()
            )
        )
    if given.json:
        about = "Milliseconds per image that EIR on MobileNetV2 predicts, with a posterior of classes or not."
        write_rows(given.json, about, [0], rows, "Linux, one x86 core, CPU")


def _learner(backbone: str, samples: Sequence[SemanticSample]) -> Any:
    """EIR with two classes, whose posterior reads the features of a backbone."""
    settings = {"tune.posterior": 0.5, "tune.posterior_backbone": backbone}
    learner = find("eir")(load_semantic_base(), assign(configure("eir"), settings))
    learner.model.grow(2)
    learner.posterior.collect(samples, range(1, 3), learner.model.pixels, name="")
    return learner


def _two_experts(learner: Any) -> Any:
    """The same with a second segmenter, which has the second class."""
    two = copy.deepcopy(learner)
    two.experts.append(copy.deepcopy(two.experts[0]))
    two.posterior.expert = [0, 1]
    return two


if __name__ == "__main__":
    main()
