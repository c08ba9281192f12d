"""Which p-value tells outside images from a domain's own? Measured on training images alone.

    EVERSEG_DATA=DIR python benchmarks/plausible.py [--parts 4] [--keep FILE] [--json FILE]

Of each domain of `examples/outside.yaml` at most 300 training images are embedded by the embedded base. A
quarter of them is held out, and each domain is left out in turns: held-out images of the others are known,
those of the left-out one and training images of VOC are outside. Compared are

    own       the p-value of the distance from a domain
    beside    that of the distance in comparison with natural images
    smaller   the smaller of the two
    both      twice that, as both are asked (`everseg.domains.plausible`)

Prints for each the share of known images that all domains turn away at 0.001, and the share of outside images
that some domain accepts. `--keep` keeps the embeddings, which take minutes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rows import write_rows
from torch import Tensor

from everseg import Stream, load_base
from everseg.data.readers import open_samples
from everseg.data.samples import take_evenly
from everseg.domains.plausible import Distances, Gaussian, Plausibility, Student
from everseg.domains.prepare import PREDICT_BATCH, pool

STREAM = Path(__file__).resolve().parents[1] / "examples" / "outside.yaml"
ABSTAIN = 0.001
VOC = "voc"


def embedded(base: Any, samples: Sequence[Any], count: int) -> Tensor:
    places = take_evenly(range(len(samples)), count)
    with torch.inference_mode():
        parts = [places[i : i + PREDICT_BATCH] for i in range(0, len(places), PREDICT_BATCH)]
        return torch.cat(
            [pool(base.trunk(base.pixels([samples[i].image for i in p]))) for p in parts]
        ).clone()


def p_values(
    known: Mapping[str, Gaussian], natural: Gaussian, e_ND: Tensor
) -> dict[str, NDArray[np.float64]]:
    """(N, K) by kind of p-value."""
    gaussians = list(known.values())
    logs = Distances([*gaussians, natural])(e_ND.double().numpy())
    told = [g.beside for g in gaussians if g.beside is not None]
    beside = Student([g.count for g in gaussians], told)(logs[:, :-1] - logs[:, -1:])
    own = Plausibility(known).p_values(e_ND)
    both = Plausibility(known, natural).p_values(e_ND)
    return {"own": own, "beside": beside, "smaller": np.minimum(own, beside), "both": both}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", type=int, default=4)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    base = load_base()
    assert base.natural is not None, "the embedded base brings its statistics"
    natural = Gaussian.from_state(base.natural)
    if args.keep is not None and args.keep.is_file():
        seen: dict[str, Tensor] = torch.load(args.keep)
    else:
        seen = {s.name: embedded(base, s.train, 300) for s in Stream.from_yaml(STREAM).stages}
        options = {"path": "voc2012_256", "split": "train_aug", "part": [0, 150]}
        defaults = {"seed": 0, "split": "train"}
        voc = open_samples("voc", options, defaults, Path(os.environ["EVERSEG_DATA"]), beside=STREAM.parent)
        seen[VOC] = embedded(base, voc, 150)
        if args.keep is not None:
            torch.save(seen, args.keep)
    domains = [name for name in seen if name != VOC]
    generator = torch.Generator().manual_seed(0)
    order = {name: torch.randperm(len(seen[name]), generator=generator) for name in domains}
    rows: list[dict[str, Any]] = []
    for part in range(args.parts):
        asked, fitted = {VOC: seen[VOC].float()}, {}
        for name in domains:
            rows_ND = seen[name][order[name]].float()
            held = torch.arange(len(rows_ND)) % 4 == part
            asked[name] = rows_ND[held]
            fitted[name] = Gaussian.fit(rows_ND[~held], natural)
        for left_out in domains:
            known = {name: found for name, found in fitted.items() if name != left_out}
            for name, e_ND in asked.items():
                for kind, p_NK in p_values(known, natural, e_ND).items():
                    taken = float((p_NK.max(1) >= ABSTAIN).mean())
                    row = {"part": part, "left_out": left_out, "set": name, "known": name in known}
                    rows.append(row | {"kind": kind, "images": len(e_ND), "accepted": taken})
    for kind in ("own", "beside", "smaller", "both"):
        mine = [row for row in rows if row["kind"] == kind]
        away = np.mean([1 - row["accepted"] for row in mine if row["known"]])
        told = [
            f"{name} {np.mean([r['accepted'] for r in mine if r['set'] == name and not r['known']]):.3f}"
            for name in [*domains, VOC]
        ]
        print(f"{kind:6} known images turned away {away:.4f}; outside images accepted: {', '.join(told)}")
    if args.json is not None:
        about = "P-values of held-out training images, with embeddings of the embedded base; at most 300 of "
        about += (
            "each of five real domains, each left out in turns, and 150 of VOC. EVERSEG_DATA names the data."
        )
        write_rows(args.json, about, [0], rows)


if __name__ == "__main__":
    main()
