"""Continual learning for Segment Anything: learn domains or classes one after another, without old images.

    import everseg

    stream = everseg.Stream.from_yaml("stream.yaml")
    run = everseg.learn(stream, method="samcl", out="runs/hospital")
    masks = everseg.load("runs/hospital").predict("image.png", points=[(411, 230)]).masks

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everseg.classes.problem import ClassMap
    from everseg.data import Stream
    from everseg.domains.methods.samcl import SAMCL
    from everseg.domains.problem import Masks
    from everseg.errors import UserError
    from everseg.methods import METHODS, build, configure
    from everseg.models.promptable.load import load_base
    from everseg.runs.folder import load
    from everseg.runs.gate import gate
    from everseg.runs.learn import learn, run
    from everseg.runs.run import Run, RunConfig
    from everseg.types import ImageQuery, Prompts, PromptSample, Query, SemanticSample, Stage

__version__ = "0.1.0"

_PLACES = {
    "METHODS": "everseg.methods",
    "SAMCL": "everseg.domains.methods.samcl",
    "ClassMap": "everseg.classes.problem",
    "ImageQuery": "everseg.types",
    "Masks": "everseg.domains.problem",
    "PromptSample": "everseg.types",
    "Prompts": "everseg.types",
    "Query": "everseg.types",
    "Run": "everseg.runs.run",
    "RunConfig": "everseg.runs.run",
    "SemanticSample": "everseg.types",
    "Stage": "everseg.types",
    "Stream": "everseg.data",
    "UserError": "everseg.errors",
    "build": "everseg.methods",
    "configure": "everseg.methods",
    "gate": "everseg.runs.gate",
    "learn": "everseg.runs.learn",
    "load": "everseg.runs.folder",
    "load_base": "everseg.models.promptable.load",
    "run": "everseg.runs.learn",
}

__all__ = [
    "METHODS",
    "SAMCL",
    "ClassMap",
    "ImageQuery",
    "Masks",
    "PromptSample",
    "Prompts",
    "Query",
    "Run",
    "RunConfig",
    "SemanticSample",
    "Stage",
    "Stream",
    "UserError",
    "build",
    "configure",
    "gate",
    "learn",
    "load",
    "load_base",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'everseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
