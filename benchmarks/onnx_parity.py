"""How far ONNX graphs are from torch: the embedded base, and random SAM ViT-B and SAM 2 Hiera-tiny.

    python benchmarks/onnx_parity.py --out onnx.json [tiny vit-b hiera-t]

Each base has an AugModule (in the decoder) or a LoRA (in the encoder) of random weights, so that clicks,
boxes and adapters all count. Prints a table of the largest differences of logits, and of seconds and bytes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from everseg.methods import build, configure
from everseg.models.promptable.load import load_base
from everseg.models.promptable.sam import Sam
from everseg.models.promptable.sam2 import Sam2
from everseg.runs.exports.onnx import export_onnx
from everseg.runs.folder import new_run
from everseg.runs.run import Run, RunConfig


def random_weights(model: Any) -> Any:
    """Weights that keep signals at their size, so that prompts and pixels are still felt at the far end."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=draw)
            if p.ndim == 1:
                p.copy_(1 + 0.2 * noise if name.endswith("weight") else 0.1 * noise)
            else:
                p.copy_(noise if "embed" in name.split(".")[-1] else noise * p[0].numel() ** -0.5)
    return model


def base_named(name: str) -> Any:
    if name == "tiny":
        return load_base("tiny")
    if name == "vit-b":
        from transformers.models.sam.configuration_sam import SamConfig
        from transformers.models.sam.modeling_sam import SamModel

        return Sam(random_weights(SamModel(SamConfig())), "vit-b")
    from transformers.models.sam2.configuration_sam2 import Sam2Config
    from transformers.models.sam2.modeling_sam2 import Sam2Model

    return Sam2(random_weights(Sam2Model(Sam2Config())), "hiera-t")


def tuned(base: Any, kind: str) -> Run:
    """A run whose one adapter has random weights."""
    config = configure("sequential", assignments=[f"adapter={kind}"])
    learner: Any = build("sequential", base, config, 0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in learner.adapter.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=draw))
    return new_run(Path("random"), RunConfig("sequential", config, base.name), learner, base)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bases", nargs="*", default=["tiny", "vit-b", "hiera-t"])
    parser.add_argument("--adapters", nargs="*", default=["aug", "lora"])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows = []
    for name in given.bases:
        for kind in given.adapters:
            begun = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                told = export_onnx(tuned(base_named(name), kind), Path(folder) / "x")
                size = sum(path.stat().st_size for path in (Path(folder) / "x").iterdir())
            rows.append(
                {
                    "base": name,
                    "adapter": kind,
                    **told["parity"],
                    "bytes": size,
                    "seconds": time.perf_counter() - begun,
                }
            )
            given.out.write_text(json.dumps(rows, indent=1))
            row = rows[-1]
            print(
                f"| {name} | {kind} | {row['clicks']:.1e} | {row['boxes']:.1e} | {row['spread']:.2g} | "
                f"{size / 1e6:.0f} MB | {row['seconds']:.0f} s |",
                flush=True,
            )


if __name__ == "__main__":
    main()
