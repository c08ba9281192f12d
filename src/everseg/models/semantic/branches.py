"""A convolution in two branches: what it was, at rest, beside what it is to become.

    w = a w_old + (1 - a) w_new        a for each channel that comes out: 0, 1/2 or 1, each as likely

Two convolutions side by side whose outputs are mixed channel by channel are one with mixed weights, and so
are two with the same normalisation behind each, where that rests: the same function for the price of one. In
the end w is the mean of both, and nothing has grown.

Source: Zhang et al., "Representation Compensation Networks for Continual Semantic Segmentation", CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class _Mixed(nn.Module):
    """Of the trained weight the mixed one, drawn again in each pass; the mean of both in evaluation."""

    def __init__(self, old: Tensor) -> None:
        super().__init__()
        self.register_buffer("old", old.detach().clone())

    old: Tensor

    def forward(self, new: Tensor) -> Tensor:
        if not self.training:
            return torch.lerp(new, self.old, 0.5)
        share = torch.randint(3, (len(new), 1, 1, 1), device=new.device) / 2
        return torch.lerp(new, self.old, share)


@contextmanager
def branched(model: nn.Module) -> Iterator[None]:
    """Within it each 3 x 3 convolution of a model has a branch at rest beside the one that trains; both begin
    as the convolution is. After it each is the mean of both.

    The model's parameters are the same in number; those of the convolutions are of the branch that trains.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    for layer in layers:
        # "Unsafe" leaves out a trial run, which would draw.
        parametrize.register_parametrization(layer, "weight", _Mixed(layer.weight), unsafe=True)
    try:
        yield
    finally:
        for layer in layers:
            layer.eval()
            parametrize.remove_parametrizations(layer, "weight")
            layer.train(model.training)
            layer.register_parameter("bias", layer._parameters.pop("bias"))  # Behind the weight, as it was.
