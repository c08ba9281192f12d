"""What is printed at a prompt: counts, names and shapes, never pixels."""

from __future__ import annotations

import numpy as np
import torch

from everseg.data import Stream
from everseg.domains.problem import Masks
from everseg.results import ImageScore, Results
from everseg.types import Prompts, PromptSample, Route, SemanticSample, Stage

IMAGE = torch.zeros(3, 64, 48, dtype=torch.uint8)
MASK = torch.ones(1, 64, 48, dtype=torch.bool)


def test_samples_show_shapes() -> None:
    prompts = Prompts(torch.zeros(1, 3, 2), torch.ones(1, 3, dtype=torch.int64))
    assert repr(PromptSample(IMAGE, prompts, MASK, "polyp-1", "0" * 64)) == (
        "PromptSample(image=<uint8 (3, 64, 48)>, prompts=Prompts(points=<float32 (1, 3, 2)>, "
        "labels=<int64 (1, 3)>), masks=<bool (1, 64, 48)>, name='polyp-1')"
    )
    assert repr(SemanticSample(IMAGE, IMAGE[0])) == (
        "SemanticSample(image=<uint8 (3, 64, 48)>, labels=<uint8 (64, 48)>)"
    )
    masks = Masks(MASK.numpy(), np.ones(1, np.float32), Route("polyps", 0.5))
    assert repr(masks).startswith(
        "Masks(masks=<bool (1, 64, 48)>, iou=<float32 (1,)>, route=Route(name='polyps'"
    )


def test_streams_show_counts() -> None:
    one, many = [object()], [object()] * 1000
    stages = (Stage(0, "polyps", many, one), Stage(1, "natural", one, one, background=True))
    assert repr(stages[1]) == (
        "Stage(index=1, name='natural', train=<1 of them>, test=<1 of them>, background=True)"
    )
    assert repr(Stream(stages, (Stage(2, "nuclei", (), one),), "hospital")) == (
        "Stream('hospital') of 2 stages\n"
        "  polyps: 1000 training, 1 test image\n"
        "  natural (background): 1 training, 1 test image\n"
        "  nuclei (unseen): 0 training, 1 test image"
    )


def test_results_show_names() -> None:
    empty = Results({"iou": False, "mae": True})
    assert repr(empty) == "Results of iou, mae\n  after stages: none yet\n  on columns: none yet"
    scores = [ImageScore("a", str(n), {"iou": 0.5, "mae": 0.1}) for n in range(1000)]
    assert repr(empty.with_stage("a", scores)) == "Results of iou, mae\n  after stages: a\n  on columns: a"
