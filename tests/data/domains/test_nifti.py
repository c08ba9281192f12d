"""NIfTI: slices that have an object, however a volume is stored."""

from __future__ import annotations

import gzip
import pickle
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from everseg.data import Stream
from everseg.data.domains.nifti import NiftiReader
from everseg.data.samples import PartlyReadable
from everseg.errors import UserError

VOLUME = np.random.default_rng(0).integers(-1000, 1000, (20, 16, 8)).astype(np.int16)
LABELS = np.zeros((20, 16, 8), np.uint8)
LABELS[3:7, 4:9, 2:4] = 1
LABELS[12:15, 4:9, 3] = 2
AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])


merged = partial(NiftiReader, instances="merged")


def save(path: Path, values: Any, affine: Any = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    save(tmp_path / "ct" / "images" / "a.nii.gz", VOLUME)
    save(tmp_path / "ct" / "masks" / "a.nii.gz", LABELS)
    return tmp_path / "ct"


def shown(plane: Any, low: float, high: float) -> torch.Tensor:
    grey = ((plane.astype(np.float64) - low) / (high - low) * 255).clip(0, 255)
    return torch.from_numpy((grey + 0.5).astype(np.uint8))


def test_slices_with_an_object(volumes: Path) -> None:
    found = merged(volumes, window=(-200, 300))
    assert [s.name for s in found] == ["a.nii.gz@2", "a.nii.gz@3"]
    assert torch.equal(found[1].image[0], shown(np.rot90(VOLUME[:, :, 3]), -200, 300))
    assert found[1].image.shape == (3, 16, 20)
    assert torch.equal(found[1].masks[0], torch.from_numpy(np.rot90(LABELS[:, :, 3]) > 0))
    each = merged(volumes, window=(-200, 300), instances="each")
    assert [s.name for s in each] == ["a.nii.gz@2#1", "a.nii.gz@3#1", "a.nii.gz@3#2"]
    assert each[1].key == each[2].key != each[0].key
    assert len(merged(volumes, window=(-200, 300), mask_values=(2,))) == 1
    assert len({r.file(0) for r in (found[:1], found[1:])}) == 2
    assert pickle.loads(pickle.dumps(found))[1].key == found[1].key


def test_several_labels_are_not_merged_unasked(volumes: Path) -> None:
    said = r"have the labels 1, 2; list those of the object, as in mask_values: \[1\], or set instances: each"
    with pytest.raises(PartlyReadable, match=said):
        NiftiReader(volumes, window=(0, 1))
    one = NiftiReader(volumes, window=(0, 1), mask_values=(2,))
    assert [s.name for s in one] == one.names() == ["a.nii.gz@3"]
    assert one.masks() == "labels 2, 1 sample in 1 volume"
    assert one.truth_file(0).endswith("masks/a.nii.gz")
    save(volumes / "masks" / "a.nii.gz", LABELS % 2)
    assert len(NiftiReader(volumes, window=(0, 1))) == 2


@pytest.mark.parametrize(("axis", "count", "number"), [("sagittal", 7, 0), ("coronal", 5, 1)])
def test_other_axes(volumes: Path, axis: Any, count: int, number: int) -> None:
    found = merged(volumes, axis=axis, window=(0, 1))
    assert len(found) == count
    index = int(found[0].name.partition("@")[2])
    assert torch.equal(found[0].masks[0], torch.from_numpy(np.rot90(np.take(LABELS, index, number)) > 0))


def test_a_volume_that_is_stored_otherwise_shows_the_same(volumes: Path, tmp_path: Path) -> None:
    """Left to right, and the axes in another order: pixels and masks are those of the same place."""
    wanted = [s.key for s in merged(volumes, window=(-200, 300))]
    flipped = AFFINE.copy()
    flipped[0] = [-2, 0, 0, 2 * 19]
    turned = AFFINE[:, [2, 0, 1, 3]]
    save(tmp_path / "other" / "images" / "a.nii", VOLUME[::-1], flipped)
    save(tmp_path / "other" / "masks" / "a.nii.gz", LABELS.transpose(2, 0, 1), turned)
    found = merged(tmp_path / "other", window=(-200, 300))
    assert [s.key for s in found] == wanted
    theirs = merged(volumes, window=(-200, 300))
    assert all(torch.equal(a.masks, b.masks) for a, b in zip(found, theirs, strict=True))


def test_percentiles_are_of_the_volume(volumes: Path) -> None:
    low, high = np.percentile(VOLUME, [5, 95])
    found = merged(volumes, window=("5%", "95%"))
    assert torch.equal(found[0].image[0], shown(np.rot90(VOLUME[:, :, 2]), low, high))
    others = [merged(volumes, window=w) for w in (("5%", "95%"), ("1%", "99%"), (0, 9))]
    assert len({r.fingerprint() for r in others}) == len({r[0].key for r in others}) == 3


def test_channels_and_bytes(tmp_path: Path) -> None:
    several = np.stack([VOLUME, VOLUME + 1, VOLUME + 2, VOLUME + 3], 3)
    save(tmp_path / "images" / "a.nii.gz", several)
    save(tmp_path / "masks" / "a.nii.gz", LABELS)
    found = merged(tmp_path, bands=(4, 1, 2), window=(0, 9))[0].image
    assert torch.equal(found[0], shown(np.rot90(several[:, :, 2, 3]), 0, 9))
    with pytest.raises(UserError, match="has 4 bands; say which"):
        merged(tmp_path, window=(0, 9))[0]
    grey = (VOLUME // 8 + 126).astype(np.uint8)
    save(tmp_path / "images" / "a.nii.gz", grey)
    assert torch.equal(merged(tmp_path)[0].image[1], torch.from_numpy(np.rot90(grey[:, :, 2]).copy()))


def test_folders_and_suffixes_of_nnunet(tmp_path: Path, write_stream: Callable[[str], Path]) -> None:
    save(tmp_path / "d" / "imagesTr" / "liver_0_0000.nii.gz", VOLUME)
    save(tmp_path / "d" / "imagesTr" / "liver_0_0001.nii.gz", VOLUME)
    save(tmp_path / "d" / "labelsTr" / "liver_0.nii.gz", LABELS)
    split = (
        "{kind: nifti, path: d, images: d/imagesTr, masks: d/labelsTr, image_suffix: _0000, "
        "window: [1%, 99%], axis: axial, instances: merged}"
    )
    stream = Stream.from_yaml(write_stream(f"stages: [{{name: a, train: {split}, test: {split}}}]"))
    assert [s.name for s in stream.stages[0].train] == ["liver_0_0000.nii.gz@2", "liver_0_0000.nii.gz@3"]


MOVED = AFFINE.copy()
MOVED[0, 3] = 40


@pytest.mark.parametrize(
    ("labels", "affine", "said"),
    [
        (LABELS[:, :, :7], AFFINE, "is 20x16x8 but its mask .* is 20x16x7"),
        (LABELS, MOVED, "is shifted by up to 40 mm against its image"),
        (LABELS / 3, AFFINE, "values that are not whole"),
    ],
)
def test_masks_that_are_refused(volumes: Path, labels: Any, affine: Any, said: str) -> None:
    save(volumes / "images" / "b.nii.gz", VOLUME)
    save(volumes / "masks" / "b.nii.gz", labels, affine)
    with pytest.raises(PartlyReadable, match=said) as caught:
        merged(volumes, window=(0, 1))
    assert len(caught.value.rest) == 2


def test_other_faults(volumes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"values from -1000 to 99\d; set the range .*window: \[-160, 240\]"):
        merged(volumes)[0]
    with pytest.raises(UserError, match=r"no mask in .* has an object"):
        merged(volumes, mask_values=(9,))
    with pytest.raises(UserError, match="is not a folder; give the folders"):
        merged(tmp_path / "none")
    with pytest.raises(UserError, match=r"has no volumes .*'_0000'"):
        merged(volumes, image_suffix="_0000")
    save(volumes / "images" / "b.nii.gz", VOLUME)
    with pytest.raises(PartlyReadable, match=r"b\.nii\.gz has no partner b in"):
        merged(volumes)
    whole = (volumes / "masks" / "a.nii.gz").read_bytes()
    (volumes / "masks" / "b.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PartlyReadable, match=r"b\.nii\.gz is (not a NIfTI file or is )?damaged"):
        merged(volumes)
    flat = bytearray(save(tmp_path / "flat.nii", LABELS).read_bytes())
    flat[312:328] = bytes(16)  # srow_z
    (volumes / "masks" / "b.nii.gz").write_bytes(gzip.compress(bytes(flat)))
    with pytest.raises(PartlyReadable, match="an affine matrix without three directions"):
        merged(volumes)
    (volumes / "masks" / "b.nii").write_bytes(b"")
    with pytest.raises(UserError, match="have the same name"):
        merged(volumes)
    (volumes / "masks" / "b.nii").unlink()
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(UserError, match=r"needs the package nibabel; run: pip install 'everseg\[nifti\]'"):
        merged(volumes)


def test_a_file_of_one_slice_is_a_volume_of_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / "images" / f"{name}.nii.gz", VOLUME[:, :, 3])
        save(tmp_path / "masks" / f"{name}.nii.gz", LABELS[:, :, 3])
    (one, _) = NiftiReader(tmp_path, mask_values=(2,), window=(-1000, 1000))
    assert np.array_equal(one.masks[0], np.rot90(LABELS[:, :, 3] == 2))
    save(tmp_path / "masks" / "b.nii.gz", np.where(LABELS[:, :, 3], 0.7, 0.2))
    with pytest.raises(PartlyReadable, match=r"b\.nii\.gz has values that are not whole.*cut at 0\.5"):
        NiftiReader(tmp_path, mask_values=(2,))
