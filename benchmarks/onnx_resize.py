"""How far an exported encoder's resizing is from torch's, and what that does to masks.

    EVERSEG_DATA=DIR python benchmarks/onnx_resize.py [--tested 40]

The resizing of the embedded base's encoder, as a graph of its own in onnxruntime, beside torch's on the first
test images of Kvasir and of nuclei. Prints, for images that have the base's size and for others, the share of
bytes that differ, the most by which they do, and the share of the masks' pixels that differ where the
untouched base sees the one or the other.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from onnx_int8 import DOMAINS
from torch import Tensor, nn

from everseg.data import FolderReader
from everseg.methods import build, configure
from everseg.models.promptable.load import load_base
from everseg.models.promptable.protocol import stretch
from everseg.runs.exports.files import session, write_graph
from everseg.runs.exports.graphs import resized


class Resizing(nn.Module):
    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, image: Tensor) -> Tensor:
        return resized(image, self.side)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tested", type=int, default=40)
    given = parser.parse_args()
    base: Any = load_base("tiny")
    side = base.image_size
    height, width = (torch.export.Dim(name, min=2, max=65536) for name in ("height", "width"))
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "resize.onnx"
        write_graph(
            Resizing(side), (torch.zeros(90, 120, 3),), ["image"], ["x"], ({0: height, 1: width},), path
        )
        graph = session(path)

    def graphs(images: Any) -> Tensor:
        rows = [graph.run(None, {"image": i.permute(1, 2, 0).float().numpy()})[0] for i in images]
        return torch.cat([torch.from_numpy(row) for row in rows]).to(torch.uint8)

    pixels = base.pixels
    for name in DOMAINS:
        samples = FolderReader(Path(os.environ["EVERSEG_DATA"]) / name / "test")
        found: dict[bool, list[tuple[float, int, float]]] = {False: [], True: []}
        for sample in (samples[n] for n in range(min(given.tested, len(samples)))):
            theirs, ours = graphs([sample.image]), stretch([sample.image], side)
            gap = (theirs.int() - ours.int()).abs()
            masks = []
            for square in (ours, theirs):
                base.pixels = lambda images, square=square: pixels(list(square))
                learner = build("zero-shot", base, configure("zero-shot"), 0)
                masks.append(learner.predict([sample.query()])[0].masks())
            unlike = float((masks[0] != masks[1]).float().mean())
            same = tuple(sample.image.shape[-2:]) == (side, side)
            found[same].append((float((gap > 0).float().mean()), int(gap.max()), unlike))
        for same, rows in found.items():
            if rows:
                shares, most, unlike = zip(*rows, strict=True)
                print(
                    f"{name}, {len(rows)} images {'of' if same else 'not of'} {side}x{side} pixels: "
                    f"{sum(shares) / len(rows):.3%} of bytes differ, by at most {max(most)}; "
                    f"{sum(unlike) / len(rows):.3%} of the masks' pixels"
                )


if __name__ == "__main__":
    main()
