"""Where Label Studio is, the images of its tasks, and what is kept of them."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everseg.errors import UserError
from everseg.files import read_json, write_json

MOST_BYTES = 200 * 2**20
"""Of an image that is fetched."""
PATIENCE = 30.0
"""Seconds to wait for an image."""


@dataclass
class Studio:
    """Where Label Studio is, and how to ask it for images.

    host: such as http://localhost:8080, the only place that the token is sent to.
    token: a legacy token or a personal access token.

    Raises:
        UserError: the host is not an address.
    """

    host: str
    token: str = ""
    _access: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        given, self.host = self.host, self.host.rstrip("/")
        if not _is_address(self.host):
            raise UserError(
                f"{given!r} is not an address of Label Studio; give one such as http://localhost:8080"
            )

    def fetch(self, url: str) -> bytes:
        """The bytes of a task's image.

        Raises:
            UserError: it cannot be fetched, or is too large.
        """
        if url.startswith("data:"):
            return base64.b64decode(url.partition(",")[2])
        whole = urllib.parse.urljoin(self.host + "/", self._below(url))
        if urllib.parse.urlsplit(whole).scheme not in ("http", "https"):
            raise UserError(f"the image {url!r} is not an HTTP address; import it into Label Studio")
        own = urllib.parse.urlsplit(whole)[:2] == urllib.parse.urlsplit(self.host)[:2]
        try:
            try:
                return _read(whole, f"Token {self.token}" if own and self.token else "")
            except urllib.error.HTTPError as error:
                if error.code not in (401, 403) or not own or not self.token:
                    raise
                return _read(whole, f"Bearer {self._refreshed()}")
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot fetch {whole} ({error}); set LABEL_STUDIO_API_KEY to a token of Label Studio "
                "that may read it"
            ) from error

    def _below(self, url: str) -> str:
        """An image's path below the path that Label Studio itself is at, where it lacks that."""
        path = urllib.parse.urlsplit(self.host).path
        lacking = url.startswith("/") and not url.startswith(("//", f"{path}/"))
        return path + url if lacking else url

    def _refreshed(self) -> str:
        """An access token for a personal access token."""
        body = json.dumps({"refresh": self.token}).encode()
        asked = urllib.request.Request(
            f"{self.host}/api/token/refresh", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            return str(json.load(answer)["access"])


def _is_address(url: str) -> bool:
    """Whether this is a host, perhaps with a port and a path, and nothing else."""
    try:
        parts = urllib.parse.urlsplit(url)
        named = parts.scheme in ("http", "https") and parts.port != 0 and _is_host(parts.netloc)
    except ValueError:  # Brackets that do not pair, a port or an address that is not one.
        return False
    return named and url.isprintable() and not set(url) & set(" ?#@\\")


def _is_host(given: str) -> bool:
    """Whether a name or an address, with or without a port, can be asked.

    Raises:
        ValueError: it cannot.
    """
    if given.startswith("["):
        address, _, rest = given[1:].partition("]")
        return bool(ipaddress.IPv6Address(address)) and (not rest or rest.startswith(":"))
    name = given.partition(":")[0].removesuffix(".").encode("idna").decode()
    return all(re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?", part) for part in name.split("."))


def _read(url: str, authorization: str) -> bytes:
    asked = urllib.request.Request(url)
    if authorization:
        asked.add_unredirected_header("Authorization", authorization)
    with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
        content = answer.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES >> 20} MB")
    return bytes(content)


class Memory:
    """A JSON file with the images of tasks, the domains of projects, and the jobs that were begun.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        found = read_json(path) if path.is_file() else {}
        parts = [found.get(name, {}) if isinstance(found, dict) else None for name in PARTS]
        if not all(isinstance(part, dict) for part in parts):
            raise UserError(f"{path} is damaged; delete it, and the images will be fetched again")
        self._kept: dict[str, dict[str, Any]] = {
            name: part for name, part in zip(PARTS, parts, strict=True) if part is not None
        }

    def image(self, task: int, url: str | None = None) -> str:
        """The id of a task's image; "" where it is not known, or had another address."""
        kept = self._kept["tasks"].get(str(task), {})
        same = url is None or kept.get("address") == _digest(url)
        return str(kept.get("image", "")) if same else ""

    def keep_image(self, task: int, url: str, image: str) -> None:
        """Note the image of a task."""
        self._keep("tasks", task, {"address": _digest(url), "image": image})

    def annotated(self, annotation: int) -> str:
        """The id of the image whose newest annotation this is; "" where it is not the newest of any."""
        kept = self._kept["tasks"].values()
        return next((str(one["image"]) for one in kept if one.get("annotation") == annotation), "")

    def keep_annotation(self, task: int, annotation: int) -> None:
        """Note the newest annotation of a task whose image is known."""
        self._keep("tasks", task, {**self._kept["tasks"][str(task)], "annotation": annotation})

    def domain(self, project: int) -> str:
        """The domain of a project; "" where it is not known."""
        return str(self._kept["projects"].get(str(project), ""))

    def keep_domain(self, project: int, domain: str) -> None:
        """Note the domain of a project."""
        self._keep("projects", project, domain)

    @property
    def jobs(self) -> list[str]:
        """The jobs that Label Studio began, in order."""
        return list(self._kept["jobs"])

    def keep_job(self, job: str) -> None:
        """Note a job."""
        self._keep("jobs", job, {})

    def _keep(self, part: str, key: object, value: Any) -> None:
        with self._lock:
            self._kept[part][str(key)] = value
            write_json(self.path, self._kept)


PARTS = ("tasks", "projects", "jobs")


def _digest(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:16]
