"""What the place of tiles changes in a class map: the share of pixels that differ where tiles are moved.

    python benchmarks/tiles.py [--epochs 40]

Trains a small segmenter on synthetic scenes of 128 pixels for a few minutes, puts scenes together to an image
of 512 pixels, and segments it in tiles, in tiles that are moved by 37 pixels, and whole.
"""

from __future__ import annotations

import argparse
import tempfile

import torch

from everseg.classes.tiles import ScoresPixels, tiled
from everseg.data import Stream, write_synthetic_classes
from everseg.data.tiling import Tiling
from everseg.methods import build, configure
from everseg.models.semantic.base import load_semantic_base
from everseg.types import ImageQuery, NoScratch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    epochs = parser.parse_args().epochs
    with tempfile.TemporaryDirectory() as folder:
        path = write_synthetic_classes(folder, steps="7-1", train=24, test=4, size=128)
        stage = Stream.from_yaml(path).stages[0]
        base = load_semantic_base("mobilenet", device=torch.device("cpu"), precision="fp32")
        how = [f"tune.first.epochs={epochs}", "tune.first.batch=6", "tune.first.lr=0.01", "tune.crop=96"]
        learner = build("fine-tuning", base, configure("fine-tuning", assignments=how), 0)
        learner.learn(stage, NoScratch())
        images = [sample.image for sample in stage.test]
    assert isinstance(learner, ScoresPixels)
    square = torch.cat([torch.cat(images[:2], 2), torch.cat(images[2:4], 2)], 1)
    image = square.repeat(1, 2, 2)
    (whole,) = learner.predict([ImageQuery(image)])
    print(f"classes in the map of the whole: {whole.unique().tolist()}")
    with torch.inference_mode():
        for tile, halo in ((128, 16), (192, 32), (256, 64)):
            plain, moved = (tiled(learner, image, Tiling(tile, halo, shift)) for shift in (0, 37))
            shares = [float((plain != other).float().mean()) for other in (moved, whole)]
            print(
                f"--tile {tile} --halo {halo}: {shares[0]:.1%} of pixels differ where tiles are moved, "
                f"{shares[1]:.1%} from the whole"
            )


if __name__ == "__main__":
    main()
