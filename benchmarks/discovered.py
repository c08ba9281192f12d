"""What is lost where domains are discovered instead of named, from images to trained modules?

    python benchmarks/discovered.py [--pile painted|real] [--train 40] [--test 20] [--steps 30] [--seed 0]
        [--keep DIR] [--json FILE]

    painted   the 16 domains of `benchmarks/discover.py`: five scenes as painted, as negatives and through a
              cold filter, and the natural scene
    real      the five domains of `examples/outside.yaml`, in the folder that EVERSEG_DATA names

`--train` and `--test` images of each domain are written as one shuffled batch without stages, and as named
stages of the same images. SAMCL learns both on the embedded base. Each of them then predicts the test images
of every domain, by the module that its selector and its p-values choose. Prints the adjusted Rand index of
the domains found, with images that wait as one group, and the IoU of each domain with both. `--keep` keeps
images, table and features in a folder.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from discover import CAMERAS, SCENES, STREAM, adjusted_rand
from numpy.typing import NDArray
from PIL import Image
from rows import write_rows

from everseg import Stream, load_base
from everseg.config import override
from everseg.data import SyntheticDomain
from everseg.data.samples import take_evenly
from everseg.domains.cache import CacheConfig
from everseg.domains.methods.samcl import SAMCL, SAMCLConfig
from everseg.domains.scoring import ScoreConfig, score
from everseg.runs.discover import discover_domains
from everseg.types import NoScratch


def samples_of(
    pile: str, split: str, count: int, seed: int
) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
    """The domain, picture (H, W, 3) and mask (H, W) of each image."""
    if pile == "real":
        for stage in Stream.from_yaml(STREAM).stages:
            every = stage.train if split == "train" else stage.test
            for sample in take_evenly(every, count):
                yield stage.name, sample.image.permute(1, 2, 0).numpy(), sample.masks.any(0).numpy()
        return
    for name in [f"{scene}-{camera}" for camera in CAMERAS for scene in SCENES] + ["natural-plain"]:
        scene, camera = name.split("-")
        for sample in SyntheticDomain(scene, count, seed=seed, split=split):
            yield name, CAMERAS[camera](sample.image).permute(1, 2, 0).numpy(), sample.masks.any(0).numpy()


def write(folder: Path, pile: str, counts: dict[str, int], seed: int) -> None:
    """Write the images, a stream file of named stages, and one without."""
    names: dict[str, None] = {}
    for split, count in counts.items():
        order = np.random.default_rng(seed).permutation(1000 * count)
        for number, (name, image, mask) in zip(order, samples_of(pile, split, count, seed), strict=False):
            file = f"{number:05d}.png"
            names[name] = None
            for place in (folder / "named" / name / split, folder / "pile" / split):
                for part, picture in (("images", image), ("masks", mask.astype(np.uint8) * 255)):
                    (place / part).mkdir(parents=True, exist_ok=True)
                    Image.fromarray(picture).save(place / part / file)
    stages = [{"name": n, "train": f"named/{n}/train", "test": f"named/{n}/test"} for n in names]
    batch = {"name": "all", "train": "pile/train", "test": "pile/test"}
    pile = {"seed": seed, "domains": "discover", "batches": [batch]}
    (folder / "pile.yaml").write_text(yaml.safe_dump(pile))
    (folder / "named.yaml").write_text(yaml.safe_dump({"seed": seed, "stages": stages}))


def learned(stream: Stream, base: Any, folder: Path, steps: int, seed: int) -> SAMCL:
    features = ["cache.where=disk", f"cache.folder={folder / 'features'}"]
    learner = SAMCL(base, override(SAMCLConfig(), [f"tune.fit.steps={steps}", *features]), seed=seed)
    for stage in stream.stages:
        learner.learn(stage, NoScratch())
        print(f"learned {stage.name} from {len(stage.train)} images", flush=True)
    return learner


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pile", choices=["painted", "real"], default="painted")
    parser.add_argument("--train", type=int, default=40)
    parser.add_argument("--test", type=int, default=20)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    base, folder = load_base(), args.keep or Path(tempfile.mkdtemp())
    named, pile = folder / "named.yaml", folder / "pile.yaml"
    if not named.is_file():
        write(folder, args.pile, {"train": args.train, "test": args.test}, args.seed)
    true = {path.name: path.parts[-4] for path in folder.glob("named/*/train/images/*.png")}
    discover_domains(pile, base, CacheConfig("disk", folder=str(folder / "features")))
    with (folder / "pile.domains.csv").open(newline="", encoding="utf-8") as file:
        found = {row["image"]: row["domain"] for row in csv.DictReader(file) if row["split"] == "train"}
    images = sorted(true)
    summary = {
        "rand": adjusted_rand([true[i] for i in images], [found[i] for i in images]),
        "found": len({*found.values()} - {"pending"}),
        "waiting": list(found.values()).count("pending"),
    }
    print(summary, flush=True)
    stream = Stream.from_yaml(named)
    learners = {"named": learned(stream, base, folder, args.steps, args.seed)}
    learners["discovered"] = learned(Stream.from_yaml(pile), base, folder, args.steps, args.seed)
    rows = []
    for stage in stream.stages:
        row: dict[str, Any] = {"pile": args.pile, "set": stage.name, "images": len(stage.test), **summary}
        for kind, learner in learners.items():
            scores = score(learner.predict, stage.test, stage.name, ScoreConfig())
            row[kind] = float(np.mean([one.values["iou"] for one in scores]))
        rows.append(row)
        print(row["set"], f"{row['named']:.3f} {row['discovered']:.3f}", flush=True)
    print("AA", *(f"{np.mean([row[kind] for row in rows]):.3f}" for kind in learners))
    if args.keep is None:
        shutil.rmtree(folder)
    if args.json is not None:
        about = (
            f"SAMCL on the embedded base with {args.pile} domains, named and discovered; mean IoU of images."
        )
        write_rows(args.json, about, [args.seed], rows)


if __name__ == "__main__":
    main()
