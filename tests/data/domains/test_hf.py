"""Data sets of Hugging Face's `datasets`, saved on a disk."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from everseg.data import Stream
from everseg.data.domains.hf import HfReader
from everseg.data.samples import PartlyReadable
from everseg.errors import UserError

PIXELS = [np.random.default_rng(i).integers(0, 256, (24, 32, 3), dtype=np.uint8) for i in range(4)]
MASK = np.zeros((24, 32), np.uint8)
MASK[4:9, 3:9] = 1
LABELS = MASK.copy()
LABELS[12:20, 10:20] = 2


def table(masks: list[Any], **features: Any) -> Any:
    rows = {
        "image": [Image.fromarray(p) for p in PIXELS[: len(masks)]],
        "mask": [Image.fromarray(m) if isinstance(m, np.ndarray) else m for m in masks],
        "note": ["x"] * len(masks),
    }
    kinds = {
        "image": datasets.Image(),
        "mask": datasets.Image(),
        "note": datasets.Value("string"),
        **features,
    }
    return datasets.Dataset.from_dict(rows, datasets.Features(kinds))


@pytest.fixture
def saved(tmp_path: Path, capsys: Any) -> Callable[..., Path]:
    def write(masks: list[Any], test: list[Any] | None = None, name: str = "set", **features: Any) -> Path:
        datasets.disable_progress_bars()
        train = table(masks, **features)
        whole = train if test is None else datasets.DatasetDict(train=train, test=table(test))
        whole.save_to_disk(str(tmp_path / name))
        return tmp_path / name

    return write


def test_rows_are_samples(saved: Callable[..., Path]) -> None:
    path = saved([MASK, MASK, np.dstack([MASK] * 3)])
    found = HfReader(str(path))
    assert [s.name for s in found] == found.names() == ["000000", "000001", "000002"]
    assert found.masks() == "0/1, object = 1 (3 rows)"
    for i, sample in enumerate(found):
        assert torch.equal(sample.image, torch.from_numpy(PIXELS[i].transpose(2, 0, 1)))
        assert torch.equal(sample.masks[0], torch.from_numpy(MASK > 0))
    assert len({s.key for s in found}) == 3
    sent = pickle.loads(pickle.dumps(found[1:]))
    assert len(sent) == 2 and sent[0].key == found[1].key
    assert [s.name for s in HfReader(str(path), part=(1, 3), limit=1)] == ["000001"]


@pytest.mark.parametrize("form", [MASK * 255, MASK > 0, np.dstack([MASK * 200, MASK * 9, MASK])])
def test_masks_in_other_forms(saved: Callable[..., Path], form: Any) -> None:
    assert torch.equal(HfReader(str(saved([form, form])))[1].masks[0], torch.from_numpy(MASK > 0))


def test_masks_mean_one_thing_for_all_rows(saved: Callable[..., Path]) -> None:
    path = str(saved([MASK, MASK * 255]))
    with pytest.raises(UserError, match=r"hold the values 0 .*1 .*in 1 of 2 files.*mask_values: \[1, 255\]"):
        HfReader(path)
    assert len(HfReader(path, mask_values=(1, 255))) == 2


def test_values_are_objects(saved: Callable[..., Path]) -> None:
    path = str(saved([LABELS, MASK, MASK * 0]))
    assert [s.name for s in HfReader(path, instances="each")] == ["000000#1", "000000#2", "000001#1"]
    some = HfReader(path, mask_values=(2,), skip_empty=True)
    assert [(s.name, int(s.masks.sum())) for s in some] == [("000000", 80)]
    with pytest.raises(UserError, match=r"row 0, mask hold the values 0 .*1 .*2 .*mask_values: \[1, 2\]"):
        HfReader(path)
    with pytest.raises(UserError, match="row 2 has no object; set skip_empty"):
        HfReader(path, mask_values=(1, 2))[2]
    with pytest.raises(
        UserError, match="mask_threshold and mask_colours cannot be combined with instances: each"
    ):
        HfReader(path, instances="each", mask_threshold=127)


def test_numbers_between_others_are_no_objects(saved: Callable[..., Path], write_stream: Any) -> None:
    smooth = np.asarray(Image.fromarray(LABELS * 90).resize((90, 70), Image.Resampling.BICUBIC))
    path = saved([smooth])
    with pytest.raises(UserError, match=r"row 0, mask has \d+ numbers, and .*resized smoothly"):
        HfReader(str(path), instances="each")
    split = "{kind: hf, path: set}"
    text = f"classes: {{90: cat, 180: dog}}\ntrain: {split}\ntest: {split}\nsteps: 1-1\n"
    with pytest.raises(UserError, match="resized smoothly"):
        Stream.from_yaml(write_stream(text))


def test_splits_by_a_stream_file(saved: Callable[..., Path], write_stream: Callable[[str], Path]) -> None:
    saved([MASK, MASK], [LABELS])
    split = "{kind: hf, path: set, mask_values: [1]}"
    stream = Stream.from_yaml(write_stream(f"stages: [{{name: a, train: {split}, test: {split}}}]"))
    assert (len(stream.stages[0].train), len(stream.stages[0].test)) == (2, 1)
    with pytest.raises(UserError, match=r"unknown split of set: 'valid'"):
        Stream.from_yaml(
            write_stream(f"stages: [{{name: a, train: {split[:-1]}, split: valid}}, test: {split}}}]")
        )


def test_classes_are_values(saved: Callable[..., Path], write_stream: Callable[[str], Path]) -> None:
    saved([LABELS, MASK], [LABELS])
    split = "{kind: hf, path: set, split: %s}"
    text = f"classes: [cat, dog]\ntrain: {split % 'train'}\ntest: {split % 'test'}\nsteps: 1-1\n"
    stream = Stream.from_yaml(write_stream(text))
    assert [len(s.train) for s in stream.stages] == [2, 1]
    assert torch.equal(stream.stages[1].test[0].labels, torch.from_numpy(LABELS))
    assert pickle.loads(pickle.dumps(stream.stages[1].train))[0].key == stream.stages[1].train[0].key
    with pytest.raises(UserError, match="has the splits train, test; choose one"):
        Stream.from_yaml(write_stream(text.replace(", split: train", "")))
    saved([LABELS.astype(np.uint16) * 300], [LABELS], name="deep")
    with pytest.raises(UserError, match="row 0, mask has numbers up to 600, and class maps hold 0 to 255"):
        Stream.from_yaml(write_stream(text.replace("path: set", "path: deep")))


def test_masks_as_rows_of_numbers(saved: Callable[..., Path]) -> None:
    path = saved([MASK.tolist()], mask=datasets.Array2D((24, 32), "uint8"))
    assert torch.equal(HfReader(str(path))[0].masks[0], torch.from_numpy(MASK > 0))
    assert HfReader(str(path)).fingerprint()


def test_the_fingerprint_is_of_rows_and_options(saved: Callable[..., Path]) -> None:
    first = HfReader(str(saved([MASK, MASK]))).fingerprint()
    assert HfReader(str(saved([MASK, MASK], name="moved"))).fingerprint() == first
    assert HfReader(str(saved([MASK, np.roll(MASK, 1)], name="other"))).fingerprint() != first
    changed = [{"mask_values": (1,)}, {"clicks": 5}, {"window": (0, 99)}, {"part": (0, 1)}]
    assert first not in {HfReader(str(saved([MASK, MASK], name="again")), **c).fingerprint() for c in changed}


def test_what_is_wrong_is_said(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(saved([MASK, MASK[:9], np.dstack([MASK * 9, MASK, MASK]), None]))
    reader = HfReader(path, mask_values=(1,))
    for row, said in ((1, "image of 32x24 but a mask of 32x9"), (3, "has no mask")):
        with pytest.raises(UserError, match=f"row {row}.*{said}"):
            reader[row]
    with pytest.raises(PartlyReadable, match=r"row 2, mask is in colour") as caught:
        HfReader(path, instances="each")
    assert len(caught.value.problems) == 2 and caught.value.rest.names() == ["000000#1", "000001#1"]
    with pytest.raises(UserError, match=r"unknown mask \(a column of .*'label'"):
        HfReader(path, mask="label")
    with pytest.raises(UserError, match=r"the column 'note' of .* has no images"):
        HfReader(path, image="note")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty cannot be opened .*a name on the hub"):
        HfReader(str(tmp_path / "empty"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the package datasets; run: pip install 'everseg\[hf\]'"):
        HfReader(path)


@pytest.mark.slow
def test_a_folder_that_load_dataset_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "parquet").mkdir()
    table([MASK, MASK]).to_parquet(str(tmp_path / "parquet" / "train-0.parquet"))
    found = HfReader("parquet", stream_root=str(tmp_path))
    assert len(found) == 2 and torch.equal(found[1].masks[0], torch.from_numpy(MASK > 0))
