"""`everseg export`: what was learned, in forms that load without everseg."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from everseg.cli.shared import AsJson, BaseHere, RunFolder, app
from everseg.errors import UserError
from everseg.types import ExportForm


@app.command()
def export(
    run: RunFolder,
    to: Annotated[
        ExportForm,
        typer.Option(
            help="sam: the base with the adapter folded in; peft: the adapter alone; onnx: graphs for ONNX "
            "runtimes; torch: a torch module (classes)."
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder to write; an earlier export in it is replaced.")
    ],
    domain: Annotated[
        str | None,
        typer.Option(metavar="DOMAIN", help="onnx: this domain's module; plain: the untouched base."),
    ] = None,
    routed: Annotated[
        bool, typer.Option("--routed", help="onnx: all modules; the graph chooses by the image.")
    ] = False,
    quantize: Annotated[
        Literal["int8"] | None,
        typer.Option(help="onnx: 8-bit weights; measures the loss on test images."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=32,
            metavar="PIXELS",
            help="Image side of a transformer's graph.  [default: as scored]",
        ),
    ] = None,
    base: BaseHere = None,
    as_json: AsJson = False,
) -> None:
    """Write a run in a form that other programs load without everseg.

    Runs of domains as ONNX graphs or, with adapter=linear, as a plain SAM or an adapter for peft; runs of
    classes as an ONNX graph or a torch module.
    """
    from everseg.runs.export import export as export_run
    from everseg.runs.exports.onnx import export_onnx
    from everseg.runs.folder import load
    from everseg.types.abilities import WritesModel

    found = load(run, base)
    prompted = to == "onnx" and not isinstance(found.learner, WritesModel)
    if not prompted and (domain is not None or routed or quantize is not None):
        raise UserError(
            "--domain, --routed and --quantize are for --to onnx and runs of domains; leave them out"
        )
    if prompted and size is None:
        manifest = export_onnx(found, out, domain=domain, routed=routed, quantized=quantize)
    else:
        manifest = export_run(found, to, out, size)
    if as_json:
        print(json.dumps(manifest))
        return
    print(f"{', '.join(manifest['learned'])} in {out}: {', '.join(manifest['files'])}")
    for line in _measured(manifest):
        print(line)


def _measured(manifest: dict[str, Any]) -> list[str]:
    """What was measured of graphs, in sentences."""
    lines = []
    found = manifest.get("parity")
    if isinstance(found, float):  # of classes
        by = "onnxruntime" if manifest["form"] == "onnx" else "the exported program"
        lines.append(f"{by}'s scores differ from torch's by at most {found:.1e}")
    elif found:
        lines.append(
            f"onnxruntime's logits differ from torch's by at most {found['clicks']:.1e} with clicks and "
            f"{found['boxes']:.1e} with boxes (their spread is {found['spread']:.2g})"
        )
    small = manifest.get("quantized")
    if small:
        lines.append(f"int8: {small['bytes_before'] / 1e6:.1f} MB became {small['bytes'] / 1e6:.1f} MB")
        if loss := small["loss"]:
            lines.append(
                f"int8: mean IoU {loss['iou_before']:.3f} became {loss['iou_after']:.3f} on {loss['images']} "
                f"test images; masks before and after agree with an IoU of {loss['agreement']:.3f}"
            )
    return lines
