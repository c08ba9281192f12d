"""A pool of real instances keeps its laws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from everseg.classes.instances import HarvestConfig, InstancePool, PasteConfig, cut, find_instances, paste
from everseg.data.imagefiles import read_image
from everseg.data.numbers import read_labels

CLASSES = (8, 10, 12, 13)  # cat, cow, dog, horse


@pytest.mark.realdata
def test_a_pool_of_voc(data_root: Path) -> None:
    root = data_root / "voc2012_256"
    names = (root / "ImageSets" / "Segmentation" / "train_aug.txt").read_text().split()[::20]
    labels = {n: read_labels(root / "SegmentationClassAug" / f"{n}.png").astype(np.uint8) for n in names}
    images = {n: root / "JPEGImages" / f"{n}.jpg" for n in names}
    found = [f for n in names for f in find_instances(labels[n], CLASSES, n)]
    pool, config = InstancePool(40, max_bytes=400_000), HarvestConfig()
    pool.refill(found, lambda f: cut(read_image(images[f.image]), labels[f.image], f, 1), seed=0, step=2)
    assert len(pool) == 40 and pool.nbytes <= 400_000
    assert {label: len(items) for label, items in pool.by_class().items()} == dict.fromkeys(CLASSES, 10)
    for item in pool.items.values():
        top, left, bottom, right = item.box
        truth = labels[item.image][top:bottom, left:right] == item.label
        assert max(bottom - top, right - left) <= config.max_side, "these images are no larger"
        assert not (item.inside.numpy() & ~truth).any() and ndimage.label(item.inside.numpy())[1] == 1
        assert item.pixels.shape[1:] == item.inside.shape
    for n in names[:20]:
        y = torch.from_numpy(labels[n])
        result = paste(read_image(images[n]), y, pool, np.random.default_rng(0), PasteConfig(rows=1.0))
        assert not (result.share[0] > 0)[y != 0].any() and result.pastes > 0
