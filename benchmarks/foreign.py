"""Two classes of different data sets, one after the other, with `everseg learn`'s default settings.

    python benchmarks/foreign.py $EVERSEG_DATA --out FOLDER [--pairs polyp-crack polyp-lesion ...]
        [--images 60] [--seeds 0] [--set KEY=VALUE ...] [--json FILE]

The images of the two steps have nothing in common: polyps (kvasir), skin lesions (isic), nuclei, pavement
cracks. Each step has --images training images, and half as many others are scored, all from the training part
of the data set, in the order of hashes of their names. Cracks are 80, of which a third is scored. --set
changes the second step. Streams and runs lie in FOLDER; none is run twice.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from itertools import product
from pathlib import Path

from pairs import learn_pair, print_row, write_pairs

SETS = {"polyp": "kvasir", "lesion": "isic", "nucleus": "nuclei", "crack": "cracks"}
PAIRS = ["polyp-crack", "polyp-lesion", "crack-polyp"]


def link_images(source: Path, out: Path, images: int) -> None:
    """Links to images and masks of a data set in `out`/train and `out`/test."""
    pictures = {path.stem: path for path in (source / "train/images").iterdir()}
    masks = {path.stem: path for path in (source / "train/masks").iterdir()}
    names = sorted(pictures.keys() & masks.keys(), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    images = min(images, len(names) * 2 // 3)
    for split, part in (("train", names[:images]), ("test", names[images : images * 3 // 2])):
        for kind, files in (("images", pictures), ("masks", masks)):
            folder = out / split / kind
            folder.mkdir(parents=True, exist_ok=True)
            for link in folder.iterdir():  # Of another number of images.
                link.unlink()
            for name in part:
                (folder / files[name].name).symlink_to(files[name].resolve())


def write_stream(data: Path, out: Path, pair: str, images: int) -> Path:
    """The stream of a pair."""
    classes = pair.split("-")
    if len(classes) != 2 or not SETS.keys() >= set(classes):
        sys.exit(f"{pair}: name two of {', '.join(SETS)} with a hyphen between them")
    stages = ""
    for name in classes:
        link_images(data / SETS[name], out / name, images)
        parts = "".join(
            f"    {part}: {{path: {name}/{part}, classes: {{255: {name}}}}}\n" for part in ("train", "test")
        )
        stages += f"  - name: {name}\n    classes: [{name}]\n{parts}"
    file = out / f"{pair}.yaml"
    file.write_text(f"name: {pair}\nroot: {out.resolve()}\nsetting: overlapped\nstages:\n{stages}")
    return file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", nargs="+", default=PAIRS)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = []
    print("| pair | seed | first class after its step | at the end | second class | background |")
    print("|---|---|---|---|---|---|")
    for pair, seed in product(given.pairs, given.seeds):
        stream = write_stream(given.data, given.out, pair, given.images)
        _, _, row = learn_pair(stream, given, pair, seed)
        rows.append(row)
        print_row(row, ", ".join(f"{step['background']:.3f}" for step in row["iou"].values()))
    write_pairs(given, "two data sets", rows)


if __name__ == "__main__":
    main()
