"""Difference between the answers of onnxruntime and torch, for clicks and boxes, with every module."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from everseg.domains.adapters.kinds import AnyAdapter
from everseg.domains.tune import forward
from everseg.errors import UserError
from everseg.models.promptable.protocol import TAP, FramePrompts
from everseg.runs.exports.graphs import Unadapted
from everseg.runs.exports.plan import Plan
from everseg.runs.exports.routing import Router
from everseg.runs.exports.runner import Feeds, Runner
from everseg.types import OUTSIDE

MOST = 1e-3
"""The largest difference of logits that is accepted, in units of their spread, or of 1 where that is less."""


def parity(folder: Path, made: Plan) -> dict[str, Any]:
    """The greatest differences of logits, for clicks and boxes, on one random image and with each module.

    A routed decoder is sent to each module by an image whose mean feature is what the domain's is.

    Raises:
        UserError: they are too large for the graphs to be of use.
    """
    runner, base = Runner(folder, made.base), made.base
    check_free(runner.decoder.get_inputs())
    image = _image(base.image_size)
    encoded = runner.encode(image)
    found: dict[str, Any] = {"clicks": 0.0, "boxes": 0.0}
    spread = 0.0
    with torch.no_grad():
        features = base.trunk(base.pixels([image]))
        for name, shift in _cases(made, features[TAP]):
            adapter = made.modules.get(name)
            moved, given = {**features, TAP: features[TAP] + shift}, dict(encoded)
            if made.layout != "one":
                key = runner.embedding
                given[key] = given[key] + shift[None, :, None, None].numpy()
                chosen = _module(runner, given, made.router)
                if made.layout == "routed" and chosen != (None if name == OUTSIDE else name):
                    raise UserError(
                        f"the exported router sends an image of {name!r} to {chosen!r}, so nothing was "
                        "written; try another version of onnxruntime"
                    )
            for kind, prompts in _prompts(base.image_size).items():
                theirs = _theirs(runner, given, prompts, base.image_size, name)
                ours = _ours(made, moved, prompts, adapter)
                found[kind] = max(found[kind], float((theirs - ours).abs().max()))
                spread = max(spread, float(ours.std()))
    found["spread"] = spread
    worst = max(found["clicks"], found["boxes"])
    if worst > MOST * max(1.0, spread):
        raise UserError(
            f"onnxruntime's logits are up to {worst:.2g} from torch's, where they spread by {spread:.2g}: "
            "nothing was written; try another version of onnxruntime"
        )
    return found


def check_free(inputs: Sequence[Any]) -> None:
    """Check that a graph's clicks may be any number, of any number of objects.

    Raises:
        UserError: the exporter has fixed one of them.
    """
    clicks = [one for one in inputs if one.name in ("point_coords", "point_labels")]
    if fixed := [one for one in clicks if any(isinstance(size, int) for size in one.shape[:2])]:
        raise UserError(
            f"the exporter fixed the shape of {fixed[0].name} to {fixed[0].shape}, so that the graph takes "
            "no other number of clicks or objects: nothing was written; try another version of onnx"
        )


def _cases(made: Plan, tap: Tensor) -> list[tuple[str, Tensor]]:
    """Names of modules, and what is added to the tap so that the router chooses them."""
    none = torch.zeros(tap.shape[-1])
    if made.layout == "one":
        return [(next(iter(made.modules), OUTSIDE), none)]
    if made.layout == "parts":
        return [(name, none) for name in made.modules]
    assert made.router is not None
    cases = [(OUTSIDE, none + 1e4)] if made.router.known else []
    p_values = made.router.p_values
    for n in range(len(made.router.known)):
        assert p_values is not None
        middle = p_values.get_buffer("centre_D") + _own_mean(made.router, n)
        shift = middle.float() - tap.mean((0, 1, 2))
        answer, *_ = made.router((tap + shift).permute(0, 3, 1, 2))
        chosen = made.router.answers[int(answer)]
        if chosen in made.modules:
            cases.append((chosen, shift))
    return cases


def _own_mean(router: Router, n: int) -> Tensor:
    """The mean of a domain's embeddings, from the centre of all, (D,)."""
    assert router.p_values is not None
    square, linear = (router.p_values.get_buffer(f"{name}_KD")[n] for name in ("square", "linear"))
    return -linear / (2 * square)


def _module(runner: Runner, given: Feeds, router: Router | None) -> str | None:
    """The module that the exported router chooses; None for the untouched base."""
    assert router is not None
    answer, _ = runner.answer(given)
    number = int(router.module_of(torch.tensor([router.answers.index(answer)])))
    if number == 0:
        return None
    return answer


def _theirs(runner: Runner, given: Feeds, prompts: FramePrompts, side: int, module: str) -> Tensor:
    logits, _ = runner.decode(given, prompts, (side, side), module)
    return logits


def _ours(made: Plan, features: Any, prompts: FramePrompts, adapter: AnyAdapter | None) -> Tensor:
    given = prompts.points if prompts.points is not None else prompts.boxes
    assert given is not None
    rows = {k: v.expand(len(given), *v.shape[1:]) for k, v in features.items()}
    folded = isinstance(made.tail, Unadapted)
    bind = None if adapter is None or folded else adapter.bind
    return forward(made.base, rows, prompts, bind or (lambda heat: None))[0]


def _image(side: int) -> Tensor:
    """A random image (3, S, S) uint8 with coarse and fine structure."""
    draw = torch.Generator().manual_seed(0)
    coarse = F.interpolate(torch.rand(1, 3, 8, 8, generator=draw), size=(side, side), mode="bicubic")[0]
    fine = torch.rand(3, side, side, generator=draw)
    return (255 * (0.8 * coarse.clamp(0, 1) + 0.2 * fine)).to(torch.uint8)


def _prompts(side: int) -> dict[str, FramePrompts]:
    """Two objects by two clicks each, and two by a box."""
    points = torch.tensor([[[[0.3, 0.4], [0.8, 0.75]]], [[[0.55, 0.5], [0.1, 0.9]]]]) * side
    labels = torch.tensor([[[1, 0]], [[1, 1]]])
    boxes = torch.tensor([[[0.2, 0.25, 0.6, 0.7]], [[0.5, 0.1, 0.95, 0.6]]]) * side
    return {"clicks": FramePrompts(points, labels, None), "boxes": FramePrompts(None, None, boxes)}
