"""What does the guard of a merged adapter cost and gain, on images of its domains and on others?

    EVERSEG_DATA=DIR python benchmarks/guard.py [--steps 100] [--seed 0] [--most 300] [--json FILE]

RegCL learns kvasir, nuclei and cracks of `examples/outside.yaml` on the embedded base, with at most `--most`
training images and `--steps` steps per domain. The test images of these domains, those of the other domains
and natural images are then segmented by the untouched base and through the merged adapter. With the guard
(`abstain`, 0.001) an image goes through the adapter only where one of the merged domains could have brought
it, so that its IoU is one of the two.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import write_rows

from everseg import Stream, load_base
from everseg.config import override
from everseg.data.samples import take_evenly
from everseg.domains.methods.regcl import RegCL
from everseg.domains.prepare import PREDICT_BATCH
from everseg.domains.scoring import ScoreConfig, score
from everseg.domains.tune import predict, with_adapter
from everseg.types import MERGED, NoScratch, Stage

STREAM = Path(__file__).resolve().parents[1] / "examples" / "outside.yaml"
LEARNED = ("kvasir", "nuclei", "cracks")


def measured(learner: RegCL, stage: Stage) -> dict[str, Any]:
    """Mean IoU of one test set in each way, and the share of images that the guard lets through."""
    queries = [stage.test[i].query() for i in range(len(stage.test))]
    inside: list[bool] = []
    with torch.inference_mode():
        for start in range(0, len(queries), PREDICT_BATCH):
            features = learner.cache.features(queries[start : start + PREDICT_BATCH])
            routes = learner.guard.routes(learner.weights, features)
            inside += [route is not None and route.name == MERGED for route in routes]
    iou = {}
    for name, adapter in (("plain", None), ("merged", learner.merged)):
        choose = with_adapter(adapter)
        found = score(
            lambda asked, choose=choose: predict(asked, learner.base, learner.cache, choose),
            stage.test,
            stage.name,
            ScoreConfig(),
        )
        iou[name] = np.array([one.values["iou"] for one in found])
    guarded = np.where(inside, iou["merged"], iou["plain"])
    return {
        "set": stage.name,
        "learned": stage.name in LEARNED,
        "images": len(inside),
        "plain": float(iou["plain"].mean()),
        "merged": float(iou["merged"].mean()),
        "guarded": float(guarded.mean()),
        "through": float(np.mean(inside)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=300)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    stream, base = Stream.from_yaml(STREAM), load_base()
    config = override(RegCL.Config.presets()["paper"], [f"tune.fit.steps={args.steps}"])
    learner = RegCL(base, config, seed=args.seed)
    for stage in stream.stages:
        if stage.name in LEARNED:
            train = take_evenly(stage.train, args.most)
            learner.learn(replace(stage, train=train), NoScratch())
            print(f"learned {stage.name} from {len(train)} images", flush=True)
    rows = []
    for stage in [*stream.stages, *stream.unseen]:
        row = measured(learner, stage)
        rows.append(row)
        print(
            "  ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()),
            flush=True,
        )
    if args.json is not None:
        about = "RegCL on the embedded base with and without its guard, on test images of its domains and of "
        about += "others; mean IoU of images. EVERSEG_DATA names the data."
        write_rows(args.json, about, [args.seed], rows)


if __name__ == "__main__":
    main()
