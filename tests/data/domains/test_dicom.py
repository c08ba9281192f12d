"""DICOM: rescaled values, the file's own window or a given one, inverted files, and frames."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import JPEG2000, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from everseg.data import Stream
from everseg.data.domains.dicom import DicomReader
from everseg.data.samples import PartlyReadable
from everseg.errors import UserError

STORED = np.random.default_rng(0).integers(0, 2000, (24, 32)).astype(np.uint16)
MASK = np.zeros((24, 32), np.uint8)
MASK[4:9, 3:9] = 255


def save(path: Path, values: Any, **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = more.pop("syntax", ExplicitVRLittleEndian)
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = CTImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    colour = values.ndim > 2 and values.shape[-1] == 3
    frames = values.ndim - 2 - colour
    made.Rows, made.Columns = values.shape[frames : frames + 2]
    if frames:
        made.NumberOfFrames = len(values)
    made.SamplesPerPixel = 3 if colour else 1
    if colour:
        made.PlanarConfiguration = 0
    made.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8 * values.dtype.itemsize
    made.HighBit, made.PixelRepresentation = made.BitsStored - 1, int(values.dtype.kind == "i")
    made.PixelData = values.tobytes()
    for name, value in more.items():
        setattr(made, name, value)
    made.save_as(path, enforce_file_format=True)


CT = {"RescaleSlope": 2, "RescaleIntercept": -1024}
HU = STORED * 2.0 - 1024


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    def write(values: Any = STORED, mask: Any = MASK, name: str = "a", **more: Any) -> Path:
        save(tmp_path / "ct" / "images" / f"{name}.dcm", values, **more)
        (tmp_path / "ct" / "masks").mkdir(exist_ok=True)
        if mask.ndim == 2:
            Image.fromarray(mask).save(tmp_path / "ct" / "masks" / f"{name}.png")
        else:
            save(tmp_path / "ct" / "masks" / f"{name}.dcm", mask)
        return tmp_path / "ct"

    return write


def shown(values: Any, low: float, high: float) -> torch.Tensor:
    grey = ((values.astype(np.float64) - low) / (high - low) * 255).clip(0, 255)
    return torch.from_numpy((grey + 0.5).astype(np.uint8)).expand(3, -1, -1)


def test_values_are_rescaled_before_the_window(make: Callable[..., Path]) -> None:
    root = make(**CT)
    (sample,) = DicomReader(root, window=(-160, 240))
    assert torch.equal(sample.image, shown(HU, -160, 240)) and sample.name == "a.dcm"
    assert torch.equal(sample.masks[0], torch.from_numpy(MASK > 0))
    low, high = np.percentile(HU, [2, 98])
    assert torch.equal(DicomReader(root, window=("2%", "98%"))[0].image, shown(HU, low, high))
    readers = [DicomReader(root, window=w) for w in ((0, 100), (0, 200))]
    assert readers[0].fingerprint() != readers[1].fingerprint() and readers[0][0].key != readers[1][0].key
    assert pickle.loads(pickle.dumps(readers[0]))[0].key == readers[0][0].key


def test_the_window_of_the_file(make: Callable[..., Path]) -> None:
    own = {"WindowCenter": 40, "WindowWidth": 400}
    image = DicomReader(make(**CT, **own))[0].image
    assert torch.equal(image, shown(HU, -160, 239)), "PS3.3 C.11.2.1.2.1: centre - 0.5 -/+ (width - 1) / 2"
    image = DicomReader(make(**CT, **own, VOILUTFunction="LINEAR_EXACT"))[0].image
    assert torch.equal(image, shown(HU, -160, 240))
    image = DicomReader(make(**CT, WindowCenter=[40, 600], WindowWidth=[400, 2000]))[0].image
    assert torch.equal(image, shown(HU, -160, 239)), "the first of several"
    image = DicomReader(make(**CT, **own, PhotometricInterpretation="MONOCHROME1"))[0].image
    assert torch.equal(image, 255 - shown(HU, -160, 239))


def test_files_of_frames(make: Callable[..., Path]) -> None:
    frames = np.stack([np.roll(STORED, i, 0) for i in range(3)])
    masks = np.stack([MASK, MASK * 0, np.roll(MASK, 3, 0)])
    found = DicomReader(make(frames, masks), window=("5%", "95%"))
    assert [s.name for s in found] == ["a.dcm@0", "a.dcm@2"]
    low, high = np.percentile(frames, [5, 95])
    assert torch.equal(found[1].image, shown(frames[2], low, high))
    assert torch.equal(found[1].masks[0], torch.from_numpy(masks[2] > 0))
    assert found.file(0) != found.file(1)


def test_enhanced_files_say_it_for_each_frame(make: Callable[..., Path]) -> None:
    def groups(slope: int, centre: int) -> Dataset:
        group, rescale, window = Dataset(), Dataset(), Dataset()
        rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = slope, 0, "US"
        window.WindowCenter, window.WindowWidth = centre, 1001
        group.PixelValueTransformationSequence, group.FrameVOILUTSequence = [rescale], [window]
        return group

    frames = np.stack([STORED, STORED])
    per_frame = [groups(1, 500), groups(2, 700)]
    found = DicomReader(make(frames, np.stack([MASK, MASK]), PerFrameFunctionalGroupsSequence=per_frame))
    assert torch.equal(found[0].image, shown(STORED, -0.5, 999.5))
    assert torch.equal(found[1].image, shown(STORED * 2, 199.5, 1199.5))


def test_colour_and_bytes_need_no_window(
    make: Callable[..., Path], write_stream: Callable[[str], Path]
) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    make(colours, name="a")
    make((STORED >> 3).astype(np.uint8), name="b")
    stream = Stream.from_yaml(
        write_stream("stages: [{name: a, train: {kind: dicom, path: ct}, test: {kind: dicom, path: ct}}]")
    )
    first, second = stream.stages[0].train
    assert torch.equal(first.image, torch.from_numpy(colours.transpose(2, 0, 1)))
    assert torch.equal(second.image[0], torch.from_numpy((STORED >> 3).astype(np.uint8)))


@pytest.mark.parametrize(
    ("mask", "how", "said"),
    [
        (MASK[:9], {}, "1 frame of 32x24, but its mask .* has 1 frame of 32x9"),
        (np.stack([MASK, MASK]), {}, "has 1 frame of .* has 2 frames of 32x24; give one mask per frame"),
        (np.dstack([MASK] * 3)[None], {}, "is in colour"),
        (MASK * 0, {}, None),
    ],
)
def test_masks_that_are_refused(make: Callable[..., Path], mask: Any, how: Any, said: str | None) -> None:
    make(name="good")
    root = make(mask=mask, name="bad")
    if said is None:
        assert [s.name for s in DicomReader(root, window=(0, 9))] == ["good.dcm"], "frames without objects"
        return
    with pytest.raises(PartlyReadable, match=said) as caught:
        DicomReader(root, **how)
    assert len(caught.value.rest) == 1


def test_masks_mean_one_thing_for_all_files(make: Callable[..., Path]) -> None:
    make(name="good")
    root = make(mask=np.minimum(MASK, 7), name="other")
    with pytest.raises(UserError, match=r"hold the values 0 .*7 .*255 .*mask_values: \[7, 255\]"):
        DicomReader(root)
    both = DicomReader(root, mask_values=(7, 255), window=(0, 9))
    assert len(both) == 2 and both.masks() == "mask_values: [7, 255] (2 files)"
    root = make(mask=np.minimum(MASK, 7), name="good")
    found = DicomReader(root, window=(0, 9))
    assert found.masks() == "0/7, object = 7 (2 files)" and found.names() == ["good.dcm", "other.dcm"]
    assert torch.equal(found[0].masks[0], torch.from_numpy(MASK > 0))
    frames = np.stack([MASK, MASK * 0])
    frames[1, 2:5, 2:5] = 7
    with pytest.raises(UserError, match="more than one could be the object"):
        DicomReader(make(np.stack([STORED] * 2), frames, name="good"))


def test_other_faults(make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"values from -1024 to \d+ and no window .*window: \[-160, 240\]"):
        DicomReader(make(**CT))[0]
    with pytest.raises(UserError, match="no window that can be read"):
        DicomReader(make(WindowCenter=1, WindowWidth=9, VOILUTFunction="SIGMOID"))[0]
    with pytest.raises(UserError, match=r"no mask in .* has an object"):
        DicomReader(make(), mask_values=(3,))
    root = make()
    file = root / "images" / "a.dcm"
    whole = pydicom.dcmread(file)
    whole.PixelData = whole.PixelData[:100]
    whole.save_as(file)
    with pytest.raises(UserError, match="has no pixels that can be read"):
        DicomReader(root, window=(0, 9))[0]
    whole.save_as(file)
    del whole.PixelData
    whole.add_new(0x00280010, "UL", 24)
    whole["Rows"].VR = "UN"
    whole["Rows"].value = b"many"
    whole.save_as(file)
    with pytest.raises(PartlyReadable, match="has a header that cannot be read"):
        DicomReader(root)
    file.write_bytes(b"no header")
    with pytest.raises(PartlyReadable, match=r"a\.dcm is not a DICOM file"):
        DicomReader(root)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(
        PartlyReadable, match=r"needs the package pydicom; run: pip install 'everseg\[dicom\]'"
    ):
        DicomReader(root)


def test_a_compression_that_needs_more(make: Callable[..., Path]) -> None:
    root = make()
    whole = pydicom.dcmread(root / "images" / "a.dcm")
    whole.file_meta.TransferSyntaxUID = JPEG2000
    whole.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])
    whole["PixelData"].VR = "OB"
    whole.save_as(root / "images" / "a.dcm")
    with pytest.raises(UserError, match=r"compressed in a way|has no pixels that can be read"):
        DicomReader(root, window=(0, 9))[0]
