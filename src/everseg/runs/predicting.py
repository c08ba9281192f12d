"""One image's prediction: what it is made from, and what is drawn of it.

The command line and the server predict through this, so that the same run, image, prompts and options give
the same bytes in both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everseg.data.decoding import PLAIN as PLAIN_DECODING
from everseg.data.decoding import Decoding
from everseg.data.domains.nifti import Axis
from everseg.data.geo import georeferenced
from everseg.data.imagefiles import is_volume
from everseg.data.tiling import Tiling
from everseg.models.precision import resolved
from everseg.pictures.drawn import GEOTIFF, PNG, Drawn, Form, Wanted
from everseg.runs.inputs import Source
from everseg.runs.prompts import ImagePrompts
from everseg.runs.run import Run
from everseg.types import Prompts

RULES = "predict-1"
"""Version of what is written for a prediction. Change it with the format, so that files are written again."""


@dataclass(frozen=True)
class How:
    """Options of a prediction.

    stage: name of the stage whose module is used; "plain" is the untouched base; without it the method
        chooses.
    workers: number of threads that decode and encode; 0: none.
    decoding: bands of a file that are shown, and how their values become 8 bits.
    axis: direction of the slices of volumes.
    """

    form: Form = "masks"
    overlay: bool = True
    stage: str | None = None
    tiling: Tiling | None = None
    workers: int = 2
    decoding: Decoding = PLAIN_DECODING
    axis: Axis = "axial"


@dataclass(frozen=True)
class About:
    """Inputs of one prediction.

    inputs: digest of all inputs.
    key: identifies the pixels of the image, for the feature cache.
    like: image whose georeference the masks get; None if it has none.
    """

    inputs: str
    key: str
    like: Path | None


class Predicting:
    """What the images that are predicted with one run and the same options have in common.

    Raises:
        UserError: the run has no such stage.
    """

    def __init__(self, run: Run, how: How) -> None:
        self.run, self.how, self.problem = run, how, run.problem
        self.predict = run.predictor(how.stage)
        state = "" if run.record.sha256 is None else run.record.sha256.state
        self.made_of = [
            RULES,
            how.decoding.name,
            run.config.method,
            run.base.fingerprint,
            state,
            resolved(run.config.precision, run.base.device),
            run.classes,
            how.stage,
            how.form,
            how.overlay,
            how.tiling and asdict(how.tiling),
        ]

    def about(self, source: Source, prompts: ImagePrompts | None, content: str) -> About:
        """What a prediction is made from.

        content: digest of the image file.

        Raises:
            UserError: the file says that it has a place on the map, and cannot be read.
        """
        asked = () if prompts is None else prompts.objects
        about = [content, [asdict(one) for one in asked], 0 if prompts is None else prompts.frame]
        placed = georeferenced(source.path)
        part = [] if source.frame is None else [source.frame, self.how.axis]
        if placed or part:
            about += ["georeferenced" if placed else "", *part]
        inputs = hashlib.sha256(json.dumps([*self.made_of, about]).encode()).hexdigest()
        key = ":".join(map(str, [content, self.how.decoding.name, *about[3:]]))
        return About(inputs, key, source.path if placed else None)

    def segment(self, image: Tensor, objects: Sequence[Prompts], key: str, predict: Any = None) -> Any:
        """What the model finds in an image.

        predict: what answers instead of the run, as `Learner.predict`.

        Raises:
            MemoryError: it does not fit into memory.
        """
        try:
            answers = predict or self.predict
            return self.problem.segment(self.run, answers, image, objects, self.how.tiling, key)
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "alloc" not in str(error):
                raise
            raise MemoryError from error

    def draw(
        self, source: Source, image: Tensor, found: Any, prompts: ImagePrompts | None, about: About
    ) -> tuple[Drawn, Mapping[str, Any]]:
        """Pictures, and the content of the JSON file."""
        asked = () if prompts is None else prompts.objects
        wanted = Wanted(
            Path(source.name).name,
            self.how.form,
            self.how.overlay,
            self.run.classes,
            tuple(one.name for one in asked),
            tuple(one.category for one in asked),
            PNG if about.like is None else GEOTIFF,
        )
        drawn = self.problem.draw(image, found, wanted)
        record = {"image": str(source.path), **drawn.record, "inputs": about.inputs}
        if source.frame is not None:
            record["frame"] = source.frame
            if is_volume(source.path):
                record["axis"] = self.how.axis
        return drawn, record
