"""How long a new domain takes on the page, from the first click to the accepted run.

    everseg demo --out demo
    python benchmarks/walk.py demo/samcl --json result.json

Starts `everseg serve` on a copy of the run and makes the requests that a page makes: paints images of a
domain that the run does not know, clicks twice on the object of each, accepts its mask (the truth, as a brush
would make it), learns the domain with the run's own settings, waits for the gate's verdict, and accepts it. A
person's own time for looking and clicking comes on top.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from everseg.data.synthetic.domains import SyntheticDomain
from everseg.runs.folder import load
from everseg.serve.runlengths import counts_of


def walk(address: str, domain: str, count: int) -> dict[str, Any]:
    """Label, learn, check, accept; the seconds of each part."""
    retried = httpx.HTTPTransport(retries=8)  # The address is printed before it is listened to.
    http = httpx.Client(base_url=address, timeout=600, transport=retried)

    def ask(method: str, path: str, body: Any = None) -> Any:
        found = http.request(method, path, json=body)
        assert found.is_success, found.text
        return found.json()

    began = time.perf_counter()
    session = ask("POST", "/api/sessions")["session"]
    painted = ask("POST", "/api/painted", {"domain": domain, "count": count})["images"]
    truths = SyntheticDomain(domain, count, split="serve")
    clicks = []
    for image, truth in zip(painted, truths, strict=True):
        mask = truth.masks[0].numpy()
        x, y = truth.prompts.points[0, 0].tolist()
        objects = [{"clicks": [{"x": x, "y": y}]}]
        path = f"/api/images/{image['id']}/segment"
        for _ in range(2):
            asked = time.perf_counter()
            ask("POST", path, {"session": session, "objects": objects})
            clicks.append(time.perf_counter() - asked)
        label = {"image": image["id"], "domain": domain, "objects": [{**objects[0], "mask": counts_of(mask)}]}
        ask("POST", "/api/labels", label)
    labelled = time.perf_counter()
    job = ask("POST", "/api/jobs", {"domain": domain})["id"]
    while (state := ask("GET", f"/api/jobs/{job}"))["state"] in ("waiting", "learning", "checking"):
        time.sleep(0.2)
    checked = time.perf_counter()
    ask("POST", f"/api/jobs/{job}/accept", {"anyway": True})
    return {
        "images": count,
        "label_seconds": round(labelled - began, 2),
        "learn_and_check_seconds": round(checked - labelled, 2),
        "all_seconds": round(time.perf_counter() - began, 2),
        "first_click_seconds": round(sorted(clicks[::2])[count // 2], 3),
        "further_click_seconds": round(sorted(clicks[1::2])[count // 2], 3),
        "verdict": state["verdict"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--domain", default="shadows")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        shutil.copytree(given.run, run)
        load_before = os.getloadavg()[0]
        words = [sys.executable, "-m", "everseg", "serve", str(run), "--port", "0"]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            address = next(m[1] for line in server.stdout if (m := re.match(r"open:\s+(\S+)", line)))
            found = walk(address, given.domain, given.count)
        finally:
            server.kill()
            server.communicate()
        found["learned"] = load(run).learned
    found |= {
        "command": " ".join(["python benchmarks/walk.py", *sys.argv[1:]]),
        "cores": os.cpu_count(),
        "load_of_the_machine_before": round(load_before, 2),
        "versions": {"everseg": version("everseg"), "torch": version("torch")},
        "machine": platform.machine(),
    }
    print(json.dumps(found, indent=1))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
