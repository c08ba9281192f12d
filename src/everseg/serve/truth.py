"""What the run's own stream knows of an image: its truth, to show errors by."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everseg.data import Stream
from everseg.data.described import described
from everseg.errors import UserError
from everseg.runs.data import own_stream
from everseg.runs.run import Run
from everseg.types import VOID, SemanticSample, Stage


class Truth:
    """The truths of a run's stream, found by image files."""

    def __init__(self, run: Run) -> None:
        self._lock = threading.Lock()
        self._places: dict[str, list[tuple[Any, int]]] | None = None
        try:
            self.stream: Stream | None = own_stream(run) if run.record.stream else None
        except UserError:  # Its data are not on this machine.
            self.stream = None
        self.of_classes = bool(run.classes[1:])
        self.known = len(run.learned)

    def _samples(self) -> list[Any]:
        if self.stream is None:
            return []
        if self.of_classes:  # The newest stage's maps have all classes so far.
            stages: list[Stage] = [self.stream.stages[min(self.known, len(self.stream.stages)) - 1]]
        else:
            stages = [*self.stream.stages, *self.stream.unseen]
        return [split for stage in stages for split in (stage.test, stage.train) if len(split)]

    def _index(self) -> dict[str, list[tuple[Any, int]]]:
        with self._lock:
            if self._places is None:
                self._places = {}
                for samples in self._samples():
                    told = described(samples)
                    for place in range(len(told)):
                        self._places.setdefault(_resolved(told.file(place)), []).append((samples, place))
            return self._places

    def of(self, path: Path) -> NDArray[np.uint8] | None:
        """(H, W): the channel of each pixel, or in a run of domains the number of its object, 0 for none; 255
        where nobody knows. None where the image has no truth here."""
        found = self._index().get(_resolved(path), [])
        if not found:
            return None
        first = found[0][0]
        samples = [samples[place] for samples, place in found if samples is first]
        if isinstance(samples[0], SemanticSample):
            labels: NDArray[np.uint8] = samples[0].labels.numpy()
            return labels
        masks = [mask.numpy() for sample in samples for mask in sample.masks]
        canvas = np.zeros(masks[0].shape, np.uint8)
        for number, mask in enumerate(masks[: VOID - 1], 1):
            canvas[mask] = number
        return canvas


def _resolved(path: Path | str) -> str:
    text = re.sub(r"@\d+$", "", str(path))
    return str(Path(text).resolve())


def errors_of(found: NDArray[Any], truth: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a prediction and the truth, both (H, W), differ; void counts as neither."""
    wrong: NDArray[np.bool_] = (found != truth) & (truth != VOID)
    return wrong
