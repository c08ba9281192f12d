"""SAM 2.1 Hiera-tiny as a whole, filled by formula, with and without released modules, against the published
code.

One trunk pass, three tail passes and six of the decoder at 1024 x 1024: half a minute on two idle cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everseg.domains.heatmap import click_heatmap
from everseg.domains.selector import ModuleSelector, from_released
from everseg.models.promptable.protocol import TAP, Features, FramePrompts
from everseg.models.promptable.sam2 import Sam2
from tests.golden import formula, formula2
from tests.golden.released import DOMAINS, load_released

pytestmark = [pytest.mark.slow, pytest.mark.realdata]

POINTS = torch.tensor([[[[462.0, 165.0], [584.0, 125.0], [680.0, 231.0]]]])
PROMPTS = FramePrompts(POINTS, torch.ones(1, 1, 3, dtype=torch.long), None)

# By module, and by whether the single mask is wanted or the stability rule: mean, mean |.|, least and largest
# of the logits; four of their elements; the predicted IoU.
LOGITS = {
    (None, False): (
        (-0.035348, 0.040568, -0.12976, 0.06538), [-0.07855, 0.00088, -0.01524, -0.10631], 0.5270235
    ),
    (None, True): (
        (-0.001118, 0.030750, -0.11290, 0.11050), [0.03532, -0.00325, 0.01865, 0.00689], 0.4846531
    ),
    ("Kvasir", False): (
        (-0.035266, 0.039154, -0.12031, 0.05041), [-0.06961, 0.00216, -0.0243, -0.11907], 0.5242624
    ),
    ("Kvasir", True): (
        (-0.003774, 0.032833, -0.11036, 0.10861), [0.02329, 0.00383, 0.03541, -0.0037], 0.4877621
    ),
    ("camo", False): (
        (-0.030432, 0.034874, -0.12318, 0.06149), [-0.07191, 0.01064, -0.02074, -0.11514], 0.5252082
    ),
    ("camo", True): (
        (-0.005853, 0.035594, -0.13421, 0.09510), [0.02786, 0.02239, 0.00676, 0.00757], 0.4838163
    ),
}  # fmt: skip

# The same of the logits enlarged to 1024 x 1024.
FULL = {
    (None, False): ((-0.035348, 0.036414, -0.12009, 0.05066), [-0.07855, -0.04604, -0.06142, -0.05858]),
    (None, True): ((-0.001118, 0.017628, -0.09070, 0.08849), [0.03532, -0.01149, -0.02808, -0.01474]),
    ("Kvasir", False): ((-0.035266, 0.035819, -0.11751, 0.03494), [-0.06961, -0.01189, -0.05952, -0.05256]),
    ("Kvasir", True): ((-0.003774, 0.020509, -0.09813, 0.08983), [0.02329, -0.02536, -0.03361, -0.02151]),
    ("camo", False): ((-0.030432, 0.031448, -0.11588, 0.04278), [-0.07191, -0.01716, -0.0552, -0.04926]),
    ("camo", True): ((-0.005853, 0.022750, -0.12162, 0.08430), [0.02786, 0.00965, -0.03221, -0.0171]),
}


def near(x: Tensor, moments: tuple[float, float, float, float], elements: list[float]) -> None:
    mean, magnitude, least, largest = moments
    assert x.double().mean().item() == pytest.approx(mean, abs=2e-5)
    assert x.double().abs().mean().item() == pytest.approx(magnitude, abs=2e-5)
    assert x.min().item() == pytest.approx(least, abs=2e-4)
    assert x.max().item() == pytest.approx(largest, abs=2e-4)
    found = [x.flatten()[k].item() for k in (0, 1000, 20000, x.numel() // 2 + 77)]
    assert found == pytest.approx(elements, abs=2e-4)


@pytest.fixture(scope="module")
def base() -> Iterator[Sam2]:
    with torch.inference_mode():
        yield Sam2(formula2.filled(), "formula")


@pytest.fixture(scope="module")
def tap(base: Sam2) -> Features:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (Sam2.mean, Sam2.std))
    return base.trunk(((formula.image() / 255 - mean) / std)[None])


@pytest.fixture(scope="module")
def embeddings(base: Sam2, tap: Features, data_root: Path) -> dict[str | None, Features]:
    """The tail's output by module."""
    heat = click_heatmap(POINTS[:, 0], torch.ones(1, 3), 1024, 64)
    folder = data_root / "samcl_released" / "SAM2"
    adapted = {d: base.tail(tap, load_released(folder / f"{d}.pth").bind(heat)) for d in ("Kvasir", "camo")}
    return {None: base.tail(tap), **adapted}


def test_the_original_tensors_are_all_there() -> None:
    shapes = formula2.original_shapes()
    assert list(shapes) == sorted(shapes)
    assert len(shapes) == 471
    # The Fourier features of positions (2, 128) are a buffer there, and no parameter.
    assert sum(s.numel() for s in shapes.values()) - 2 * 128 == 38_962_498


def test_the_layout(base: Sam2) -> None:
    assert base.adapted == (6, 7, 8, 9)
    assert (base.image_size, base.grid, base.depth, base.width, base.channels) == (1024, 64, 12, 384, 256)
    blocks = [(b.window_size, b.dim_out) for b in base.backbone.blocks]
    assert blocks == [
        (8, 96), (8, 192), (4, 192), (4, 384), (14, 384), (0, 384),
        (14, 384), (0, 384), (14, 384), (0, 384), (14, 768), (7, 768),
    ]  # fmt: skip


def test_the_trunk(tap: Features) -> None:
    shapes = {name: tuple(level.shape) for name, level in tap.items()}
    assert shapes == {TAP: (1, 64, 64, 384), "s0": (1, 32, 256, 256), "s1": (1, 64, 128, 128)}
    near(tap[TAP], (0.076542, 0.709163, -3.55308, 3.30865), [0.58509, -0.1734, 0.28902, -0.1406])
    e = tap[TAP].mean((1, 2))
    assert e[0, :6].tolist() == pytest.approx(
        [0.478032, -0.315721, 0.230427, 0.767516, 1.072455, 0.540505], abs=2e-5
    )
    assert e.norm().item() == pytest.approx(13.226602, rel=1e-5)


def test_the_selector(tap: Features, data_root: Path) -> None:
    path = data_root / "samcl_released" / "SAM2" / "Module_Selector.pth"
    selector = ModuleSelector(384, (*DOMAINS, "COCO"))
    selector.load_state_dict(from_released(torch.load(path, map_location="cpu", weights_only=True)))
    wanted = [-6.5558, -7.7641, 12.5670, 0.7460, 4.4857, -0.1563]
    e = tap[TAP].mean((1, 2))
    assert selector.eval()(e)[0].tolist() == pytest.approx(wanted, abs=2e-4)
    assert selector.folded()(e)[0].tolist() == pytest.approx(wanted, abs=2e-4)


@pytest.mark.parametrize(("module", "single"), LOGITS)
def test_the_masks(
    base: Sam2, embeddings: dict[str | None, Features], module: str | None, single: bool
) -> None:
    logits, iou = base.decode(embeddings[module], PROMPTS, single=single)
    moments, elements, quality = LOGITS[module, single]
    near(logits, moments, elements)
    assert iou.item() == pytest.approx(quality, abs=2e-5)
    full = F.interpolate(logits, size=(1024, 1024), mode="bilinear")
    near(full, *FULL[module, single])
