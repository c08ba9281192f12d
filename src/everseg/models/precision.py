"""The number format that a base model computes in; its weights stay float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, Protocol, TypeVar

import torch

from everseg.types import Precision


def resolved(precision: Precision, device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """What "auto" means on a device."""
    if precision != "auto":
        return precision
    has = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if has else "fp32"


class Computes(Protocol):
    """A model that says what it computes in and where."""

    precision: Precision

    @property
    def device(self) -> torch.device: ...


Method = TypeVar("Method", bound=Callable[..., Any])


def mixed(method: Method) -> Method:
    """Run a base's method in its `precision`. What comes out, a dict or a tuple of tensors, is float32: so
    are losses, statistics and decisions."""

    @wraps(method)
    def run(base: Computes, *arguments: Any, **named: Any) -> Any:
        kind = resolved(base.precision, base.device)
        if kind == "fp32":
            return method(base, *arguments, **named)
        with torch.autocast(base.device.type, torch.bfloat16 if kind == "bf16" else torch.float16):
            out = method(base, *arguments, **named)
        if isinstance(out, dict):
            return {name: value.float() for name, value in out.items()}
        return tuple(value.float() for value in out)

    return run  # type: ignore[return-value]  # of the same signature
