"""Many clients click at once: how long answers take, whether anything is lost, and whether memory grows.

    python benchmarks/serve.py --clients 32 --seconds 300 --json result.json

Writes a small painted run in a temporary folder, starts `everseg serve` on it, and lets every client work as
a page does: open a session, open an image, click on its objects, now and then accept a mask. Each answer is
compared with the first one that was given to the same click, and every accepted label is looked for on the
disk, after the server was killed.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from everseg.data import Stream, write_synthetic_stream
from everseg.data.checks import check
from everseg.methods import configure
from everseg.runs.learn import run
from everseg.runs.run import RunConfig

IMAGES, CLICKS = 24, 8
THINKS = 0.5
"""Seconds between an answer and the next click of a client, on average."""


def made_run(folder: Path) -> Path:
    """A run of one painted domain on the embedded base."""
    source = write_synthetic_stream(folder / "data", ("polyps",), IMAGES, 4, background=False)
    config = RunConfig("samcl", configure("samcl", assignments=["tune.fit.steps=8"]), "tiny")
    run(Stream.from_yaml(source), config, folder / "run")
    return folder / "run"


class Client(threading.Thread):
    """One open page."""

    def __init__(self, address: str, number: int, end: float, known: dict[Any, str], think: float) -> None:
        super().__init__(daemon=True)
        self.http = httpx.Client(base_url=address, timeout=120)
        self.random, self.end, self.known, self.think = random.Random(number), end, known, think
        self.number = number
        self.first: list[float] = []
        self.further: list[float] = []
        self.accepted: list[tuple[str, str]] = []
        self.faults: list[str] = []

    def run(self) -> None:
        session = self.http.post("/api/sessions").json()["session"]
        images = self.http.get("/api/images").json()["images"]
        while time.monotonic() < self.end:
            image = self.random.choice(images)["id"]
            self.http.get(f"/api/images/{image}/picture")
            answer: Any = None
            for n in range(self.random.randint(2, CLICKS)):
                if time.monotonic() >= self.end:
                    break
                x, y = 16 * self.random.randint(1, 15), 16 * self.random.randint(1, 15)
                objects = [{"clicks": [{"x": x, "y": y}]}]
                began = time.perf_counter()
                found = self.http.post(
                    f"/api/images/{image}/segment", json={"session": session, "objects": objects}
                )
                (self.further if n else self.first).append(time.perf_counter() - began)
                if found.status_code != 200:
                    self.faults.append(found.text)
                    continue
                answer = found.json()
                same = self.known.setdefault((image, x, y), json.dumps(answer["masks"]))
                if same != json.dumps(answer["masks"]):
                    self.faults.append(f"the click {x},{y} on {image} was answered in two ways")
                time.sleep(self.random.uniform(0, 2 * self.think))
            if answer and len(answer["masks"][0]) > 1 and self.random.random() < 0.3:
                domain = f"domain-{self.number}"
                label = {
                    "image": image,
                    "domain": domain,
                    "objects": [{**objects[0], "mask": answer["masks"][0]}],
                }
                kept = self.http.post("/api/labels", json=label)
                if kept.status_code == 201:
                    self.accepted.append((domain, kept.json()["name"]))
                else:
                    self.faults.append(kept.text)
        self.http.delete(f"/api/sessions/{session}")


def measure(folder: Path, clients: int, seconds: float, think: float) -> dict[str, Any]:
    """Serve, click, kill, look."""
    made = made_run(folder)
    words = [
        sys.executable,
        "-m",
        "everseg",
        "serve",
        str(made),
        str(folder / "data" / "polyps" / "train" / "images"),
    ]
    process = subprocess.Popen([*words, "--port", "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = next(m[1] for line in process.stdout if (m := re.match(r"open:\s+(\S+)", line)))
    for _ in range(600):
        try:
            httpx.get(f"{address}api/run", timeout=60)
            break
        except httpx.TransportError:
            time.sleep(0.1)
    end = time.monotonic() + seconds
    known: dict[Any, str] = {}
    pages = [Client(address, n, end, known, think) for n in range(clients)]
    memory: list[float] = []
    for page in pages:
        page.start()
    server = psutil.Process(process.pid)
    while any(page.is_alive() for page in pages):
        memory.append(server.memory_info().rss / 2**20)
        time.sleep(1)
    process.kill()
    process.wait()
    labels = made.with_name("run-labels")
    told = {pair for page in pages for pair in page.accepted}
    kept = {(path.parts[-5], path.parts[-2]) for path in labels.glob("domains/*/*/masks/*/1.png")}
    report = check(labels / "labels.yaml") if (labels / "labels.yaml").exists() else None
    first, further = (sorted(s for p in pages for s in getattr(p, kind)) for kind in ("first", "further"))
    half = len(memory) // 2
    return {
        "clients": clients,
        "seconds": seconds,
        "think_seconds": think,
        "clicks": len(first) + len(further),
        "clicks_per_second": round((len(first) + len(further)) / seconds, 2),
        "first_click": spread(first),
        "further_click": spread(further),
        "faults": [fault for page in pages for fault in page.faults][:5],
        "accepted": len(told),
        "accepted_and_lost": len(told - kept),
        "labels_are_sound": report is None or report.ok,
        "memory_mib": {
            "first_quarter": round(statistics.mean(memory[: max(1, half // 2)]), 1),
            "half": round(memory[half], 1),
            "end": round(memory[-1], 1),
            "most": round(max(memory), 1),
        },
        "load_of_the_machine_before": round(psutil.getloadavg()[2], 2),
        "cores": len(psutil.Process().cpu_affinity() or [0]),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, 95 % and largest, in seconds."""
    if not values:
        return {}
    return {
        "median": round(statistics.median(values), 3),
        "p95": round(values[int(0.95 * (len(values) - 1))], 3),
        "most": round(values[-1], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--think", type=float, default=THINKS, help="mean seconds between two clicks")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        found = measure(folder, given.clients, given.seconds, given.think)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text = json.dumps(found, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
