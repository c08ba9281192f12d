"""A segmenter of classes as files that others load without everseg.

    onnx     model.onnx: from images to scores and channels, for onnxruntime and others
    torch    of SegFormer, a folder of transformers' SegformerForSemanticSegmentation; of others, weights,
             their configuration, and a program that plain torch runs

    legend.json     beside both: the classes by channel, and how a channel is chosen by the scores

In a graph an image is (B, 3, H, W) uint8, RGB; scores are (B, K, H, W) float32 and channels (B, H, W) uint8.
The batch is of any size. Images are of any size where the backbone is convolutional; a transformer's are of
the one size that it was written for.

Shape suffixes: B images, K channels, H W pixels.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from everseg.errors import UserError, first_line
from everseg.files import write_json
from everseg.models.semantic.heads import SegformerHead
from everseg.models.semantic.segmenter import Segmenter
from everseg.pictures.palette import class_colour

OPSET = 18
CLOSE = 1e-4
"""The most that a graph's scores may differ from torch's, as a share of the largest score where that is above
1."""
DRAWS = 3
"""So many images of a size are compared, until one agrees. Where two classes are equally likely, rounding
decides between them, and the scores of that place differ by more."""


class Graph(nn.Module):
    """Image (B, 3, H, W) uint8 -> scores (B, K, H, W) float32, channels (B, H, W) uint8, as a learner
    predicts, on the CPU in float32."""

    def __init__(self, learner: Any) -> None:
        super().__init__()
        twin = copy.copy(learner)
        for name in learner.parts:
            part = copy.deepcopy(getattr(learner, name)).cpu().requires_grad_(False).eval()
            setattr(twin, name, part)
            self.add_module(name, part)
        for expert in twin.experts:
            expert.precision = "fp32"
        self.twin = [twin]  # In a list, so that it is not a module's attribute but that of its parts.

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        learner = self.twin[0]
        model: Segmenter = learner.model
        pixels = (image.to(torch.float32) / 255 - model.mean) / model.std
        scores = learner.score_maps(learner.output(pixels))
        return scores, learner.choose(scores).to(torch.uint8)


def write(learner: Any, form: str, folder: Path, classes: Sequence[str], side: int) -> dict[str, Any]:
    """Write a learner's model and its legend to an empty folder; returns what the manifest says of them.

    side: of the images that a transformer's graph takes, in pixels.

    Raises:
        UserError: a package is missing, or the graph does not compute what torch computes.
    """
    model: Segmenter = learner.model
    free = model.backbone.convolutional
    legend = {
        "classes": [
            {"channel": channel, "name": name, "colour": "#{:02x}{:02x}{:02x}".format(*class_colour(channel))}
            for channel, name in enumerate(classes)
        ],
        "scores": learner.decides[0],
        "choose": learner.decides[1],
        "image": {
            "channels": "RGB",
            "size": "any" if free else [side, side],
            "mean": list(model.backbone.mean),
            "std": list(model.backbone.std),
        },
    }
    write_json(folder / "legend.json", legend)
    if form == "torch" and isinstance(model.head, SegformerHead) and learner.parts == ("experts",):
        _write_segformer(model, folder, classes)
        return {"module": "transformers.SegformerForSemanticSegmentation"}
    graph = Graph(learner).eval()
    example = _example(2, side)
    if form == "onnx":
        gap = _write_onnx(graph, example, free, folder / "model.onnx", legend)
        return {"opset": OPSET, "size": legend["image"]["size"], "parity": gap}
    gap = _write_program(graph, example, free, folder)
    return {"module": "torch.export", "size": legend["image"]["size"], "parity": gap}


def _example(batch: int, side: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=draw)


def _shapes(free: bool) -> dict[str, dict[int, Any]]:
    dims = (0, 2, 3) if free else (0,)
    return {"image": dict.fromkeys(dims, torch.export.Dim.DYNAMIC)}


# ---------------------------------------------------------------- onnx


def _write_onnx(graph: Graph, example: Tensor, free: bool, path: Path, legend: dict[str, Any]) -> float:
    try:
        import onnx  # noqa: F401  # torch.onnx asks for it and for onnxscript late, with other errors
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        missing = error.name or first_line(error)
        raise UserError(f"--to onnx needs {missing}; run: pip install 'everseg[onnx]'") from error
    with _quiet():
        program = torch.onnx.export(
            graph,
            (example,),
            dynamo=True,
            dynamic_shapes=_shapes(free),
            opset_version=OPSET,
            input_names=["image"],
            output_names=["scores", "channels"],
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props["legend"] = json.dumps(legend)
        program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> tuple[Tensor, Tensor]:
        scores, channels = session.run(None, {"image": image.numpy()})
        return torch.from_numpy(scores), torch.from_numpy(channels)

    return _compared(run, graph, example, free)


def _compared(run: Any, graph: Graph, example: Tensor, free: bool) -> float:
    """The largest difference of scores on images of another batch, and another size where it may differ.

    Raises:
        UserError: it is too large.
    """
    worst, side = 0.0, example.shape[-1]
    for height, width in ((side, side), (side - 9, side - 5)) if free else ((side, side),):
        for seed in range(DRAWS):
            image = _example(1, side, seed)[..., :height, :width]
            with torch.inference_mode():
                ours, chosen = graph(image)
            theirs, channels = run(image)
            gap = float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1))
            differ = float((chosen != channels).float().mean())
            if gap <= CLOSE and differ <= 0.001:
                break
        else:
            raise UserError(
                f"the exported graph differs from torch (scores by up to {gap:.1e}, the predicted class in "
                f"{differ:.1%} of the pixels), so it was not written; install the versions of "
                "constraints.txt"
            )
        worst = max(worst, gap)
    return worst


# ---------------------------------------------------------------- torch


def _write_program(graph: Graph, example: Tensor, free: bool, folder: Path) -> float:
    model: Segmenter = graph.twin[0].model
    with _quiet():
        program = torch.export.export(graph, (example,), dynamic_shapes=_shapes(free))
        packed = BytesIO()  # On a full disk torch's writer would end the process.
        torch.export.save(program, packed)
        (folder / "model.pt2").write_bytes(packed.getbuffer())
    tensors = {
        f"{name}.{key}".removeprefix("experts.0."): value.contiguous()
        for name in graph.twin[0].parts
        for key, value in getattr(graph.twin[0], name).state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    first, *further = graph.twin[0].experts
    config = {
        "backbone": model.backbone.model.config.to_dict(),
        "head": {
            "kind": type(model.head).__name__,
            "width": model.head.width,
            "stride": model.backbone.stride,
        },
        "classifiers": [1, *first.counts],
    }
    if further:
        config["experts"] = [{"classifiers": [1, *expert.counts]} for expert in (first, *further)]
    if posterior := graph.twin[0].posterior:
        config["posterior"] = {
            "backbone": posterior.backbone.model.config.to_dict(),
            "weight": posterior.weight,
            "cells": posterior.cells,
            "expert": posterior.expert,
        }
    write_json(folder / "config.json", json.loads(json.dumps(config, default=str)))
    loaded = torch.export.load(folder / "model.pt2").module()
    return _compared(loaded, graph, example, free)


def _write_segformer(model: Segmenter, folder: Path, classes: Sequence[str]) -> None:
    """The folder that `SegformerForSemanticSegmentation.from_pretrained` loads: all classifiers in one."""
    from transformers.models.segformer.modeling_segformer import SegformerForSemanticSegmentation

    config = copy.deepcopy(model.backbone.model.config)
    config.decoder_hidden_size = model.head.width
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: channel for channel, name in enumerate(classes)}
    config.semantic_loss_ignore_index = 255
    whole = SegformerForSemanticSegmentation(config)
    first, *rest = (c for c in model.classifiers if isinstance(c, nn.Conv2d))
    biases = [c.bias for c in (first, *rest) if c.bias is not None]
    with torch.no_grad():
        whole.base_model.load_state_dict(model.backbone.model.state_dict())
        decoder = {key.removeprefix("decode."): value for key, value in model.head.state_dict().items()}
        decoder["classifier.weight"] = torch.cat([c.weight for c in (first, *rest)])
        decoder["classifier.bias"] = torch.cat(biases)
        whole.decode_head.load_state_dict(decoder)
    with _quiet():
        whole.cpu().float().eval().save_pretrained(folder)
    processor = {
        "image_processor_type": "SegformerImageProcessor",
        "do_resize": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(model.backbone.mean),
        "image_std": list(model.backbone.std),
        "do_reduce_labels": False,
    }
    write_json(folder / "preprocessor_config.json", processor)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch and transformers from telling of their own insides."""
    from transformers.utils import logging as theirs

    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    before, bars = [logger.level for logger in loggers], theirs.is_progress_bar_enabled()
    theirs.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
        if bars:
            theirs.enable_progress_bar()
