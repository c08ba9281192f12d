"""Every endpoint is documented and answers; what cannot be answered is a sentence with its status."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.testclient import TestClient

from everseg.errors import UserError
from everseg.serve.limits import Refused
from everseg.serve.server import ServeConfig, Server
from everseg.serve.turns import Turns

CLICK = {"clicks": [{"x": 30, "y": 31}]}


def test_every_documented_endpoint_answers(start: Any, place: Path) -> None:
    """One after the other, as a page asks; the last lines compare with what /openapi.json lists."""
    _, client = start(live=True)
    asked: set[tuple[str, str]] = set()
    paths = list(client.get("/openapi.json").json()["paths"])
    patterns = {p: re.compile(re.sub(r"{\w+}", "[^/]+", p) + r"\Z") for p in paths}

    def call(method: str, path: str, status: int, **more: Any) -> Any:
        answer = client.request(method, path, **more)
        assert answer.status_code == status, (method, path, answer.text)
        bare = path.partition("?")[0]
        known = [p for p in sorted(paths, key=lambda p: "{" in p) if patterns[p].match(bare)]
        asked.add((method.lower(), known[0]))
        return answer

    about = call("GET", "/api/run", 200).json()
    assert about["problem"] == "domains" and about["modules"] == ["plain", "polyps", "cracks"]
    session = call("POST", "/api/sessions", 201).json()["session"]
    image = call("GET", "/api/images?limit=1", 200).json()["images"][0]["id"]
    painted = call("POST", "/api/painted", 201, json={"domain": "shadows", "count": 1}).json()["images"][0]
    again = call("POST", "/api/painted", 201, json={"domain": "shadows", "count": 1}).json()["images"][0]
    assert painted["id"] == again["id"] and painted["name"] == "shadows-00000.png"
    content = next((place / "images" / "deep").iterdir()).read_bytes()
    call("POST", "/api/images", 201, files={"file": ("x.png", content, "image/png")})
    assert call("GET", f"/api/images/{image}/picture", 200).headers["content-type"] == "image/png"
    assert call("GET", f"/api/images/{image}/thumbnail", 200).headers["content-type"] == "image/jpeg"
    body = {"session": session, "objects": [CLICK]}
    found = call("POST", f"/api/images/{image}/segment", 200, json=body).json()
    assert call("POST", f"/api/images/{image}/files", 200, json=body).content.startswith(b"PK")
    assert call("GET", f"/api/queue?session={session}", 200).json()["position"] == 0
    mask = found["masks"][0]
    mask = mask if len(mask) > 1 else [0, 64 * 64]
    label = {"image": image, "domain": "fields", "objects": [{**CLICK, "mask": mask}]}
    kept = call("POST", "/api/labels", 201, json=label).json()
    (domain,) = call("GET", "/api/labels", 200).json()["domains"]
    assert domain["train"] + domain["test"] == 1
    place_of = f"/api/labels/fields/{kept['name']}"
    assert call("GET", place_of, 200).json()["masks"] == [mask]
    assert call("GET", "/api/routes/fields", 200).json()["domain"] == "fields"
    call("DELETE", place_of, 204)
    call("GET", place_of, 404)
    assert call("GET", "/api/jobs", 200).json() == {"jobs": [], "state": about["state"]}
    call("POST", "/api/jobs", 409, json={"domain": "fields"})
    call("GET", "/api/jobs/001-x", 404)
    call("DELETE", "/api/jobs/001-x", 404)
    call("POST", "/api/jobs/001-x/accept", 404, json={})
    call("POST", "/api/jobs/001-x/discard", 404)
    call("GET", "/api/jobs/001-x/files/gate.html", 404)
    taught = call("POST", f"/api/images/{image}/correct", 200, json=body).json()
    assert taught["corrections"] == 1
    assert call("GET", f"/api/live/{session}", 200).json()["corrections"] == 1
    assert call("POST", f"/api/live/{session}/undo", 200).json()["undone"]
    call("DELETE", f"/api/live/{session}", 204)
    call("DELETE", f"/api/sessions/{session}", 204)
    listed = {
        (m, path) for path, methods in client.get("/openapi.json").json()["paths"].items() for m in methods
    }
    assert asked == listed


def test_every_endpoint_says_what_it_does(client: TestClient) -> None:
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, told in methods.items():
            assert told.get("description") and told["tags"], (method, path)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"session": 1}',
        b'{"session": "a", "objects": [{"clicks": [{"x": NaN, "y": 1}]}]}',
        b'{"session": "a", "objects": [{"clicks": [{"x": 1e999, "y": 1}]}]}',
        b'{"session": "a", "objects": [{"clicks": [{"x": -1, "y": 1}]}]}',
        b'{"session": "a", "stage": "\\ud800"}',
        b"\xff\xfe",
        b"[" * 5000,
    ],
)
def test_bodies_that_are_wrong_are_told_so(client: TestClient, body: bytes) -> None:
    image = client.get("/api/images").json()["images"][0]["id"]
    headers = {"content-type": "application/json"}
    answer = client.post(f"/api/images/{image}/segment", content=body, headers=headers)
    assert answer.status_code in (400, 422) and answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        (b"", "application/json", "the request is empty; send a JSON object"),
        (b"{", "application/json", "the request is not valid JSON: Expecting property name"),
        (b"\xff\xfe", "application/json", "the request is not valid JSON: "),
        (b"[]", "application/json", "the request is not a JSON object"),
        (b"{}", "text/plain", "send one with Content-Type: application/json"),
    ],
)
def test_a_body_that_is_no_json_object_is_said_to_be_none(
    client: TestClient, body: bytes, kind: str, says: str
) -> None:
    answer = client.post("/api/jobs", content=body, headers={"content-type": kind})
    assert answer.status_code == 422 and says in answer.json()["error"]


def test_a_second_server_of_the_labels_is_told_which_option_names_others(
    client: TestClient, place: Path
) -> None:
    with pytest.raises(UserError, match="choose another folder with --labels"):
        Server(ServeConfig(place / "run"))


@pytest.mark.parametrize(("run", "images"), [("nothing", None), ("run", "nothing")])
def test_a_server_that_cannot_start_leaves_nothing(place: Path, run: str, images: str | None) -> None:
    before = sorted(place.rglob("*"))
    labels = place / "new" / "labels"
    (place / "kept").mkdir()
    for folder in (labels, place / "kept"):
        with pytest.raises(UserError):
            Server(ServeConfig(place / run, images and place / images, folder))
    assert sorted(place.rglob("*")) == sorted([*before, place / "kept", place / "kept" / ".lock"])


def test_a_server_on_which_nothing_was_labelled_leaves_nothing(start: Any, place: Path) -> None:
    start()
    assert (place / "run-labels").is_dir()
    start(labels=place / "others")
    assert not (place / "run-labels").exists()


def test_masks_must_fit_their_image(client: TestClient) -> None:
    image = client.get("/api/images").json()["images"][0]["id"]
    for mask, says in (
        ([], "do not add up"),
        ([10, 10], "do not add up"),
        ([64 * 64], "no pixel"),
        ([2**50], ""),
    ):
        objects = [{**CLICK, "mask": mask}]
        answer = client.post("/api/labels", json={"image": image, "domain": "fields", "objects": objects})
        assert answer.status_code in (400, 422) and says in answer.json()["error"]


def test_jobs_have_turns_and_positions() -> None:
    turns, begun, go = Turns(2, 3), threading.Semaphore(0), threading.Event()

    def work() -> int:
        begun.release()
        assert go.wait(30)
        return 1

    async def all_of_them() -> list[int]:
        results: list[int] = []

        async def one(owner: str) -> None:
            results.append(await turns.run(owner, work))

        async with anyio.create_task_group() as group:
            for owner in ("a", "b", "c", "d", "e"):
                group.start_soon(one, owner)
                await anyio.sleep(0.05)
            assert turns.state == {"slots": 2, "running": 2, "waiting": 3}
            assert [turns.position(owner) for owner in "abcde"] == [0, 0, 1, 2, 3]
            with pytest.raises(Refused, match="3 requests are waiting"):
                await turns.run("f", work)
            with turns.taken():  # A process of its own has one of the cores.
                assert turns.state["slots"] == 1
            go.set()
        return results

    assert anyio.run(all_of_them) == [1] * 5
    turns.close()


def test_a_job_that_fails_leaves_its_thread_to_others() -> None:
    turns = Turns(1, 3)

    def fails() -> None:
        raise ValueError("no")

    async def both() -> int:
        with pytest.raises(ValueError, match="no"):
            await turns.run("a", fails)
        return await turns.run("a", lambda: 7)

    assert anyio.run(both) == 7
    turns.close()
