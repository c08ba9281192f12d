"""What Windows lacks is needed neither to import the package nor to learn a stream."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from everseg.data import write_synthetic_stream

WITHOUT = """
import os, sys
import filelock, psutil  # These have a part for each system.
for name in ("fcntl", "resource", "grp", "pwd", "termios"):
    sys.modules[name] = None
del os.fork, os.sched_getaffinity

import importlib, pkgutil
import everseg
for module in pkgutil.walk_packages(everseg.__path__, "everseg."):
    if module.name != "everseg.__main__":
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:  # A panel within napari, which is an extra.
            if error.name not in ("napari", "qtpy"):
                raise

from everseg.data import Stream
from everseg.doctor.machine import look
stream, base, out = sys.argv[1:]
config = everseg.RunConfig("samcl", everseg.configure("samcl", "paper", ["tune.fit.steps=1"]), base)
everseg.run(Stream.from_yaml(stream), config, out)
assert look(everseg.load(out).folder).memory > 0
"""


@pytest.mark.slow
def test_a_stream_is_learned_without_what_windows_lacks(micro_folder: Path, tmp_path: Path) -> None:
    stream = write_synthetic_stream(tmp_path / "data", ("lesions",), train=2, test=1, size=64)
    command = [sys.executable, "-c", WITHOUT, stream, micro_folder, tmp_path / "run"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "run.json").is_file()
