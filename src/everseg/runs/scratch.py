"""The unfinished work of a stage, from which an interrupted run resumes."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from everseg import config as configuration
from everseg.data.stream import Fingerprints
from everseg.distributed import wait, world
from everseg.files import load_state, read_json, save_state, write_json
from everseg.progress import remark
from everseg.runs.run import Run
from everseg.types import Stage, State

SECONDS = "seconds of the stage"
"""What the scratch adds to each state that it keeps."""


class StageScratch:
    """Unfinished work of a stage, one file per name below `work/` of the run, and the time it has taken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.before, self.began = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds spent on the stage, with those before an interruption up to the last save."""
        return self.before + time.perf_counter() - self.began

    def load(self, name: str) -> State | None:
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            return None
        state = load_state(path)
        self.before = max(self.before, state.pop(SECONDS, 0.0))
        return state

    def save(self, name: str, state: State) -> None:
        save_state(self.folder / f"{name}.safetensors", {**state, SECONDS: self.seconds})


def scratch_of(current: Run, stage: Stage, data: Fingerprints) -> StageScratch:
    """The stage's unfinished work; none where it was begun with other settings, another base, other
    training data, or as later images of another domain."""
    folder = current.folder / "work" / stage.name
    made_of = {
        "config": configuration.plain(current.config, machine=False),
        "base": current.base.fingerprint,
        "learned": current.learned,
        "data": data.train,
    }
    if stage.later_of:  # Part of the images is held out then.
        made_of["later_of"] = stage.later_of
    # An earlier version knew the data by one fingerprint of training and test data.
    known = [made_of, made_of | {"data": data.both}]
    if world().main:
        begun = folder / "made_of.json"
        if folder.exists() and not (begun.is_file() and read_json(begun) in known):
            if any(folder.glob("*.safetensors")):
                remark(
                    f"{stage.name}: unfinished training with other settings, other data or another base is "
                    "discarded; it begins again"
                )
            shutil.rmtree(folder)
        write_json(begun, made_of)
    wait()
    return StageScratch(folder)
