"""Learning beside the run: the bytes are those of the command, and nobody's kill loses anything."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from everseg.data import Stream
from everseg.data.synthetic.domains import SyntheticDomain
from everseg.errors import UserError
from everseg.runs.continued import learn_command
from everseg.runs.folder import load
from everseg.runs.forget import forget
from everseg.runs.history import history
from everseg.serve import learning
from everseg.serve.gallery import to_picture
from everseg.serve.jobs import progress_of
from everseg.serve.runlengths import counts_of

SAMPLES = list(SyntheticDomain("shadows", 8, size=64, split="serve"))


def labelled(client: Any, domain: str = "shadows", count: int = 8) -> list[str]:
    """Upload painted images and accept their truth; the names in the domain."""
    names = []
    for sample in SAMPLES[:count]:
        file = {"file": (sample.name, to_picture(sample.image), "image/png")}
        image = client.post("/api/images", files=file).json()["id"]
        x, y = sample.prompts.points[0, 0].tolist()
        objects = [{"clicks": [{"x": x, "y": y}], "mask": counts_of(sample.masks[0].numpy())}]
        answer = client.post("/api/labels", json={"image": image, "domain": domain, "objects": objects})
        assert answer.status_code == 201, answer.text
        names.append(answer.json()["name"])
    return names


def wait_for(client: Any, job: str, *states: str, seconds: float = 400) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = client.get(f"/api/jobs/{job}").json()
        if found["state"] in states:
            return found
        assert found["state"] != "failed", found
        time.sleep(0.1)
    raise AssertionError(f"{job} is still {found['state']}: {found.get('says')}")


def content(folder: Path) -> dict[str, str]:
    """All that counts of a run: everything but the log and what the gate said."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name not in (".lock", "events.jsonl")]
    files = [p for p in files if not p.name.startswith("gate-")]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture
def asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that never end by themselves."""

    def begin(words: Any, log: Path) -> subprocess.Popen[bytes]:
        log.write_text(" ".join(words))
        return subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
        )

    monkeypatch.setattr(learning, "begin", begin)


@pytest.mark.usefixtures("asleep")
def test_jobs_wait_in_a_queue_and_are_cancelled(client: TestClient, place: Path) -> None:
    before = content(place / "run")
    labelled(client, "shadows", 4)
    labelled(client, "fields", 4)
    first = client.post("/api/jobs", json={"domain": "shadows"}).json()
    second = client.post("/api/jobs", json={"domain": "fields"}).json()
    again = client.post("/api/jobs", json={"domain": "fields"})
    assert again.status_code == 409 and "accept it or throw it away" in again.json()["error"]
    wait_for(client, first["id"], "learning")
    assert client.get(f"/api/jobs/{second['id']}").json()["position"] == 1
    for job in (second, first):
        assert client.delete(f"/api/jobs/{job['id']}").status_code == 200
        wait_for(client, job["id"], "cancelled")
    assert client.delete(f"/api/jobs/{first['id']}").status_code == 409
    labels = place / "run-labels"
    assert not list((labels / "stages").iterdir()) and not list((labels / "streams").iterdir())
    assert content(place / "run") == before
    domains = client.get("/api/labels").json()["domains"]
    assert {d["domain"]: d["train"] + d["test"] for d in domains} == {"shadows": 4, "fields": 4}


@pytest.mark.usefixtures("asleep")
def test_labels_change_while_their_domain_is_learned(client: TestClient, place: Path) -> None:
    name, *_ = labelled(client, count=4)
    job = client.post("/api/jobs", json={"domain": "shadows"}).json()
    wait_for(client, job["id"], "learning")
    frozen = content(place / "run-labels" / "stages" / "shadows")
    assert client.delete(f"/api/labels/shadows/{name}").status_code == 204
    labelled(client)
    assert content(place / "run-labels" / "stages" / "shadows") == frozen
    client.delete(f"/api/jobs/{job['id']}")
    wait_for(client, job["id"], "cancelled")


def test_the_page_names_the_domain_that_labelled_images_look_like(client: TestClient, place: Path) -> None:
    """The stream that it learns from says so, for anybody who learns it by the command."""
    names = [i["id"] for i in client.get("/api/images").json()["images"]]
    whole = [{"clicks": [{"x": 30, "y": 31}], "mask": [0, 64 * 64]}]
    for image in names:
        client.post("/api/labels", json={"image": image, "domain": "clinic", "objects": whole})
    labelled(client, "shadows", 4)
    told = client.get("/api/routes/clinic").json()
    assert told == {"domain": "clinic", "modules": {"polyps": len(names)}, "later_of": "polyps"}
    assert client.get("/api/routes/nothing").status_code == 404
    refused = client.post("/api/jobs", json={"domain": "clinic", "later_of": "nobody"})
    assert refused.status_code == 409 and "choose one of polyps, cracks" in refused.json()["error"]


@pytest.mark.usefixtures("asleep")
def test_a_domain_goes_on_with_one_of_the_run(client: TestClient, place: Path) -> None:
    labelled(client, "shadows", 4)
    job = client.post("/api/jobs", json={"domain": "shadows", "later_of": "polyps"}).json()
    assert job["later_of"] == "polyps"
    stream, end = place / "run-labels" / "streams" / "shadows.yaml", time.monotonic() + 60
    while not stream.is_file() and time.monotonic() < end:
        time.sleep(0.01)
    stages = Stream.from_yaml(stream).stages
    assert [(stage.name, stage.later_of) for stage in stages] == [
        ("polyps", ""),
        ("cracks", ""),
        ("shadows", "polyps"),
    ]
    client.delete(f"/api/jobs/{job['id']}")
    wait_for(client, job["id"], "cancelled")


def test_what_cannot_be_learned_is_a_sentence(client: TestClient) -> None:
    for domain, says in (("nothing", "no image to train on"), ("shadows", "no image")):
        answer = client.post("/api/jobs", json={"domain": domain})
        assert answer.status_code == 409 and says in answer.json()["error"]
        labelled(client, "shadows", 1)
    assert client.get("/api/jobs").json()["jobs"] == []
    assert client.get("/api/jobs/001-x").status_code == 404
    assert client.post("/api/jobs/001-x/accept", json={}).status_code == 404


@pytest.mark.usefixtures("asleep")
def test_a_run_that_another_command_changed_is_read_again(
    start: Callable[..., Any], place: Path, base: Any
) -> None:
    """What was forgotten on the disk answers no more, not even on an open page, nor is it learned on."""
    server, client = start()
    labelled(client, count=3)
    image = client.get("/api/images").json()["images"][0]["id"]
    page = client.post("/api/sessions").json()["session"]
    body = {"session": page, "objects": [{"clicks": [{"x": 30, "y": 31}]}], "stage": "cracks"}
    before = client.post(f"/api/images/{image}/segment", json=body).json()
    assert before["stage"] == "cracks" and before["state"] == client.get("/api/jobs").json()["state"]
    forget(place / "run", "cracks", base=base)
    for path in ("segment", "files"):
        refused = client.post(f"/api/images/{image}/{path}", json=body)
        assert (
            refused.status_code == 404
            and "no module 'cracks'; it has plain, polyps" in refused.json()["error"]
        )
    after = client.post(f"/api/images/{image}/segment", json=body | {"stage": None}).json()
    assert after["state"] != before["state"]
    assert client.get("/api/run").json()["learned"] == ["polyps"] and server.answers.run.learned == ["polyps"]
    kept = server.answers
    client.post(f"/api/images/{image}/segment", json=body | {"stage": None})
    assert server.answers is kept  # Nothing has changed since.
    forget(place / "run", "polyps", base=base)
    answer = client.post("/api/jobs", json={"domain": "shadows", "later_of": "polyps"})
    assert answer.status_code == 409 and "choose one of no domain" in answer.json()["error"]
    (place / "run").rename(place / "gone")
    refused = client.post(f"/api/images/{image}/segment", json=body | {"stage": None})
    assert refused.status_code == 400 and "run.json is missing" in refused.json()["error"]
    (place / "gone").rename(place / "run")
    assert client.post(f"/api/images/{image}/segment", json=body | {"stage": None}).status_code == 200


@pytest.mark.usefixtures("asleep")
def test_a_full_disk_ends_a_job_and_not_the_queue(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled(client, count=4)
    asked, write = {"domain": "shadows"}, learning.write_json

    def full(path: Path, value: Any, fails: tuple[str, ...]) -> None:
        if value["state"] in fails:
            raise UserError(
                f"cannot write {path}: it is full; free some space and run the same command again"
            )
        write(path, value)

    with monkeypatch.context() as patched:
        patched.setattr(learning, "write_json", partial(full, fails=("queued",)))
        refused = client.post("/api/jobs", json=asked)
        assert refused.status_code == 400 and refused.json()["error"].endswith(
            "free some space and try again"
        )
        assert client.get("/api/jobs").json()["jobs"] == []
        patched.setattr(learning, "write_json", partial(full, fails=("learning", "failed", "discarded")))
        job = client.post("/api/jobs", json=asked).json()["id"]
        assert wait_for(client, job, "failed")["error"].endswith("free some space and try again")
        assert client.post(f"/api/jobs/{job}/discard").json()["state"] == "discarded"
    job = client.post("/api/jobs", json=asked).json()["id"]
    wait_for(client, job, "learning")
    client.delete(f"/api/jobs/{job}")
    wait_for(client, job, "cancelled")


def test_progress_is_read_from_the_runs_log(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    line = '{"event": "progress", "stage": "a", "step": %d, "steps": 9, "loss": %s, "seconds_left": 8.5}\n'
    log.write_text(
        line % (1, "0.5") + line % (2, "null") + line.replace('"a"', '"b"') % (7, "1") + '{"event": "pro'
    )
    found = progress_of(log, "a")
    assert (found["step"], found["steps"], found["left"], found["losses"]) == (2, 9, 8.5, [(1, 0.5)])
    assert progress_of(tmp_path / "none", "a")["losses"] == []


# ---------------------------------------------------------------- with the commands themselves


@pytest.mark.slow
@pytest.mark.parametrize("later_of", [None, "polyps"])
def test_the_run_is_what_the_command_would_have_made(
    start: Callable[..., Any], place: Path, base: Any, later_of: str | None
) -> None:
    server, client = start()
    labelled(client)
    job = client.post("/api/jobs", json={"domain": "shadows", "later_of": later_of}).json()
    ready = wait_for(client, job["id"], "ready")
    assert load(place / "run", base).learned == ["polyps", "cracks"]
    assert {c["column"] for c in ready["gate"]["comparisons"]} > {"polyps", "cracks", "shadows"}
    for change in ready["changes"]:
        for file in change["pictures"].values():
            assert client.get(f"/api/jobs/{job['id']}/files/{file}").content.startswith(b"\x89PNG")
    assert "<html" in client.get(f"/api/jobs/{job['id']}/files/gate.html").text
    assert client.get(f"/api/jobs/{job['id']}/files/job.json").status_code == 404

    direct = Path(shutil.copytree(place / "run", place / "direct"))
    stream = place / "run-labels" / "streams" / "shadows.yaml"
    words = learn_command(server.answers.run, stream, direct, "")
    subprocess.run([sys.executable, "-m", "everseg", *words], check=True, capture_output=True)
    if ready["verdict"] == "fail":
        assert client.post(f"/api/jobs/{job['id']}/accept", json={}).status_code == 409
    accepted = client.post(f"/api/jobs/{job['id']}/accept", json={"anyway": True})
    assert accepted.json()["state"] == "accepted", accepted.text
    assert content(place / "run") == content(direct)
    assert list(load(direct, base).results.later.values()) == ([later_of] if later_of else [])
    assert "shadows" in client.get("/api/run").json()["modules"]
    assert history(place / "run")[-1].gate == ready["verdict"]

    _, client = start()  # Everything is still there; the next stage of the domain has another name.
    assert client.get("/api/run").json()["learned"] == ["polyps", "cracks", "shadows"]
    following = client.post("/api/jobs", json={"domain": "shadows"}).json()
    assert following["stage"] == "shadows-2"
    client.delete(f"/api/jobs/{following['id']}")


@contextmanager
def serving(place: Path) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    """The command itself, and a client of it. It is killed at the end, if it still lives."""
    words = [sys.executable, "-m", "everseg", "serve", place / "run", place / "images", "--port", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.match(r"open:\s+(\S+)", line):
                client = httpx.Client(base_url=found[1], timeout=60)
                end = time.monotonic() + 60
                while time.monotonic() < end:
                    try:
                        client.get("/api/run")
                        break
                    except httpx.TransportError:
                        time.sleep(0.1)
                yield client, process
                client.close()
                break
        else:
            raise AssertionError("the server did not start")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_killed_server_goes_on_where_it_was(place: Path, base: Any) -> None:
    before = content(place / "run")
    with serving(place) as (client, process):
        labelled(client)
        job = client.post("/api/jobs", json={"domain": "shadows"}).json()
        wait_for(client, job["id"], "learning")
        time.sleep(3)
        os.kill(process.pid, signal.SIGKILL)
    assert content(place / "run") == before
    with serving(place) as (client, process):
        assert sum(d["train"] + d["test"] for d in client.get("/api/labels").json()["domains"]) == 8
        wait_for(client, job["id"], "ready")
        os.kill(process.pid, signal.SIGKILL)
    with serving(place) as (client, process):
        assert client.get(f"/api/jobs/{job['id']}").json()["state"] == "ready"
        done = client.post(f"/api/jobs/{job['id']}/accept", json={"anyway": True})
        assert done.json()["state"] == "accepted", done.text
        os.kill(process.pid, signal.SIGKILL)
    assert load(place / "run", base).learned == ["polyps", "cracks", "shadows"]


@pytest.mark.slow
def test_the_command_ends_at_a_signal_and_says_what_is_wrong(place: Path) -> None:
    with serving(place) as (client, process):
        port = client.base_url.port
        words = [sys.executable, "-m", "everseg", "serve", str(place / "run")]
        for more, says in (
            (["--port", str(port), "--labels", str(place / "other")], f"port {port}"),
            (["--port", "0"], "another command is writing"),
            (["--port", "0", "--labels", str(place / "other"), "--host", "999.1"], "cannot listen"),
            (
                ["--port", "0", "--labels", str(place / "other"), "--label-studio", "http://["],
                "not an address",
            ),
            ([str(place / "nothing"), "--port", "0", "--labels", str(place / "other")], "does not exist"),
        ):
            done = subprocess.run([*words, *more], capture_output=True, text=True)
            assert done.returncode == 2 and says in done.stderr, done.stderr
            assert "Traceback" not in done.stderr and not (place / "other").exists()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130, -signal.SIGINT)
