"""What there is to run on: processor, memory, accelerator, disk, versions."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")
GROUP_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
"""Limit and use of the control group that a container's processes are in, in its two versions."""


@dataclass(frozen=True)
class Machine:
    """One computer as a run would find it now. Bytes; `gpu` is empty and its bytes are 0 without an
    accelerator."""

    system: str
    cores: int
    threads: int
    memory: int
    memory_free: int
    gpu: str
    gpu_memory: int
    gpu_memory_free: int
    disk: str  # the folder that the next is about
    disk_free: int
    versions: dict[str, str]


def look(folder: Path) -> Machine:
    """This machine; the disk is the one that `folder` would lie on."""
    memory, free = host_memory()
    name, gpu_memory, gpu_free = "", 0, 0
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        gpu_free, gpu_memory = torch.cuda.mem_get_info()
    there = existing(folder)
    versions = {p: version(p) for p in ("everseg", "torch", "transformers")}
    return Machine(
        f"{platform.system()} {platform.machine()}",
        _cores(),
        torch.get_num_threads(),
        memory,
        free,
        name,
        gpu_memory,
        gpu_free,
        str(there),
        shutil.disk_usage(there).free,
        versions | {"python": platform.python_version()},
    )


def existing(path: Path) -> Path:
    """The nearest folder above `path`, or itself, that is there."""
    path = path.absolute()
    return next(p for p in (path, *path.parents) if p.is_dir())


def host_memory() -> tuple[int, int]:
    """Bytes of memory in all, and of those a new process could take: Linux's estimate, within the limit of
    the control group. Elsewhere nobody says what is free; then both are what is built in."""
    if MEMINFO.is_file():
        lines = dict(re.findall(r"^(\w+):\s+(\d+) kB$", MEMINFO.read_text(), re.MULTILINE))
        total, free = 1024 * int(lines["MemTotal"]), 1024 * int(lines["MemAvailable"])
    else:
        total = free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit, use in GROUP_LIMITS:
        try:
            most, used = int(limit.read_text()), int(use.read_text())
        except (OSError, ValueError):  # no such version of control groups, or "max"
            continue
        if most < total:
            total, free = most, min(free, max(0, most - used))
    return total, free


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


# ---------------------------------------------------------------- memory of this process


def _status(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def level() -> tuple[int, int]:
    """Bytes in use now, of the host and of the accelerator; on the host the peak so far where the system
    does not tell them apart."""
    gpu = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    return (_status("VmRSS"), gpu) if sys.platform == "linux" else (peak()[0], gpu)


def peak() -> tuple[int, int]:
    """Bytes at the peak since `reset_peak`."""
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    if sys.platform == "linux":  # getrusage would count the peak of whoever started this process.
        return _status("VmHWM"), gpu
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024, gpu


def reset_peak() -> None:
    """Begin a new peak. Where the system forbids it the peak is that of everything so far, which errs on the
    safe side."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
