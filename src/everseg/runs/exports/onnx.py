"""`everseg export --to onnx`: the graphs of a promptable run, checked in onnxruntime before they appear.

    one      encoder.onnx decoder.onnx                                     one adapter, or the base
    routed   encoder.onnx decoder.onnx router.onnx                         the decoder chooses by the image
    parts    encoder.onnx router.onnx tail.onnx decoder.onnx module.*      weights of modules are inputs

Beside the first two, config.yaml is what AnyLabeling loads, and x-anylabeling.yaml what X-AnyLabeling does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from everseg.errors import UserError
from everseg.files import atomic_folder, sha256_file, write_json, write_text
from everseg.models.promptable.sam import Sam
from everseg.models.promptable.sam2 import FINE, Sam2
from everseg.runs.exports.files import OPSET, need_onnx, write_graph
from everseg.runs.exports.folder import MANIFEST, check_replaceable, manifest_of
from everseg.runs.exports.graphs import (
    FRAME,
    MASK,
    Encoder,
    Sam2Decoder,
    Sam2Tail,
    SamDecoder,
    SamTail,
)
from everseg.runs.exports.parity import parity
from everseg.runs.exports.plan import Plan, plan
from everseg.runs.exports.quantize import Quantized, quantize
from everseg.runs.exports.runner import DECODER, ENCODER, ROUTER, TAIL, module_file
from everseg.runs.problem import refuse_classes
from everseg.runs.run import Run
from everseg.types import PLAIN

RUNNERS = {"config.yaml": "segment_anything", "x-anylabeling.yaml": "segment_anything_2"}
"""Files of AnyLabeling and of X-AnyLabeling, with what each calls a SAM 2: the first tells by the decoder."""
MOST = 4096
"""Objects and points that one call may have."""
LARGEST_SIDE = 65536


def export_onnx(
    run: Run,
    out: Path | str,
    *,
    domain: str | None = None,
    routed: bool = False,
    quantized: Quantized | None = None,
) -> dict[str, Any]:
    """Write a promptable run as ONNX graphs to the folder `out`, whole or not at all; returns its manifest.

    domain: the module that is merged in; "plain" for the untouched base.
    routed: let the decoder choose the module, as the run does. Without either, a run of many modules becomes
        graphs that take their weights as inputs.
    quantized: "int8" for weights of 8 bits.

    The graphs are run in onnxruntime beside torch, and the manifest says how far apart they are.

    Raises:
        UserError: the run has no such form, onnx or onnxruntime is missing, or `out` holds what no export
            wrote.
    """
    out = Path(out).resolve()
    refuse_classes(run.config.method, "prompted graphs are made of methods that learn domains")
    need_onnx()
    check_replaceable(out)
    if not isinstance(run.base, Sam | Sam2):
        raise UserError(
            f"the base {run.base.name} is neither a SAM nor a SAM 2; graphs are made of these only, so "
            "learn on one of them"
        )
    with _on_cpu(run):
        made = plan(run, domain, routed)
        manifest = manifest_of(run, "onnx") | {"layout": made.layout, "opset": OPSET}
        if domain is not None:
            manifest["domain"] = domain
        with atomic_folder(out) as folder:
            _write(folder, made)
            if made.layout != "parts":
                for name, kind in RUNNERS.items():
                    write_text(folder / name, _runner_config(run, made, domain, kind))
            manifest["parity"] = parity(folder, made)
            if quantized is not None:
                only = None if domain in (None, PLAIN) else domain
                manifest["quantized"] = {"to": quantized, **quantize(folder, run, made, only)}
            manifest["files"] = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
            write_json(folder / MANIFEST, manifest)
    return manifest


@contextmanager
def _on_cpu(run: Run) -> Iterator[None]:
    """Graphs are made on the CPU in float32."""
    base, learner = run.base, run.learner
    device, precision = base.device, base.precision
    parts = [part for part in _modules_of(learner) if isinstance(part, nn.Module)]

    def move(to: torch.device) -> None:
        base.to(to)
        for part in parts:
            part.to(to)

    move(torch.device("cpu"))
    base.precision = "fp32"
    try:
        yield
    finally:
        base.precision = precision
        move(device)


def _modules_of(learner: Any) -> list[Any]:
    """The modules that a learner holds by itself or in dictionaries."""
    held = list(vars(learner).values())
    return [*held, *(part for value in held if isinstance(value, dict) for part in value.values())]


def _write(folder: Path, made: Plan) -> None:
    base, side = made.base, made.base.image_size
    after = made.tail if made.tail is not None and made.tail.reads_clicks else None
    before = made.tail if made.layout == "one" and after is None else None
    two = isinstance(base, Sam2)
    n, p = torch.export.Dim("objects", min=1, max=MOST), torch.export.Dim("points", min=1, max=MOST)
    embedding = "image_embed" if two else "image_embeddings"
    fine = ["high_res_feats_0", "high_res_feats_1"] if two else []

    encoder = Encoder(base, before)  # type: ignore[arg-type]  # one of the two kinds that read no clicks
    height, width = (torch.export.Dim(name, min=2, max=LARGEST_SIDE) for name in ("height", "width"))
    if two:
        image: Any = (torch.zeros(1, 3, side, side),)
        write_graph(encoder, image, ["image"], [*fine, embedding], None, folder / ENCODER)
    else:
        image, sizes = (torch.zeros(side // 2, side // 2 + 8, 3),), ({0: height, 1: width},)
        write_graph(encoder, image, ["input_image"], [embedding], sizes, folder / ENCODER)

    grid = base.grid
    tap, rows = (1, base.width, grid, grid), (2, base.channels, grid, grid)
    points, labels = torch.rand(2, 3, 2) * side, torch.tensor([[1.0, 0.0, -1.0], [2.0, 3.0, 1.0]])
    clicks, moving = (points, labels), ({0: n, 1: p}, {0: n, 1: p})
    parts = made.layout == "parts"
    shape = rows if parts else tap if after is not None else (1, *rows[1:])
    levels = _levels(made, 2 if parts else 1)
    many: Any = {0: n} if parts else None
    mask = torch.zeros(2, 1, side // 4, side // 4) if two else torch.zeros(1, 1, MASK, MASK)
    more: list[Any] = [mask, torch.zeros(1)]
    names = [embedding, *fine, "point_coords", "point_labels", "mask_input", "has_mask_input"]
    dynamic: list[Any] = [many, *([many] * len(fine)), *moving, {0: n} if two else None, None]
    outputs = ["masks", "iou_predictions"]
    if not two:
        more, names, dynamic = [*more, torch.tensor([40.0, 60.0])], [*names, "orig_im_size"], [*dynamic, None]
        outputs = [*outputs, "low_res_logits"]
    decoder = (Sam2Decoder if two else SamDecoder)(base, after, rows=parts)
    arguments = [torch.zeros(shape), *levels, *clicks, *more]
    write_graph(decoder, arguments, names, outputs, tuple(dynamic), folder / DECODER)

    if made.router is not None:
        router, b = made.router, torch.export.Dim("images", min=1, max=MOST)
        about = {
            "answers": router.answers,
            "classes": router.classes,
            "domains": router.known,
            "abstain": router.abstain,
            "modules": list(made.modules),
        }
        given = (torch.zeros(2, *tap[1:]),)
        told = ["answer", "probabilities", "p_values"]
        write_graph(router, given, [embedding], told, ({0: b},), folder / ROUTER, about)
    if parts:
        _write_tail(folder, made, tap, clicks, moving)


def _write_tail(folder: Path, made: Plan, tap: Any, clicks: Any, moving: Any) -> None:
    """The tail, and the weights of each module by the names of its inputs."""
    base, weights = made.base, made.weights
    first = next(iter(weights.values()))
    assert made.config is not None
    config = next(iter(made.modules.values())).config
    two = isinstance(base, Sam2)
    tail = (Sam2Tail if two else SamTail)(base, list(first), base.adapted, config)  # type: ignore[arg-type]
    size: list[Any] = [] if two else [torch.tensor([40.0, 60.0])]
    names = ["image_embed"] if two else ["image_embeddings"]
    names += ["point_coords", "point_labels", *([] if two else ["orig_im_size"]), *first]
    values = list(first.values())
    dynamic = (None, *moving, *([None] * len(size)), [None] * len(values))
    arguments = [torch.zeros(tap), *clicks, *size, values]
    write_graph(tail, arguments, names, ["adapted_embeddings"], dynamic, folder / TAIL)
    for name, module in weights.items():
        save_file(module, folder / module_file(name), metadata={"format": "pt"})


def _levels(made: Plan, rows: int) -> list[torch.Tensor]:
    """Stand-ins for SAM 2's levels of high resolution."""
    if not isinstance(made.base, Sam2):
        return []
    with torch.no_grad():
        side = made.base.image_size
        features = made.base.trunk(torch.zeros(1, 3, side, side))
    return [features[name].expand(rows, -1, -1, -1).contiguous() for name in FINE]


def _runner_config(run: Run, made: Plan, domain: str | None, kind: str) -> str:
    """What AnyLabeling and X-AnyLabeling load. Paths are relative to it.

    kind: what the program calls a SAM 2.
    """
    name = run.folder.name or "everseg"
    shown = f"{name} ({domain})" if domain else name
    values = {
        "type": kind if isinstance(made.base, Sam2) else "segment_anything",
        "name": f"everseg_{name}",
        "display_name": f"everseg {shown}",
        "encoder_model_path": ENCODER,
        "decoder_model_path": DECODER,
        "input_size": FRAME,
        "max_width": FRAME,
        "max_height": 682,
    }
    return yaml.safe_dump(values, sort_keys=False)
