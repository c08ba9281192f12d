"""A small run, its stream on the disk, and a server of it that is asked in this process."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="everseg[serve] is not installed")
pytest.importorskip("httpx", reason="the test client needs httpx")

from starlette.testclient import TestClient

from everseg.data.synthetic.domains import SyntheticDomain
from everseg.files import read_json, write_json
from everseg.models.promptable.load import load_base
from everseg.runs.folder import load
from everseg.serve.app import application
from everseg.serve.runlengths import counts_of
from everseg.serve.server import ServeConfig, Server

assert importlib.util.find_spec("python_multipart")

HERE = "http://127.0.0.1:8008"
EARLIER = Path(__file__).parents[1] / "assets" / "earlier_run"
DATA = EARLIER / "data"


@pytest.fixture(scope="session")
def base() -> Any:
    """A random SAM of 64 x 64 pixels."""
    return load_base(str(EARLIER / "base"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with `run`, which knows two domains and its stream, and with `images`."""
    shutil.copytree(EARLIER / "runs" / "samcl", tmp_path / "run")
    record = read_json(tmp_path / "run" / "run.json")
    record["stream"], record["config"]["base"] = str(DATA / "stream.yaml"), str(EARLIER / "base")
    write_json(tmp_path / "run" / "run.json", record)
    shutil.copytree(DATA / "polyps" / "test" / "images", tmp_path / "images" / "deep")
    return tmp_path


Start = Callable[..., tuple[Server, TestClient]]


@pytest.fixture
def start(place: Path, base: Any) -> Iterator[Start]:
    """Start a server of the run; several times, one after the other."""
    open_ones: list[tuple[Server, TestClient]] = []

    def begin(**given: Any) -> tuple[Server, TestClient]:
        stop(open_ones)
        config = ServeConfig(place / "run", given.pop("images", place / "images"), jobs=2, **given)
        server = Server(config, load(place / "run", base))
        client = TestClient(application(server), base_url=HERE, raise_server_exceptions=True)
        client.__enter__()
        open_ones.append((server, client))
        return server, client

    yield begin
    stop(open_ones)


def stop(open_ones: list[tuple[Server, TestClient]]) -> None:
    while open_ones:
        open_ones.pop()[1].__exit__(None, None, None)


@pytest.fixture
def client(start: Start) -> TestClient:
    return start()[1]


def session(client: TestClient) -> str:
    return str(client.post("/api/sessions").json()["session"])


def painted(domain: str = "shadows", count: int = 8, size: int = 64) -> list[Any]:
    """Samples of a domain that the run does not know."""
    return list(SyntheticDomain(domain, count, size=size, split="serve"))


def upload(client: TestClient, samples: list[Any]) -> list[str]:
    """Upload their images; the ids."""
    from everseg.serve.gallery import to_picture

    files = [{"file": (sample.name, to_picture(sample.image), "image/png")} for sample in samples]
    return [client.post("/api/images", files=file).json()["id"] for file in files]


def label(client: TestClient, image: str, sample: Any, domain: str = "shadows") -> Any:
    """Accept the truth of a sample."""
    x, y = sample.prompts.points[0, 0].tolist()
    objects = [{"clicks": [{"x": x, "y": y}], "mask": counts_of(sample.masks[0].numpy())}]
    return client.post("/api/labels", json={"image": image, "domain": domain, "objects": objects})
