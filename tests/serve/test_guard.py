"""What must not be asked is refused: other hosts and sites, no token, too much, paths that lead out."""

from __future__ import annotations

import ast
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import everseg.serve
from everseg.errors import UserError
from everseg.serve.guard import checked_token
from everseg.serve.limits import Limits

TOKEN = "a-token-of-twenty-four-x"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8008"}, 200),
        ({"host": "[::1]:8008"}, 200),
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example"}, 421),
        ({"host": ""}, 421),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:9999"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_only_this_servers_own_page_reads(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert client.get("/api/run", headers=headers).status_code == status


def test_only_this_servers_own_page_writes(client: TestClient) -> None:
    assert client.post("/api/sessions", headers={"origin": "http://127.0.0.1:8008"}).status_code == 201
    for origin in ("http://evil.example", "null", "http://127.0.0.1:80"):
        assert client.post("/api/sessions", headers={"origin": origin}).status_code == 403
    # A form of another site can send no JSON.
    form = {"content-type": "text/plain"}
    assert client.post("/api/jobs", content='{"domain": "x"}', headers=form).status_code == 422


def test_a_link_from_another_site_opens_the_page_only(client: TestClient) -> None:
    followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client.get("/", headers=followed).status_code == 200
    assert client.get("/api/run", headers=followed).status_code == 403


def test_every_answer_says_what_a_page_may_load(client: TestClient) -> None:
    for path in ("/", "/page/app.js", "/api/run", "/nothing"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_the_page_loads_nothing_from_elsewhere() -> None:
    page = Path(everseg.serve.__file__).parent / "page"
    for file in page.iterdir():
        text = file.read_text()
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text, (
            file
        )


def test_beyond_this_machine_a_token_is_asked_for(start: Any) -> None:
    _, client = start(host="0.0.0.0", token=checked_token("0.0.0.0", TOKEN))
    assert client.get("/api/run").status_code == 401
    assert client.get("/?token=wrong").status_code == 401
    assert client.get("/api/run", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert client.get("/api/run", headers={"host": "192.168.1.7:8008"}).status_code == 401
    assert client.get("/api/run", headers={"host": "evil.example"}).status_code == 421
    answer = client.get(f"/?token={TOKEN}", follow_redirects=False)
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert client.get("/api/run").status_code == 200  # With the cookie.


def test_tokens() -> None:
    assert checked_token("127.0.0.1", "") == checked_token("localhost", "") == ""
    assert len(checked_token("0.0.0.0", "")) > 20
    assert checked_token("10.0.0.1", "") != checked_token("10.0.0.1", "")
    for weak in ("short", "with spaces in the middle"):
        with pytest.raises(UserError, match="too weak"):
            checked_token("0.0.0.0", weak)


def test_long_requests_are_cut_off(start: Any) -> None:
    _, client = start(limits=Limits(upload=2000, body=500))
    assert client.post("/api/jobs", json={"domain": "x" * 600}).status_code == 413
    big = {"file": ("a.png", b"x" * 100_000, "image/png")}
    assert client.post("/api/images", files=big).status_code == 413

    def unsaid() -> Any:  # Without a length in the header.
        yield b'{"domain": "' + b"x" * 400
        yield b"x" * 400 + b'"}'

    headers = {"content-type": "application/json"}
    assert client.post("/api/jobs", content=unsaid(), headers=headers).status_code >= 400


def test_sessions_are_limited(start: Any) -> None:
    _, client = start(limits=Limits(sessions=2))
    first = client.post("/api/sessions").json()["session"]
    assert client.post("/api/sessions").status_code == 201
    full = client.post("/api/sessions")
    assert full.status_code == 503 and "2 pages are open" in full.json()["error"]
    client.delete(f"/api/sessions/{first}")
    assert client.post("/api/sessions").status_code == 201


@pytest.mark.parametrize(
    "under", ["..", "deep/../..", "/etc", "../images", "..\\..", "C:\\", "deep/..", "a\0b"]
)
def test_folders_lead_nowhere_else(client: TestClient, under: str) -> None:
    assert client.get("/api/images", params={"under": under}).status_code == 403


def test_images_of_a_sub_folder(client: TestClient) -> None:
    everything, deep = (client.get("/api/images", params={"under": u}).json() for u in ("", "deep"))
    assert everything["total"] == deep["total"] == 2
    assert client.get("/api/images", params={"under": "shallow"}).json()["total"] == 0


def test_links_out_of_the_folder_are_left_out(start: Any, place: Path) -> None:
    secret = place / "secret"
    secret.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(secret / "s.png")
    os.symlink(secret / "s.png", place / "images" / "link.png")
    os.symlink(secret, place / "images" / "folder")
    _, client = start()
    names = [image["name"] for image in client.get("/api/images").json()["images"]]
    assert len(names) == 2 and all(name.startswith("deep/") for name in names)


@pytest.mark.parametrize(
    "path", ["/page/../app.py", "/page/%2e%2e/app.py", "/page//etc/passwd", "/api/images/../../run"]
)
def test_static_files_are_the_pages_alone(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in (403, 404)


def test_too_many_pixels_are_not_decoded(start: Any, place: Path) -> None:
    Image.new("1", (4000, 4000)).save(place / "images" / "bomb.png")
    server, client = start(limits=Limits(pixels=1_000_000))
    bomb = next(e for e in server.gallery.entries() if e.shown == "bomb.png")
    answer = client.get(f"/api/images/{bomb.id}/picture")
    assert answer.status_code == 413 and "4000x4000" in answer.json()["error"]
    content = (place / "images" / "bomb.png").read_bytes()
    assert client.post("/api/images", files={"file": ("bomb.png", content)}).status_code == 413


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("a.png", b"not an image", 415),
        ("a.png", b"", 415),
        ("a.exe", b"MZ", 415),
        ("a.npy", b"\x93NUMPY", 415),
        ("a.dcm", b"\0" * 200, 415),
        ("../../a.txt", b"x", 415),
        ("a.pkl", b"\x80\x04N.", 415),
    ],
)
def test_only_images_are_kept(
    client: TestClient, place: Path, name: str, content: bytes, status: int
) -> None:
    answer = client.post("/api/images", files={"file": (name, content)})
    assert answer.status_code == status, answer.text
    kept = [p for p in (place / "run-labels").rglob("*") if p.is_file() and p.name != ".lock"]
    assert not kept


def test_unusual_images_are_answered_and_accepted(client: TestClient) -> None:
    grey = np.random.default_rng(0).integers(0, 60_000, (20, 30), dtype=np.uint16)
    made = {
        "one.png": Image.new("RGB", (1, 1)),
        "print.jpg": Image.new("CMYK", (24, 16), (90, 10, 0, 0)),
        "deep.tif": Image.fromarray(grey),
    }
    page = client.post("/api/sessions").json()["session"]
    for name, picture in made.items():
        file = io.BytesIO()
        picture.save(file, {"png": "PNG", "jpg": "JPEG", "tif": "TIFF"}[name[-3:]])
        image = client.post("/api/images", files={"file": (name, file.getvalue())}).json()["id"]
        assert client.get(f"/api/images/{image}/picture").headers["content-type"] == "image/png"
        asked = {"clicks": [{"x": 0.5, "y": 0.5}]}
        found = client.post(f"/api/images/{image}/segment", json={"session": page, "objects": [asked]})
        assert found.status_code == 200, (name, found.text)
        mask = [0, picture.width * picture.height]
        body = {"image": image, "domain": "odd", "objects": [{**asked, "mask": mask}]}
        assert client.post("/api/labels", json=body).status_code == 201
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, "JPEG")
    cut = client.post("/api/images", files={"file": ("cut.jpg", file.getvalue()[:1200])})
    assert cut.status_code == 415 and "cut.jpg" in cut.json()["error"]


def test_an_upload_stays_among_the_uploads_whatever_it_is_called(client: TestClient, place: Path) -> None:
    content = next((place / "images" / "deep").iterdir()).read_bytes()
    for name in ("../../../evil.png", "/etc/x.png", "..\\x.png", "-.png", "con.png", "é ü.png"):
        answer = client.post("/api/images", files={"file": (name, content)})
        assert answer.status_code == 201, (name, answer.text)
    kept = [p for p in (place / "run-labels").rglob("*.png")]
    assert len(kept) == 1 and kept[0].is_relative_to(place / "run-labels" / "uploads")  # One content.


def test_nothing_here_unpickles() -> None:
    """No module of the server names what would: pickle, torch.load, numpy.load, yaml's full loader, eval."""
    for file in Path(everseg.serve.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "shelve", "marshal", "dill"} & {n.split(".")[0] for n in names}, file
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                whose = getattr(node.func.value, "id", "")
                assert (whose, node.func.attr) not in {("torch", "load"), ("np", "load"), ("yaml", "load")}, (
                    file
                )
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec"), file
