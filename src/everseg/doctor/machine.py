"""What there is to run on: processor, memory, accelerator, disk, versions."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from everseg.distributed import process_peak

GROUP_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Limit and use of the memory of a container, in both versions of control groups."""


@dataclass(frozen=True)
class Machine:
    """One computer as a run would find it now. Sizes are in bytes; without an accelerator `gpu` is empty.

    threads: those that a run would use.
    disk: the folder that `disk_free` is about.
    """

    system: str
    cores: int
    threads: int
    memory: int
    memory_free: int
    gpu: str
    gpu_memory: int
    gpu_memory_free: int
    disk: str
    disk_free: int
    versions: dict[str, str]


def look(folder: Path) -> Machine:
    """This machine; the disk is that of `folder`."""
    memory, free = host_memory()
    name, gpu_free, gpu_memory = "", 0, 0
    if torch.cuda.is_available():
        name, (gpu_free, gpu_memory) = torch.cuda.get_device_name(), torch.cuda.mem_get_info()
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    # macOS does not bind processes to cores.
    cores = os.cpu_count() if sys.platform == "darwin" else len(psutil.Process().cpu_affinity())
    threads, disk_free = torch.get_num_threads(), shutil.disk_usage(there).free
    versions = {p: version(p) for p in ("everseg", "torch", "transformers")}
    versions["python"], system = platform.python_version(), f"{platform.system()} {platform.machine()}"
    on_disk = str(there), disk_free
    return Machine(system, cores or 1, threads, memory, free, name, gpu_memory, gpu_free, *on_disk, versions)


def host_memory() -> tuple[int, int]:
    """Bytes of memory in all, and of those a new process could take, within the limit of a container."""
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    for limit, use in GROUP_LIMITS:
        with suppress(OSError, ValueError):  # no control groups of this version, or no limit: "max"
            most, used = int(Path(limit).read_text()), int(Path(use).read_text())
            total, free = min(total, most), min(free, max(0, most - used))
    return total, free


def peak() -> tuple[int, int]:
    """Bytes at the peak since `reset_peak`."""
    return process_peak(), torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def reset_peak() -> None:
    """Begin a new peak. Where the system forbids that, the peak is that of everything so far."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
