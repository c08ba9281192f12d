"""Reading the tensors of a file, and the sentence about each file that has none or more than that."""

from __future__ import annotations

import argparse
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from everseg.errors import UserError
from everseg.models.promptable.checkpoints import load_checkpoint
from everseg.models.tensors import read_tensors

TENSORS = {"a.weight": torch.arange(600.0).view(20, 30), "a.bias": torch.ones(30)}
FORMATS: dict[str, Callable[[dict[str, Tensor], Path], object]] = {
    "zip": lambda t, p: torch.save(t, p),
    "before 1.6": lambda t, p: torch.save(t, p, _use_new_zipfile_serialization=False),
    "safetensors": lambda t, p: save_file(t, p),
}


@pytest.mark.parametrize("how", FORMATS)
def test_tensors_are_read_as_they_are(tmp_path: Path, how: str) -> None:
    FORMATS[how](TENSORS, tmp_path / "some.bin")
    found = read_tensors(tmp_path / "some.bin", "tensors")
    assert set(found) == set(TENSORS)
    assert all(torch.equal(found[name], value) for name, value in TENSORS.items())


def test_what_stands_beside_tensors_is_left(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3), "b": {"c": 1}, 5: torch.ones(2)}, tmp_path / "x.pth")
    assert set(read_tensors(tmp_path / "x.pth", "tensors")) == {"a", "5"}


def test_what_trainers_note_beside_tensors_is_passed_over(tmp_path: Path) -> None:
    told = {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.5), "losses": np.ones(3, np.float32)}
    torch.save({**TENSORS, **told}, tmp_path / "x.pth")
    assert set(read_tensors(tmp_path / "x.pth", "tensors")) == set(TENSORS)


def test_a_disk_without_memory_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = torch.load

    def unmapped(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("mmap"):
            raise RuntimeError("unable to mmap")
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", unmapped)
    torch.save(TENSORS, tmp_path / "x.pth")
    assert set(read_tensors(tmp_path / "x.pth", "tensors")) == set(TENSORS)


def refused(path: Path, said: str) -> None:
    """One sentence that names the file."""
    with pytest.raises(UserError, match=said) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


HEADS = {
    "nothing": (b"", "is empty; fetch it again"),
    "html": (
        b"\n <!DOCTYPE html>\n<html><title>404</title></html>",
        r"is a web page, not a checkpoint \(the down",
    ),
    "html later": (b"<!-- x -->" * 9 + b"<HTML lang='en'>", "is a web page"),
    "xml": (b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>", "is a web page"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        "Git LFS pointer, .* 'git lfs pull'",
    ),
    "text": (
        "Größe: 3\nnichts".encode(),
        r"neither by torch\.save nor by safetensors: it is a text file \(17 by",
    ),
    "json": (b'{"model_type": "sam"}', "it is a text file"),
    "other": (bytes(range(9, 90)) + b"\0\0", r"it is of another format \(83 bytes\); everseg reads SAM"),
    "half a header": (b"\x40\0\0\0", "it is of another format"),
}


@pytest.mark.parametrize("what", HEADS)
def test_what_is_no_checkpoint_is_said(tmp_path: Path, what: str) -> None:
    content, said = HEADS[what]
    (tmp_path / "sam.pth").write_bytes(content)
    refused(tmp_path / "sam.pth", said)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    refused(tmp_path / "sam.pth", "cannot read .*: No such file or directory")


@pytest.mark.parametrize("how", FORMATS)
@pytest.mark.parametrize("left", [60, 0.5, -1])
def test_a_truncated_file_is_said(tmp_path: Path, how: str, left: float) -> None:
    path = tmp_path / "sam.pth"
    FORMATS[how](TENSORS, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content)) if left == 0.5 else int(left)])
    refused(path, r"is truncated, damaged or no checkpoint \(.+\); fetch it again")


class Malice:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


PICKLES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "code": (lambda p, mark: torch.save({"model": Malice(mark)}, p), r"asks for (posix|nt)\.mkdir"),
    "code, before 1.6": (
        lambda p, mark: torch.save(Malice(mark), p, _use_new_zipfile_serialization=False),
        r"asks for (posix|nt)\.mkdir",
    ),
    "code, a bare pickle": (
        lambda p, mark: p.write_bytes(pickle.dumps(Malice(mark), 2)),
        r"asks for (posix|nt)\.mkdir",
    ),
    "code, a newer pickle": (
        lambda p, mark: p.write_bytes(pickle.dumps(Malice(mark), 4)),
        "Unsupported operand",
    ),
    "a module": (lambda p, _: torch.save(nn.Linear(2, 2), p), r"asks for torch\.nn\.modules\.linear\.Linear"),
    "objects in an array": (
        lambda p, mark: torch.save({"loss": np.array([Malice(mark)], object)}, p),
        r"asks for numpy\.dtypes\.ObjectDType",
    ),
}


@pytest.mark.parametrize("what", PICKLES)
def test_more_than_tensors_is_not_opened(tmp_path: Path, what: str) -> None:
    write, said = PICKLES[what]
    path, mark = tmp_path / "sam.pth", tmp_path / "executed"
    write(path, mark)
    refused(
        path,
        rf"holds more than tensors \(.*{said}.*\) and was not opened, .* save only .* state_dict\(\)",
    )
    assert not mark.exists()


def test_torchscript_is_said(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):  # It is deprecated; people have such files.
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "sam.pt")
    refused(
        tmp_path / "sam.pt", r"is a TorchScript program and was not opened; save the model's state_dict\(\)"
    )


def test_another_zip_is_said(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "sam.pth", "w") as archive:
        archive.writestr("sam/readme", "x")
    refused(tmp_path / "sam.pth", "is truncated, damaged or no checkpoint")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds a list, not a state dict; everseg reads SAM"),
        (torch.zeros(3), "holds a Tensor, not a state dict"),
        ({}, r"holds no state dict \(at its top: nothing\)"),
        ({"epoch": 3, "best": 0.5}, r"holds no state dict \(at its top: epoch, best\)"),
        (
            {"features.0.weight": torch.zeros(3), "x": torch.zeros(1)},
            "holds no SAM .its first tensor is features",
        ),
        ({"weight": torch.zeros(3)}, r"holds no SAM \(its first tensor is weight\); everseg reads"),
        (
            {"vision_encoder.pos_embed": torch.zeros(3)},
            "transformers' names: give the folder .* its config.json",
        ),
    ],
)
def test_other_content_is_said(tmp_path: Path, content: Any, said: str) -> None:
    torch.save(content, tmp_path / "some.pth")
    refused(tmp_path / "some.pth", said)
