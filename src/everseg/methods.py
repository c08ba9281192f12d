"""Methods by name. Adding one: a file here and a line in `METHODS`; or no line, with an import path as the
name. What a method learns, domains or classes, its class says (`learns`)."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

from everseg.config import override, restore
from everseg.errors import UserError, unknown
from everseg.types import Learner

METHODS = {
    "samcl": "everseg.domains.methods.samcl:SAMCL",
    "zero-shot": "everseg.domains.methods.zero_shot:ZeroShot",
    "sequential": "everseg.domains.methods.baselines:Sequential",
    "independent": "everseg.domains.methods.independent:Independent",
    "regcl": "everseg.domains.methods.regcl:RegCL",
    "merged": "everseg.domains.methods.merged:MergedLoRA",
    "joint": "everseg.domains.methods.baselines:Joint",
    "fine-tuning": "everseg.classes.methods.baselines:FineTuning",
    "joint-classes": "everseg.classes.methods.baselines:JointClasses",
    "eir": "everseg.classes.methods.eir:EIR",
    "eir-features": "everseg.classes.methods.eir_features:EIRFeatures",
    "dkd": "everseg.classes.methods.dkd:DKD",
    "ssul": "everseg.classes.methods.ssul:SSUL",
    "plop": "everseg.classes.methods.plop:PLOP",
    "rcil": "everseg.classes.methods.rcil:RCIL",
    "mib": "everseg.classes.methods.mib:MiB",
    "ilt": "everseg.classes.methods.ilt:ILT",
    "lwf": "everseg.classes.methods.lwf:LwF",
    "dft": "everseg.classes.methods.dft:DFT",
    "star": "everseg.classes.methods.star:STAR",
}


SHORT = {"val": "tune.val", "patience": "tune.patience"}
"""Settings that may be given by a short name, in methods that have them."""


def long_name(method: str, setting: str) -> str:
    """The dotted name of a setting that may be short."""
    names = {field.name for field in dataclasses.fields(find(method).Config)}
    return SHORT.get(setting, setting) if "tune" in names - {setting} else setting


def find(name: str) -> type[Any]:
    """The class of a method, by its name in `METHODS` or by import path ("mypkg.mine:Mine").

    Raises:
        UserError: no such name, the path cannot be imported, or it leads to something else.
    """
    if not isinstance(name, str):
        raise UserError(f"the method is of type {type(name).__name__}; give its name or package.module:Class")
    if ":" not in name and name not in METHODS:
        raise unknown("method", name, METHODS)
    module, _, attribute = METHODS.get(name, name).partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise UserError(
            f"method {name!r} cannot be imported: {error}; install its package, or run `python -m everseg` "
            "in the folder that contains it"
        ) from error
    except (ImportError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        raise UserError(
            f"method {name!r} cannot be imported: {error}; write it as package.module:Class"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Learner)):
        raise UserError(
            f"{name!r} is not a method: that is a class with learn, predict, state_dict and load_state_dict, "
            "and with a Config (see docs/write-a-method.md)"
        )
    if not dataclasses.is_dataclass(getattr(found, "Config", None)):
        raise UserError(
            f"method {name!r} has no Config, a dataclass of its settings (see docs/write-a-method.md)"
        )
    return found


def configure(name: str, preset: str = "paper", assignments: Sequence[str] = ()) -> Any:
    """A method's configuration: its preset with `key=value` assignments applied.

    Raises:
        UserError: no such preset, key or value; the message names the command that lists the settings.
    """
    presets = find(name).Config.presets()
    if preset not in presets:
        raise unknown(f"preset of {name}", preset, presets)
    parts = [assignment.partition("=") for assignment in assignments]
    named = [f"{long_name(name, key.strip())}{equals}{value}" for key, equals, value in parts]
    try:
        return override(presets[preset], named)
    except UserError as error:
        raise UserError(f"{error}; see `everseg settings {name}`") from error


def build(name: str, base: Any, config: Any, seed: int) -> Learner:
    """A fresh learner on a base that suits what it learns. `config` is the method's dataclass, or the plain
    values that a run kept of it."""
    method = find(name)
    if not dataclasses.is_dataclass(config):
        config = restore(method.Config, config, f"the run's settings of {name}")
    learner: Learner = method(base, config, seed=seed)
    return learner
