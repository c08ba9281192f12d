"""One step of a class stream, learned again with other settings from a run that has learned the ones before.

    python benchmarks/step.py RUN STREAM --stage seats --method eir [--set KEY=VALUE ...] --json OUT.json

Settings are those of the method's preset with `--set`; the segmenter, the pool and the memory are the run's.
A run of another method can be named where it has learned nothing but the first step, and trained the same in
it. The step is scored on the stream's test images, as they are. Choosing settings by this on images that a
result is reported on is not allowed: see held_out.py. Writes settings, versions, seconds and IoUs.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch

import everseg
from everseg.classes.scoring import ClassScoreConfig, score_classes
from everseg.config import plain
from everseg.data import Stream
from everseg.methods import build, configure
from everseg.runs.folder import load
from everseg.types import NoScratch


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("stream", type=Path)
    parser.add_argument("--stage", required=True)
    parser.add_argument("--method", default="eir")
    parser.add_argument("--set", dest="settings", nargs="+", default=[])
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    run, stream = load(given.run), Stream.from_yaml(given.stream)
    names = [stage.name for stage in stream.stages]
    stage = stream.stages[names.index(given.stage)]
    assert run.learned == names[: names.index(given.stage)], f"{given.run} has learned {run.learned}"
    config = configure(given.method, "paper", given.settings)
    learner = build(given.method, run.base, config, run.config.seed)
    if len(run.learned) == 1:
        learner.take_first(stream.stages[0], run.learner)
    else:
        learner.load_state_dict(run.learner.state_dict())
    began = time.perf_counter()
    figures = learner.learn(stage, NoScratch())
    seconds = time.perf_counter() - began
    classes = (*run.classes, *stage.classes)
    how = ClassScoreConfig(size="original")
    scores = score_classes(learner.predict, stage.test, classes, how).scores(how.absent)
    old = len(run.classes)
    values = [scores[name] for name in classes]
    means = {"old": sum(values[:old]) / old, "new": sum(values[old:]) / (len(values) - old)}
    given.json.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "run": str(given.run),
        "stream": str(given.stream),
        "stage": given.stage,
        "method": given.method,
        "set": given.settings,
        "seed": run.config.seed,
        "versions": {
            "everseg": everseg.__version__,
            "torch": torch.__version__,
            "machine": platform.machine(),
        },
        "settings": plain(config),
        "figures": dict(figures),
        "seconds": seconds,
        "iou": scores,
        **means,
    }
    given.json.write_text(json.dumps(found, indent=1) + "\n")
    print(given.json.stem, {k: round(v, 3) for k, v in {**means, **scores, "s": seconds}.items()})


if __name__ == "__main__":
    main()
