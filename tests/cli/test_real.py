"""The main job on real images: a short stream of polyps, lesions and nuclei, and natural images."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from everseg.data import Stream
from everseg.methods import configure
from everseg.results import BASE, average, forgetting
from everseg.runs.learn import run
from everseg.runs.run import RunConfig

pytestmark = [pytest.mark.slow, pytest.mark.realdata]


def short_stream(root: Path, folder: Path) -> Stream:
    def part(name: str, split: str, limit: int) -> dict[str, object]:
        return {"path": f"{name}/{split}", "limit": limit}

    natural = {"kind": "instances", "path": "coco128_seg", "instances": "largest"}
    spec = {
        "root": str(root.resolve()),
        "stages": [
            {"name": n, "train": part(n, "train", 60), "test": part(n, "test", 24)}
            for n in ("kvasir", "isic", "nuclei")
        ],
        "background": {
            "name": "natural",
            "train": natural | {"part": [0, 60]},
            "test": natural | {"part": [100, 124]},
        },
    }
    path = folder / "stream.yaml"
    path.write_text(yaml.safe_dump(spec))
    return Stream.from_yaml(path)


def test_samcl_rises_above_the_base_and_keeps_it(data_root: Path, tmp_path: Path) -> None:
    stream = short_stream(data_root, tmp_path)
    settings = configure("samcl", assignments=["tune.fit.steps=80"])
    done = run(stream, RunConfig("samcl", settings), tmp_path / "run")
    matrix = done.results.matrix("iou")
    untouched = sum(matrix.baseline[:3]) / 3
    assert BASE in done.results.scores
    assert average(matrix) > untouched + 0.1
    assert abs(forgetting(matrix)) < 0.03
    assert done.summary()["routing_accuracy"] > 0.9
