"""What the embedded tiny SAM is trained on: pictures with numbered objects, generated shapes, augmentation,
prompts.

Shapes: B images of 256x256, N objects asked for in each, P clicks per object.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from everseg.data.domains.coco import CocoReader
from everseg.models.promptable.tiny import IMAGE_SIZE

VOID = 255
MIN_AREA = 200  # pixels at 256x256; smaller objects are not asked for


def objects_of(labels: np.ndarray) -> np.ndarray:
    """Number the connected parts of each class of a label map. (H, W) -> (H, W) uint8: 0 none, 255 void."""
    out = np.zeros(labels.shape, np.uint8)
    count = 0
    for value in np.unique(labels):
        if value in (0, VOID):
            continue
        parts, n = ndimage.label(labels == value)
        areas = np.bincount(parts.ravel(), minlength=n + 1)
        for part in range(1, n + 1):
            if areas[part] >= 30 and count < 250:
                count += 1
                out[parts == part] = count
    out[labels == VOID] = VOID
    return out


Picture = tuple[np.ndarray, np.ndarray]
"""An image (256, 256, 3) uint8 and its object map (256, 256) uint8."""

SQUARE = (IMAGE_SIZE, IMAGE_SIZE)


def read_pixels(path: Path) -> np.ndarray:
    with Image.open(path) as im:
        return np.asarray(im.convert("RGB").resize(SQUARE, Image.Resampling.BILINEAR))


def read_map(path: Path) -> np.ndarray:
    with Image.open(path) as im:
        return np.asarray(im.resize(SQUARE, Image.Resampling.NEAREST))


def read_voc(root: Path, split: str) -> list[Picture]:
    """A PASCAL VOC layout: the objects are the connected parts of each class."""
    masks = next(root / d for d in ("SegmentationClassAug", "SegmentationClass") if (root / d).is_dir())
    names = (root / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()
    return [
        (read_pixels(root / "JPEGImages" / f"{n}.jpg"), objects_of(read_map(masks / f"{n}.png")))
        for n in names
    ]


def read_instances(root: Path) -> list[Picture]:
    """A folder of `images/` and `instances/`, png whose values number the objects."""
    maps = {p.stem: p for p in (root / "instances").iterdir()}
    pairs = [(p, maps[p.stem]) for p in sorted((root / "images").iterdir()) if p.stem in maps]
    return [(read_pixels(p), np.minimum(read_map(m), 250).astype(np.uint8)) for p, m in pairs]


def read_coco(images: Path, annotations: Path) -> list[Picture]:
    """A COCO JSON: later annotations lie over earlier ones, as they are drawn."""
    objects = defaultdict(list)
    for entry in CocoReader(images, annotations).entries:
        objects[entry.image].append(entry.mask())
    out = []
    for image, masks in sorted(objects.items()):
        ids = np.zeros(masks[0].shape, np.uint8)
        for number, mask in enumerate(masks[:250], 1):
            ids[mask] = number
        out.append(
            (read_pixels(image), np.asarray(Image.fromarray(ids).resize(SQUARE, Image.Resampling.NEAREST)))
        )
    return out


def noise(rng: np.random.Generator, channels: int) -> np.ndarray:
    """Multi-scale noise in 0..1 with a random spectrum, (256, 256, channels)."""
    out = np.zeros((IMAGE_SIZE, IMAGE_SIZE, channels), np.float32)
    decay = rng.uniform(0.3, 1.1)
    for level in range(1, 8):
        n = 2**level
        grid = rng.standard_normal((n, n, channels)).astype(np.float32)
        tensor = torch.from_numpy(grid).permute(2, 0, 1)[None]
        big = F.interpolate(tensor, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", align_corners=False)
        out += big[0].permute(1, 2, 0).numpy() * decay**level
    out -= out.min()
    return out / max(float(out.max()), 1e-6)


def texture(rng: np.random.Generator) -> np.ndarray:
    base = rng.uniform(0, 255, 3)
    spread = rng.uniform(10, 120) * noise(rng, 3 if rng.random() < 0.5 else 1)
    return np.clip(base + spread - spread.mean(), 0, 255)


def shape(rng: np.random.Generator) -> np.ndarray:
    """A random region: blob, polygon, ellipse or stroke. (256, 256) bool."""
    n = IMAGE_SIZE
    y, x = np.mgrid[0:n, 0:n].astype(np.float32)
    kind = rng.integers(4)
    cx, cy = rng.uniform(30, n - 30, 2)
    if kind < 2:  # a star-shaped outline with a few harmonics; high ones make it angular
        theta = np.arctan2(y - cy, x - cx)
        radius = np.full_like(theta, rng.uniform(18, 80))
        for k in range(1, 8 if kind else 4):
            radius *= 1 + rng.uniform(-0.25, 0.25) * np.cos(k * theta + rng.uniform(0, 6.28))
        squeeze, angle = rng.uniform(0.4, 1.0), rng.uniform(0, 3.14)
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = -(x - cx) * np.sin(angle) + (y - cy) * np.cos(angle)
        return u**2 + (v / squeeze) ** 2 < radius**2
    if kind == 2:  # a polygon as an intersection of half planes
        inside = np.ones((n, n), bool)
        for angle in np.sort(rng.uniform(0, 6.28, rng.integers(3, 7))):
            inside &= (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle) < rng.uniform(15, 70)
        return inside
    path = np.cumsum(rng.standard_normal((60, 2)).cumsum(0) * 0.25 + rng.uniform(-3, 3, 2), 0) + np.array(
        [cx, cy]
    )
    path = path[(path > 0).all(1) & (path < n - 1).all(1)]
    line = np.ones((n, n), bool)
    dense = np.concatenate([np.linspace(a, b, 12) for a, b in itertools.pairwise(path)] or [path])
    line[dense[:, 1].astype(int), dense[:, 0].astype(int)] = False
    return ndimage.distance_transform_edt(line) < rng.uniform(2, 9)


def synthetic(seed: int) -> Picture:
    """One image of textured shapes on a textured ground, and the map that numbers the shapes."""
    rng = np.random.default_rng(seed)
    image, ids = texture(rng), np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    for i in range(1, rng.integers(2, 7)):
        region = shape(rng)
        soft = ndimage.gaussian_filter(region.astype(np.float32), rng.uniform(0.3, 2.0))[..., None]
        soft *= rng.uniform(0.5, 1.0)
        image = image * (1 - soft) + texture(rng) * soft
        ids[region] = i
    light = 0.6 + 0.8 * noise(rng, 1)
    image = image * light + rng.normal(0, rng.uniform(0, 12), image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), ids


@dataclass
class Pictures:
    """Images (N, 256, 256, 3) uint8 and object maps (N, 256, 256) uint8, in memory."""

    images: np.ndarray
    ids: np.ndarray

    @classmethod
    def of(cls, pairs: list[Picture]) -> Pictures:
        return cls(np.stack([p[0] for p in pairs]), np.stack([p[1] for p in pairs]))

    def __len__(self) -> int:
        return len(self.images)


def augment(images: Tensor, ids: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Flip, rotate, scale, shift, recolour; then paste objects of one image onto another.

    images (B, 3, H, W) float 0..255, ids (B, H, W) uint8; both stay so.
    """

    def rand(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) * (high - low) + low

    b = len(images)
    scale = torch.exp(rand(math.log(0.6), math.log(1.4), b))
    aspect = torch.exp(rand(-0.2, 0.2, b))
    angle = rand(-0.35, 0.35, b) * (rand(0, 1, b) < 0.5)
    flip = torch.where(rand(0, 1, b) < 0.5, 1.0, -1.0)
    free = (1 - scale).clamp(min=0)
    tx, ty = rand(-1, 1, b) * free, rand(-1, 1, b) * free
    cos, sin = torch.cos(angle), torch.sin(angle)
    theta = torch.stack(
        [
            torch.stack([scale * aspect * cos * flip, -scale * sin, tx], -1),
            torch.stack([scale * sin * flip, scale / aspect * cos, ty], -1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [b, 3, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    images = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    # Outside the picture there is no object to click on: nearest with zeros.
    ids = F.grid_sample(
        ids[:, None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=False
    )[:, 0]

    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean) * rand(0.6, 1.4, b, 1, 1, 1) + mean * rand(0.7, 1.3, b, 1, 1, 1)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * rand(0.0, 1.6, b, 1, 1, 1)
    images = images + rand(-20, 20, b, 3, 1, 1)

    # Copy-paste: a third of the batch receives one object of its neighbour (Ghiasi et al., CVPR 2021).
    other_images, other_ids = images.roll(1, 0), ids.roll(1, 0)
    for i in torch.nonzero(rand(0, 1, b) < 0.35)[:, 0].tolist():
        candidates = [int(v) for v in other_ids[i].unique() if v not in (0, VOID)]
        if not candidates:
            continue
        pick = candidates[int(torch.randint(len(candidates), (1,), generator=generator))]
        region = other_ids[i] == pick
        if not MIN_AREA <= int(region.sum()) <= IMAGE_SIZE**2 // 3:
            continue
        images[i] = torch.where(region, other_images[i], images[i])
        ids[i] = torch.where(region, torch.tensor(251.0), ids[i])
    return images.clamp(0, 255), ids.to(torch.uint8)


def sample_prompts(
    ids: np.ndarray, per_image: int, points: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Objects to ask for, with clicks and boxes. ids (B, H, W).

    Returns masks (B, N, H, W) bool, points (B, N, P, 2) x,y, labels (B, N, P), boxes (B, N, 4). An image
    without an object yields empty masks and a click on the ground labelled "not the object".
    """
    b, h, w = ids.shape
    masks = np.zeros((b, per_image, h, w), bool)
    xy = np.zeros((b, per_image, points, 2), np.float32)
    labels = np.ones((b, per_image, points), np.int64)
    boxes = np.zeros((b, per_image, 4), np.float32)
    for i in range(b):
        flat = ids[i].ravel()
        order = np.argsort(flat, kind="stable")
        areas = np.bincount(flat, minlength=256)
        starts = np.concatenate([[0], np.cumsum(areas)])
        usable = [v for v in range(1, VOID) if areas[v] >= MIN_AREA]
        if not usable:
            where = rng.integers(0, h * w, (per_image, points))
            xy[i] = np.stack([where % w, where // w], -1)
            labels[i] = 0
            boxes[i] = (0, 0, w - 1, h - 1)
            continue
        picks = list(rng.permutation(usable))[:per_image]
        picks += list(rng.choice(usable, per_image - len(picks)))
        for n, value in enumerate(picks):
            inside = order[starts[value] : starts[value + 1]]
            masks[i, n] = ids[i] == value
            where = rng.choice(inside, points)
            negatives = rng.random(points) < (0.25 if points > 1 else 0.0)
            negatives[0] = False
            if negatives.any():
                outside = np.flatnonzero((flat != value) & (flat != VOID))
                if len(outside):
                    where = np.where(negatives, rng.choice(outside, points), where)
                    labels[i, n] = np.where(negatives, 0, 1)
            xy[i, n] = np.stack([where % w, where // w], -1)
            x, y = inside % w, inside // w
            jitter = rng.normal(0, 0.05, 4) * np.array([np.ptp(x), np.ptp(y)] * 2)
            boxes[i, n] = np.array([x.min(), y.min(), x.max(), y.max()]) + jitter
    return torch.from_numpy(masks), torch.from_numpy(xy), torch.from_numpy(labels), torch.from_numpy(boxes)
