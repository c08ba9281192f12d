"""Predict many painted images: memory, images per second, and the same files whatever stops the command.

    python benchmarks/predict.py [COUNT] [--side 96] [--processes 2] [--rounds 3] [--micro]

Paints COUNT images (200 by default), three quarters with one object and a quarter with two, and prompts for
them in a CSV file: clicks, boxes, and boxes with clicks. Then

    1. `everseg predict` in one go: images per second, and the most memory of the process
    2. the same in several processes, all killed (kill -9) after a third of the images and started again
    3. every file of the two is compared
    4. the command once more, with nothing left to do
    5. the most memory of 20 and of 200 images of one megapixel
    6. seconds per image of 50 images that are given to a run together, over those of 50 given one by one, and
       of a further click on an image over those of the first one; medians of rounds in one process

The exit code is 1 where files differ, where memory grows by more than a tenth, or where together takes more
than 1.05 times as long as one by one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PAINT = """
import sys, numpy as np
from PIL import Image
from everseg.seed import numpy_generator
folder, count, side = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rows = ["image,object,x,y,label,x0,y0,x1,y1"]
y, x = np.mgrid[:side, :side]
for n in range(count):
    draw = numpy_generator(0, "painted", str(n))
    image = np.clip(draw.normal(90, 12, (side, side, 3)), 0, 255)
    name = f"{n % 100:02d}/{n:06d}.png"
    for k in range(1 + (n % 4 == 0)):
        r = draw.integers(side // 10, side // 5)
        a, b = draw.integers(r, side - r, 2)
        image[(x - a) ** 2 + (y - b) ** 2 <= r * r] = draw.integers(120, 256, 3)
        box = f"{a - r},{b - r},{a + r},{b + r}"
        rows.append(f"{name},{k},{a},{b},1," + (box if n % 3 == 1 else ",,,"))
        if n % 3 == 2:
            rows.append(f"{name},{k},{(a + side // 2) % side},{b},0,,,,")
    import os
    os.makedirs(f"{folder}/images/{name[:2]}", exist_ok=True)
    Image.fromarray(image.astype(np.uint8)).save(f"{folder}/images/{name}")
open(f"{folder}/prompts.csv", "w").write("\\n".join(rows) + "\\n")
"""

LEARN = """
import sys, torch
from everseg import Stream, learn
from everseg.data import write_synthetic_stream
from everseg.testing import micro_sam
torch.set_num_threads(1)
base = "tiny"
if sys.argv[2] == "micro":
    base = sys.argv[1] + "/micro"
    micro_sam().save_pretrained(base)
stream = write_synthetic_stream(sys.argv[1] + "/data", ("polyps",), train=8, test=2)
learn(Stream.from_yaml(stream), method="samcl", base=base, out=sys.argv[1] + "/run", tune__fit__epochs=1)
"""

ROUNDS = """
import statistics, sys, time, torch
import everseg
from everseg.types import Prompts, Query
run, rounds = everseg.load(sys.argv[1]), int(sys.argv[2])
prompts = Prompts(torch.tensor([[[100.0, 100.0]]]), torch.tensor([[1]]))
draw = torch.Generator().manual_seed(0)
images = [torch.randint(0, 256, (3, 256, 256), dtype=torch.uint8, generator=draw) for _ in range(50)]
queries = [Query(image, prompts, key="") for image in images]  # each pass as if never seen
predict = run.predictor()

def seconds(work):
    began = time.process_time()
    work()
    return time.process_time() - began

def click(image, x):
    run.predict(image, points=[(x, 100)])

predict(queries[:4])
ratios, clicks = [], []
for _ in range(rounds):
    alone = seconds(lambda: [predict([query]) for query in queries])
    ratios.append(seconds(lambda: predict(queries)) / alone)
    first = seconds(lambda: [click(image, 90) for image in images[:20]])
    again = 0.0
    for image in images[:20]:
        click(image, 90)
        again += seconds(lambda: click(image, 120))
    clicks.append(again / first)
print(statistics.median(ratios), statistics.median(clicks))
"""


def everseg(*arguments: object, processes: int = 1) -> list[str]:
    launch = [sys.executable, "-m", "everseg"]
    if processes > 1:
        launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
        launch += ["--standalone", "-m", "everseg"]
    return [*launch, *map(str, arguments)]


def descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(p for child in children for p in descendants(int(child)))]


def measured(command: list[str], stop: Callable[[], bool] = lambda: False) -> tuple[int | None, float, float]:
    """Run a command: its exit code (None where `stop` had it killed), its seconds, and the megabytes of the
    largest of its processes."""
    began, most = time.perf_counter(), 0.0
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        while child.poll() is None:
            pids = descendants(child.pid)
            if stop():
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
                child.wait()
                return None, time.perf_counter() - began, most
            for pid in pids:
                try:
                    status = Path(f"/proc/{pid}/status").read_text()
                except OSError:
                    continue
                found = re.search(r"VmHWM:\s+(\d+)", status)
                most = max(most, int(found[1]) / 1024 if found else 0.0)
            time.sleep(0.1)
        if child.returncode:
            said.seek(0)
            print(said.read(), file=sys.stderr)
    return child.returncode, time.perf_counter() - began, most


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("count", nargs="?", type=int, default=200)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="of part 6; 0 leaves parts 5 and 6 out")
    parser.add_argument("--micro", action="store_true", help="a base of a few thousand weights, for counts")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        python = [sys.executable, "-c"]
        subprocess.run([*python, LEARN, folder, "micro" if given.micro else "tiny"], check=True)
        subprocess.run([*python, PAINT, folder, str(given.count), str(given.side)], check=True)
        asked = ("predict", root / "run", root / "images", "--prompts", root / "prompts.csv", "--out")

        code, took, most = measured(everseg(*asked, root / "once"))
        once = contents(root / "once")
        print(f"in one go: exit code {code}, {given.count / took:.1f} images/s, at most {most:.0f} MB")
        failed |= code != 0

        out = root / "killed"

        def a_third() -> bool:
            return sum(1 for _ in out.rglob("*.json")) >= given.count / 3

        command = everseg(*asked, out, processes=given.processes)
        code, _, _ = measured(command, a_third)
        print(f"{given.processes} processes: {'killed' if code is None else 'NOT KILLED'} after a third")
        failed |= code is not None
        code, took, most = measured(command)
        print(f"again: exit code {code}, {took:.0f} s, at most {most:.0f} MB in a process")
        twice = contents(out)
        differ = sorted(name for name in once.keys() | twice.keys() if once.get(name) != twice.get(name))
        print(f"files: {len(once)} in one go, {len(twice)} after the kill, {len(differ)} differ {differ[:5]}")
        failed |= code != 0 or bool(differ)

        code, took, _ = measured(everseg(*asked, out))
        print(f"nothing left to do: exit code {code}, {given.count / took:.0f} images/s")
        failed |= code != 0 or contents(out) != twice

        if given.rounds:
            peaks = []
            subprocess.run([*python, PAINT, root / "large", "1", "1024"], check=True)
            for count in (20, 200):
                copies = root / f"large{count}"
                copies.mkdir()
                for n in range(count):
                    shutil.copy(root / "large" / "images" / "00" / "000000.png", copies / f"{n}.png")
                asked = ("predict", root / "run", copies, "--point", "500,500", "--out", root / f"of{count}")
                code, took, most = measured(everseg(*asked))
                print(f"{count} images of a megapixel: {most:.0f} MB, {count / took:.1f} images/s")
                peaks.append(most)
                failed |= code != 0
            failed |= peaks[1] > 1.1 * peaks[0]
            ran = subprocess.run(
                [*python, ROUNDS, root / "run", str(given.rounds)], check=True, capture_output=True, text=True
            )
            together, again = map(float, ran.stdout.split())
            print(f"50 images together over one by one: {together:.2f} (at most 1.05)")
            print(f"a further click over the first one: {again:.2f}")
            failed |= together > 1.05
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
