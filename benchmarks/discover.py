"""Are domains that nobody named found again, among shuffled images and in batches of any size?

    EVERSEG_DATA=DIR python benchmarks/discover.py [--shuffles 5] [--split train] [--keep FILE] [--json FILE]

Two piles are shuffled and grouped by `everseg.domains.discover`, with embeddings of the embedded base:

    real      the five domains of `examples/outside.yaml`, 300 training images of each at most
    painted   16: five scenes of `everseg.data.SCENES` (polyps, lesions, cracks, shadows, camouflage) as they
              are painted, as negatives, and through a cold filter, and the natural scene

all at once and in batches, each grouped with what the earlier ones left waiting. Prints for each the adjusted
Rand index, the same with all kinds of nuclei counted as one domain, the number of domains found, and images
that are left waiting: means over shuffles (least).

`--keep` keeps embeddings, which take minutes, in a file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rows import write_rows
from torch import Tensor

from everseg import Stream, load_base
from everseg.data import SyntheticDomain
from everseg.data.samples import take_evenly
from everseg.domains.discover import discover
from everseg.domains.plausible import Gaussian
from everseg.domains.prepare import PREDICT_BATCH, pool

STREAM = Path(__file__).resolve().parents[1] / "examples" / "outside.yaml"
SCENES = ("polyps", "lesions", "cracks", "shadows", "camouflage")
COLD = torch.tensor([0.4, 0.7, 1.0])[:, None, None]
CAMERAS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda image: image,
    "negative": lambda image: 255 - image,
    "cold": lambda image: (image * COLD).to(torch.uint8),
}
PAINTED = {"train": 60, "test": 20}
"""Painted images of each domain."""
REAL = {"train": 300, "test": 100}
"""Real images of each domain, at most."""


def adjusted_rand(one: Sequence[Any], other: Sequence[Any]) -> float:
    """Agreement of two groupings: 1 where they are the same, 0 as by chance (Hubert and Arabie, 1985)."""
    rows = np.unique(np.array(one, dtype=str), return_inverse=True)[1]
    columns = np.unique(np.array(other, dtype=str), return_inverse=True)[1]
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(table, (rows, columns), 1)

    def pairs(counts: NDArray[np.float64]) -> float:
        return float((counts * (counts - 1) / 2).sum())

    both, first, second = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    chance = first * second / (len(rows) * (len(rows) - 1) / 2)
    most = (first + second) / 2
    return 1.0 if most == chance else (both - chance) / (most - chance)


def embedded(base: Any, images: Sequence[Tensor]) -> Tensor:
    with torch.inference_mode():
        starts = range(0, len(images), PREDICT_BATCH)
        return torch.cat(
            [pool(base.trunk(base.pixels(images[i : i + PREDICT_BATCH]))) for i in starts]
        ).clone()


def piles(base: Any, split: str) -> dict[str, dict[str, Tensor]]:
    """For each pile the embeddings of each domain."""
    real = {}
    for stage in Stream.from_yaml(STREAM).stages:
        samples = stage.train if split == "train" else stage.test
        places = take_evenly(range(len(samples)), REAL[split])
        real[stage.name] = embedded(base, [samples[i].image for i in places])
    painted = {}
    for camera, seen in CAMERAS.items():
        for scene in (*SCENES, *(["natural"] if camera == "plain" else [])):
            samples = SyntheticDomain(scene, PAINTED[split], split=split)
            painted[f"{scene}-{camera}"] = embedded(base, [seen(x.image) for x in samples])
    return {"real": real, "painted": painted}


def found_in(rows: Tensor, batch: int, natural: Gaussian | None) -> list[str | None]:
    """The domain of each image where they arrive in batches. Those that wait are seen again with the next."""
    known: dict[str, Tensor] = {}
    domains: list[str | None] = [None] * len(rows)
    for end in range(batch, len(rows) + batch, batch):
        open_ = [i for i in range(min(end, len(rows))) if domains[i] is None]
        new = len(known)
        for i, label in zip(open_, discover(rows[open_], known, natural), strict=True):
            domains[i] = f"domain-{new + label + 1}" if isinstance(label, int) else label
        for name in dict.fromkeys(d for d in domains if d is not None and d not in known):
            known[name] = rows[[i for i, d in enumerate(domains) if d == name]]
    return domains


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shuffles", type=int, default=5)
    parser.add_argument("--split", choices=["train", "test"], default="train")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    base = load_base()
    assert base.natural is not None, "the embedded base brings its statistics"
    natural = Gaussian.from_state(base.natural)
    if args.keep is not None and args.keep.is_file():
        seen = torch.load(args.keep)
    else:
        seen = piles(base, args.split)
        if args.keep is not None:
            torch.save(seen, args.keep)
    rows: list[dict[str, Any]] = []
    for name, domains in seen.items():
        every = torch.cat([e.float() for e in domains.values()])
        truth = np.repeat(list(domains), [len(e) for e in domains.values()])
        for batch in (len(every), len(every) // 2, len(every) // 4):
            for shuffle in range(args.shuffles):
                order = np.random.default_rng(shuffle).permutation(len(every))
                found = found_in(every[torch.from_numpy(order)], batch, natural)
                true = truth[order]
                one = ["nuclei" if t == "nuclei" and f else f for t, f in zip(true, found, strict=True)]
                row = {"pile": name, "batch": batch, "shuffle": shuffle, "images": len(every)}
                row["rand"], row["rand_nuclei_as_one"] = adjusted_rand(true, found), adjusted_rand(true, one)
                row["domains"], row["waiting"] = len({*found} - {None}), found.count(None)
                rows.append(row)
            mine = rows[-args.shuffles :]
            said = [f"{name:8} {len(every)} images of {len(domains)} domains in batches of {batch:4}:"]
            for key in ("rand", "rand_nuclei_as_one", "domains", "waiting"):
                values = [row[key] for row in mine]
                said.append(f"{key} {np.mean(values):.3f} ({min(values):.3f})")
            print("  ".join(said), flush=True)
    if args.json is not None:
        about = f"Domains found among shuffled {args.split} images of five real and 16 painted domains, with "
        about += "embeddings of the embedded base. EVERSEG_DATA names the data."
        write_rows(args.json, about, range(args.shuffles), rows)


if __name__ == "__main__":
    main()
