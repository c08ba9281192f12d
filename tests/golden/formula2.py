"""SAM 2.1 Hiera-tiny with weights that follow from their names, as `formula` has it for SAM.

A tensor's position counts among all of the original's, the video memory's included, which a model of images
does without. So `sam2_hiera_tiny.txt` lists the original's 471 tensors in order: name and shape.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import Sam2Config, Sam2Model

from everseg.models.promptable.names import from_original
from tests.golden.formula import formula


def original_shapes() -> dict[str, torch.Size]:
    """The shape of each tensor of the original state dict by its name, in order."""
    lines = (Path(__file__).parent / "sam2_hiera_tiny.txt").read_text().splitlines()
    pairs = (line.split() for line in lines)
    return {name: torch.Size(map(int, shape.split("x"))) for name, shape in pairs}


def original_state() -> dict[str, Tensor]:
    """The original state dict, filled."""
    shapes = original_shapes().items()
    return {name: formula(name, position, shape) for position, (name, shape) in enumerate(shapes)}


def filled() -> Sam2Model:
    """The model of images that the original state dict makes."""
    model = Sam2Model(Sam2Config())
    model.load_state_dict(from_original(model, original_state()))
    return model
