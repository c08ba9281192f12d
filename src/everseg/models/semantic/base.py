"""What a run of classes starts from: a backbone with weights, on which each learner builds a segmenter."""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path

import torch

from everseg.errors import UserError
from everseg.files import sha256_tensors
from everseg.models.names import MOBILENET
from everseg.models.semantic.backbones import Backbone
from everseg.models.semantic.load import ARCHITECTURES, load_backbone
from everseg.models.semantic.segmenter import Rule, Segmenter
from everseg.models.tensors import SUFFIXES
from everseg.types import Precision


class SemanticBase:
    """A backbone that is never trained itself. name: as it was asked for. device, precision, width: of its
    segmenters."""

    def __init__(
        self,
        backbone: Backbone,
        name: str,
        *,
        device: torch.device | None = None,
        precision: Precision = "auto",
        width: int | None = None,
    ) -> None:
        self.backbone = backbone.eval().requires_grad_(False)
        self.name, self.precision, self.width = name, precision, width
        self.device = device or torch.device("cpu")

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the weights."""
        return sha256_tensors(dict(self.backbone.state_dict()) | self.backbone.decoder)

    def segmenter(
        self, *, detached: bool, rule: Rule = "sigmoid", fine: bool = False, seed: int = 0
    ) -> Segmenter:
        """A trainable segmenter without classes on a copy of the backbone."""
        made = Segmenter(
            copy.deepcopy(self.backbone).requires_grad_(True),
            detached=detached,
            rule=rule,
            precision=self.precision,
            width=self.width,
            fine=fine,
            seed=seed,
        )
        return made.to(self.device)


def load_semantic_base(
    name: str = MOBILENET, *, device: torch.device | None = None, precision: Precision = "auto"
) -> SemanticBase:
    """The base of a run of classes.

    name: "mobilenet"; a file of torchvision's under torchvision's name, such as resnet101-63fe2227.pth; or
    what `load_backbone` takes: a folder of transformers, a hub id such as nvidia/mit-b0.

    Raises:
        UserError: there is no such backbone, its weights are not installed, or they do not fit.
    """
    path = Path(name)
    if name == MOBILENET:
        backbone = load_backbone("mobilenet_v2")
    elif path.is_file() and path.suffix in SUFFIXES:
        kind = path.stem.partition("-")[0]
        if kind not in ARCHITECTURES:
            known = ", ".join(f"{a}-….pth" for a in sorted(ARCHITECTURES))
            raise UserError(
                f"base {name!r}: the name of the file does not tell the backbone; rename it to "
                f"torchvision's name ({known})"
            )
        backbone = load_backbone(kind, path)
    else:
        backbone = load_backbone(name)
    return SemanticBase(backbone, name, device=device, precision=precision)
