"""The linear layers of a base's blocks by name, and blocks that add to them while the base stays as it is."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import Any

from torch import Tensor, nn

from everseg.models.promptable.protocol import Adaptation, plus


def linears_in(model: nn.Module, blocks: Iterable[str]) -> dict[str, nn.Linear]:
    """The linear layers in some blocks of a model, all by their names in the model's state dict."""
    return {
        f"{block}.{name}": module
        for block in blocks
        for name, module in model.get_submodule(block).named_modules()
        if isinstance(module, nn.Linear)
    }


def adapted(module: Any, name: str, adaptation: Adaptation | None) -> Any:
    """A module of the base, called `name` in its state dict, with what an adaptation adds to the linear
    layers in it.

    A shallow copy that shares every weight: the module itself is never changed, so nothing is to be undone,
    whatever is raised, and passes with other adaptations may run at the same time.
    """
    return module if adaptation is None or not adaptation.linears else _adapted(module, name, adaptation)


def _adapted(module: nn.Module, name: str, adaptation: Adaptation) -> nn.Module:
    if name in adaptation.linears:
        return _Adapted(module, name, adaptation)
    if not module._modules:
        return module
    twin = copy(module)
    twin._modules = {
        child: None if part is None else _adapted(part, f"{name}.{child}", adaptation)
        for child, part in module._modules.items()
    }
    return twin


class _Adapted(nn.Module):
    """A linear layer and what is added to its output."""

    def __init__(self, layer: nn.Module, name: str, adaptation: Adaptation) -> None:
        super().__init__()
        self.layer, self.name, self.adaptation = layer, name, adaptation

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.layer(inputs)
        return plus(out, self.adaptation.linear(self.name, inputs))
