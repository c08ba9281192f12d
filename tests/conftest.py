"""What every test stands on: no network, few threads, the same random numbers, and real data if given."""

from __future__ import annotations

import os

# Before transformers is imported by anything: it reads this once.
os.environ["HF_HUB_OFFLINE"] = "1"

import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

# As many as there are on a small machine, shared out among the processes that test.
THREADS = max(1, 2 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
os.environ["OMP_NUM_THREADS"] = str(THREADS)  # for the commands that a test begins
torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Global generators start every test alike, whatever ran before it. The code under test has its own."""
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)  # torch.manual_seed also formats a stack for each kind of device


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting to another machine is an error; this machine and its sockets in the file system are not."""

    def guarded(connect: Any) -> Any:
        def only_here(self: socket.socket, address: Any) -> Any:
            host = address[0] if isinstance(address, tuple) else "localhost"
            if not (host in ("localhost", "::1") or host.startswith("127.")):
                raise RuntimeError(f"a test tried to reach {address!r}: tests use no network")
            return connect(self, address)

        return only_here

    monkeypatch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets. Tests that use it carry the mark `realdata`."""
    given = os.environ.get("EVERSEG_DATA")
    if not given:
        pytest.skip("EVERSEG_DATA is not set: it names the folder of real data sets")
    root = Path(given)
    assert root.is_dir(), f"EVERSEG_DATA is {given!r}, which is not a folder"
    return root


# ---------------------------------------------------------------- a base that is built in no time


@pytest.fixture(scope="session")
def micro_model() -> Any:
    """See `everseg.testing.micro_sam`."""
    from everseg.testing import micro_sam

    return micro_sam()


@pytest.fixture(scope="session")
def micro(micro_model: Any) -> Any:
    """The micro base, frozen. Its laws are SAM's; its masks mean nothing."""
    from everseg.models.promptable.sam import Sam

    return Sam(micro_model, "micro")


@pytest.fixture(scope="session")
def micro_folder(micro_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro base as a folder that `--base` takes."""
    folder = tmp_path_factory.mktemp("base") / "micro"
    micro_model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def micro2_model() -> Any:
    """See `everseg.testing.micro_sam2`."""
    from everseg.testing import micro_sam2

    return micro_sam2()


@pytest.fixture(scope="session")
def micro2_folder(micro2_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro SAM 2 as a folder that `--base` takes."""
    folder = tmp_path_factory.mktemp("base") / "micro2"
    micro2_model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def micro_backbone_model() -> Any:
    """See `everseg.testing.micro_resnet`."""
    from everseg.testing import micro_resnet

    return micro_resnet()


@pytest.fixture(scope="session")
def micro_backbone() -> Any:
    """What a run of classes starts from."""
    from everseg.testing import micro_backbone

    return micro_backbone()


@pytest.fixture(scope="session")
def micro_backbone_folder(micro_backbone_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro backbone as a folder that `--base` takes."""
    folder = tmp_path_factory.mktemp("base") / "backbone"
    micro_backbone_model.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _one_thread_for_small_things(request: pytest.FixtureRequest) -> Iterator[None]:
    """On tensors as small as the micro base's, threads wait for each other for longer than they work."""
    small = any(name.startswith("micro") for name in request.fixturenames)
    torch.set_num_threads(1 if small else THREADS)
    yield
    torch.set_num_threads(THREADS)
