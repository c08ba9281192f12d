"""What the laws of one method share: its small settings, learners that are taught once, and comparisons."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from everseg.config import override
from everseg.files import load_state, save_state, sha256_tensors
from everseg.types import Learner, NoScratch, Scratch, Stage, State
from everseg.types.abilities import Contributes


class Trial(ABC):
    """One method on a micro base. What is cached belongs to all laws: they look at it and do not change it.

    Before anything is taught or asked, the global random generators are put into a state that they have not
    had before: code that draws from them differs from run to run.
    """

    small: tuple[str, ...]
    """Assignments that make learning short. Those apply whose key the method's configuration has."""

    next_count: int
    """Training images of a second stage that merely follows one of interest."""

    def __init__(
        self, method: type[Any], settings: Sequence[str] = (), base: Callable[[], Any] | None = None
    ) -> None:
        self.method, self.settings, self.other_base = method, tuple(settings), base
        self.shaken = 0

    # ------------------------------------------------------------ what the two wings do differently

    @abstractmethod
    def make_base(self) -> Any: ...

    @abstractmethod
    def weights(self) -> nn.Module:
        """The module that holds the base's weights."""

    @abstractmethod
    def stage(self, index: int, count: int | None = None) -> Stage:
        """The first stage (0) or the second (1), with `count` training images."""

    @abstractmethod
    def questions(self) -> list[Any]:
        """Queries of several sizes and kinds."""

    @abstractmethod
    def check_shape(self, query: Any, prediction: Any) -> None:
        """Refuse a prediction that is not one for this query."""

    @abstractmethod
    def equal(self, ours: Any, theirs: Any) -> bool:
        """Whether two predictions are the same to the bit."""

    @abstractmethod
    def gap(self, ours: Any, theirs: Any) -> float:
        """The difference of two predictions."""

    batch_gap: float
    """How far apart two predictions for one query in different batches may lie, because of rounding."""

    # ------------------------------------------------------------ learners

    @cached_property
    def base(self) -> Any:
        return (self.other_base or self.make_base)()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the weights of an untouched base."""
        untouched = type(self)(self.method, base=self.other_base)
        return sha256_tensors(dict(untouched.weights().state_dict()))

    @cached_property
    def config(self) -> Any:
        paper = self.method.Config.presets()["paper"]
        short = [setting for setting in self.small if _has(paper, setting.partition("=")[0])]
        return override(paper, [*short, *self.settings])

    def fresh(self, seed: int = 0) -> Any:
        self.shake()
        return self.method(self.base, self.config, seed=seed)

    def learn(self, learner: Learner, stage: Stage, scratch: Scratch | None = None) -> Any:
        self.shake()
        return learner.learn(stage, scratch or NoScratch())

    def taught(self, *stages: Stage, seed: int = 0) -> Any:
        learner = self.fresh(seed)
        for stage in stages:
            self.learn(learner, stage)
        return learner

    def loaded(self, file: bytes, seed: int = 0) -> Any:
        """A fresh learner that has taken a state from a file."""
        learner = self.fresh(seed)
        learner.load_state_dict(read(file))
        return learner

    def ask(self, learner: Learner, queries: Sequence[Any] | None = None) -> list[Any]:
        """Predictions for `queries`, or for `questions`."""
        self.shake()
        return learner.predict(self.questions() if queries is None else queries)

    @cached_property
    def one(self) -> Any:
        """After the first stage."""
        return self.taught(self.stage(0))

    @property
    def two(self) -> Any:
        """After two stages."""
        return self.straight.learner

    @cached_property
    def straight(self) -> Straight:
        """After two stages without a break."""
        learner = self.fresh()
        files: list[bytes] = []
        brought: dict[str, State | None] = {}
        for index in (0, 1):
            stage = self.stage(index)
            self.learn(learner, stage)
            files.append(written(learner))
            if isinstance(learner, Contributes):
                brought[stage.name] = copy.deepcopy(learner.contribution())
        return Straight(learner, files, brought)

    def shake(self) -> None:
        self.shaken += 1
        random.seed(self.shaken)
        np.random.seed(self.shaken)
        torch.default_generator.manual_seed(self.shaken)  # torch.manual_seed asks every kind of device

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Leave the global generators and the number of threads as they were found. On tensors as small as
        these, threads wait for each other for longer than they work."""
        threads, python, numpy = torch.get_num_threads(), random.getstate(), np.random.get_state()
        torch.set_num_threads(1)
        try:
            with torch.random.fork_rng(devices=[]):
                yield
        finally:
            torch.set_num_threads(threads)
            random.setstate(python)
            np.random.set_state(numpy)

    # ------------------------------------------------------------ comparisons

    def all_equal(self, ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
        return len(ours) == len(theirs) and all(self.equal(a, b) for a, b in zip(ours, theirs, strict=True))

    def largest_gap(self, ours: Sequence[Any], theirs: Sequence[Any]) -> float:
        return max(self.gap(a, b) for a, b in zip(ours, theirs, strict=True))


@dataclasses.dataclass(frozen=True)
class Straight:
    """A learner after two stages without a break, its file after each, and each stage's contribution."""

    learner: Any
    files: Sequence[bytes]
    brought: dict[str, State | None]

    def archive(self, name: str) -> State | None:
        return copy.deepcopy(self.brought.get(name))


def _has(config: Any, key: str) -> bool:
    """Whether a configuration has a field of this dotted name."""
    for name in key.split("."):
        if not dataclasses.is_dataclass(config) or name not in {f.name for f in dataclasses.fields(config)}:
            return False
        config = getattr(config, name)
    return True


# ---------------------------------------------------------------- states


def written(learner: Learner) -> bytes:
    """The file that a learner's state makes."""
    return as_file(learner.state_dict())


def as_file(state: State) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        save_state(path, state)
        return path.read_bytes()


def read(file: bytes) -> State:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.safetensors"
        path.write_bytes(file)
        return load_state(path)


def difference(ours: bytes, theirs: bytes) -> str:
    """The entries in which two files of states differ, for a message; "" where the bytes are the same."""
    if ours == theirs:
        return ""
    a, b = flat(read(ours)), flat(read(theirs))
    names = [name for name in dict.fromkeys([*a, *b]) if not _alike(a.get(name), b.get(name))]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return shown or "the order of the entries"


def flat(state: Any, prefix: str = "") -> dict[str, Any]:
    """A nested state's tensors and plain values by their paths."""
    if not isinstance(state, dict | list | tuple):
        return {prefix: state}
    items = state.items() if isinstance(state, dict) else enumerate(state)
    out: dict[str, Any] = {}
    for key, value in items:
        out |= flat(value, f"{prefix}/{key}" if prefix else str(key))
    return out


def tensors(state: Any) -> dict[str, Tensor]:
    return {name: value for name, value in flat(state).items() if isinstance(value, Tensor)}


def _alike(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        return sha256_tensors({"": ours}) == sha256_tensors({"": theirs})
    if isinstance(ours, Tensor) or isinstance(theirs, Tensor):
        return False
    return json.dumps(ours) == json.dumps(theirs)
