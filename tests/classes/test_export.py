"""A run of classes as files: bare transformers, torch and onnxruntime give the scores of the run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from everseg.classes.export import DRAWS, Graph, _compared
from everseg.errors import UserError
from everseg.methods import find
from everseg.models.semantic.packaged import EFFICIENTNET_LITE1
from everseg.runs.export import export
from everseg.runs.folder import new_run
from everseg.runs.record import Learned
from everseg.runs.run import Run, RunConfig
from everseg.testing import micro_backbone, micro_dinov3, micro_image, micro_segformer, micro_step
from everseg.testing.classes import ClassTrial
from everseg.types import ImageQuery

BASES: dict[str, Callable[[], Any]] = {
    "resnet": micro_backbone,
    "segformer": micro_segformer,
    "dinov3": micro_dinov3,
}
NAMES = ("background", "red", "green", "blue")
POSTERIORS = (
    ("tune.posterior=0",),
    ("tune.posterior=1",),
    ("tune.posterior=1", "tune.posterior_backbone=efficientnet-lite1"),
)
EFFICIENTNET = pytest.mark.skipif(not EFFICIENTNET_LITE1.installed(), reason=EFFICIENTNET_LITE1.install)

pytestmark = pytest.mark.usefixtures("micro_backbone")


def learned(method: str, base: str, *settings: str) -> Any:
    """A learner after two steps on a micro base."""
    return ClassTrial(find(method), settings, base=BASES[base]).taught(micro_step(0), micro_step(1))


def images() -> Tensor:
    return torch.stack([micro_image(n, (1, 2, 3), (64, 64)).image for n in range(3)])


def expected(learner: Any, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (B, K, H, W) and channels (B, H, W) as the run predicts them."""
    queries = [ImageQuery(image) for image in batch]
    scores = torch.stack([learner.scores(query) for query in queries])
    return scores, torch.stack(learner.predict(queries))


def same(found: tuple[Tensor, Tensor], learner: Any, batch: Tensor) -> None:
    scores, channels = expected(learner, batch)
    assert float((found[0] - scores).abs().max()) <= 1e-4 * max(1.0, float(scores.abs().max()))
    assert float((found[1] != channels).float().mean()) <= 0.001


# ---------------------------------------------------------------- transformers


@pytest.mark.parametrize("method", ["mib", "eir"])
def test_bare_transformers_loads_a_segformer(method: str, tmp_path: Path) -> None:
    from transformers import SegformerForSemanticSegmentation, SegformerImageProcessor

    learner = learned(method, "segformer")
    learner.write_model("torch", tmp_path, NAMES, 64)
    model = SegformerForSemanticSegmentation.from_pretrained(tmp_path).eval()
    processor = SegformerImageProcessor.from_pretrained(tmp_path)
    pixels = processor(list(images()), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        small = model(pixels).logits
    scores = torch.nn.functional.interpolate(small, size=(64, 64), mode="bilinear", align_corners=False)
    same((scores, learner.choose(scores)), learner, images())
    assert model.config.id2label == dict(enumerate(NAMES))
    legend = json.loads((tmp_path / "legend.json").read_text())
    assert [c["name"] for c in legend["classes"]] == list(NAMES)
    rule = {"mib": "the highest channel", "eir": "the highest of channels 1 and up"}[method]
    assert legend["choose"].startswith(rule)


def test_what_it_exported_is_a_base_again(tmp_path: Path) -> None:
    from everseg.models.semantic.base import load_semantic_base

    learner = learned("mib", "segformer")
    learner.write_model("torch", tmp_path, NAMES, 64)
    again = load_semantic_base(str(tmp_path)).segmenter(detached=False).state_dict()
    ours = learner.model.state_dict()
    assert all(torch.equal(again[k], v) for k, v in ours.items() if not k.startswith("classifiers"))


# ---------------------------------------------------------------- torch and onnxruntime


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "base", "posterior", "fine"),
    [
        ("eir", "resnet", 0, "true"),
        ("ssul", "resnet", 1, "false"),
        pytest.param("eir", "resnet", 2, "false", marks=EFFICIENTNET),
        ("mib", "dinov3", 0, "false"),
        ("eir", "segformer", 1, "false"),
    ],
)
def test_plain_torch_runs_the_program(
    method: str, base: str, posterior: int, fine: str, tmp_path: Path
) -> None:
    learner = learned(method, base, *POSTERIORS[posterior], f"tune.fine={fine}")
    told = learner.write_model("torch", tmp_path, NAMES, 64)
    assert told["parity"] <= 1e-4
    program = torch.export.load(tmp_path / "model.pt2").module()
    same(program(images()), learner, images())
    if base == "resnet":
        odd = images()[:1, :, :57, :41]
        same(program(odd), learner, odd)
    from safetensors.torch import load_file

    tensors = load_file(tmp_path / "model.safetensors")
    ours = learner.model.state_dict()
    assert all(torch.equal(tensors[name], value) for name, value in ours.items())
    assert ("unknown.weight" in tensors) == (method == "ssul")
    told = json.loads((tmp_path / "config.json").read_text()).get("posterior")
    kind = {0: None, 1: learner.model.backbone.model.config.model_type, 2: "efficientnet"}[posterior]
    assert (told and told["backbone"]["model_type"]) == kind


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "base", "posterior", "fine"),
    [
        ("eir", "resnet", 1, "true"),
        pytest.param("eir", "resnet", 2, "false", marks=EFFICIENTNET),
        ("ssul", "resnet", 0, "false"),
        ("mib", "segformer", 1, "false"),
        ("dkd", "dinov3", 0, "false"),
    ],
)
def test_onnxruntime_gives_the_scores_of_the_run(
    method: str, base: str, posterior: int, fine: str, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    learner = learned(method, base, *POSTERIORS[posterior], f"tune.fine={fine}")
    told = learner.write_model("onnx", tmp_path, NAMES, 64)
    assert told["parity"] <= 1e-4 and told["opset"] == 18
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])

    def run(batch: Tensor) -> tuple[Tensor, Tensor]:
        scores, channels = session.run(None, {"image": batch.numpy()})
        assert scores.dtype == np.float32 and channels.dtype == np.uint8
        return torch.from_numpy(scores), torch.from_numpy(channels)

    same(run(images()), learner, images())
    same(run(images()[:1]), learner, images()[:1])
    if base == "resnet":
        odd = images()[:2, :, :57, :41]
        same(run(odd), learner, odd)
    stored = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(stored)
    legend = json.loads((tmp_path / "legend.json").read_text())
    assert {p.key: json.loads(p.value) for p in stored.metadata_props}["legend"] == legend
    assert legend["image"]["size"] == ("any" if base == "resnet" else [64, 64])


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    learner = learned("mib", "segformer")
    for missing in ("onnx", "onnxruntime", "onnxscript"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            with pytest.raises(UserError, match=f"--to onnx needs {missing}; run: pip install"):
                learner.write_model("onnx", tmp_path, NAMES, 64)


# ---------------------------------------------------------------- a run


def run_of(base: Any, folder: Path, method: str = "mib") -> Run:
    trial = ClassTrial(find(method), base=lambda: base)
    stages = micro_step(0), micro_step(1)
    run = new_run(folder, RunConfig(method, trial.config, "micro"), trial.taught(*stages), base)
    done = tuple(Learned(s.name, "", False, len(s.train), {}, s.classes) for s in stages)
    run.record = replace(run.record, learned=done)
    return run


def test_a_run_is_exported_with_its_manifest_and_only_as_a_model_of_classes(tmp_path: Path) -> None:
    run = run_of(micro_segformer(), tmp_path / "run")
    manifest = export(run, "torch", tmp_path / "out")
    assert manifest["form"] == "torch" and manifest["learned"] == ["step-0", "step-1"]
    assert set(manifest["files"]) == {
        "config.json",
        "legend.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert json.loads((tmp_path / "out" / "everseg.json").read_text()) == manifest
    with pytest.raises(UserError, match="learned classes; export it with --to onnx or --to torch"):
        export(run, "sam", tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("wrong", [1, 2, 3])
def test_one_image_of_which_rounding_decides_refuses_no_graph(wrong: int) -> None:
    """A graph that is wrong differs in all images; in one, two classes may be equally likely."""
    graph = Graph(learned("eir", "resnet")).eval()
    calls = 0

    def run(image: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        with torch.inference_mode():
            scores, channels = graph(image)
        return (scores + 5 * scores.abs().max() if calls <= wrong else scores), channels

    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    if wrong < DRAWS:
        assert _compared(run, graph, image, True) == 0
    else:
        with pytest.raises(UserError, match="differs from torch"):
            _compared(run, graph, image, True)
