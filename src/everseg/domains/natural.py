"""What natural images look like to a base: the statistics by which a method knows where the untouched base is
right without having learned a domain of natural images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from everseg.data import read_image
from everseg.domains.cache import CacheConfig, FeatureCache
from everseg.domains.plausible import FEWEST, Gaussian
from everseg.domains.prepare import PREDICT_BATCH, pool
from everseg.errors import UserError
from everseg.models.promptable.protocol import Promptable
from everseg.progress import bar
from everseg.seed import torch_generator
from everseg.types import Prompts, Query, State

IMAGES = 300
"""Images that are looked at, of those in a folder."""


def natural_statistics(base: Promptable, images: Sequence[Path], count: int = IMAGES) -> State:
    """The `Promptable.natural` of a base, from `count` of these images, drawn at random.

    Raises:
        UserError: there are too few images, or one cannot be read.
    """
    if len(images) < FEWEST:
        raise UserError(f"{len(images)} natural images are too few; give at least {FEWEST}, better {IMAGES}")
    drawn = torch.randperm(len(images), generator=torch_generator(0, "natural"))[:count].tolist()
    cache = FeatureCache(base, CacheConfig(where="off"))
    nowhere = Prompts(torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.int64))
    found = []
    with torch.inference_mode(), bar("natural images", len(drawn)) as advance:
        for start in range(0, len(drawn), PREDICT_BATCH):
            batch = [read_image(images[i]) for i in drawn[start : start + PREDICT_BATCH]]
            queries = [Query(image, nowhere, key="", lasting=False) for image in batch]
            found.append(pool(cache.features(queries)).cpu())
            for _ in batch:
                advance("")
    return Gaussian.fit(torch.cat(found)).to_state()
