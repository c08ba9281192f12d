"""Label Studio's ML backend: its requests, as a real Label Studio sent them, and what becomes of them."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the ML backend needs everseg[serve]")

from starlette.testclient import TestClient

from everseg.data import Stream
from everseg.errors import UserError
from everseg.pictures.drawn import Region
from everseg.runs.folder import load
from everseg.serve.app import application
from everseg.serve.labelstudio.backend import Backend, router
from everseg.serve.labelstudio.results import clicked, control_of, masked, objects_in, pack, unpack
from everseg.serve.labelstudio.tasks import Studio
from everseg.serve.server import ServeConfig, Server

ASSETS = Path(__file__).parents[2] / "assets" / "labelstudio"
CONFIG = json.loads((ASSETS / "predict.json").read_text())["label_config"]
STUDIO = "http://localhost:8095"
HERE = "http://127.0.0.1:8008/label-studio"
SIZE = (40, 50)


def picture(seed: int) -> str:
    """An image as the address that a task may hold."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()


@pytest.fixture
def backend(place: Path, base: Any) -> Iterator[Backend]:
    server = Server(ServeConfig(place / "run", jobs=1), load(place / "run", base))
    yield Backend(server, Studio(STUDIO))
    server.close()


@pytest.fixture
def asked(backend: Backend) -> TestClient:
    return TestClient(application(backend.server, router(backend)), base_url=HERE)


def request(name: str, **task: Any) -> dict[str, Any]:
    """A request that Label Studio sent, about one of our images."""
    found: dict[str, Any] = json.loads((ASSETS / f"{name}.json").read_text())
    for one in [*found.get("tasks", []), *([found["task"]] if "task" in found else [])]:
        one["data"] = {"image": picture(one["id"])}
        one.update(task)
    for row in (found.get("params") or {}).get("context", {}).get("result", []):
        row |= {"original_width": SIZE[1], "original_height": SIZE[0]}
    return found


def test_run_lengths_are_label_studios_own() -> None:
    rng = np.random.default_rng(0)
    for mask in (rng.random(SIZE) < 0.5, np.zeros(SIZE, bool), np.ones((300, 400), bool)):
        assert np.array_equal(unpack(pack(mask), *mask.shape), mask)
    stroke = json.loads((ASSETS / "brush.json").read_text())  # packed by label_studio_sdk.converter.brush
    wanted = np.zeros((stroke["height"], stroke["width"]), bool)
    for x, y, w, h in stroke["rectangles"]:
        wanted[y : y + h, x : x + w] = True
    assert np.array_equal(unpack(stroke["rle"], *wanted.shape), wanted)
    with pytest.raises(UserError, match="damaged or belong to an image other than 50x40"):
        unpack(pack(np.ones((3, 3), bool)), *SIZE)


def test_masks_come_back_from_brushes_and_polygons() -> None:
    yy, xx = np.mgrid[: SIZE[0], : SIZE[1]]
    mask = np.hypot(xx - 20, yy - 18) < 9
    for config, least in ((CONFIG, 1.0), (CONFIG.replace("BrushLabels", "PolygonLabels"), 0.94)):
        rows = masked(Region.of(mask, 0, 0, SIZE), control_of(config), "lesion", 0.5)
        ((label, found),) = objects_in(rows, *SIZE)
        assert label == "lesion" and (found & mask).sum() / (found | mask).sum() >= least


def test_clicks_and_boxes_are_in_pixels() -> None:
    context = request("predict")["params"]["context"]["result"]
    found = clicked(context, 50, 40)
    assert found is not None and found.label == "lesion" and found.labels == (1,)
    x, y = context[0]["value"]["x"], context[0]["value"]["y"]
    assert found.points[0] == pytest.approx((x / 2, y * 0.4))
    assert clicked([{**context[0], "is_positive": False}], 50, 40) is None
    box = {"x": 10, "y": 20, "width": 50, "height": 30, "rectanglelabels": ["a"]}
    found = clicked([{"type": "rectanglelabels", "value": box}], 50, 40)
    assert found is not None and found.box == pytest.approx((5, 8, 30, 20))


def test_what_a_click_finds_is_what_the_run_says(backend: Backend, asked: TestClient) -> None:
    assert asked.get("/health").json()["status"] == "UP"
    assert asked.post("/setup", json=request("setup")).json()["model_version"] == backend.version
    given = request("predict")
    told = asked.post("/predict", json=given).json()["results"]
    value = given["params"]["context"]["result"][0]["value"]
    image = Image.open(io.BytesIO(base64.b64decode(given["tasks"][0]["data"]["image"].partition(",")[2])))
    run = backend.server.answers.run
    wanted = run.predict(image, points=[(value["x"] / 100 * SIZE[1], value["y"] / 100 * SIZE[0])])
    ((_, mask),) = objects_in(told[0]["result"], *SIZE)
    assert np.array_equal(mask, wanted.masks[0])
    assert told[0]["score"] == pytest.approx(float(wanted.iou[0]), abs=1e-3)
    (shown,) = asked.get("http://127.0.0.1:8008/api/images").json()["images"]
    assert shown["uploaded"], "the page shows the image that was clicked"


def test_other_sites_and_names_are_refused(backend: Backend, asked: TestClient) -> None:
    """A page that is open in the same browser must not bring a token, nor begin anything."""
    setup = request("setup")
    for headers, status in (
        ({"origin": "http://evil.example"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),
        ({"host": "evil.example"}, 421),
    ):
        assert asked.post("/setup", json=setup, headers=headers).status_code == status
        assert asked.get("/health", headers=headers).status_code == status
    assert not backend.studio.token


def test_the_token_goes_to_the_address_that_was_given(backend: Backend, asked: TestClient) -> None:
    """Whatever address a request claims to be Label Studio's."""
    setup = request("setup") | {"hostname": "http://evil.example"}
    assert asked.post("/setup", json=setup).status_code == 200
    assert backend.studio.host == STUDIO and backend.studio.token
    for wrong in (
        "localhost:8080",
        "file:///x",
        "",
        "http://[::1",
        "http://a b",
        "http://a:99999",
        "http://:80",
        "http://[",
        "http://[::1]x",
        "http://[v1.x]",
        "http://a..b",
        "http://-",
        "http://%zz",
        "http://<x>",
        "http://a\\b",
        "http://a?x=1",
        "http://a#b",
        "http://me:word@a",
        "http://" + "a" * 300,
        "http://me:word@localhost",
        "http://localhost/?x=1",
    ):
        with pytest.raises(UserError, match="is not an address of Label Studio"):
            Studio(wrong)
    for right in (
        "http://localhost:8080/",
        "https://[::1]:8080",
        "http://10.0.0.3",
        "http://höhle.example/studio",
    ):
        assert Studio(right).host == right.rstrip("/")


def test_a_password_is_asked_for_where_there_is_one(place: Path, base: Any) -> None:
    word = "0123456789abcdef"
    server = Server(ServeConfig(place / "run", token=word, jobs=1), load(place / "run", base))
    client = TestClient(application(server, router(Backend(server, Studio(STUDIO)))), base_url=HERE)
    assert client.get("/health").status_code == 401
    assert client.get("/health", auth=("studio", word)).status_code == 200
    assert client.get("/health", auth=("studio", word[1:])).status_code == 401
    assert client.get("/health", headers={"authorization": "Basic ???"}).status_code == 401
    server.close()


def test_a_run_of_classes_is_refused() -> None:
    classes = SimpleNamespace(config=SimpleNamespace(method="eir"))
    server: Any = SimpleNamespace(answers=SimpleNamespace(run=classes))
    with pytest.raises(UserError, match="'eir' learns classes, and Label Studio points at single objects"):
        Backend(server, Studio(STUDIO))


def test_without_the_option_there_are_no_endpoints(backend: Backend) -> None:
    client = TestClient(application(backend.server), base_url=HERE)
    assert client.get("/health").status_code == 404


def test_without_a_click_there_is_nothing(asked: TestClient) -> None:
    given = request("predict")
    given["params"]["context"] = None
    assert asked.post("/predict", json=given).json()["results"] == [
        {"result": [], "score": 0.0, "model_version": asked.get("/health").json()["model_version"]}
    ]


def test_faults_are_sentences(asked: TestClient) -> None:
    wrong = asked.post("/setup", json={"schema": "<View/>"})
    assert wrong.status_code == 400 and "add one for the masks" in wrong.json()["error"]
    assert asked.post("/predict", content=b"no json").status_code == 400
    assert asked.post("/predict", json=[1]).status_code == 422
    given = request("predict")
    given["tasks"][0]["data"] = {"image": "file:///etc/passwd"}
    refused = asked.post("/predict", json=given)
    assert refused.status_code == 400 and "not an HTTP address" in refused.json()["error"]


def annotated(asked: TestClient, count: int, size: int = 15) -> None:
    for number in range(1, count + 1):
        given = request("webhook", id=number, data={"image": picture(number)})
        mask = np.zeros(SIZE, bool)
        mask[5:20, number : number + size] = True
        rows = masked(Region.of(mask, 0, 0, SIZE), control_of(CONFIG), "lesion", 1.0)
        given["annotation"] |= {"id": 100 + number, "task": number, "result": rows}
        assert asked.post("/webhook", json=given).json() == {"objects": 1, "domain": "everseg"}


def test_annotations_become_a_domain_of_the_page(backend: Backend, asked: TestClient) -> None:
    annotated(asked, 5, 9)
    annotated(asked, 5)  # Corrected: the newest masks count.
    (domain,) = asked.get("http://127.0.0.1:8008/api/labels").json()["domains"]
    assert (domain["domain"], domain["train"] + domain["test"]) == ("everseg", 5) and domain["test"]
    (stage,) = Stream.from_yaml(backend.server.labels.folder / "labels.yaml").stages
    assert stage.train[0].masks.sum() == stage.test[0].masks.sum() == 15 * 15
    # As Label Studio says it: by the annotation alone. An older one of a task is not its newest.
    gone = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 101}, {"id": 1}]}
    gone["project"] = request("webhook")["project"]
    assert asked.post("/webhook", json=gone).status_code == 200
    emptied = request("webhook", id=2, data={"image": picture(2)})
    emptied["annotation"]["result"] = []
    assert asked.post("/webhook", json=emptied).json() == {"objects": 0}
    (domain,) = asked.get("http://127.0.0.1:8008/api/labels").json()["domains"]
    assert domain["train"] + domain["test"] == 3


def test_annotations_may_come_many_at_a_time(backend: Backend, asked: TestClient) -> None:
    given = request("webhook")
    mask = np.ones(SIZE, bool)
    rows = masked(Region.of(mask, 0, 0, SIZE), control_of(CONFIG), "lesion", 1.0)
    given["action"] = "ANNOTATIONS_CREATED"
    given["task"] = [{**given["task"], "id": n, "data": {"image": picture(n)}} for n in (2, 1)]
    given["annotation"] = [{**given["annotation"], "id": n, "task": n, "result": rows} for n in (1, 2)]
    assert asked.post("/webhook", json=given).json() == {"objects": 2}
    assert len(backend.server.labels.domains["everseg"]) == 2


def test_a_project_keeps_its_domain_whatever_it_is_called_later(backend: Backend) -> None:
    assert backend._domain({"id": 1, "title": "New Project #1"}) == "New-Project-1"
    assert backend._domain({"id": 1, "title": "Polyps"}) == "New-Project-1"
    assert backend._domain({"id": 2, "title": "⚕"}) == "label-studio-2"
    assert backend._domain({"id": 3, "title": "plain"}) == "label-studio-3"
    assert Backend(backend.server, Studio(STUDIO))._domain({"id": 1}) == "New-Project-1", "after a restart"


def test_training_is_begun_once_and_told_of(
    backend: Backend, asked: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning = backend.server.learning
    monkeypatch.setattr(learning, "_learn", lambda job: learning._save(_ready(job, verdict)))
    accepted: list[str] = []

    def accept(name: str) -> None:
        accepted.append(name)
        with learning._lock:
            learning._drop(learning._job(name), "accepted")

    monkeypatch.setattr(learning, "accept", accept)
    assert asked.post("/job_status", json={}).json()["job_status"] == "finished"
    few = asked.post("/webhook", json=request("start"))
    assert few.status_code == 409 and "label and accept one more image" in few.json()["error"]
    annotated(asked, 3)
    verdict = "undecided"
    assert asked.post("/webhook", json=request("start")).json()["status"] == "learning"
    assert _ended(asked) == ("finished", "")
    assert accepted == ["001-everseg"]
    verdict = "fail"
    assert asked.post("/train", json={"project": "2.1795924312"}).status_code == 200
    state, said = _ended(asked)
    assert state == "failed" and "makes the run worse; look at it on the page" in said
    assert accepted == ["001-everseg"], "somebody has to decide"


def _ready(job: Any, verdict: str) -> Any:
    return replace(job, state="ready", verdict=verdict)


def _ended(asked: TestClient) -> tuple[str, str]:
    for _ in range(300):
        told = asked.post("/job_status", json={}).json()
        if told["job_status"] != "started":
            return told["job_status"], told["error"]
        time.sleep(0.02)
    raise AssertionError("it does not end")
