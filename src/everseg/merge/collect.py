"""Measure the inputs of linear layers while a model runs."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from everseg.errors import UserError
from everseg.merge.gram import Gram, GramConfig, Measured


class GramCollector:
    """Gathers a Gram for each named linear layer from the forward passes inside a `with` block.

        with GramCollector({"down.0": lora.down[0]}) as collector, torch.no_grad():
            for batch in stage:
                predict(batch)
        grams = collector.result()

    A layer that several blocks share pools the inputs of all of them. Layers that are given the same tensor
    one after another, as q, k and v are, share its product, and in the result the Gram.

    Where a layer's parameters are used without calling the layer, as `AugModule` does, nothing fires: hand
    the inputs to `see`. The hooks go when the block is left, however it is left; a collector may be entered
    again and continues adding.

    Raises:
        UserError: a module is not an nn.Linear.
    """

    def __init__(
        self, modules: Mapping[str, nn.Linear], config: GramConfig | None = None, *, seed: int = 0
    ) -> None:
        self.config = config or GramConfig()
        for name, module in modules.items():
            if not isinstance(module, nn.Linear):
                raise UserError(
                    f"{name!r} is a {type(module).__name__}; statistics are collected for nn.Linear layers "
                    "only, so leave it out"
                )
        self.modules = dict(modules)
        # One seed for all: layers that see the same rows then draw the same ones and can share a Gram.
        self.grams = {
            name: Gram(module.in_features, self._config_of(module), seed=seed)
            for name, module in self.modules.items()
        }
        self._hooks = ExitStack()
        self._last: tuple[weakref.ref[Tensor], int, bool, Measured] | None = None

    def _config_of(self, module: nn.Linear) -> GramConfig:
        affine = self.config.affine and module.bias is not None
        return GramConfig(affine, self.config.zero_rows, self.config.max_rows, self.config.running_mean)

    def __enter__(self) -> GramCollector:
        with ExitStack() as hooks:
            for name, module in self.modules.items():
                hook = module.register_forward_pre_hook(self._hook(name), with_kwargs=True)
                hooks.callback(hook.remove)
            self._hooks = hooks.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()
        self._last = None

    def _hook(self, name: str) -> Any:
        def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.see(name, args[0] if args else kwargs["input"])

        return see

    @torch.no_grad()
    def see(self, name: str, inputs: Tensor) -> None:
        """Take in a layer's inputs (..., D)."""
        gram = self.grams[name]
        # A tensor changed in place is another one. Inference tensors do not count their changes, and a layer
        # that changed its input in place would spoil its siblings' anyway.
        version = -1 if inputs.is_inference() else inputs._version
        if self._last is not None:
            seen, at, affine, measured = self._last
            if seen() is inputs and at == version and affine == gram.config.affine:
                gram.take(measured)
                return
        measured = gram.measure(inputs)
        gram.take(measured)
        self._last = (weakref.ref(inputs), version, gram.config.affine, measured)

    def result(self) -> dict[str, Gram]:
        """The Gram of each layer; layers that saw the same rows share one object, to be stored once.

        Raises:
            UserError: a layer saw nothing.
        """
        kept: list[Gram] = []
        out = {}
        for name, gram in self.grams.items():
            if not gram.rows:
                raise UserError(
                    f"layer {name!r} saw no rows: no forward pass called it as a module; "
                    "hand its inputs to the collector's `see`, or leave it out"
                )
            total = gram.total
            twin = next((g for g in kept if g.rows == gram.rows and _same(g.total, total)), None)
            if twin is None:
                kept.append(gram)
            out[name] = twin or gram
        return out


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)
