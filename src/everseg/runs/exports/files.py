"""Write graphs as ONNX files, with a stated opset and variable sizes."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from everseg.errors import UserError, first_line

OPSET = 18
"""The oldest that resizes with antialiasing."""
LARGEST = 1_800_000_000
"""Bytes of weights from which they go into a file of their own: a graph's own file ends at 2 GB."""


def need_onnx() -> None:
    """Check that what writes and runs graphs is installed.

    Raises:
        UserError: it is not.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        missing = error.name or first_line(error)
        raise UserError(f"ONNX files need {missing}; run: pip install 'everseg[onnx]'") from error


def write_graph(
    module: nn.Module,
    arguments: Sequence[Any],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: Any,
    path: Path,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Export a module.

    dynamic: as `torch.export` has `dynamic_shapes`.
    about: kept in the file's metadata, as JSON.
    """
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            tuple(arguments),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=dynamic,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    for name, value in (about or {}).items():
        program.model.metadata_props[name] = json.dumps(value)
    held: list[Tensor] = [*module.parameters(), *module.buffers()]
    size = sum(one.numel() * one.element_size() for one in held)
    program.save(str(path), external_data=size > LARGEST)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter says much that concerns its makers."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def session(path: Path) -> Any:
    """An onnxruntime session on the CPU. It gives back the memory of each tensor, where by default it keeps
    what it has used at most, doubled."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
