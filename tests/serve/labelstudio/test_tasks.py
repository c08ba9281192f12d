"""Images of Label Studio's tasks: who gets the token, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from everseg.errors import UserError
from everseg.serve.labelstudio import tasks
from everseg.serve.labelstudio.tasks import Studio


class Site:
    """A web server that notes who asks with which token."""

    def __init__(self, accepts: str = "") -> None:
        self.seen: list[tuple[str, str]] = []
        site = self

        class Answering(BaseHTTPRequestHandler):
            def log_message(self, *arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                given = self.headers.get("Authorization", "")
                site.seen.append((self.path, given))
                if self.path.startswith("/away/"):
                    self.send_response(302)
                    self.send_header("Location", self.path.removeprefix("/away/"))
                    self.end_headers()
                    return
                self._send(200 if accepts in ("", given) else 401, b"pixels")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                site.seen.append((self.path, body.decode()))
                self._send(200, json.dumps({"access": "short"}).encode())

            def _send(self, code: int, content: bytes) -> None:
                self.send_response(code)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def sites() -> Iterator[tuple[Site, Site]]:
    made = Site("Bearer short"), Site()
    yield made
    for site in made:
        site.server.shutdown()
        site.server.server_close()


def test_a_personal_access_token_is_exchanged(sites: tuple[Site, Site]) -> None:
    own, _ = sites
    assert Studio(own.url, "long").fetch("/data/x.png") == b"pixels"
    assert own.seen == [
        ("/data/x.png", "Token long"),
        ("/api/token/refresh", '{"refresh": "long"}'),
        ("/data/x.png", "Bearer short"),
    ]


def test_the_token_goes_nowhere_else(sites: tuple[Site, Site]) -> None:
    own, other = sites
    assert Studio(own.url, "long").fetch(f"{other.url}/x.png") == b"pixels"
    assert Studio(other.url, "long").fetch(f"{other.url}/z.png") == b"pixels"
    assert other.seen == [("/x.png", ""), ("/z.png", "Token long")]


def test_a_redirect_does_not_carry_the_token(sites: tuple[Site, Site]) -> None:
    _, other = sites
    third = Site()
    try:
        Studio(other.url, "long").fetch(f"/away/{third.url}/x.png")
        assert other.seen[0][1] == "Token long" and third.seen == [("/x.png", "")]
    finally:
        third.server.shutdown()
        third.server.server_close()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://somewhere/x.png", "s3://bucket/x.png"])
def test_only_http_is_fetched(url: str) -> None:
    with pytest.raises(UserError, match="not an HTTP address"):
        Studio("http://localhost:1", "t").fetch(url)


@pytest.mark.parametrize("address", ["/studio", "/studio/"])
@pytest.mark.parametrize("url", ["/data/x.png", "/studio/data/x.png"])
def test_label_studio_may_be_below_a_path(sites: tuple[Site, Site], address: str, url: str) -> None:
    own, _ = sites
    assert Studio(f"{own.url}{address}", "short").fetch(url)
    assert own.seen[0][0] == "/studio/data/x.png"


def test_an_image_may_lie_in_the_task() -> None:
    assert Studio("http://localhost:8080").fetch("data:image/png;base64,cGl4ZWxz") == b"pixels"


def test_what_is_too_large_is_not_read(sites: tuple[Site, Site], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "MOST_BYTES", 3)
    with pytest.raises(UserError, match="cannot fetch"):
        Studio(sites[1].url).fetch("/x.png")
