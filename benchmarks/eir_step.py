"""What a gradient step of EIR's later steps costs on the CPU, in processor seconds, by who completes labels.

    python benchmarks/eir_step.py [--side 192] [--batch 8] [--steps 20] [--rounds 3] [--json FILE]

"crop", the published way: the old model sees each batch twice, before and after instances are pasted, and
the main process pastes. "image": it sees each image once before the step is trained and each batch once, and
the loader pastes. Processor time of this process is counted, so that other work on the machine hardly
disturbs; the best of several rounds. The one pass over the images is reported separately.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from everseg.classes.completed import complete
from everseg.data.synthetic.classes import SyntheticClasses
from everseg.methods import build, configure
from everseg.models.semantic.base import load_semantic_base
from everseg.types import NoScratch, SemanticSample, Stage


def stages(count: int, side: int) -> list[Stage]:
    """Painted images of two classes, labelled in two steps."""
    found = []
    for index, name in enumerate(("one", "two")):
        samples = []
        for sample in SyntheticClasses(count, "train", size=side, seed=index, kinds=["ball", "tile"]):
            own = torch.where(sample.labels == index + 1, sample.labels, 0).to(torch.uint8)
            samples.append(SemanticSample(sample.image, own, sample.name))
        found.append(Stage(index, name, samples, (), (name,)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    first, second = stages(given.images, given.side * 4 // 3)
    base = load_semantic_base()
    how = [f"tune.crop={given.side}", "tune.area=[0.3,1.0]", "tune.first.steps=2"]
    how += [f"tune.{step}.batch={given.batch}" for step in ("first", "later")]
    how += [f"tune.later.steps={given.steps}", "sure=0.5"]
    start = build("eir", base, configure("eir", "paper", how), 0)
    start.learn(first, NoScratch())
    state, times = start.state_dict(), dict[str, float]()
    for name in ("crop", "image") * given.rounds:
        learner: Any = build("eir", base, configure("eir", "paper", [*how, f"complete={name}"]), 0)
        learner.load_state_dict(state)
        before = time.process_time()
        learner.remember = lambda stage: {}  # Filling the pool is the same for both.
        learner.learn(second, NoScratch())
        spent = time.process_time() - before
        if name == "image":
            old = learner.model.frozen_copy()
            before = time.process_time()
            complete(old, second.train, 0.5, name="pass")
            once = time.process_time() - before
            spent -= once
            times["one pass over an image"] = min(
                once / given.images, times.get("one pass over an image", 1e9)
            )
        times[name] = min(spent / given.steps, times.get(name, 1e9))
    for name, seconds in times.items():
        print(f"{name}: {seconds:.3f} s")
    if given.json:
        facts = {k: v for k, v in vars(given).items() if k != "json"}
        given.json.write_text(
            json.dumps({"torch": torch.__version__, **facts, "seconds": times}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
