"""Measure what the units of a run cost, on images of its stream, in a process of its own.

The process imports what a run imports and calls what a run calls, so its peak memory includes what the
allocator holds on to. It sends the probe before each measurement, so nothing is lost if the system ends it
because memory ran out.

A unit is measured for one row, then for the rows that a run takes together: at most as many as the largest
split of the stream has, and fewer where they would take too much time or memory.
"""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils.data import ConcatDataset

from everseg.config import everywhere, override
from everseg.data import Stream, SyntheticDomain
from everseg.distributed import world
from everseg.doctor.machine import host_memory, peak, reset_peak
from everseg.domains.cache import CacheConfig, FeatureCache
from everseg.domains.plausible import FEWEST
from everseg.domains.prepare import PREDICT_BATCH
from everseg.domains.scoring import BATCH, score
from everseg.errors import UserError
from everseg.files import state_bytes
from everseg.fit import FitConfig
from everseg.methods import build
from everseg.models.precision import resolved
from everseg.models.promptable.load import load_base
from everseg.runs.run import RunConfig
from everseg.types import Learner, NoScratch, PromptSample, Stage

PATIENCE = 20.0
"""Seconds that one measurement should take. Slower units are measured with fewer rows, but at least two."""
SHARE = 0.6
"""The share of the free memory that a measurement may take."""
TENSOR = 1024
"""Bytes that a tensor costs besides its numbers: the object, its storage, its place in a dict."""
ROUNDS = 3
"""Measurements of all rows: what the allocator holds on to grows over the first ones."""


@dataclass(frozen=True)
class Cost:
    """What `rows` rows took together: seconds, and at the peak bytes beyond those of the loaded base."""

    rows: int
    seconds: float
    host: int
    gpu: int


WEIGHED = FEWEST
"""Images of a stage from which a learner keeps all kinds of things that it keeps."""


@dataclass
class Probe:
    """What was measured, in bytes and seconds. The costs of a unit are in the order of measurement."""

    doing: str = "it loaded the base"  # empty once all is measured
    error: str = ""  # why the base cannot be loaded
    base: dict[str, Any] = field(default_factory=dict)
    host: int = 0  # with the base loaded
    gpu: int = 0
    loading: int = 0  # further bytes of the host during loading
    feature_bytes: int = 0  # one image in the cache
    row_bytes: int = 0  # one object kept for training
    objects: float = 1.0  # per image
    read: list[Cost] = field(default_factory=list)  # images learned without a training step
    step: list[Cost] = field(default_factory=list)  # objects in one training step
    look: list[Cost] = field(default_factory=list)  # images predicted and scored
    again: list[Cost] = field(default_factory=list)  # the same with known features
    state: list[dict[str, int]] = field(default_factory=list)  # kept after stages of `WEIGHED` and one more
    seconds: float = 0.0  # all measurements


def cache_of(config: RunConfig) -> CacheConfig:
    return getattr(config.settings, "cache", CacheConfig())


def fit_of(config: RunConfig) -> FitConfig | None:
    return getattr(getattr(config.settings, "tune", None), "fit", None)


def measure(config: RunConfig, stream: Stream | None = None) -> Probe:
    """Measure the units of a run in a fresh process, which inherits this one's environment.

    stream: where the images come from; by default one is painted at the base's size.

    Raises:
        UserError: the process fails, for example because an image cannot be read.
    """
    # What the command line imports counts in a run's memory, so it is imported here too.
    code = "import everseg.cli; from everseg.doctor.probe import answer; answer()"
    command = [sys.executable, "-W", "ignore", "-c", code]
    probe, began = Probe(), time.perf_counter()
    done = subprocess.run(command, input=pickle.dumps((config, stream)), capture_output=True)
    answers = io.BytesIO(done.stdout)
    with suppress(EOFError, pickle.UnpicklingError):  # the end, perhaps in the middle of an answer
        while True:
            probe = pickle.load(answers)
    if done.returncode > 0:
        *_, complaint = ["", *done.stderr.decode(errors="replace").strip().splitlines()]
        raise UserError(f"the probe failed while {probe.doing}: {complaint}")
    probe.seconds = time.perf_counter() - began
    return probe


# ---------------------------------------------------------------- in the process of its own


def answer() -> None:
    """The other side of `measure`: a question on standard input, probes on standard output."""
    out = sys.stdout.buffer
    with redirect_stdout(sys.stderr):
        try:
            for probe in measurements(*pickle.load(sys.stdin.buffer)):
                pickle.dump(probe, out)
                out.flush()
        except UserError as error:
            sys.exit(str(error))


def measurements(config: RunConfig, stream: Stream | None = None) -> Iterator[Probe]:
    """The probe as it grows, before each measurement and at the end."""
    probe = Probe()
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        config = everywhere(config, "folder", folder)  # of the cache
        try:
            base = load_base(config.base, device=world().device, precision=config.precision)
            probe.base = _facts(base)
            for doing in Bench(probe, base, config, stream).measured():
                probe.doing = doing
                yield probe
            probe.doing = ""
        except UserError as error:
            if probe.base:  # It is not to blame.
                raise
            probe.error = str(error)
        except (MemoryError, torch.OutOfMemoryError):
            pass  # The probe says what it was doing.
    yield probe


class Spread(Sequence[PromptSample]):
    """So many samples, spread evenly over those at hand. To the feature cache each of them is new."""

    made = 0

    def __init__(self, samples: Sequence[PromptSample], length: int) -> None:
        self.samples, self.length = samples, length
        self.name = Spread.made = Spread.made + 1

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.length:
            raise IndexError(index)
        sample = self.samples[index * len(self.samples) // self.length]
        return replace(sample, key=f"{self.name}-{index}")


class Bench:
    """The units of a run on a loaded base, each a method that does it for a number of rows."""

    def __init__(self, probe: Probe, base: Any, config: RunConfig, stream: Stream | None) -> None:
        stages = () if stream is None else (*stream.stages, *stream.unseen)
        splits: list[Any] = [split for s in stages for split in (s.train, s.test) if len(split)]
        self.samples: Any = ConcatDataset(splits or [[SyntheticDomain("polyps", 1, base.image_size)[0]]])
        self.most = max(map(len, splits), default=sys.maxsize)
        self.probe, self.base, self.config, self.fit = probe, base, config, fit_of(config)
        self.learner = self.untrained()
        self.tested: Sequence[PromptSample] = ()

    def untrained(self, steps: int = 0, batch: int = 1) -> Learner:
        """A new learner that takes a number of training steps on each stage."""
        fit = {"epochs": 0, "steps": steps, "batch": batch, "micro_batch": 0}
        given = [f"tune.fit.{name}={value}" for name, value in fit.items() if self.fit is not None]
        return build(self.config.method, self.base, override(self.config.settings, given), self.config.seed)

    def learn(self, learner: Learner, images: int, index: int = 0, background: bool = False) -> float | None:
        """Learn a stage of a number of images; the seconds of its training steps, if given by the method."""
        stage = Stage(index, f"probe-{index}", Spread(self.samples, images), (), background=background)
        return learner.learn(stage, NoScratch()).get("seconds")

    def read(self, rows: int) -> None:
        """Learn a stage of a number of images without a training step."""
        self.learn(self.untrained(), rows)

    def step(self, rows: int) -> float | None:
        """Learn a stage of a number of images with two training steps; the seconds are those of one."""
        self.learner = self.untrained(steps=2, batch=rows)
        fitted = self.learn(self.learner, rows)
        return fitted and fitted / 2

    def look(self, rows: int) -> None:
        """Predict and score images that are new to the cache."""
        self.tested = Spread(self.samples, rows)
        self.again(rows)

    def again(self, rows: int) -> None:
        """Predict and score the same images again."""
        score(self.learner.predict, self.tested, "probe", self.config.score)

    def cost(self, unit: Callable[[int], float | None], rows: int) -> Cost:
        """What a unit takes. One that does more than a run's unit returns the seconds of that part."""
        reset_peak()
        began = time.perf_counter()
        part = unit(rows)
        if world().device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began if part is None else part
        host, gpu = peak()
        return Cost(rows, seconds, max(0, host - self.probe.host), max(0, gpu - self.probe.gpu))

    def measured(self) -> Iterator[str]:
        """Measure one unit after another and note it in the probe; say what comes next."""
        probe, began, cuda = self.probe, time.perf_counter(), world().device.type == "cuda"
        loaded = peak()[0]
        reset_peak()
        probe.host, probe.gpu = peak()
        probe.loading = loaded - probe.host
        units: list[tuple[list[Cost], Callable[[int], float | None], int]]
        units = [(probe.look, self.look, BATCH)]
        if self.fit is not None:
            batch = min(self.fit.batch, self.fit.micro_batch or self.fit.batch)
            units = [(probe.read, self.read, PREDICT_BATCH), (probe.step, self.step, batch), *units]
        together = []
        for costs, unit, rows in units:
            yield f"it measured {unit.__name__} of 1"
            one = self.cost(unit, 1)
            if one.seconds < PATIENCE / 4:  # The first time is slow because it is the first.
                one = self.cost(unit, 1)
            costs.append(one)
            free, heavy = (torch.cuda.mem_get_info()[0], one.gpu) if cuda else (host_memory()[1], one.host)
            together.append((costs, unit, affordable(min(rows, self.most), one.seconds, heavy, free)))
        # In turns, as a run does: what one unit has freed the next takes, and both leave gaps.
        for costs, unit, rows in together * ROUNDS:
            slow = len(costs) > 1 and time.perf_counter() - began > 3 * PATIENCE
            if rows > 1 and not slow:
                yield f"it measured {unit.__name__} of {rows}"
                costs.append(self.cost(unit, rows))
        probe.again.append(self.cost(self.again, len(self.tested)))
        yield "it measured what is kept"
        self.weigh()

    def weigh(self) -> None:
        """Note the objects per image, and the bytes that are kept: of an image's features, of a training row,
        and by the learner."""
        probe, shown = self.probe, list(Spread(self.samples, min(PREDICT_BATCH, self.most)))
        probe.objects = sum(len(sample.masks) for sample in shown) / len(shown)
        cache = FeatureCache(self.base, cache_of(self.config))
        features = cache.features([shown[0].query()]).values()
        probe.feature_bytes = sum(v.numel() * cache.dtype.itemsize + TENSOR for v in features)
        # Beside the truth, a bit per pixel, a pixel of the image, and the prompts twice.
        probe.row_bytes = self.base.image_size**2 // 8 + 5 * TENSOR
        # The learner's bytes do not depend on what it is shown, nor on how long it trains.
        learner, same = self.untrained(), replace(self.samples[0], key="weighed")  # encoded once
        for index, images in enumerate((WEIGHED, WEIGHED, WEIGHED + 1, WEIGHED)):
            stage = Stage(index, f"probe-{index}", [same] * images, (), background=index == 3)
            learner.learn(stage, NoScratch())
            probe.state.append({kind: state_bytes(part) for kind, part in learner.state_dict().items()})


def affordable(rows: int, seconds: float, heavy: int, free: int) -> int:
    """So many rows, or as many as there are time and memory for, if one takes so many seconds and bytes."""
    return max(1, int(min(rows, max(2, PATIENCE / seconds), SHARE * free / max(1, heavy))))


def _facts(base: Any) -> dict[str, Any]:
    """What people ask about a base."""
    weights = [*base.model.parameters(), *base.model.buffers()]
    told = ("name", "fingerprint", "image_size", "grid", "width", "depth", "adapted")
    return {name: getattr(base, name) for name in told} | {
        "parameters": sum(p.numel() for p in base.model.parameters()),
        "bytes": sum(w.numel() * w.element_size() for w in weights),
        "precision": resolved(base.precision, base.device),
    }
