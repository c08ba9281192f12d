"""Exported graphs in the code of public runners: they answer clicks and boxes as the run does.

None of them is needed for development, so each test skips without its package; AnyLabeling and X-AnyLabeling
install the same module, so one environment has one of them:

    pip install samexporter
    pip install anylabeling
    pip install 'x-anylabeling-cvhub[cpu]'
"""

from __future__ import annotations

import importlib
import json
import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from torch.nn import functional as F

from everseg.methods import build, configure
from everseg.models.promptable.load import load_base
from everseg.models.promptable.sam2 import Sam2
from everseg.runs.exports.onnx import export_onnx
from everseg.runs.folder import load, new_run
from everseg.runs.prompts import Asked
from everseg.runs.run import Run, RunConfig
from everseg.types import Query
from everseg.types.pixels import content_key

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
EARLIER = Path(__file__).parents[2] / "assets" / "earlier_run"
SIZES = {"sam": (684, 1024), "sam2": (128, 128)}
"""Of images that no runner resizes or pads, (H, W)."""
UNLIKE = 0.01
"""Mean difference of logits in units of their spread."""


def picture(kind: str) -> NDArray[np.uint8]:
    """A disc on noise, grey, so that red and blue may be exchanged: (H, W, 3)."""
    height, width = SIZES[kind]
    noise = np.random.default_rng(0).integers(0, 50, (height, width))
    rows, columns = np.mgrid[:height, :width]
    disc = np.hypot(columns / width - 0.43, rows / height - 0.42) < 0.2
    return np.repeat((noise + 200 * disc).astype(np.uint8)[..., None], 3, 2)


def prompts(kind: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A click on the disc and a box around it, as the runners have them."""
    height, width = SIZES[kind]
    corners = [0.2 * width, 0.2 * height, 0.65 * width, 0.65 * height]
    click = {"type": "point", "data": [0.43 * width, 0.42 * height], "label": 1}
    return [click], [{"type": "rectangle", "data": corners}]


@pytest.fixture(scope="module")
def exported(micro2_model: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Run, Path]]:
    """A routed SAMCL on a SAM 1, and an adapter on a SAM 2, with their graphs."""
    pytest.importorskip("onnxscript", reason="ONNX files need everseg[onnx]")
    place = tmp_path_factory.mktemp("exports")
    one = load(EARLIER / "runs" / "samcl", load_base(str(EARLIER / "base")))
    base = Sam2(micro2_model, "micro2")
    config = configure("sequential", assignments=["adapter=lora"])
    learner: Any = build("sequential", base, config, 0)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in learner.adapter.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=draw))
    two = new_run(place / "two", RunConfig("sequential", config, "micro2"), learner, base)
    export_onnx(one, place / "sam", routed=True)
    export_onnx(two, place / "sam2")
    return {"sam": (one, place / "sam"), "sam2": (two, place / "sam2")}


def wanted(run: Run, kind: str) -> list[NDArray[np.float32]]:
    """The run's logits (H, W) for the click and for the box."""
    pixels = torch.from_numpy(picture(kind)).permute(2, 0, 1)
    ((click,), (box,)) = prompts(kind)
    found = []
    for asked in (Asked((tuple(click["data"]),), (1,)), Asked(box=tuple(box["data"]))):
        (one,) = run.predictor()([Query(pixels, asked.tensors(), content_key(pixels))])
        logits = F.interpolate(one.logits[None].float(), size=SIZES[kind], mode="bilinear")
        found.append(logits[0, 0].numpy())
    return found


def check(theirs: Any, ours: NDArray[np.float32]) -> None:
    """A runner's logits are the run's."""
    spread = float(ours.std())
    gap = float(np.abs(np.asarray(theirs).reshape(-1, *ours.shape)[0] - ours).mean())
    assert spread > 0.05 and gap < UNLIKE * spread, (gap, spread)


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_samexporter(exported: Any, kind: str, tmp_path: Path) -> None:
    inference = pytest.importorskip("samexporter.inference", reason="pip install samexporter")
    run, folder = exported[kind]
    parser = inference.build_parser()
    words = ["--encoder_model", folder / "encoder.onnx", "--decoder_model", folder / "decoder.onnx"]
    model = inference.load_model(parser.parse_args([*map(str, words), "--sam_variant", kind]))
    image = picture(kind)
    embedding = model.encode(image)
    for prompt, ours in zip(prompts(kind), wanted(run, kind), strict=True):
        check(model.predict_masks(embedding, prompt), ours)
    from PIL import Image

    Image.fromarray(image).save(tmp_path / "image.png")
    (tmp_path / "prompt.json").write_text(json.dumps(prompts(kind)[0]))
    more = ["--image", "image.png", "--prompt", "prompt.json", "--output", "out.png", "--sam_variant", kind]
    more = [str(tmp_path / word) if "." in word else word for word in more]
    assert inference.main([*map(str, words), *more]) == 0 and (tmp_path / "out.png").is_file()


def any_labeling() -> str:
    """Which of the two is installed, as the name of its file in an export."""
    for package, file in (("x-anylabeling-cvhub", "x-anylabeling.yaml"), ("anylabeling", "config.yaml")):
        try:
            distribution(package)
        except PackageNotFoundError:
            continue
        return file
    pytest.skip("pip install anylabeling, or x-anylabeling-cvhub")


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_any_labeling(exported: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The class that the program makes for the file's type, offscreen."""
    file = any_labeling()
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    settings = importlib.import_module("anylabeling.config")
    monkeypatch.setattr(settings, "current_config_file", "{}", raising=False)  # as its main program does
    run, folder = exported[kind]
    config = yaml.safe_load((folder / file).read_text()) | {"config_file": str(folder / file)}
    of = importlib.import_module("anylabeling.services.auto_labeling." + config["type"])
    loaded = (of.SegmentAnything2 if config["type"].endswith("2") else of.SegmentAnything)(config, print)
    embedding = loaded.model.encode(picture(kind))
    for prompt, ours in zip(prompts(kind), wanted(run, kind), strict=True):
        check(loaded.model.predict_masks(embedding, prompt), ours)
    assert os.environ["QT_QPA_PLATFORM"] == "offscreen"
