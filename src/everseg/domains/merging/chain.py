"""An adapted tail as the chain of layers that RegMean++ merges one after another."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from everseg.domains.adapters.kinds import AnyAdapter, block_of
from everseg.domains.merging.contribution import Samples
from everseg.errors import UserError
from everseg.merge.rule import Chain
from everseg.models.promptable.protocol import TAP, Adaptation, Promptable


class _Called(Adaptation):
    """What another adaptation adds in a block, computed by calling its layers, so that their hooks run."""

    def __init__(self, other: Adaptation) -> None:
        self.other = other
        self.linears = other.linears

    def linear(self, name: str, inputs: Tensor) -> Tensor | None:
        return self.other.linear(name, inputs)

    def attention(self, block: int, tokens: Tensor, window: int) -> Tensor | None:
        return self.other.attention(block, tokens, window)


class _Block(nn.Module):
    """One adapted block, x (B, Y, X, D) -> the same; its children are the adapter's own layers in it."""

    def __init__(self, base: Promptable, index: int, adapter: AnyAdapter, names: Sequence[str]) -> None:
        super().__init__()
        self._inside = (base, index, adapter)  # In a tuple, so that they are not children.
        layers = dict(adapter.named_modules())
        for name in names:
            self.add_module(_child(name), layers[name])

    def forward(self, x: Tensor) -> Tensor:
        base, index, adapter = self._inside
        return base.block(index, x, _Called(adapter.bind(None)))  # type: ignore[arg-type]


def _child(name: str) -> str:
    return name.replace(".", "/")


def chain_of(adapter: AnyAdapter, base: Promptable, samples: Sequence[Samples]) -> Chain:
    """The blocks of an adapted tail.

    adapter: of the kind to be merged, to run them in.
    samples: of each domain, the trunk's output.

    Raises:
        UserError: blocks share a layer, as those of an AugModule do.
    """
    linears = [name for name, m in adapter.named_modules() if isinstance(m, nn.Linear)]
    places = {name: block_of(name) for name in linears}
    if None in places.values():
        raise UserError(
            "regmean++ merges block after block, and the blocks of an AugModule share a layer; learn with "
            "adapter=lora or adapter=linear"
        )
    order = sorted(set(places.values()), key=lambda place: -1 if place is None else place)
    layers = [
        _Block(base, index, adapter, [n for n in linears if places[n] == place])
        for index, place in zip(base.adapted, order, strict=True)
    ]
    inputs = [own.features[TAP].float().to(base.device) for own in samples]
    return Chain(layers, inputs, {n: f"{order.index(places[n])}.{_child(n)}" for n in linears})
