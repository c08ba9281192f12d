"""Where do images go that no module was made for, and what does it cost or gain?

    EVERSEG_DATA=DIR python benchmarks/outside.py [--seeds 0 1 2] [--steps 200] [--json FILE] [--keep DIR]
        [--routes]

Modules are learned for all domains of `examples/outside.yaml` with SAMCL on the embedded base, once for each
seed. Then each domain is forgotten in turns. Its test images and natural images are outside, the other
domains' are known, and ways of choosing a module are compared with the untouched base, image by image:

    selector     the published selector alone
    p-values     domains whose p-value is below `abstain` are struck out; natural images are not known
    both         also natural images are known from the start (the `paper` preset: `abstain` is 0.001)
    0.005, 0.01  the same with other values of `abstain`
    gaussian     the same without stored embeddings

Prints for each set and way the mean IoU less the untouched base's, the share of images for which a module was
used, and over the known sets the share that went to their own module; the AUROC of the largest p-value where
the untouched base is the best choice for the outside set; all as means over seeds, with the worst seed for
losses. With `--few` each domain is remembered by that many embeddings only. With `--routes` no module is
trained and no IoU measured: only where images go, which does not depend on the modules, in minutes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rows import write_rows
from scipy.stats import rankdata

from everseg import Stream, load_base
from everseg.config import override
from everseg.domains.adapters.aug import AugModule
from everseg.domains.methods.samcl import SAMCL, SAMCLConfig
from everseg.domains.prepare import PREDICT_BATCH, pool
from everseg.domains.scoring import ScoreConfig, score
from everseg.files import load_state, save_state
from everseg.types import NATURAL, NoScratch, Stage

WAYS: dict[str, tuple[str, ...]] = {
    "selector": ("selector.abstain=0", "selector.natural=false"),
    "p-values": ("selector.natural=false",),
    "both": (),
    "0.005": ("selector.abstain=0.005",),
    "0.01": ("selector.abstain=0.01",),
    "gaussian": ("selector.buffer=gaussian",),
}
PLAIN = "plain"
STREAM = Path(__file__).resolve().parents[1] / "examples" / "outside.yaml"


@dataclass(frozen=True)
class Seen:
    """A test set as the base and every module see it: embeddings (N, D), and the IoU of each image with each
    module and with none, {name: (N,)}."""

    embeddings: torch.Tensor
    iou: dict[str, NDArray[np.float64]]


def learned(stream: Stream, base: Any, seed: int, steps: int, keep: Path | None, train: bool) -> SAMCL:
    """All domains, learned, or as an earlier call left them in `keep`."""
    features = [] if keep is None else ["cache.where=disk", f"cache.folder={keep / 'features'}"]
    config = override(SAMCLConfig(), [f"tune.fit.steps={steps}", *features])
    learner = SAMCL(base, config, seed=seed)
    path = None if keep is None else keep / f"seed-{seed}.safetensors"
    if train and path is not None and path.is_file():
        learner.load_state_dict(load_state(path))
        return learner
    for stage in stream.stages:
        if train:
            learner.learn(stage, NoScratch())
            continue
        learner.modules[stage.name] = AugModule.beside(base)
        learner.take_in(stage, learner.prepare(stage))
    if train and path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_state(path, learner.state_dict())
    return learner


def seen(learner: SAMCL, stage: Stage, train: bool) -> Seen:
    queries = [stage.test[i].query() for i in range(len(stage.test))]
    with torch.inference_mode():
        parts = range(0, len(queries), PREDICT_BATCH)
        found = [pool(learner.cache.features(queries[i : i + PREDICT_BATCH])).cpu() for i in parts]
    iou = {}
    for name in () if train else (PLAIN, *learner.modules):
        iou[name] = np.full(len(queries), np.nan)
    for name in () if not train else (PLAIN, *learner.modules):
        told = score(partial(learner.predict_as, stage_name=name), stage.test, stage.name, ScoreConfig())
        iou[name] = np.array([s.values["iou"] for s in told])
    return Seen(torch.cat(found), iou)


def without(learner: SAMCL, domain: str, way: str, few: int) -> SAMCL:
    """The learner as it would be had it never learned the domain, and chose its modules in another way."""
    config = learner.config
    other = SAMCL(learner.base, replace(override(config, WAYS[way])), seed=learner.seed)
    other.modules = dict(learner.modules)
    for name, rows in learner.remembered.embeddings.items():
        other.remembered.add(name, rows[:few] if few else rows, learner.remembered.counts[name])
        other.selector.grow([name])
    other.forget(domain, lambda name: None)
    return other


def auroc(known: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    ranks = rankdata(np.concatenate([known, outside]))[: len(known)]
    return float((ranks.sum() - len(known) * (len(known) + 1) / 2) / (len(known) * len(outside)))


def measure(learner: SAMCL, sets: dict[str, Seen], domains: list[str], few: int) -> list[dict[str, Any]]:
    """A row for each domain left out, way and test set."""
    rows: list[dict[str, Any]] = []
    for left_out in domains:
        known = [name for name in domains if name != left_out]
        for way in WAYS:
            chooser = without(learner, left_out, way, few)
            largest: dict[str, NDArray[np.float64]] = {}
            for name, own in sets.items():
                with torch.inference_mode():
                    routes = chooser.route({"tap": own.embeddings[:, None, None]})
                used = [route.name if route.name in chooser.modules else PLAIN for route in routes]
                iou = np.array([own.iou[module][i] for i, module in enumerate(used)])
                p = [max((v for k, v in r.p_values.items() if k != NATURAL), default=1.0) for r in routes]
                largest[name] = np.array(p)
                best = max([PLAIN, *known], key=lambda module: float(own.iou[module].mean()))
                rows.append(
                    {
                        "left_out": left_out,
                        "way": way,
                        "set": name,
                        "known": name in known,
                        "images": len(iou),
                        "plain": float(own.iou[PLAIN].mean()),
                        "difference": float((iou - own.iou[PLAIN]).mean()),
                        "own": float((own.iou[name] - own.iou[PLAIN]).mean()) if name in known else None,
                        "module_used": float(np.mean([module != PLAIN for module in used])),
                        "right": float(np.mean([module == name for module in used])),
                        "best": best,
                    }
                )
            inside = np.concatenate([largest[name] for name in known])
            for row in rows[-len(sets) :]:
                if not row["known"] and way != "selector":
                    row["auroc"] = auroc(inside, largest[row["set"]])
    return rows


def show(rows: list[dict[str, Any]], domains: list[str]) -> None:
    outside = [*domains, *dict.fromkeys(row["set"] for row in rows if row["set"] not in domains)]
    print("outside: IoU less the untouched base's, mean over seeds and left-out domains (worst), module used")
    print(f"{'set':10} {'plain':>6}" + "".join(f" {way:>24}" for way in WAYS) + "    AUROC")
    for name in outside:
        mine = [row for row in rows if row["set"] == name and not row["known"]]
        line = f"{name:10} {np.mean([row['plain'] for row in mine]):6.3f}"
        for way in WAYS:
            own = [row for row in mine if row["way"] == way]
            told = [row["difference"] for row in own]
            line += (
                f"  {np.mean(told):+.4f} ({min(told):+.4f}) {np.mean([r['module_used'] for r in own]):5.3f}"
            )
        areas = [row["auroc"] for row in mine if "auroc" in row and row["best"] == PLAIN]
        print(line + (f"    {np.mean(areas):.4f}" if areas else "         -"))
    print("\nknown: share that goes to its own module (least), IoU less the own module's (worst)")
    for way in WAYS:
        own = [row for row in rows if row["known"] and row["way"] == way]
        right, lost = [row["right"] for row in own], [row["difference"] - row["own"] for row in own]
        print(f"{way:10} {np.mean(right):.4f} ({min(right):.3f})  {np.mean(lost):+.4f} ({min(lost):+.4f})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--few", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--routes", action="store_true")
    args = parser.parse_args()
    stream, base = Stream.from_yaml(STREAM), load_base()
    domains = [stage.name for stage in stream.stages]
    rows: list[dict[str, Any]] = []
    for seed in args.seeds:
        learner = learned(stream, base, seed, args.steps, args.keep, not args.routes)
        sets = {
            stage.name: seen(learner, stage, not args.routes) for stage in [*stream.stages, *stream.unseen]
        }
        rows += [{"seed": seed, **row} for row in measure(learner, sets, domains, args.few)]
        show(rows, domains)
    if args.json is not None:
        about = (
            "SAMCL on the embedded base, five real domains. Each is left out in turns; its test images and "
        )
        write_rows(
            args.json, about + "natural images are outside. EVERSEG_DATA names the data.", args.seeds, rows
        )


if __name__ == "__main__":
    main()
