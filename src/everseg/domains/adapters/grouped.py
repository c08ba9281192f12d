"""A batch whose rows have different adapters, or none: the base stays whole, each group of rows gets its own
small products.

Shape suffixes: as in `models.promptable.protocol`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from everseg.models.promptable.protocol import Adaptation

Added = Callable[[Adaptation, Tensor], Tensor | None]
"""What an adaptation adds to the output of a layer with this input."""


class Grouped(Adaptation):
    """Adaptations of any kinds, each bound to its own rows of a batch.

    parts: number of rows and their adaptation, in the order of the rows; None leaves its rows as they are.
    """

    def __init__(self, parts: Sequence[tuple[int, Adaptation | None]]) -> None:
        self.parts = tuple(parts)
        self.rows = sum(rows for rows, _ in parts)
        self.linears = frozenset(name for _, part in parts if part is not None for name in part.linears)

    def linear(self, name: str, inputs: Tensor) -> Tensor | None:
        return self._each(lambda part, x: part.linear(name, x) if name in part.linears else None, inputs)

    def attention(self, block: int, tokens: Tensor, window: int) -> Tensor | None:
        return self._each(lambda part, x: part.attention(block, x, window), tokens)

    def add_attention(self, out: Tensor, block: int, tokens: Tensor, window: int) -> Tensor:
        return self._added(
            out, lambda part, whole, piece: part.add_attention(whole, block, piece, window), tokens
        )

    def add_neck_in(self, x: Tensor) -> Tensor:
        return self._added(x, lambda part, whole, _: part.add_neck_in(whole), x)

    def add_neck_out(self, x: Tensor) -> Tensor:
        return self._added(x, lambda part, whole, _: part.add_neck_out(whole), x)

    def neck_in(self) -> Tensor | None:
        return self._joined([None if part is None else part.neck_in() for _, part in self.parts])

    def neck_out(self) -> Tensor | None:
        return self._joined([None if part is None else part.neck_out() for _, part in self.parts])

    def _added(
        self, out: Tensor, add: Callable[[Adaptation, Tensor, Tensor], Tensor], inputs: Tensor
    ) -> Tensor:
        """An output to which the parts have added, each to its rows, given its rows of the inputs."""
        done = [
            whole if part is None else add(part, whole, piece)
            for (_, part), whole, piece in zip(self.parts, self._cut(out), self._cut(inputs), strict=True)
        ]
        # Without gradients the parts have written to their slices of `out`.
        return torch.cat(done) if torch.is_grad_enabled() else out

    def _each(self, added: Added, inputs: Tensor) -> Tensor | None:
        """What the parts add, each given its rows of the inputs."""
        return self._joined(
            [
                None if part is None else added(part, piece)
                for (_, part), piece in zip(self.parts, self._cut(inputs), strict=True)
            ]
        )

    def _cut(self, x: Tensor) -> tuple[Tensor, ...]:
        """The parts' rows of a batch or of its windows: (B, ...) or (B*V, ...)."""
        assert len(x) % self.rows == 0, "every row has the same number of windows"
        return x.split([rows * (len(x) // self.rows) for rows, _ in self.parts])

    def _joined(self, pieces: Sequence[Tensor | None]) -> Tensor | None:
        """The pieces of all parts, with zeros for the rows to which nothing is added."""
        like = [
            (piece, rows) for piece, (rows, _) in zip(pieces, self.parts, strict=True) if piece is not None
        ]
        if not like:
            return None
        one, rows_of_one = like[0]
        per_row, shape = len(one) // rows_of_one, one.shape[1:]
        return torch.cat(
            [
                one.new_zeros(rows * per_row, *shape) if piece is None else piece
                for piece, (rows, _) in zip(pieces, self.parts, strict=True)
            ]
        )
