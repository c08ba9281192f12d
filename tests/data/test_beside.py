"""Readers whose code lies beside the stream file."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from everseg.data import Stream
from everseg.errors import UserError

READER = """
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from everseg import PromptSample
from HELPER import grey


class Squares(Sequence):
    def __init__(self, count: int, folder: Path = Path("."), split: str = ""):
        self.count, self.folder, self.split = count, folder, split

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if isinstance(index, slice):
            return Squares(len(range(self.count)[index]), self.folder, self.split)
        mask = np.zeros((24, 24), bool)
        mask[index : index + 9, 3:9] = True
        return PromptSample.from_mask(grey(mask), mask, name=f"{self.split}{index}")


def squares(count: int, split: str = ""):
    return Squares(count, split=split)
"""
HELPER = """
import numpy as np

def grey(mask):
    return np.where(mask, BRIGHT, 40).astype(np.uint8)
"""


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a stream file with a reader and what it imports beside it."""

    def write(kind: str = "my_reader:Squares", folder: str = "a", bright: int = 200) -> Path:
        here = tmp_path / folder
        here.mkdir()
        helper = f"helper_of_{folder}"
        (here / "my_reader.py").write_text(READER.replace("HELPER", helper))
        (here / f"{helper}.py").write_text(HELPER.replace("BRIGHT", str(bright)))
        path = here / "stream.yaml"
        split = f"{{kind: '{kind}', count: 4}}"
        path.write_text(f"stages:\n  - name: s\n    train: {split}\n    test: {split}\n")
        return path

    for module in [m for m in sys.modules if m.startswith(("everseg_beside_", "helper_of_"))]:
        monkeypatch.delitem(sys.modules, module)
    return write


@pytest.mark.parametrize("kind", ["my_reader:Squares", "my_reader:squares"])
def test_a_reader_beside_the_stream_file_is_found(stream: Callable[..., Path], kind: str) -> None:
    before = list(sys.path)
    opened = Stream.from_yaml(stream(kind))
    assert sys.path == before
    assert [s.name for s in opened.stages[0].train] == [f"train{i}" for i in range(4)]
    assert opened.stages[0].test[1].name == "test1"
    assert int(opened.stages[0].train[0].image.max()) == 200


def test_a_worker_imports_the_file_that_it_cannot_find(stream: Callable[..., Path]) -> None:
    """What a worker is sent is enough, though nothing there knows the module."""
    samples = Stream.from_yaml(stream()).stages[0].train
    sent = pickle.dumps((samples, samples[1:3]))
    for module in [m for m in sys.modules if m.startswith(("everseg_beside_", "helper_of_"))]:
        del sys.modules[module]
    whole, part = pickle.loads(sent)
    assert (len(whole), len(part)) == (4, 2) and whole[3].key == samples[3].key
    assert whole.fingerprint() == samples.fingerprint()


@pytest.mark.slow
def test_spawned_workers_decode(stream: Callable[..., Path]) -> None:
    samples: Any = Stream.from_yaml(stream()).stages[0].train
    context = multiprocessing.get_context("spawn")
    loader = DataLoader(samples, num_workers=1, collate_fn=list, multiprocessing_context=context)
    assert [one.key for (one,) in loader] == [s.key for s in samples]


def test_readers_of_one_name_are_kept_apart(stream: Callable[..., Path]) -> None:
    first, second = (Stream.from_yaml(stream(folder=f, bright=b)) for f, b in (("a", 200), ("b", 90)))
    assert [int(s.stages[0].train[0].image.max()) for s in (first, second)] == [200, 90]


def test_a_module_in_a_folder_and_one_in_a_package(stream: Callable[..., Path]) -> None:
    for kind, folder, package in (("own.readers:Squares", "a", False), ("own.readers:Squares", "b", True)):
        path = stream(kind, folder)
        (path.parent / "own").mkdir()
        (path.parent / "my_reader.py").rename(path.parent / "own" / "readers.py")
        if package:
            (path.parent / "own" / "__init__.py").touch()
        samples = Stream.from_yaml(path).stages[0].train
        assert pickle.loads(pickle.dumps(samples))[0].name == "train0"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import no_such_module", r"my_reader\.py cannot be imported \(ModuleNotFoundError.*no_such_module"),
        ("def Squares(:", r"my_reader\.py cannot be imported \(SyntaxError"),
        ("1 / 0", r"my_reader\.py cannot be imported \(ZeroDivisionError"),
        ("", "cannot be imported .*has no attribute 'Squares'"),
        ("Squares = 3", "is not callable"),
        ("def Squares(count: int): return 3", "gave a int"),
        ("def Squares(count: str): return []", "option 'count' is 4"),
    ],
)
def test_what_is_wrong_with_the_code_is_said(stream: Callable[..., Path], code: str, said: str) -> None:
    path = stream()
    (path.parent / "my_reader.py").write_text(code)
    with pytest.raises(UserError, match=said):
        Stream.from_yaml(path)
    assert str(path.parent) not in sys.path


def test_annotations_that_name_their_classes_do_so_through_a_reader_beside(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    square = {"label": "cat", "points": [[1, 1], [7, 1], [7, 7]], "shape_type": "polygon"}
    (tmp_path / "x.json").write_text(json.dumps({"shapes": [square], "imagePath": "x.png"}))
    (tmp_path / "mine.py").write_text("from everseg.data.classes.drawn import labelme_maps as maps\n")
    split = "{kind: 'mine:maps', path: .}"
    text = f"train: {split}\ntest: {split}\nstages: [{{name: s, classes: [cat]}}]\n"
    path = tmp_path / "stream.yaml"
    path.write_text(text)
    assert [s.name for s in Stream.from_yaml(path).stages[0].train] == ["x.png"]
    path.write_text("classes: [dog, cat]\n" + text)
    with pytest.raises(UserError, match="the annotations already name their classes"):
        Stream.from_yaml(path)
