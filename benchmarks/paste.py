"""What pasting and its targets cost: everseg's, and the straightforward loop, as a share of a training step.

    python benchmarks/paste.py [--batch 24] [--side 512] [--micro-batch 4] [--repeats 5]

The loop does as EIR's published code is described to: it reads the stored image and its labels from the disk
for each paste, augments them, and mixes them into a one-hot target of floats. Each part runs in a process of
its own, on the same drawn scenes; its peak is the most memory above what it began with (Linux). The step is
one of MobileNetV2 under DeepLabV3 with its loss, in micro-batches.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from everseg.classes.instances import InstancePool, cut, find_instances, paste
from everseg.classes.losses import masked_mean, soft_bce
from everseg.models.semantic.segmenter import load_segmenter

CLASSES = 20
OLD = 15
STORED = 100
SOURCE = (375, 500)
PASTES = 3
CELL = 250
MEAN = torch.tensor((0.485, 0.456, 0.406))[:, None, None]
STD = torch.tensor((0.229, 0.224, 0.225))[:, None, None]


# ---------------------------------------------------------------- scenes


def scene(rng: np.random.Generator, size: tuple[int, int], classes: range) -> tuple[Tensor, Tensor]:
    """A smooth image with an ellipse of a random class: (3, H, W) uint8, (H, W) uint8."""
    coarse = torch.from_numpy(rng.random((1, 3, 24, 32), dtype=np.float32))
    image = F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)[0].mul(255).byte()
    y, x = np.mgrid[: size[0], : size[1]]
    centre, radius = rng.uniform(0.3, 0.7, 2) * size, rng.uniform(0.1, 0.25, 2) * min(size)
    inside = ((y - centre[0]) / radius[0]) ** 2 + ((x - centre[1]) / radius[1]) ** 2 < 1
    labels = np.where(inside, rng.integers(classes.start, classes.stop), 0).astype(np.uint8)
    return image, torch.from_numpy(labels)


def stored(folder: Path, index: int) -> tuple[Path, Path]:
    return folder / f"{index}.jpg", folder / f"{index}.png"


def write_scenes(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(STORED):
        image, labels = scene(rng, SOURCE, range(1, OLD + 1))
        picture, mask = stored(folder, index)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(picture, quality=90)
        Image.fromarray(labels.numpy()).save(mask)


def read(folder: Path, index: int) -> tuple[Tensor, Tensor]:
    picture, mask = stored(folder, index)
    pixels = np.array(Image.open(picture).convert("RGB")).transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(np.array(Image.open(mask)))


def new_batch(batch: int, side: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(1)
    images, labels = zip(
        *(scene(rng, (side, side), range(OLD + 1, CLASSES + 1)) for _ in range(batch)), strict=True
    )
    return torch.stack(images), torch.stack(labels)


# ---------------------------------------------------------------- the parts


def ours(folder: Path, images: Tensor, labels: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    pool, sources = InstancePool(STORED), {}
    found = []
    for index in range(STORED):
        sources[str(index)] = read(folder, index)
        found += find_instances(sources[str(index)][1], range(1, OLD + 1), str(index))
    pool.refill(found, lambda f: cut(*sources[f.image], f, 0), seed=0, step=1)
    sources.clear()

    def run() -> tuple[Tensor, ...]:
        rng = np.random.default_rng(2)
        pasted = [paste(image, y, pool, rng) for image, y in zip(images, labels, strict=True)]
        return tuple(
            torch.stack([getattr(p, n) for p in pasted]) for n in ("image", "under", "over", "share")
        )

    return run


def loop(folder: Path, images: Tensor, labels: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    side = images.shape[-1]
    by_class: dict[int, list[int]] = {}
    for index in range(STORED):
        by_class.setdefault(int(read(folder, index)[1].max()), []).append(index)
    normalised = (images.float() / 255 - MEAN) / STD

    def run() -> tuple[Tensor, ...]:
        rng = np.random.default_rng(2)
        mixed = normalised.clone()
        target = F.one_hot(labels.long(), CLASSES + 1).permute(0, 3, 1, 2).float()
        for image, y in zip(mixed, target, strict=True):
            for _ in range(PASTES):
                label = list(by_class)[rng.integers(len(by_class))]
                pixels, mask = augmented(*read(folder, by_class[label][0]), side, rng)
                rows, columns = (mask == label).any(1).nonzero(), (mask == label).any(0).nonzero()
                if len(rows) < 2 or len(columns) < 2:
                    continue
                box = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
                small, inside = pixels[:, box[0], box[1]], (mask == label)[box]
                scale = min(CELL / (inside.shape[0] + 1), CELL / (inside.shape[1] + 1))
                size = (int(scale * inside.shape[0]), int(scale * inside.shape[1]))
                small = F.interpolate(small[None], size=size, mode="nearest")[0]
                inside = F.interpolate(inside[None, None].float(), size=size, mode="nearest")[0, 0] > 0
                top, left = (CELL * int(v) for v in rng.integers(2, size=2))
                window = (slice(None), slice(top, top + size[0]), slice(left, left + size[1]))
                amount = float(rng.random())
                hot = F.one_hot(torch.tensor(label), CLASSES + 1).float()[:, None, None]
                for under, over in ((image, small), (y, hot)):
                    blend = amount * over + (1 - amount) * under[window]
                    under[window] = torch.where(inside, blend, under[window])
        return mixed, target

    return run


def augmented(image: Tensor, labels: Tensor, side: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A random crop of 50 to 100 % of the area, resized and normalised, flipped in half of all cases."""
    height, width = labels.shape
    share = float(np.sqrt(rng.uniform(0.5, 1)))
    h, w = int(share * height), int(share * width)
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    image, labels = image[:, top : top + h, left : left + w], labels[top : top + h, left : left + w]
    image = F.interpolate(image[None].float(), size=(side, side), mode="bilinear", antialias=True)[0]
    labels = F.interpolate(labels[None, None], size=(side, side), mode="nearest")[0, 0]
    if rng.random() < 0.5:
        image, labels = image.flip(-1), labels.flip(-1)
    return (image / 255 - MEAN) / STD, labels


def loss(kind: str, targets: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    """The loss on logits of the batch's size, forward and backward."""
    batch, _, side, _ = targets[0].shape
    z = torch.randn(batch, CLASSES + 1, side, side).requires_grad_()

    def run() -> Tensor:
        z.grad = None
        if kind == "ours":
            value = masked_mean(*soft_bce(z, *targets[1:]))
        else:
            each = F.binary_cross_entropy_with_logits(z, targets[1], reduction="none").sum(1)
            value = masked_mean(each, targets[1].sum(1) != 0)
        value.backward()
        return value

    return run


def step(images: Tensor, labels: Tensor, micro: int) -> Callable[[], None]:
    model = load_segmenter("mobilenet_v2", "random")
    model.grow(OLD)
    model.grow(CLASSES - OLD, "auxiliary")
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)

    def run() -> None:
        optimiser.zero_grad()
        for at in range(0, len(images), micro):
            out = model(model.pixels(images[at : at + micro]))
            each, valid = soft_bce(out.full(), labels[at : at + micro])
            masked_mean(each, valid, labels.numel()).backward()
        optimiser.step()

    return run


# ---------------------------------------------------------------- measuring


def resident(what: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most since the last reset."""
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(what))
    return int(line.split()[1]) * 1024


def measure(part: str, folder: Path, given: argparse.Namespace) -> tuple[float, float]:
    """Median seconds and peak bytes of one part."""
    images, labels = new_batch(given.batch, given.side)
    torch.manual_seed(0)
    if part == "step":
        run: Callable[[], object] = step(images, labels, given.micro_batch)
    else:
        where, what = part.split("-")
        run = (ours if where == "ours" else loop)(folder, images, labels)
        if what == "loss":
            run = loss(where, run())  # type: ignore[arg-type]
    run()  # warm up; the pool's pictures are decoded once
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the warm-up left is no longer its own
    Path("/proc/self/clear_refs").write_text("5")
    before, seconds = resident("VmRSS"), []
    for _ in range(1 if part == "step" else given.repeats):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), resident("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        print(*measure(given.part[0], Path(given.part[1]), given))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder))
        found = {}
        for part in ("ours-paste", "loop-paste", "ours-loss", "loop-loss", "step"):
            command = [sys.executable, __file__, *sys.argv[1:], "--part", part, folder]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[part] = tuple(map(float, out.split()))
    size = f"{given.side} x {given.side}, {CLASSES + 1} channels"
    print(f"batch of {given.batch}, {size}, {torch.get_num_threads()} threads")
    for what, name in (("paste", "pasting and targets"), ("loss", "loss, both ways")):
        (a, a_peak), (b, b_peak) = found[f"ours-{what}"], found[f"loop-{what}"]
        print(
            f"{name}: everseg {a:.3f} s, {a_peak / 1e6:.0f} MB; the loop {b:.3f} s, {b_peak / 1e6:.0f} MB; "
            f"ratio {b / a:.1f} in time, {b_peak / a_peak:.1f} in memory"
        )
    seconds = found["step"][0]
    share, theirs = (found[f"{who}-paste"][0] / seconds for who in ("ours", "loop"))
    print(f"a training step: {seconds:.1f} s; pasting is {share:.2%} of it, the loop's {theirs:.2%}")


if __name__ == "__main__":
    main()
