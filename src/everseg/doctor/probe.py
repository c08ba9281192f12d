"""What the units of a run cost, measured on images of its stream in a process of its own.

The process imports what a run imports and calls what a run calls, so that its peak memory includes what the
allocator holds on to. It sends what it knows after each measurement, so that nothing is lost if the system
ends it for want of memory.

A unit is measured for one row and for the rows that a run takes together, but no more than the largest split
of the stream has. Where those would take too much time or memory, fewer are measured.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import torch
from torch.utils.data import ConcatDataset

from everseg.config import override
from everseg.data import Stream, SyntheticDomain
from everseg.distributed import world
from everseg.doctor.machine import host_memory, peak, reset_peak
from everseg.domains.cache import CacheConfig
from everseg.domains.prepare import PREDICT_BATCH, Prepared, prepare
from everseg.domains.scoring import BATCH, score
from everseg.domains.tune import TuneConfig
from everseg.errors import UserError
from everseg.files import state_bytes
from everseg.methods import build
from everseg.models.precision import resolved
from everseg.models.promptable.load import load_base
from everseg.runs.run import RunConfig
from everseg.types import NoScratch, PromptSample, Stage

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


@dataclass
class Probe:
    """What was measured, in bytes and seconds. The costs of a unit are in the order of their rows."""

    doing: str = "it loaded the base"
    error: str = ""  # why the base cannot be loaded
    stopped: str = ""  # what it was doing when memory ran out
    base: dict[str, Any] = field(default_factory=dict)
    host: int = 0  # with the base loaded
    gpu: int = 0
    loading: int = 0  # further bytes of the host during loading
    feature_bytes: int = 0  # one image in the cache
    row_bytes: int = 0  # one object kept for training
    objects: float = 1.0  # per image
    read: list[Cost] = field(default_factory=list)  # images before training, with their trunk pass
    step: list[Cost] = field(default_factory=list)  # objects in one training step
    look: list[Cost] = field(default_factory=list)  # images predicted and scored
    again: list[Cost] = field(default_factory=list)  # the same with known features
    more: float = 0.0  # further seconds of predicting an image, per module beyond the first
    rest: dict[int, float] = field(default_factory=dict)  # learning so many images without the steps
    state: list[dict[str, int]] = field(default_factory=list)  # kept after 1, 1, 2 images, 1 of background
    reads_background: bool = False
    seconds: float = 0.0  # all measurements


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
    with TemporaryFile() as question, TemporaryFile() as answers, TemporaryFile() as said:
        pickle.dump((config, stream), question)
        question.seek(0)
        status = subprocess.run(command, stdin=question, stdout=answers, stderr=said).returncode
        answers.seek(0)
        with suppress(EOFError, pickle.UnpicklingError):  # the end, perhaps in the middle of an answer
            while True:
                probe = pickle.load(answers)
        said.seek(0)
        complaint = said.read().decode(errors="replace").strip()
    if status > 0:
        raise UserError(f"the probe failed while {probe.doing}: {complaint.rpartition(chr(10))[2]}")
    probe.stopped = probe.doing if status < 0 else probe.stopped
    probe.seconds = time.perf_counter() - began
    return probe


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


# ---------------------------------------------------------------- in the process of its own


class Spread(Sequence[PromptSample]):
    """So many samples, spread evenly over those at hand. To the feature cache each of them is new.

    reads: how many of them were asked for.
    """

    made = 0

    def __init__(self, samples: Sequence[PromptSample], length: int) -> None:
        self.samples, self.length, self.reads = samples, length, 0
        self.name = Spread.made = Spread.made + 1

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.length:
            raise IndexError(index)
        self.reads += 1
        sample = self.samples[index * len(self.samples) // self.length]
        return replace(sample, key=f"{self.name}-{index}")


def measurements(config: RunConfig, stream: Stream | None = None) -> Iterator[Probe]:
    """The probe as it grows."""
    probe = Probe()
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            base = load_base(config.base, device=world().device, precision=config.precision)
            for doing in _measured(probe, base, config, stream, folder):
                probe.doing = doing
                yield probe
        except UserError as error:
            if probe.base:  # It is not to blame.
                raise
            probe.error = str(error)
        except (MemoryError, torch.OutOfMemoryError):
            probe.stopped = probe.doing
    yield probe


def _measured(
    probe: Probe, base: Any, config: RunConfig, stream: Stream | None, folder: str
) -> Iterator[str]:
    """Measure one unit after another and note it in the probe; say what comes next."""
    probe.base = _facts(base)
    loaded = peak()[0]
    reset_peak()
    probe.host, probe.gpu = peak()
    probe.loading = loaded - probe.host
    cached, cuda = "cache" in vars(config.settings), world().device.type == "cuda"
    settings = override(config.settings, [f"cache.folder={folder}"] if cached else [])
    tune, cache = getattr(settings, "tune", None), getattr(settings, "cache", CacheConfig())
    stages = () if stream is None else (*stream.stages, *stream.unseen)
    splits: list[Any] = [split for s in stages for split in (s.train, s.test) if len(split)]
    samples: Any = ConcatDataset(splits or [[SyntheticDomain("polyps", 1, base.image_size)[0]]])
    most = max(map(len, splits), default=sys.maxsize)
    learner, seen = build(config.method, base, settings, config.seed), Spread(samples, 0)

    def cost(work: Callable[[int], Any], rows: int) -> Cost:
        """The cost of so many rows. A unit that does more than a run's unit says how long that part took."""
        reset_peak()
        began = time.perf_counter()
        own = work(rows)
        if cuda:
            torch.cuda.synchronize()
        seconds = own if isinstance(own, float) else time.perf_counter() - began
        host, gpu = peak()
        return Cost(rows, seconds, max(0, host - probe.host), max(0, gpu - probe.gpu))

    def prepared(rows: int) -> Prepared:
        return prepare(Spread(samples, rows), base, cache, (tune or TuneConfig()).fit, "probe")

    def read(rows: int) -> None:
        probe.objects = len(prepared(rows)) / rows

    def step(rows: int) -> float:
        nonlocal learner
        steps = min(rows, 2)
        asked = [f"tune.fit.batch={rows}", f"tune.fit.steps={steps}", "tune.fit.micro_batch=0"]
        learner = build(config.method, base, override(settings, asked), config.seed)
        began = time.perf_counter()
        figures = learner.learn(Stage(0, "probe", Spread(samples, rows), ()), NoScratch())
        whole = time.perf_counter() - began
        fitted = figures.get("seconds", whole)
        probe.rest[rows] = min(probe.rest.get(rows, whole), whole - fitted)
        return fitted / steps

    def look(rows: int) -> None:
        nonlocal seen
        seen = Spread(samples, rows)
        again(rows)

    def again(rows: int) -> None:
        score(learner.predict, seen, "probe", config.score)

    units: list[tuple[str, Callable[[int], Any], int]] = [("read", read, PREDICT_BATCH)]
    if tune is not None:
        units.append(("step", step, min(tune.fit.batch, tune.fit.micro_batch or tune.fit.batch)))
    units.append(("look", look, BATCH))
    together = []
    for kind, work, rows in units:
        yield f"it measured {kind} of 1"
        for _ in range(2):  # The first time is slow for being the first.
            began = time.process_time()
            one = cost(work, 1)
            seconds = min(one.seconds, time.process_time() - began)  # without what other programs take
            if seconds > 5:
                break
        free, heavy = (torch.cuda.mem_get_info()[0], one.gpu) if cuda else (host_memory()[1], one.host)
        getattr(probe, kind).append(one)
        together.append((kind, work, affordable(min(rows, most), seconds, heavy, free)))
    # In turns, as a run does: what one unit has freed the next takes, and both leave gaps.
    began = time.perf_counter()
    for kind, work, rows in together * ROUNDS:
        slow = len(getattr(probe, kind)) > 1 and time.perf_counter() - began > 2 * PATIENCE
        if rows > 1 and not slow:
            yield f"it measured {kind} of {rows}"
            getattr(probe, kind).append(cost(work, rows))

    yield "it measured what is kept"
    probe.again.append(cost(again, len(seen)))
    kept = prepared(1)
    features = kept.cache.features([kept.samples[0].query()])
    width = 2 if kept.cache.dtype == torch.float16 else 4
    probe.feature_bytes = sum(v.numel() * width + TENSOR for v in features.values())
    # Beside the truth, a bit per pixel, a pixel of the image, and the prompts twice.
    probe.row_bytes = kept[0].truth.numel() // 8 + 5 * TENSOR
    # What is kept does not depend on what is seen: all stages have the same images, known from the disk.
    asked = ["tune.fit.epochs=0", "tune.fit.steps=0"] if tune is not None else []
    asked += ["cache.where=disk"] if cached else []
    learner = build(config.method, base, override(settings, asked), config.seed)
    taken = []
    for index, images in enumerate((1, 1, 2, 1)):
        seen = Spread(samples, images)
        seen.name = 0
        learner.learn(Stage(index, f"probe-{index}", seen, (), background=index == 3), NoScratch())
        probe.state.append({kind: state_bytes(value) for kind, value in learner.state_dict().items()})
        probe.reads_background = seen.reads > 0
        taken.append(cost(again, images).seconds / images)
    if taken[2] > 1.5 * taken[0]:  # else one pass serves all modules
        probe.more = (taken[2] - taken[0]) / 2


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
