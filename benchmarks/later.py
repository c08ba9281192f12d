"""Do held-out images choose well how later images of a known domain are served?

    EVERSEG_DATA=DIR python benchmarks/later.py [--seeds 0] [--steps 200] [--images 100] [--tested 100]
        [--trials polyps lesions camera] [--json FILE]

SAMCL on the embedded base learns polyps and skin lesions from some of the training images of
`examples/outside.yaml`. Then further images come, in three trials that all begin there:

    polyps, lesions    other training images of the same data set
    camera             other training images of polyps, through a cold filter

For each trial and choice (`everseg.domains.later`) prints the IoU on the held-out part of the new images, on
test images like the new ones, and on test images of both domains as they were; what was chosen; and the share
of the new images that are plausible for the domain, so that a discovery would have called them later images
of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everseg import Stream, load_base
from everseg.config import override
from everseg.data.described import Described, described
from everseg.data.held_out import Chosen
from everseg.domains.later import CHOICES, best, held_out, try_out
from everseg.domains.methods.samcl import SAMCL, SAMCLConfig
from everseg.domains.prepare import PREDICT_BATCH, pool
from everseg.domains.scoring import ScoreConfig, score
from everseg.types import NoScratch, PromptSample, Stage
from everseg.types.keys import FROM_PIXELS

STREAM = Path(__file__).resolve().parents[1] / "examples" / "outside.yaml"
COLD = torch.tensor([0.4, 0.7, 1.0])[:, None, None]


class Cold(Described[PromptSample]):
    """Samples seen through a cold filter."""

    def __init__(self, samples: Sequence[PromptSample]) -> None:
        self.samples = described(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> Any:
        sample = self.samples[index]
        return replace(sample, image=(sample.image * COLD).to(torch.uint8), key=FROM_PIXELS)

    def image_name(self, index: int) -> str:
        return self.samples.image_name(index)


@dataclass(frozen=True)
class Row:
    """One choice in one trial. held, new: IoU on held-out images and on test images like the new ones.
    others: on the test images of each domain as it was."""

    seed: int
    trial: str
    choice: str
    chosen: bool
    images: int
    plausible: float
    held: float
    new: float
    others: dict[str, float]


def iou(learner: SAMCL, samples: Sequence[PromptSample], name: str) -> float:
    told = score(learner.predict, samples, name, ScoreConfig())
    return sum(each.values["iou"] for each in told) / len(told)


def plausible(learner: SAMCL, samples: Sequence[PromptSample], domain: str) -> float:
    """The share of images whose p-value under the domain is not below `abstain`."""
    queries = [samples[i].query() for i in range(len(samples))]
    found: list[Tensor] = []
    with torch.inference_mode():
        for i in range(0, len(queries), PREDICT_BATCH):
            found.append(pool(learner.cache.features(queries[i : i + PREDICT_BATCH])).cpu())
    told = learner.remembered.p_values(torch.cat(found))
    return sum(own[domain] >= learner.config.selector.abstain for own in told) / len(told)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--tested", type=int, default=100)
    parser.add_argument("--trials", nargs="+", default=["polyps", "lesions", "camera"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    base, count = load_base(), args.images
    known = {
        stage.name: stage for stage in Stream.from_yaml(STREAM).stages if stage.name in ("kvasir", "isic")
    }
    # The second round is of other images, so that nothing is seen twice.
    second = {name: Chosen(stage.train, range(count, 2 * count)) for name, stage in known.items()}
    tests = {name: Chosen(stage.test, range(args.tested)) for name, stage in known.items()}
    trials = {
        "polyps": ("kvasir", second["kvasir"], tests["kvasir"]),
        "lesions": ("isic", second["isic"], tests["isic"]),
        "camera": ("kvasir", Cold(second["kvasir"]), Cold(tests["kvasir"])),
    }
    rows: list[Row] = []
    for seed in args.seeds:
        learner = SAMCL(base, override(SAMCLConfig(), [f"tune.fit.steps={args.steps}"]), seed=seed)
        for i, (name, stage) in enumerate(known.items()):
            learner.learn(Stage(i, name, Chosen(stage.train, range(count)), ()), NoScratch())
        for trial in args.trials:
            domain, train, test = trials[trial]
            stage = Stage(2, f"{domain}-2", train, (), later_of=domain)
            share = plausible(learner, train, domain)
            tried, scores = try_out(learner, stage, NoScratch())
            for choice in CHOICES:
                candidate, _ = tried[choice]
                candidate.cache = learner.cache
                others = {name: iou(candidate, each, name) for name, each in tests.items()}
                row = Row(
                    seed,
                    trial,
                    choice,
                    choice == best(scores),
                    len(held_out(stage)[1]),
                    share,
                    scores[choice],
                    iou(candidate, test, stage.name),
                    others,
                )
                rows.append(row)
                before = ", ".join(f"{name} {value:.3f}" for name, value in others.items())
                print(
                    f"seed {seed}, {trial:7} ({share:.2f} plausible): {choice:6} held out {row.held:.3f}, "
                    f"test {row.new:.3f}, {before}{', chosen' if row.chosen else ''}",
                    flush=True,
                )
    if args.json is not None:
        told = {"steps": args.steps, "images": count, "rows": [asdict(row) for row in rows]}
        args.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
