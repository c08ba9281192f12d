"""SAM ViT-B as a whole, filled by formula, with and without released modules, against the published code.

One trunk pass and three tail passes at 1024 x 1024: half a minute on two idle cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import SamConfig, SamModel

from everseg.domains.adapters.aug import AugAdaptation
from everseg.domains.heatmap import click_heatmap
from everseg.domains.selector import ModuleSelector, from_released
from everseg.models.promptable.names import FOURIER, original_names
from everseg.models.promptable.protocol import TAP, Features, FramePrompts
from everseg.models.promptable.sam import Sam
from tests.golden import formula
from tests.golden.released import DOMAINS, load_released

pytestmark = [pytest.mark.slow, pytest.mark.realdata]

POINTS = torch.tensor([[[[462.0, 165.0], [584.0, 125.0], [680.0, 231.0]]]])
PROMPTS = FramePrompts(POINTS, torch.ones(1, 1, 3, dtype=torch.long), None)


@dataclass(frozen=True)
class Pass:
    """What one tail pass gives. `last` (1, 64, 64, 768): the last block's output, before the neck."""

    last: Tensor
    embedding: Tensor
    logits: Tensor
    iou: float


def probe(x: Tensor) -> list[float]:
    return [x.flatten()[k].item() for k in (0, 1000, 20000, x.numel() // 2 + 77)]


def near(x: Tensor, mean: float, magnitude: float, elements: list[float], at: float = 2e-4) -> None:
    assert x.double().mean().item() == pytest.approx(mean, abs=2e-5)
    assert x.double().abs().mean().item() == pytest.approx(magnitude, abs=2e-5)
    assert probe(x) == pytest.approx(elements, abs=at)


@pytest.fixture(scope="module")
def base() -> Iterator[Sam]:
    model = SamModel(SamConfig())
    formula.fill(model.state_dict())
    with torch.inference_mode():
        yield Sam(model, "formula")


@pytest.fixture(scope="module")
def tap(base: Sam) -> Features:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (Sam.mean, Sam.std))
    return base.trunk(((formula.image() - mean) / std)[None])


def adapt(data_root: Path, domain: str) -> AugAdaptation:
    heat = click_heatmap(POINTS[:, 0], torch.ones(1, 3), 1024, 64)
    return load_released(data_root / "samcl_released" / "SAM1" / f"{domain}.pth").bind(heat)


def run(base: Sam, tap: Features, adaptation: AugAdaptation | None) -> Pass:
    seen: list[Tensor] = []
    hook = base.encoder.neck.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    embedding = base.tail(tap, adaptation)
    hook.remove()
    added = None if adaptation is None else adaptation.neck_in()
    last = seen[0] if added is None else seen[0] - added.permute(0, 2, 3, 1)
    logits, iou = base.decode(embedding, PROMPTS)
    return Pass(last, embedding["image"], logits[0], iou.item())


@pytest.fixture(scope="module")
def plain(base: Sam, tap: Features) -> Pass:
    return run(base, tap, None)


@pytest.fixture(scope="module")
def kvasir(base: Sam, tap: Features, data_root: Path) -> Pass:
    return run(base, tap, adapt(data_root, "Kvasir"))


@pytest.fixture(scope="module")
def camo(base: Sam, tap: Features, data_root: Path) -> Pass:
    return run(base, tap, adapt(data_root, "camo"))


def test_the_model_has_the_original_tensors(base: Sam) -> None:
    state = base.model.state_dict()
    names = original_names(base.model)
    assert len(names) == len(set(names.values())) == 314
    # The Fourier features of positions (2, 128) are a buffer there, and no parameter.
    assert sum(state[n].numel() for n in names) - state[FOURIER].numel() == 93_735_472


def test_the_trunk(tap: Features) -> None:
    near(tap[TAP], 0.021774, 1.954060, [2.58849, -1.23982, 2.17569, -1.25237])
    e = tap[TAP].mean((1, 2))
    assert e[0, :6].tolist() == pytest.approx(
        [2.713297, -0.430546, -2.693946, 2.722691, 0.056148, 2.247111], abs=2e-5
    )
    assert e.norm().item() == pytest.approx(45.008511, rel=1e-5)


def test_the_selector(tap: Features, data_root: Path) -> None:
    path = data_root / "samcl_released" / "SAM1" / "Module_Selector.pth"
    selector = ModuleSelector(768, (*DOMAINS, "COCO"))
    selector.load_state_dict(from_released(torch.load(path, map_location="cpu", weights_only=True)))
    wanted = [-5.2888, 5.9217, 11.9861, -1.0622, -5.6131, -1.1624]
    e = tap[TAP].mean((1, 2))
    assert selector.eval()(e)[0].tolist() == pytest.approx(wanted, abs=2e-4)
    assert selector.folded()(e)[0].tolist() == pytest.approx(wanted, abs=2e-4)


def test_the_plain_model(plain: Pass) -> None:
    near(plain.logits, 0.015839, 0.032197, [0.03181, -0.03129, 0.04548, -0.00094])
    assert plain.logits.min().item() == pytest.approx(-0.13819, abs=2e-4)
    assert plain.logits.max().item() == pytest.approx(0.14583, abs=2e-4)
    assert plain.iou == pytest.approx(-0.1178797, abs=2e-5)


def test_with_the_kvasir_module(kvasir: Pass) -> None:
    near(kvasir.last, -0.058287, 2.839894, [3.42499, -0.70969, 4.90456, -0.96063], at=5e-4)
    near(kvasir.embedding, 0.008960, 0.812063, [0.38697, -0.65644, 1.65548, 0.30141])
    near(kvasir.logits, 0.011636, 0.031758, [0.01593, -0.02612, 0.05308, 0.02414])
    assert kvasir.iou == pytest.approx(-0.1219146, abs=2e-5)


def test_with_the_camo_module(camo: Pass) -> None:
    near(camo.last, -0.046586, 2.775525, [6.39747, 1.2018, 4.14928, -0.89804], at=5e-4)
    near(camo.embedding, 0.008621, 0.809634, [0.52601, -1.08096, 1.61867, 1.09588])
    near(camo.logits, 0.018389, 0.032318, [0.02897, -0.02461, 0.04253, 0.00647])
    assert camo.iou == pytest.approx(-0.1123762, abs=2e-5)


@pytest.mark.parametrize(
    ("domain", "magnitude", "elements", "difference"),
    [
        ("Kvasir", 0.812061, [0.38697, -0.63343, 1.65548, 0.30141], 0.005148481),
        ("camo", 0.809644, [0.52601, -1.11139, 1.61867, 1.09588], 0.008107202),
    ],
)
def test_the_neck_with_x_and_y_put_right(
    base: Sam, data_root: Path, request: pytest.FixtureRequest, domain: str, magnitude: float,
    elements: list[float], difference: float,
) -> None:  # fmt: skip
    released: Pass = request.getfixturevalue(domain.lower())
    adaptation = adapt(data_root, domain)
    adaptation.config = replace(adaptation.config, neck_transposed=False)
    before, after = adaptation.neck_in(), adaptation.neck_out()
    assert before is not None and after is not None
    embedding = base.encoder.neck(released.last + before.permute(0, 2, 3, 1)) + after
    near(embedding, released.embedding.double().mean().item(), magnitude, elements)
    relative = (embedding - released.embedding).norm() / released.embedding.norm()
    assert relative.item() == pytest.approx(difference, rel=1e-3)


def test_the_full_mask_repeats_the_logits(plain: Pass) -> None:
    full = F.interpolate(plain.logits[None], size=(1024, 1024), mode="nearest")[0]
    assert torch.equal(full[:, ::4, ::4], plain.logits)
    assert probe(full) == pytest.approx([0.03181, 0.09424, 0.06058, 0.10382], abs=2e-4)
