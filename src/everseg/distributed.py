"""One process or several: who am I, how much memory I took, and the three exchanges that training and scoring
need.

Works under `torchrun` and `accelerate launch`; without them there is one process and nothing is exchanged.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # `everseg --help` does not load torch.
    import torch
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process's place among its siblings."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0


@cache
def world() -> World:
    """Join the process group that the launcher's environment names, once, and leave it when the program ends;
    the device is the accelerator if any."""
    import torch

    cpu = not torch.cuda.is_available()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World(0, 1, torch.device("cpu" if cpu else "cuda"))
    # Imported before there is a group: the defaults of its functions hold the one that they find, so that it
    # could not be left, and transformers imports it sooner or later.
    import torch.distributed.nn.functional
    from accelerate import PartialState

    state = PartialState(cpu=cpu)
    atexit.register(_leave)
    return World(state.process_index, state.num_processes, state.device)


def _leave() -> None:
    """Leave the process group, unless the program has: its threads abort the process now and then if
    they outlive the interpreter."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def shard(items: Sequence[int]) -> list[int]:
    """This process's share of a batch of indices: every size-th. Shares of a small batch may be empty."""
    here = world()
    return list(items[here.rank :: here.size])


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over processes, in one exchange. All of one type and device."""
    if world().size == 1 or not tensors:
        return
    import torch
    import torch.distributed as dist

    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def gather(mine: list[T]) -> list[list[T]]:
    """Every process's list, in rank order, on every process."""
    if world().size == 1:
        return [mine]
    import torch.distributed as dist

    out: list[list[T]] = [[] for _ in range(world().size)]
    dist.all_gather_object(out, mine)
    return out


def wait() -> None:
    """Wait until every process is here."""
    if world().size > 1:
        import torch.distributed as dist

        dist.barrier()


def peak_memory() -> int:
    """The largest memory so far, in bytes: of the accelerator if there is one, else of this process."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else process_peak()


def process_peak() -> int:
    """The most memory that this process has held so far, in bytes, as the system counts it."""
    if sys.platform == "linux":  # getrusage would count the peak of the process that started this one, too.
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
        assert found is not None, "Linux tells the peak of a process"
        return 1024 * int(found[1])
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource  # psutil knows no peak on macOS and BSD.

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
