"""The modules that become graphs compute what the run computes; the graphs, what the modules do."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from everseg.domains.adapters.aug import AugModule
from everseg.domains.adapters.kinds import AnyAdapter, fresh_adapter
from everseg.domains.methods.samcl import SAMCL
from everseg.domains.tune import forward
from everseg.errors import UserError
from everseg.methods import build, configure
from everseg.models.promptable import sam as sam_file
from everseg.models.promptable.load import load_base
from everseg.models.promptable.protocol import TAP, FramePrompts
from everseg.models.promptable.sam import Sam
from everseg.models.promptable.sam2 import FINE, Sam2
from everseg.runs.exports.files import need_onnx
from everseg.runs.exports.graphs import (
    FRAME,
    MASK,
    Decoder,
    Encoder,
    Fixed,
    Sam2Decoder,
    Sam2Tail,
    SamDecoder,
    SamTail,
    Unadapted,
)
from everseg.runs.exports.onnx import export_onnx
from everseg.runs.exports.parity import check_free
from everseg.runs.exports.plan import plan
from everseg.runs.folder import load, new_run
from everseg.runs.run import Run, RunConfig

EARLIER = Path(__file__).parents[2] / "assets" / "earlier_run"
KINDS = ("clicks", "boxes", "both")


def moved(kind: Any, base: Any) -> AnyAdapter:
    """An adapter that changes the masks."""
    draw = torch.Generator().manual_seed(0)
    adapter = fresh_adapter(kind, base, 3, draw)
    with torch.no_grad():
        for p in adapter.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=draw))
    return adapter


@pytest.fixture(params=["sam", "sam2"])
def base(request: pytest.FixtureRequest, micro: Any, micro2_model: Any) -> Any:
    return micro if request.param == "sam" else Sam2(micro2_model, "micro2")


def prompts(side: int, kind: str) -> FramePrompts:
    points = torch.tensor([[[[0.3, 0.4], [0.8, 0.75]]], [[[0.55, 0.5], [0.1, 0.9]]]]) * side
    labels = torch.tensor([[[1, 0]], [[1, 1]]])
    boxes = torch.tensor([[[0.2, 0.25, 0.6, 0.7]], [[0.5, 0.1, 0.95, 0.6]]]) * side
    return FramePrompts(
        None if kind == "boxes" else points,
        None if kind == "boxes" else labels,
        None if kind == "clicks" else boxes,
    )


def as_runner(asked: FramePrompts, two: bool) -> tuple[Tensor, Tensor]:
    """Prompts as one list of points and labels, as SAM's runners give them."""
    parts = []
    if asked.points is not None and asked.labels is not None:
        parts.append((asked.points[:, 0], asked.labels[:, 0].float()))
    if asked.boxes is not None:
        parts.append((asked.boxes.view(-1, 2, 2), torch.tensor([[2.0, 3.0]] * len(asked.boxes))))
    elif not two:
        parts.append((torch.zeros(len(parts[0][0]), 1, 2), -torch.ones(len(parts[0][0]), 1)))
    points, labels = zip(*parts, strict=True)
    return torch.cat(points, 1), torch.cat(labels, 1)


def answered(decoder: Decoder, given: Any, asked: FramePrompts, size: tuple[int, int]) -> tuple[Tensor, ...]:
    """A decoder's outputs for an image of a size (H, W)."""
    base, two = decoder.base, isinstance(decoder.base, Sam2)
    points, labels = as_runner(asked, two)
    side = base.image_size
    if two:
        mask = torch.zeros(len(points), 1, side // 4, side // 4)
        fine = [given[name] for name in FINE]
        return decoder(given["embedding"], *fine, points, labels, mask, torch.zeros(1))
    points = points * torch.tensor([size[1], size[0]]) / side * FRAME / max(size)
    mask = torch.zeros(1, 1, MASK, MASK)
    return decoder(given["embedding"], points, labels, mask, torch.zeros(1), torch.tensor(size).float())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adapter", ["aug", "lora", "plain"])
@torch.no_grad()
def test_encoder_and_decoder_give_the_runs_masks(base: Any, adapter: str, kind: str) -> None:
    """An AugModule reads the clicks, so that it stands in the decoder; a LoRA does not."""
    side, two = base.image_size, isinstance(base, Sam2)
    image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
    made = None if adapter == "plain" else moved(adapter, base)
    tail = Unadapted() if made is None else Fixed(made, adapter == "aug")
    late = adapter == "aug"
    encoder = Encoder(base, None if late else tail)
    out = encoder(base.pixels([image]) if two else image.permute(1, 2, 0).float())
    given = dict(zip([*(FINE if two else ()), "embedding"], out if two else [out], strict=True))
    decoder = (Sam2Decoder if two else SamDecoder)(base, tail if late else None)
    asked = prompts(side, kind)
    found = answered(decoder, given, asked, (side, side))

    features = {k: v.expand(2, *v.shape[1:]) for k, v in base.trunk(base.pixels([image])).items()}
    logits, iou = forward(base, features, asked, (lambda heat: None) if made is None else made.bind)
    assert torch.allclose(found[0] if two else found[2], logits, atol=1e-5)
    assert torch.allclose(found[1], iou, atol=1e-5)
    assert made is None or not torch.allclose(logits, forward(base, features, asked, lambda heat: None)[0])


@torch.no_grad()
def test_an_image_of_any_shape_is_stretched_as_everseg_does(micro: Any) -> None:
    encoder, decoder = Encoder(micro, Unadapted()), SamDecoder(micro, None)
    draw = torch.Generator().manual_seed(3)
    asked = prompts(micro.image_size, "clicks")
    for size in ((40, 90), (130, 70)):
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=draw)
        embedding = encoder(image.permute(1, 2, 0).float())
        masks, _, low = answered(decoder, {"embedding": embedding}, asked, size)
        assert masks.shape == (2, 1, *size)
        features = {k: v.expand(2, *v.shape[1:]) for k, v in micro.trunk(micro.pixels([image])).items()}
        logits, _ = forward(micro, features, asked, lambda heat: None)
        assert torch.allclose(low, logits, atol=5e-3)  # torch's bytes are rounded by other weights


@torch.no_grad()
def test_a_graph_cuts_its_large_attentions(micro: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the tokens, whatever the number of images."""
    pixels = torch.randn(3, 3, micro.image_size, micro.image_size, generator=torch.Generator().manual_seed(0))
    whole = micro.tail(micro.trunk(pixels))["image"]
    sizes: list[int] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def counted(query: Tensor, *others: Any, **more: Any) -> Tensor:
        sizes.append(4 * query.shape[1] * query.shape[2] * others[0].shape[2])
        return attend(query, *others, **more)

    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(sam_file, "PIECE", 2**13)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    assert torch.allclose(micro.tail(micro.trunk(pixels))["image"], whole, atol=1e-5)
    assert max(sizes) <= 2**13 and len(sizes) > micro.depth


@torch.no_grad()
def test_a_mask_of_before_is_a_prompt_as_in_transformers(micro: Any) -> None:
    side = micro.image_size
    image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
    earlier = torch.randn(1, 1, side // 2, side // 2)  # four for each token of 8 pixels
    asked = prompts(side, "clicks")
    points, labels = as_runner(asked, False)
    embedding = Encoder(micro, Unadapted())(image.permute(1, 2, 0).float())
    size = torch.tensor([side, side]).float()
    _, _, low = SamDecoder(micro, None)(
        embedding, points * FRAME / side, labels, earlier, torch.ones(1), size
    )
    theirs = micro.model(
        pixel_values=micro.pixels([image, image]),
        input_points=asked.points,
        input_labels=asked.labels,
        input_masks=earlier.expand(2, -1, -1, -1),
        multimask_output=False,
    )
    assert torch.allclose(low[:, 0], theirs.pred_masks[:, 0, 0], atol=1e-5)


@torch.no_grad()
def test_weights_may_be_inputs(base: Any) -> None:
    two = isinstance(base, Sam2)
    module = moved("aug", base)
    assert isinstance(module, AugModule)
    weights = dict(module.named_parameters())
    tail = (Sam2Tail if two else SamTail)(base, list(weights), base.adapted, module.config)
    side = base.image_size
    features = base.trunk(base.pixels([torch.full((3, 9, 9), 70, dtype=torch.uint8)]))
    asked = prompts(side, "clicks")
    points, labels = as_runner(asked, two)
    size = () if two else (torch.tensor([float(side), float(side)]),)
    frame = points if two else points * FRAME / side
    found = tail(features[TAP].permute(0, 3, 1, 2), frame, labels, *size, list(weights.values()))
    rows = {k: v.expand(2, *v.shape[1:]) for k, v in features.items()}
    from everseg.domains.heatmap import click_heatmap

    heat = click_heatmap(points, labels, side, base.grid)
    assert torch.allclose(found, base.tail(rows, module.bind(heat))["image"], atol=1e-5)


def held(base: Any, method: str, *settings: str) -> Run:
    """A run that was never written: of a method that has learned nothing yet."""
    config = configure(method, assignments=settings)
    return new_run(Path("held"), RunConfig(method, config, base.name), build(method, base, config, 0), base)


@pytest.mark.parametrize(
    ("method", "domain", "routed", "said"),
    [
        ("samcl", None, False, "has learned no domain; export the base with --domain plain"),
        ("samcl", "x", False, "has no module 'x'; it has plain"),
        ("samcl", "x", True, "give one of them"),
        ("independent", None, False, "has no router"),
        ("independent", None, True, "has no router"),
        ("sequential", "x", False, "one adapter for all domains"),
        ("sequential", None, True, "nothing to choose|no choice to export"),
        ("zero-shot", None, True, "nothing to choose among"),
    ],
)
def test_what_cannot_be_exported_is_said(
    micro: Any, method: str, domain: str | None, routed: bool, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        plan(held(micro, method), domain, routed)


def test_what_folds_is_folded(micro: Any) -> None:
    run = held(micro, "sequential", "adapter=linear")
    made = plan(run, None, False)
    assert made.layout == "one" and isinstance(made.tail, Unadapted) and made.base is not run.base
    made = plan(held(micro, "sequential", "adapter=aug"), None, False)
    assert made.tail is not None and made.tail.reads_clicks
    made = plan(held(micro, "sequential", "adapter=lora"), None, False)
    assert made.tail is not None and not made.tail.reads_clicks


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of SAMCL on the micro base, with two domains."""
    folder = tmp_path_factory.mktemp("learned")
    shutil.copytree(EARLIER, folder / "earlier")
    return folder / "earlier"


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=f"ONNX files need {missing}; run: pip install 'everseg\\[onnx\\]'"):
        need_onnx()


def test_a_graph_with_a_fixed_number_of_objects_is_refused() -> None:
    free = SimpleNamespace(name="point_coords", shape=["objects", "points", 2])
    check_free([free, SimpleNamespace(name="orig_im_size", shape=[2])])
    with pytest.raises(UserError, match=r"fixed the shape of point_labels to \[2, 'points'\]"):
        check_free([free, SimpleNamespace(name="point_labels", shape=[2, "points"])])


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["one", "routed", "parts"])
def test_graphs_of_samcl(learned: Path, layout: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="ONNX files need everseg[onnx]")
    run = load(learned / "runs" / "samcl", load_base(str(learned / "base")))
    assert isinstance(run.learner, SAMCL)
    name = next(iter(run.learner.modules))
    found = export_onnx(
        run, tmp_path / "x", domain=name if layout == "one" else None, routed=layout == "routed"
    )
    assert found["layout"] == layout and found["opset"] == 18
    assert found["parity"]["clicks"] < 1e-4 and found["parity"]["boxes"] < 1e-4
    assert found == json.loads((tmp_path / "x" / "everseg.json").read_text())
    if layout == "parts":
        assert {f"module.{name}.safetensors", "router.onnx", "tail.onnx"} <= set(found["files"])
    else:
        config, other = (
            yaml.safe_load((tmp_path / "x" / name).read_text())
            for name in ("config.yaml", "x-anylabeling.yaml")
        )
        assert config["type"] == "segment_anything" and other == config
        assert (tmp_path / "x" / config["encoder_model_path"]).is_file()


@pytest.mark.slow
def test_graphs_of_sam2_and_their_quantisation(micro2_model: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="ONNX files need everseg[onnx]")
    import onnxruntime

    run = held(Sam2(micro2_model, "micro2"), "sequential", "adapter=lora")
    run.learner.adapter = moved("lora", run.base)  # type: ignore[attr-defined]
    found = export_onnx(run, tmp_path / "x", quantized="int8")
    assert found["parity"]["clicks"] < 1e-4 and found["parity"]["boxes"] < 1e-4
    assert found["quantized"]["bytes"] < found["quantized"]["bytes_before"]
    assert found["quantized"]["loss"] is None and "stream" in found["quantized"]["why"]
    kinds = {
        name: yaml.safe_load((tmp_path / "x" / name).read_text())["type"]
        for name in ("config.yaml", "x-anylabeling.yaml")
    }
    # AnyLabeling refuses the other's name and asks the decoder what it is.
    assert kinds == {"config.yaml": "segment_anything", "x-anylabeling.yaml": "segment_anything_2"}
    decoder = onnxruntime.InferenceSession(str(tmp_path / "x" / "decoder.onnx"))
    assert [i.name for i in decoder.get_inputs()] == [
        "image_embed",
        "high_res_feats_0",
        "high_res_feats_1",
        "point_coords",
        "point_labels",
        "mask_input",
        "has_mask_input",
    ]
    assert np.dtype(np.float32).name in decoder.get_inputs()[3].type.replace("tensor(float)", "float32")


@pytest.mark.slow
def test_graphs_of_the_embedded_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their attention in pieces, as that of a large base."""
    monkeypatch.setattr(sam_file, "PIECE", 2**18)
    pytest.importorskip("onnxscript", reason="ONNX files need everseg[onnx]")
    base = load_base("tiny")
    assert isinstance(base, Sam)
    run = held(base, "sequential", "adapter=aug")
    run.learner.adapter = moved("aug", base)  # type: ignore[attr-defined]
    found = export_onnx(run, tmp_path / "x")
    assert found["parity"]["clicks"] < 1e-4 and found["parity"]["boxes"] < 1e-4
