"""What ONNX graphs and weights of 8 bits cost on real images.

    EVERSEG_DATA=DIR python benchmarks/onnx_int8.py --out FILE [--steps 100] [--images 40] [--tested 40]

SAMCL on the embedded base learns polyps (Kvasir) and nuclei, and is exported with `--routed`. The test images
are then predicted by torch, by the graphs, and by the graphs with weights of 8 bits. Writes the mean IoU with
the truth, how many pixels of the masks differ from torch's, and the size of the graphs.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from everseg import learn
from everseg.domains.scoring import ScoreConfig, score
from everseg.runs.data import own_stream
from everseg.runs.exports.onnx import export_onnx
from everseg.runs.exports.runner import Runner
from everseg.types import PromptPrediction, Query

DOMAINS = ("kvasir", "nuclei")
ANSWERS = ("torch", "onnx", "onnx, int8")

Predict = Callable[[Sequence[Query]], Sequence[PromptPrediction]]


def stream_file(folder: Path, images: int, tested: int) -> Path:
    """A stream of some images of both domains."""
    root = Path(os.environ["EVERSEG_DATA"]).resolve()
    stages = [
        {
            "name": name,
            "train": {"path": f"{name}/train", "part": [0, images]},
            "test": {"path": f"{name}/test", "part": [0, tested]},
        }
        for name in DOMAINS
    ]
    path = folder / "stream.yaml"
    path.write_text(yaml.safe_dump({"name": "int8", "root": str(root), "seed": 0, "stages": stages}))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--tested", type=int, default=40)
    parser.add_argument("--keep", type=Path, help="folder of the run and the exports")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        place = given.keep or Path(made)
        place.mkdir(parents=True, exist_ok=True)
        stream = stream_file(place, given.images, given.tested)
        settings: dict[str, Any] = {"tune__fit__steps": given.steps, "tune__fit__batch": 4}
        run = learn(stream, "samcl", out=place / "run", base="tiny", baseline=False, **settings)
        export_onnx(run, place / "whole", routed=True)
        export_onnx(run, place / "small", routed=True, quantized="int8")
        given.out.write_text(json.dumps(measured(run, place, vars(given)), indent=1, default=str) + "\n")


def measured(run: Any, place: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The content of the result file."""
    answers: dict[str, Predict] = {
        "torch": run.learner.predict,
        "onnx": Runner(place / "whole", run.base).predict,
        "onnx, int8": Runner(place / "small", run.base).predict,
    }
    rows: list[list[Any]] = []
    for stage in own_stream(run).stages:
        ours: list[PromptPrediction] = []
        for name in ANSWERS:
            found: list[PromptPrediction] = []

            def kept(asked: Sequence[Query], predict: Predict = answers[name], found: Any = found) -> Any:
                given = list(predict(asked))
                found.extend(given)
                return given

            scored = score(kept, stage.test, stage.name, ScoreConfig(workers=0))
            ours = ours or found
            differ = sum(int((a.masks() != b.masks()).sum()) for a, b in zip(found, ours, strict=True))
            pixels = sum(a.masks().numel() for a in found)
            iou = sum(row.values["iou"] for row in scored) / len(scored)
            rows.append(
                [stage.name, name, len(scored), iou, f"{100 * differ / pixels:.3f} %", megabytes(place, name)]
            )
            print(rows[-1], flush=True)
    return {
        "about": "SAMCL on the embedded base, exported with its router: what graphs and 8 bits cost.",
        "commands": [
            f"python benchmarks/onnx_int8.py --steps {given['steps']} --images {given['images']} "
            f"--tested {given['tested']} --out FILE"
        ],
        "versions": {name: version(name) for name in ("torch", "onnxruntime", "onnx")},
        "seeds": [0],
        "tables": {
            "loss": {
                "digits": 4,
                "columns": ["domain", "computed by", "test images", "IoU", "pixels unlike torch's", "graphs"],
                "rows": rows,
            }
        },
    }


def megabytes(place: Path, name: str) -> str | None:
    """The size of the graphs."""
    folder = {"onnx": "whole", "onnx, int8": "small"}.get(name)
    if folder is None:
        return None
    return f"{sum(path.stat().st_size for path in (place / folder).glob('*.onnx')) / 1e6:.1f} MB"


if __name__ == "__main__":
    main()
