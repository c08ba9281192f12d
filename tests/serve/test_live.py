"""A live session over HTTP: it changes answers of its own page, and no byte of the run."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from everseg.files import read_json, write_json
from everseg.runs.folder import load
from everseg.serve import live

RUNS = Path(__file__).parents[1] / "assets" / "earlier_run" / "runs"
Start = Callable[..., Any]

CLICKS = [{"x": 30, "y": 31}, {"x": 5, "y": 6, "on": 0}]
MASK = [64 * 20, 64 * 20, 64 * 24]


def content(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"]
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


class Page:
    """What a page asks for, with a session of its own."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.session = str(client.post("/api/sessions").json()["session"])
        self.image = client.get("/api/images").json()["images"][0]["id"]

    def asks(self, **more: Any) -> Any:
        body = {"session": self.session, "objects": [{"clicks": CLICKS}], **more}
        return self.client.post(f"/api/images/{self.image}/segment", json=body)

    def teaches(self, mask: Any = None, **more: Any) -> Any:
        body = {"session": self.session, "objects": [{"clicks": CLICKS, "mask": mask}], **more}
        return self.client.post(f"/api/images/{self.image}/correct", json=body)

    def masks(self, **more: Any) -> Any:
        return self.asks(**more).json()["masks"]


def test_a_page_teaches_its_own_answers_and_not_the_run(start: Start, place: Path) -> None:
    server, client = start(live=True)
    assert client.get("/api/run").json()["live"]
    page, other = Page(client), Page(client)
    before, known = content(place / "run"), page.asks().json()
    assert page.asks(live=True).json()["record"] == known["record"]
    passes = server.answers.run.learner.cache.misses
    for mask in (None, MASK, None, MASK):
        told = page.teaches(mask)
        assert told.status_code == 200, told.text
    assert told.json() | {"seconds": 0} == {"start": "polyps", "corrections": 4, "objects": 2, "seconds": 0}
    taught = page.asks(live=True).json()
    assert server.answers.run.learner.cache.misses == passes  # Not one pass through the trunk.
    assert taught["live"]["corrections"] == 4 and taught["record"]["masks"] != known["record"]["masks"]
    assert page.asks().json()["record"] == known["record"]
    assert other.asks(live=True).json()["record"] == known["record"]
    assert content(place / "run") == before
    for left in (3, 2, 1, 0):
        undone = client.post(f"/api/live/{page.session}/undo").json()
        assert (undone["undone"], undone["corrections"]) == (True, left)
    assert not client.post(f"/api/live/{page.session}/undo").json()["undone"]
    assert page.asks(live=True).json()["record"] == known["record"]


def test_what_was_taught_is_thrown_away(start: Start) -> None:
    server, client = start(live=True)
    page = Page(client)
    page.teaches(MASK)
    assert client.get(f"/api/live/{page.session}").json()["objects"] == 1
    assert client.delete(f"/api/live/{page.session}").status_code == 204
    assert client.get(f"/api/live/{page.session}").json() == {"start": None, "corrections": 0, "objects": 0}
    page.teaches(MASK)
    server._grown(server.answers.run)  # A job was accepted: the run answers otherwise.
    assert client.get(f"/api/live/{page.session}").json()["objects"] == 0
    client.delete(f"/api/sessions/{page.session}")
    assert client.get(f"/api/live/{page.session}").status_code == 410


def test_what_a_live_session_does_not_do_is_a_sentence(
    start: Start, place: Path, base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, client = start()
    page = Page(client)
    assert not client.get("/api/run").json()["live"]
    for refused in (page.asks(live=True), page.teaches(MASK)):
        assert refused.status_code == 409 and "start it with --live" in refused.json()["error"]
    _, client = start(live=True)
    page = Page(client)
    for body, status, says in (
        ({"objects": []}, 422, "objects"),
        ({"objects": [{"clicks": [{"x": 99, "y": 1}]}]}, 400, "lies outside the image"),
        ({"objects": [{"clicks": CLICKS, "mask": [3]}]}, 400, "do not add up"),
        ({"objects": [{"clicks": CLICKS, "mask": [64 * 64]}]}, 400, "at least one pixel"),
        ({"session": "gone"}, 410, "reload"),
    ):
        refused = page.teaches(MASK, **body)
        assert refused.status_code == status and says in refused.json()["error"], body
    monkeypatch.setattr(live, "LIVE", 1)
    other = Page(client)
    for asking in (other.asks(live=True), client.get(f"/api/live/{other.session}")):  # Takes no place.
        assert asking.status_code == 200
    assert client.post(f"/api/live/{other.session}/undo").json()["undone"] is False
    assert page.teaches(MASK).status_code == 200
    refused = other.teaches(MASK)
    assert refused.status_code == 503 and "the limit of 1 live session is reached" in refused.json()["error"]
    assert other.asks(live=True).status_code == 200
    client.delete(f"/api/live/{page.session}")
    assert other.teaches(MASK).status_code == 200


def test_a_session_sets_out_from_the_one_adapter_of_a_method_that_merges(
    start: Start, place: Path, base: Any
) -> None:
    shutil.rmtree(place / "run")
    record = read_json(shutil.copytree(RUNS / "regcl", place / "run") / "run.json")
    record["config"]["base"] = str(RUNS.parent / "base")
    write_json(place / "run" / "run.json", record)
    assert load(place / "run", base).config.method == "regcl"
    _, client = start(live=True)
    page = Page(client)
    assert page.teaches(MASK).json()["start"] in ("module", "merged", "")
