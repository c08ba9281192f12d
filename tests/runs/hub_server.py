"""A stand-in for the hub's HTTP API: as much of it as uploading and downloading a repository takes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Hub:
    """Repositories by their names: the files of each, and what was asked."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []
        self.token = "hf_test"
        hub = self

        class Answering(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                hub.answer(self, b"")

            do_HEAD = do_GET

            def do_POST(self) -> None:
                hub.answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def revision(self, repo: str) -> str:
        content = json.dumps({k: hashlib.sha1(v).hexdigest() for k, v in sorted(self.files[repo].items())})
        return hashlib.sha1(content.encode()).hexdigest()

    def answer(self, to: Any, body: bytes) -> None:
        path = to.path.partition("?")[0]
        self.asked.append(f"{to.command} {path}")
        if to.command == "POST" and to.headers.get("Authorization") != f"Bearer {self.token}":
            return self._json(to, {"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given.get('organization') or 'someone'}/{given['name']}"
            self.files.setdefault(name, {})
            self.private[name] = bool(given.get("private")) or given.get("visibility") == "private"
            return self._json(to, {"url": f"{self.url}/{name}"})
        if path == "/api/validate-yaml":
            return self._json(to, {"errors": [], "warnings": []})
        if path == "/api/whoami-v2":
            return self._json(to, {"name": "someone", "type": "user", "orgs": []})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(.+))?", path)
        if found and found[1] in self.files:
            return self._model(to, found[1], found[2] or "", body)
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if found and found[3] in self.files.get(found[1], {}):
            return self._file(to, found[1], self.files[found[1]][found[3]])
        return self._json(to, {"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def _model(self, to: Any, repo: str, action: str, body: bytes) -> None:
        files = self.files[repo]
        if action.startswith("preupload/"):
            asked = json.loads(body)["files"]
            told = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
            return self._json(to, {"files": told})
        if action.startswith("commit/"):
            for line in body.splitlines():
                row = json.loads(line)
                if row["key"] == "file":
                    assert row["value"]["encoding"] == "base64"
                    files[row["value"]["path"]] = base64.b64decode(row["value"]["content"])
                if row["key"] == "deletedFile":
                    files.pop(row["value"]["path"], None)
            sha = self.revision(repo)
            url = f"{self.url}/{repo}/commit/{sha}"
            return self._json(to, {"commitUrl": url, "commitOid": sha, "success": True})
        if action.startswith("tree/"):
            rows = [
                {"type": "file", "path": k, "size": len(v), "oid": hashlib.sha1(v).hexdigest()}
                for k, v in files.items()
            ]
            return self._json(to, rows)
        about = {"id": repo, "modelId": repo, "sha": self.revision(repo), "private": self.private[repo]}
        listed = [{"rfilename": name} for name in files]
        return self._json(to, {**about, "tags": [], "downloads": 0, "siblings": listed})

    def _file(self, to: Any, repo: str, content: bytes) -> None:
        to.send_response(200)
        to.send_header("X-Repo-Commit", self.revision(repo))
        to.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self._send(to, content)

    def _json(self, to: Any, value: Any, code: int = 200, more: dict[str, str] | None = None) -> None:
        to.send_response(code)
        to.send_header("Content-Type", "application/json")
        for name, text in (more or {}).items():
            to.send_header(name, text)
        self._send(to, json.dumps(value).encode())

    def _send(self, to: Any, content: bytes) -> None:
        to.send_header("Content-Length", str(len(content)))
        to.end_headers()
        if to.command != "HEAD":
            to.wfile.write(content)
