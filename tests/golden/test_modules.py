"""All ten released AugModules and both selectors in our code, against what the published code computes."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from everseg.domains.heatmap import click_heatmap
from everseg.domains.released import read_module, read_selector
from everseg.domains.selector import ModuleSelector
from everseg.domains.tune import bind_rows
from tests.golden.released import DOMAINS, load_released

pytestmark = pytest.mark.realdata

FAMILIES = ("SAM1", "SAM2")
ALL = [(f, d) for f in FAMILIES for d in DOMAINS]
GOLDEN = json.loads((Path(__file__).parent / "samcl_modules.json").read_text())
CLICKS = [[(462, 165), (584, 125), (680, 231)], [(638, 591), (543, 833), (534, 945)]]

SHA256 = {
    "SAM1": {
        "Kvasir": "b788c663291f864e",
        "camo": "25acd9bde2a03bf4",
        "ISTD": "edc9bc46ac7e265d",
        "ISIC": "8d6f69a09a5b272e",
        "cod": "d38b2bf198c3d7e9",
        "Module_Selector": "1579b95425ae48bc",
    },
    "SAM2": {
        "Kvasir": "d6363dd24b9b2a30",
        "camo": "c957c3133de5e4da",
        "ISTD": "7436fc7337f2afbc",
        "ISIC": "acc93b4a1f9fa48c",
        "cod": "b40113398689e140",
        "Module_Selector": "8fb65051d3aee8e6",
    },
}

# First image alone, first adapted block, global: mean, mean |.|, y[0, 3, 5, :2].
ALONE = {
    ("SAM1", "Kvasir"): (-0.00216502, 0.41440902, 0.112348, -0.116320),
    ("SAM1", "camo"): (-0.00332418, 0.46962412, 2.778384, 0.559148),
    ("SAM1", "ISTD"): (0.00405574, 0.67417250, 0.150235, -0.442275),
    ("SAM1", "ISIC"): (0.00272073, 0.53422887, -0.199566, -0.626766),
    ("SAM1", "cod"): (-0.00587869, 0.53532997, -0.048259, -0.408777),
    ("SAM2", "Kvasir"): (0.00919328, 0.17145031, -0.152091, -0.092910),
    ("SAM2", "cod"): (0.00775672, 0.24422058, 0.087910, 0.328062),
}


@pytest.fixture(scope="module")
def heat() -> Tensor:
    return click_heatmap(torch.tensor(CLICKS).float(), torch.ones(2, 3), 1024, 64)


@cache
def tokens(rows: int, side: int, width: int) -> Tensor:
    """x[b, i, j, c] = sin(0.37 b + 0.11 i - 0.23 j + 0.05 c (1 + 0.01 i))."""
    b, i, j, c = np.ogrid[:rows, :side, :side, :width]
    return torch.from_numpy(
        np.sin(0.37 * b + 0.11 * i - 0.23 * j + 0.05 * c * (1 + 0.01 * i)).astype(np.float32)
    )


def agrees(value: Tensor, wanted: dict[str, Any], tolerance: float = 2e-6) -> None:
    """Shape, mean, mean magnitude and five elements."""
    assert list(value.shape) == wanted["shape"]
    double = value.detach().double()
    assert double.mean().item() == pytest.approx(wanted["mean"], abs=1e-7)
    assert double.abs().mean().item() == pytest.approx(wanted["absmean"], abs=1e-7)
    assert double.flatten()[wanted["at"]].tolist() == pytest.approx(wanted["values"], abs=tolerance)


@pytest.mark.parametrize(("family", "name"), [(f, n) for f in FAMILIES for n in SHA256[f]])
def test_the_files_are_the_published_ones(data_root: Path, family: str, name: str) -> None:
    content = (data_root / "samcl_released" / family / f"{name}.pth").read_bytes()
    assert hashlib.sha256(content).hexdigest()[:16] == SHA256[family][name]


@pytest.mark.parametrize(("family", "domain"), ALL)
def test_a_released_module_computes_what_it_did(
    data_root: Path, heat: Tensor, family: str, domain: str
) -> None:
    module = load_released(data_root / "samcl_released" / family / f"{domain}.pth")
    golden = GOLDEN["modules"][f"{family}/{domain}"]
    assert module.blocks == tuple(int(b) for b in golden["blocks"])
    assert module.total_parameters == (61_524 if family == "SAM1" else 21_036)

    bound = module.bind(heat)
    assert bound.map_BYXr is not None
    agrees(bound.map_BYXr.permute(0, 3, 2, 1), golden["map"])
    for level, key in ((0.0, "map_at_0"), (14.007568359375, "map_at_peak")):
        at = module.bind(torch.full((1, 2, 2), level)).map_BYXr
        assert at is not None
        assert at[0, 0, 0].tolist() == pytest.approx(golden[key], abs=2e-6)
    with torch.no_grad():
        for block in module.blocks:
            for kind, (rows, side, window) in {"global": (2, 64, 0), "window": (50, 14, 14)}.items():
                added = bound.attention(block, tokens(rows, side, module.width), window)
                assert added is not None
                agrees(added, golden["blocks"][str(block)][kind])
        for name, added in (("neck_in", bound.neck_in()), ("neck_out", bound.neck_out())):
            assert (added is None) == (name not in golden)
            if added is not None:
                agrees(added, golden[name])


@pytest.mark.parametrize(("family", "domain"), ALONE)
def test_one_image_alone(data_root: Path, heat: Tensor, family: str, domain: str) -> None:
    module = load_released(data_root / "samcl_released" / family / f"{domain}.pth")
    with torch.no_grad():
        y = module.bind(heat[:1]).attention(module.blocks[0], tokens(2, 64, module.width)[:1], 0)
    assert y is not None
    mean, magnitude, one, two = ALONE[family, domain]
    assert y.double().mean().item() == pytest.approx(mean, abs=1e-7)
    assert y.double().abs().mean().item() == pytest.approx(magnitude, abs=1e-7)
    assert y[0, 3, 5, :2].tolist() == pytest.approx([one, two], abs=2e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_released_modules_in_one_batch_compute_the_same(data_root: Path, heat: Tensor, family: str) -> None:
    modules = [load_released(data_root / "samcl_released" / family / f"{d}.pth") for d in DOMAINS]
    x, block = tokens(2, 64, modules[0].width), modules[0].blocks[0]
    with torch.no_grad():
        for pair in ([modules[3], modules[0]], [modules[1], modules[4]], [modules[2], None]):
            bound = bind_rows(pair)(heat)
            assert bound is not None
            mixed = bound.attention(block, x, 0)
            assert mixed is not None
            for row, module in enumerate(pair):
                if module is None:
                    assert not mixed[row].any()
                else:
                    alone = module.bind(heat[row : row + 1]).attention(block, x[row : row + 1], 0)
                    torch.testing.assert_close(mixed[row : row + 1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("family", "domain"), ALL)
def test_one_of_the_two_norm_biases_is_redundant(data_root: Path, family: str, domain: str) -> None:
    """Their gradients are equal, so training left them equal to the bit."""
    found = read_module(data_root / "samcl_released" / family / f"{domain}.pth")
    for i in range(len(found.shape.blocks)):
        assert torch.equal(found.weights[f"norm_tokens.{i}.bias"], found.weights[f"norm_map.{i}.bias"])


@pytest.mark.parametrize(("family", "width", "batches"), [("SAM1", 768, 6300), ("SAM2", 384, 6400)])
def test_the_released_selectors(data_root: Path, family: str, width: int, batches: int) -> None:
    path = data_root / "samcl_released" / family / "Module_Selector.pth"
    selector = ModuleSelector(width, (*DOMAINS, "COCO"))
    selector.load_state_dict(read_selector(path).first(6))
    assert selector.norm1.num_batches_tracked is not None
    assert int(selector.norm1.num_batches_tracked) == batches
    selector.eval()
    golden = GOLDEN["selectors"][f"{family}/selector"]
    wave = torch.sin(0.1 * torch.arange(width, dtype=torch.float64)).float()[None]
    e = torch.cat([wave, torch.zeros(1, width)])
    with torch.no_grad():
        logits, folded = selector(e), selector.folded()(e)
    wanted = torch.tensor([golden["sin"], golden["zero"]])
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-4)
    torch.testing.assert_close(folded, wanted, rtol=0, atol=1e-4)
    assert (logits - folded).abs().max() < 5e-5


def test_folding_a_released_selector_keeps_its_choices(data_root: Path) -> None:
    path = data_root / "samcl_released" / "SAM1" / "Module_Selector.pth"
    selector = ModuleSelector(768, (*DOMAINS, "COCO"))
    selector.load_state_dict(read_selector(path).first(6))
    selector.eval()
    e = torch.randn(1000, 768, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, folded = selector(e), selector.folded()(e)
    # Both are within 1e-5 of float64, at logits of up to 32.
    assert (logits - folded).abs().max() < 5e-6 * logits.abs().max()
    assert torch.equal(logits.argmax(-1), folded.argmax(-1))
