"""How long commands take before they begin to work, as ratios to importing torch.

    python benchmarks/startup.py

Each command is a fresh interpreter, run in turns with `import torch`. The median of its ratios is printed,
and the largest ratio that is wanted. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from everseg import Stream, learn
from everseg.data import write_synthetic_stream

PYTHON = [sys.executable, "-c"]
COMMAND = [sys.executable, "-m", "everseg"]


def seconds(arguments: list[str]) -> float:
    """Wall-clock time of a process that may end with a user's mistake (exit code 2)."""
    began = time.perf_counter()
    done = subprocess.run(arguments, capture_output=True, text=True)
    took = time.perf_counter() - began
    if done.returncode not in (0, 2):
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        stream = write_synthetic_stream(root / "data", ("polyps",), train=4, test=2)
        learn(Stream.from_yaml(stream), method="samcl", out=root / "run", tune__fit__epochs=1)
        image = root / "image.png"
        Image.fromarray(np.full((256, 256, 3), 90, np.uint8)).save(image)
        out = ["--out", str(root / "out"), "--point", "100,100"]
        commands = {
            "import transformers' SAM": ([*PYTHON, "import transformers.models.sam.modeling_sam"], None),
            "import everseg": ([*PYTHON, "import everseg"], 1.1),
            "everseg --help": ([*COMMAND, "--help"], 0.25),
            "everseg --version": ([*COMMAND, "--version"], 0.25),
            "everseg lern (a mistake)": ([*COMMAND, "lern"], 0.25),
            "everseg data check": ([*COMMAND, "data", "check", str(stream)], None),
            "everseg predict": ([*COMMAND, "predict", str(root / "run"), str(image), *out], 2.5),
        }
        times: dict[str, list[float]] = {name: [] for name in ("import torch", *commands)}
        for _ in range(rounds + 1):  # The first warms the disk's cache up and is left out.
            times["import torch"].append(seconds([*PYTHON, "import torch"]))
            for name, (arguments, _) in commands.items():
                times[name].append(seconds(arguments))
    torch = times.pop("import torch")[1:]
    print(f"import torch: {statistics.median(torch):.2f} s, median of {rounds}")
    for name, (_, most) in commands.items():
        ratio = statistics.median(a / b for a, b in zip(times[name][1:], torch, strict=True))
        bound = "" if most is None else f", at most {most:g}: {'yes' if ratio <= most else 'NO'}"
        print(f"{name}: {statistics.median(times[name][1:]):.2f} s, {ratio:.2f} of import torch{bound}")


if __name__ == "__main__":
    main()
