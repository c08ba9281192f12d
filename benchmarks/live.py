"""How many clicks does a session adapter save that learns while somebody labels?

    EVERSEG_DATA=DIR python benchmarks/live.py [--domains kvasir isic nuclei] [--images 40] [--split test]
        [--steps 60] [--seed 0] [--cap 10] [--iou 0.9] [--set KEY=VALUE ...] [--keep DIR] [--json FILE]
    python benchmarks/live.py --join PART.json ... --json benchmarks/results/live.json

A simulated annotator labels images of one domain, one after the other. For each image (one object: what its
mask shows) it clicks on the pixel deepest inside the largest region that is wrong, until the IoU reaches
`--iou` or `--cap` clicks were made; then it accepts the mask, or what its brush made of it, which is the
truth. Four ways to answer it, on the embedded base:

    plain      the untouched base
    others     SAMCL with modules of the two other domains, frozen; its router chooses
    matching   the same with a module of this domain, too, learned from 60 training images; frozen
    live       a live session that sets out from `others`

Clicks are counted over the first 20 images and over those after them, on which the target was set: 35 % fewer
clicks than plain, at most 0.5 s for each correction. "To .80" counts the clicks until the IoU first is .80 in
the same session. Seconds per correction are those of learning, beside the answer; the CPU's seconds do not
depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from scipy import ndimage

from everseg import Stream, load_base
from everseg.config import override
from everseg.data.held_out import Chosen
from everseg.domains.live import LiveConfig, LiveSession
from everseg.domains.methods.samcl import SAMCL, SAMCLConfig
from everseg.domains.methods.zero_shot import ZeroShot
from everseg.files import load_state, save_state
from everseg.types import NoScratch, Prompts, PromptSample, Query

STREAM = Path(__file__).resolve().parents[1] / "examples" / "outside.yaml"
DOMAINS = ("kvasir", "isic", "nuclei")
WAYS = ("plain", "others", "matching", "live")
FIRST = 20
"""Images after which the target counts."""
TRAINED_ON = 60

Mask = NDArray[np.bool_]


def click(answer: Mask, truth: Mask) -> tuple[float, float, int]:
    """x, y and whether on the object: the pixel deepest inside the largest region that is wrong."""
    regions = []
    for wrong, on in ((truth & ~answer, 1), (answer & ~truth, 0)):
        numbers, count = ndimage.label(wrong)
        if count:
            sizes = np.bincount(numbers.ravel())[1:]
            regions.append((int(sizes.max()), on, numbers == 1 + int(sizes.argmax())))
    _, on, region = max(regions, key=lambda one: one[:2])
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    row, column = divmod(int(depth.argmax()), region.shape[1])
    return column + 0.5, row + 0.5, on


def overlap(answer: Mask, truth: Mask) -> float:
    return float((answer & truth).sum() / max(1, (answer | truth).sum()))


def label(
    samples: Sequence[PromptSample],
    predict: Callable[..., Any],
    live: LiveSession | None,
    cap: int,
    enough: float,
) -> Iterator[dict[str, Any]]:
    """Label images; after each what is known so far: of each image the IoU after each click, and the seconds
    of each correction."""
    curves: list[list[float]] = []
    wall: list[float] = []
    cpu: list[float] = []

    def teach(query: Query, mask: Mask | None) -> None:
        if live is not None:
            began, used = time.perf_counter(), time.process_time()
            live.correct(query, None if mask is None else torch.from_numpy(mask))
            wall.append(time.perf_counter() - began)
            cpu.append(time.process_time() - used)

    for number in range(len(samples)):
        sample = samples[number]
        truth = sample.masks[0].numpy()
        answer, points, labels, curve = np.zeros_like(truth), [], [], []
        while len(points) < cap and (not curve or curve[-1] < enough):
            x, y, on = click(answer, truth)
            points, labels = [*points, (x, y)], [*labels, on]
            query = Query(
                sample.image, Prompts(torch.tensor([points]), torch.tensor([labels]), None), sample.key
            )
            if curve:
                teach(query, None)
            (found,) = predict([query])
            answer = found.masks()[0].numpy()
            curve.append(overlap(answer, truth))
        teach(query, answer if curve[-1] >= enough else truth)
        curves.append([round(value, 4) for value in curve])
        told = f"image {number + 1}: {len(curve)} clicks, IoU {curve[0]:.2f} to {curve[-1]:.2f}"
        print(told, file=sys.stderr, flush=True)
        start = None if live is None else live.start
        yield {"iou": curves, "seconds": wall, "cpu_seconds": cpu, "start": start}


def clicks(curve: Sequence[float], enough: float, cap: int) -> int:
    """Clicks until the IoU is enough; all of them where it never is."""
    return next((n for n, value in enumerate(curve, 1) if value >= enough), cap)


def learned(base: Any, seed: int, steps: int, keep: Path | None) -> SAMCL:
    """All three domains."""
    learner = SAMCL(base, override(SAMCLConfig(), [f"tune.fit.steps={steps}"]), seed=seed)
    path = None if keep is None else keep / f"live-{seed}-{steps}.safetensors"
    if path is not None and path.is_file():
        learner.load_state_dict(load_state(path))
        return learner
    for stage in Stream.from_yaml(STREAM).stages:
        if stage.name in DOMAINS:
            train = Chosen(stage.train, range(TRAINED_ON))
            learner.learn(type(stage)(stage.index, stage.name, train, ()), NoScratch())
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_state(path, learner.state_dict())
    return learner


def measure(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Label with each way of answering; after each image what is known so far."""
    base = load_base()
    config = override(LiveConfig(), args.set)
    everything = learned(base, args.seed, args.steps, args.keep)
    found: dict[str, Any] = {}
    told = {
        "settings": vars(config),
        "cap": args.cap,
        "enough": args.iou,
        "steps": args.steps,
        "seed": args.seed,
        "split": args.split,
        "load_of_the_machine": round(psutil.getloadavg()[1], 1),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("everseg", "torch", "transformers", "numpy", "scipy")},
        "domains": found,
    }
    for domain in args.domains:
        (stage,) = (one for one in Stream.from_yaml(STREAM).stages if one.name == domain)
        samples = (
            stage.test if args.split == "test" else Chosen(stage.train, range(TRAINED_ON, len(stage.train)))
        )
        samples = Chosen(samples, range(args.images))
        others = everything.copy()
        others.cache = everything.cache
        others.forget(domain, lambda name: None)
        plain = ZeroShot(base)
        plain.cache = everything.cache
        for way in args.ways:
            live = LiveSession(others, config, seed=args.seed) if way == "live" else None
            answers = {"plain": plain, "others": others, "matching": everything, "live": live}[way]
            row: dict[str, Any] = {}
            for row in label(samples, answers.predict, live, args.cap, args.iou):
                found.setdefault(domain, {})[way] = row
                yield told
            after = row["iou"][FIRST:] or row["iou"]
            counts = [sum(clicks(c, e, args.cap) for c in after) / len(after) for e in (args.iou, 0.8, 0.7)]
            ends = [sum(c[min(n, len(c) - 1)] for c in after) / len(after) for n in (0, 2, args.cap - 1)]
            spent = f", {np.mean(row['cpu_seconds']):.3f} CPU s a correction" if live is not None else ""
            print(
                f"{domain:6} {way:8} after {FIRST}: clicks {counts[0]:.2f}, to .80 {counts[1]:.2f}, to .70 "
                f"{counts[2]:.2f}; IoU with 1 click {ends[0]:.3f}, 3 {ends[1]:.3f}, at the end "
                f"{ends[2]:.3f}{spent}",
                flush=True,
            )


def spent(name: str, row: dict[str, Any]) -> list[Any]:
    """Median seconds of learning of a click and of an accepted mask, of the CPU and of the clock."""
    # Of an image all clicks but the first teach, and then the mask that is accepted.
    accepted = [n for curve in row["iou"] for n in [False] * (len(curve) - 1) + [True]]
    medians = [
        float(np.median([v for v, last in zip(row[kind], accepted, strict=True) if last == wanted]))
        for kind in ("cpu_seconds", "seconds")
        for wanted in (False, True)
    ]
    return [name, accepted.count(False), accepted.count(True), *medians]


def joined(parts: Sequence[Path], quiet: Path | None) -> dict[str, Any]:
    """The parts' figures as the tables of the documentation.

    quiet: a part that was measured while the machine did little else, for its seconds alone.
    """
    told = [json.loads(part.read_text()) for part in parts]
    domains: dict[str, dict[str, Any]] = {name: {} for name in DOMAINS}
    for one in told:
        other = [f"{k}={v}" for k, v in one["settings"].items() if v != vars(LiveConfig())[k]]
        for name, ways in one["domains"].items():
            domains[name] |= {", ".join([way, *(other if way == "live" else [])]): ways[way] for way in ways}
    cap, enough, seed = (told[0][key] for key in ("cap", "enough", "seed"))
    rows: list[list[Any]] = []
    seconds: list[list[Any]] = []
    loads: dict[str, float] = {}
    for one in reversed(told):
        loads |= {n: one["load_of_the_machine"] for n, w in one["domains"].items() if "live" in w}
    sizes = {name: min(len(ways[way]["iou"]) for way in WAYS) for name, ways in domains.items()}
    for domain in DOMAINS:
        before = None
        for way in [*WAYS, *(way for way in domains[domain] if way not in WAYS)]:
            curves = domains[domain][way]["iou"][: sizes[domain]]
            first, after = curves[:FIRST], curves[FIRST:]
            counts = [
                float(np.mean([clicks(c, e, cap) for c in part]))
                for part, e in ((first, enough), (after, enough), (after, 0.8))
            ]
            before = before or counts
            fewer = [
                f"{100 * (1 - now / was):.0f} %" for now, was in zip(counts[1:], before[1:], strict=True)
            ]
            one, last = (f"{np.mean([c[n] for c in after]):.3f}" for n in (0, -1))
            reached = f"{sum(max(c) >= enough for c in after)} of {len(after)}"
            rows.append([domain, way, *counts[:2], fewer[0], counts[2], fewer[1], one, last, reached])
        seconds.append(spent(f"{domain}, load {loads[domain]:.0f}", domains[domain]["live"]))
    if quiet is not None:
        one = json.loads(quiet.read_text())
        for name, ways in one["domains"].items():
            seconds.append(spent(f"{name}, load {one['load_of_the_machine']:.0f}", ways["live"]))
    cells = {"digits": 2}
    names = [
        "clicks, first 20",
        "clicks, after",
        "fewer",
        "to .80, after",
        "fewer ",
        "IoU, 1 click",
        "IoU, last click",
        "reach .90",
    ]
    return {
        "about": f"Clicks of a simulated annotator until IoU {enough}, at most {cap}, on test images "
        f"of each domain, one after the other ({sizes}); benchmarks/live.py. 'after': after the first "
        f"{FIRST}.",
        "commands": [
            f"python benchmarks/live.py --domains {name} --images {sizes[name]} --json PART.json"
            for name in DOMAINS
        ]
        + ["python benchmarks/live.py --join PART.json ... --quiet PART.json --json live.json"],
        "versions": told[0]["versions"],
        "seeds": [seed],
        "tables": {
            "clicks": {"columns": ["domain", "answers", *names], "rows": rows, **cells},
            "seconds": {
                "columns": [
                    "domain",
                    "clicks that teach",
                    "accepted masks",
                    "CPU s per click",
                    "CPU s per mask",
                    "s per click",
                    "s per mask",
                ],
                "rows": seconds,
                **cells,
            },
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--domains", nargs="+", default=list(DOMAINS), choices=DOMAINS)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--split", choices=("train", "test"), default="test")
    parser.add_argument("--steps", type=int, default=60, help="that each module is trained for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cap", type=int, default=10)
    parser.add_argument("--iou", type=float, default=0.9)
    parser.add_argument("--set", nargs="*", default=[], help="settings of the live session")
    parser.add_argument("--keep", type=Path, help="a folder where the learned modules are kept")
    parser.add_argument("--join", type=Path, nargs="+")
    parser.add_argument("--quiet", type=Path, help="a part measured on a quiet machine, for its seconds")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    for found in [joined(args.join, args.quiet)] if args.join else measure(args):
        if args.json is not None:
            args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
