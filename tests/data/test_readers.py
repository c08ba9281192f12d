"""Readers: laziness, pairing, prompts, keys, pickling, and a sentence for every way a folder can be wrong."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from everseg.data import (
    CocoReader,
    FolderReader,
    InstancesReader,
    Samples,
    VocReader,
    draw_clicks,
    write_points,
)
from everseg.data.samples import PartlyReadable, take_evenly, take_part
from everseg.errors import UserError

Make = Callable[..., Path]


def inside(sample: Any) -> bool:
    x, y = sample.prompts.points[0].long().unbind(1)
    return bool(sample.masks[0, y, x].all())


def test_a_sample_of_a_folder(make_folder: Make) -> None:
    reader = FolderReader(make_folder())
    assert len(reader) == 4 and len(reader[1:3]) == 2 and reader[-1].name == "im3.png"
    sample = reader[0]
    assert sample.image.shape == (3, 30, 40) and sample.image.dtype == torch.uint8
    assert sample.masks.shape == (1, 30, 40) and sample.masks.dtype == torch.bool
    assert sample.prompts.points is not None and sample.prompts.points.shape == (1, 3, 2)
    assert sample.prompts.labels is not None and sample.prompts.labels.tolist() == [[1, 1, 1]]
    assert sample.prompts.boxes is None and sample.key.endswith(":pixels-1")
    with pytest.raises(IndexError):
        reader[4]


def test_nothing_is_decoded_before_it_is_asked_for(make_folder: Make) -> None:
    folder = make_folder()
    (folder / "images" / "im2.png").write_text("broken")
    reader = FolderReader(folder)
    assert len(reader) == 4 and reader[1].name == "im1.png"
    with pytest.raises(UserError, match=r"im2\.png is not an image"):
        reader[2]


def test_drawn_clicks_are_on_the_mask_and_the_same_in_any_order(make_folder: Make) -> None:
    folder = make_folder()
    forward = {s.name: s for s in FolderReader(folder, clicks=20)}
    assert all(inside(s) for s in forward.values())
    for sample in reversed(FolderReader(folder, clicks=20, limit=2)):
        assert torch.equal(sample.prompts.points, forward[sample.name].prompts.points)
    other = FolderReader(folder, clicks=20, seed=1)[0].prompts.points
    assert not torch.equal(other, forward["im0.png"].prompts.points)


def test_golden_clicks() -> None:
    """The draw does not depend on the process, the machine or what was drawn before."""
    mask = np.zeros((30, 40), bool)
    mask[5:15, 8:20] = True
    assert draw_clicks(mask, 3, 0, "im0.png").tolist() == [[13, 6], [13, 13], [17, 12]]


def test_box_is_the_first_and_last_pixel(make_folder: Make) -> None:
    sample = FolderReader(make_folder(), prompts="box")[1]
    assert sample.prompts.points is None and sample.prompts.boxes.tolist() == [[8, 6, 19, 15]]
    both = FolderReader(make_folder("other"), prompts="clicks+box")[1].prompts
    assert both.points is not None and both.boxes is not None


def test_stored_clicks_come_from_the_1024_frame(make_folder: Make) -> None:
    folder = make_folder()
    write_points(folder / "masks", seed=3, clicks=4)
    stored = json.loads((folder / "masks" / "points.json").read_text())
    reader = FolderReader(folder)
    assert reader.rule.kind == "stored"
    for entry, sample in zip(reader.entries, reader, strict=True):
        expected = torch.tensor(stored[sample.name][0]) * torch.tensor([40 / 1024, 30 / 1024])
        assert torch.equal(sample.prompts.points[0], expected)
        assert entry.stored is not None and entry.stored.on(sample.masks[0].numpy()).all()
    assert FolderReader(folder, prompts="clicks").rule.kind == "clicks"
    del stored["im1.png"]
    (folder / "masks" / "points.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"points\.json: mask im1\.png has no clicks"):
        FolderReader(folder)
    (folder / "masks" / "points.json").unlink()
    with pytest.raises(UserError, match=r"points\.json does not exist"):
        FolderReader(folder, prompts="stored")


def test_pairing_ignores_extensions_and_hidden_files(make_folder: Make) -> None:
    folder = make_folder()
    (folder / "images" / "im0.png").rename(folder / "images" / "im0.PNG")
    (folder / "images" / ".DS_Store").write_text("")
    assert len(FolderReader(folder)) == 4
    for file in sorted((folder / "masks").iterdir()):
        file.rename(file.with_stem(file.stem + "_Seg"))
    with pytest.raises(UserError, match="without a mask"):
        FolderReader(folder)
    assert len(FolderReader(folder, mask_suffix="_Seg")) == 4


def test_wrong_folders(make_folder: Make, tmp_path: Path) -> None:
    def message(change: Callable[[Path], object]) -> str:
        folder = make_folder("wrong")
        change(folder)
        with pytest.raises(UserError) as caught:
            FolderReader(folder)
        shutil.rmtree(folder)
        return str(caught.value)

    def lose_masks(folder: Path) -> None:
        for i in range(4):
            (folder / "masks" / f"im{i}.png").unlink()
        (folder / "masks" / "other.png").write_text("")

    assert "im0.png, im1.png, im2.png and 1 more without a mask" in message(lose_masks)
    said = message(lambda f: (f / "images" / "im2.png").unlink())
    assert "im2.png without an image" in said and "mask_suffix" in said
    assert "im0.jpg, im0.png with the same stem" in message(
        lambda f: (f / "images" / "im0.jpg").write_text("")
    )
    assert "is a folder among files" in message(lambda f: (f / "images" / "more").mkdir())
    assert "masks is not a folder" in message(lambda f: shutil.rmtree(f / "masks"))
    assert "has no files" in message(lambda f: [i.unlink() for i in (f / "images").iterdir()])


def test_size_mismatch_names_both_sizes(make_folder: Make) -> None:
    folder = make_folder()
    Image.new("L", (30, 40), 255).save(folder / "masks" / "im0.png")
    with pytest.raises(UserError, match=r"im0\.png is 40x30 .* its mask is 30x40"):
        FolderReader(folder)[0]


def test_part_and_limit() -> None:
    items = [*range(10)]
    assert take_evenly(items, 4) == [0, 2, 5, 7] and take_evenly(items, 99) == items == take_evenly(
        items, None
    )
    assert take_part(items, (2, 5)) == [2, 3, 4] and take_part(items, None) == items
    for wrong in [(5, 5), (-1, 3), (0, 11)]:
        with pytest.raises(UserError, match="within the 10"):
            take_part(items, wrong)
    with pytest.raises(PartlyReadable) as fits:
        take_part(items, (4, 12), ["a.png is missing", "b.png is missing"])
    assert fits.value.problems == ("a.png is missing", "b.png is missing")
    with pytest.raises(PartlyReadable) as beyond:
        take_part(items, (4, 12), ["a.png is missing"])
    assert beyond.value.problems[1].startswith("part: [4, 12] is not within the 10 that can be read")
    for wrong in [(5, 5), (-1, 3)]:
        with pytest.raises(PartlyReadable) as itself:
            take_part(items, wrong, ["a.png is missing"])
        assert itself.value.problems[1].endswith("choose 0 <= start < stop")
    with pytest.raises(UserError, match="limit is 0"):
        take_evenly(items, 0)


def test_readers_travel_to_workers(make_folder: Make) -> None:
    reader = FolderReader(make_folder())
    again = pickle.loads(pickle.dumps(reader))
    assert again.fingerprint() == reader.fingerprint() and torch.equal(again[2].image, reader[2].image)
    loader = DataLoader(reader, batch_size=None, num_workers=1, collate_fn=_name)
    assert list(loader) == [s.name for s in reader]


def _name(sample: Any) -> str:
    return str(sample.name)


def test_fingerprint_sees_contents_and_options_but_not_places(make_folder: Make) -> None:
    folder = make_folder()
    first = FolderReader(folder).fingerprint()
    assert FolderReader(folder).fingerprint() == first
    assert FolderReader(folder, clicks=2).fingerprint() != first != FolderReader(folder, seed=1).fingerprint()
    assert FolderReader(folder, mask_threshold="==255").fingerprint() != first
    moved = folder.rename(folder.with_name("moved"))
    assert FolderReader(moved).fingerprint() == first
    image = moved / "images" / "im1.png"
    Image.open(image).rotate(180).save(image)
    assert FolderReader(moved).fingerprint() != first
    write_points(moved / "masks")
    stored = FolderReader(moved).fingerprint()
    assert FolderReader(moved, seed=5).fingerprint() == stored  # a seed that draws nothing changes nothing
    write_points(moved / "masks", seed=1, force=True)
    assert FolderReader(moved).fingerprint() != stored


# ---------------------------------------------------------------- coco


@pytest.fixture
def coco(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "img").mkdir()
    for name in ("a.jpg", "b.jpg", "empty.jpg"):
        Image.new("RGB", (20, 10)).save(tmp_path / "img" / name)
    square = [[2, 2, 8, 2, 8, 8, 2, 8]]
    run = {"size": [10, 20], "counts": [50, 30, 120]}
    return {
        "images": [
            {"id": i, "file_name": n, "height": 10, "width": 20}
            for i, n in enumerate(["b.jpg", "a.jpg", "empty.jpg"])
        ],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 7, "segmentation": square},
            {"id": 2, "image_id": 0, "category_id": 8, "segmentation": run},
            {"id": 3, "image_id": 1, "category_id": 7, "segmentation": run},
            {"id": 4, "image_id": 1, "category_id": 7, "segmentation": run, "iscrowd": 1},
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}],
    }


def read_coco(tmp_path: Path, tree: Any, **options: Any) -> CocoReader:
    (tmp_path / "a.json").write_text(json.dumps(tree))
    return CocoReader(tmp_path / "img", tmp_path / "a.json", **options)


def test_coco_each_and_merged(tmp_path: Path, coco: dict[str, Any]) -> None:
    each = read_coco(tmp_path, coco)
    assert [s.name for s in each] == ["a.jpg#3", "b.jpg#1", "b.jpg#2"]
    assert [int(s.masks.sum()) for s in each] == [30, 36, 30]
    assert each[1].key == each[2].key
    merged = read_coco(tmp_path, coco, instances="merged")
    assert [s.name for s in merged] == ["a.jpg", "b.jpg"]
    assert torch.equal(merged[1].masks, each[1].masks | each[2].masks)
    assert [s.name for s in read_coco(tmp_path, coco, categories=("dog",))] == ["b.jpg#2"]
    assert len(read_coco(tmp_path, coco, crowd=True)) == 4
    assert len(read_coco(tmp_path, coco, part=(1, 2))) == 2 and len(read_coco(tmp_path, coco, limit=2)) == 2
    assert pickle.loads(pickle.dumps(each))[0].name == "a.jpg#3"


def test_wrong_coco(tmp_path: Path, coco: dict[str, Any]) -> None:
    def message(change: Callable[[Any], object], **options: Any) -> str:
        tree = json.loads(json.dumps(coco))
        change(tree)
        with pytest.raises(UserError) as caught:
            list(read_coco(tmp_path, tree, **options))
        assert "a.json" in str(caught.value)
        return str(caught.value)

    assert "no list 'images'" in message(lambda t: t.pop("images"))
    assert "images[0] has no 'file_name'" in message(lambda t: t["images"][0].pop("file_name"))
    assert "annotations[1] has no 'image_id'" in message(lambda t: t["annotations"][1].pop("image_id"))
    assert "not listed" in message(lambda t: t["annotations"][0].update(image_id=99))
    assert "no segmentation" in message(lambda t: t["annotations"][0].update(segmentation=[]))
    assert "twice" in message(lambda t: t["images"][1].update(id=0))
    assert "do not add up to 10 x 20 pixels" in message(
        lambda t: t["annotations"][0].update(segmentation={"size": [10, 20], "counts": [9]})
    )
    assert "three corners" in message(lambda t: t["annotations"][0].update(segmentation=[[1, 2]]))
    assert "is not the image's" in message(
        lambda t: t["annotations"][1]["segmentation"].update(size=[20, 10])
    )
    assert "is listed but missing" in message(lambda t: t["images"][0].update(file_name="gone.jpg"))
    assert "did you mean 'cat'" in message(lambda t: None, categories=("cta",))
    assert "no annotation" in message(lambda t: t.update(annotations=[]))
    assert "covers no pixel" in message(
        lambda t: t["annotations"][0].update(segmentation={"size": [10, 20], "counts": [200]})
    )
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json is not valid JSON"):
        CocoReader(tmp_path / "img", tmp_path / "a.json")


# ---------------------------------------------------------------- instances and voc


def test_instances(tmp_path: Path) -> None:
    for folder in ("images", "instances"):
        (tmp_path / folder).mkdir()
    for name, numbers in (("a", [0, 1, 1, 300]), ("b", [0, 0, 0, 0]), ("c", [2, 2, 2, 2])):
        Image.new("RGB", (4, 1)).save(tmp_path / "images" / f"{name}.jpg")
        Image.fromarray(np.array([numbers], np.uint16)).save(tmp_path / "instances" / f"{name}.png")

    def masks(reader: Samples) -> dict[str, list[int]]:
        return {s.name: s.masks[0, 0].int().tolist() for s in reader}

    assert masks(InstancesReader(tmp_path)) == {
        "a.jpg#1": [0, 1, 1, 0],
        "a.jpg#300": [0, 0, 0, 1],
        "c.jpg#2": [1, 1, 1, 1],
    }
    assert masks(InstancesReader(tmp_path, instances="merged")) == {
        "a.jpg": [0, 1, 1, 1],
        "c.jpg": [1, 1, 1, 1],
    }
    assert masks(InstancesReader(tmp_path, instances="largest", part=(0, 1))) == {"a.jpg": [0, 1, 1, 0]}
    with pytest.raises(UserError, match="contain no object"):
        InstancesReader(tmp_path, part=(1, 2))


def test_voc(tmp_path: Path) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (5, 1)).save(tmp_path / "JPEGImages" / "x.jpg")
    Image.fromarray(np.array([[3, 255, 1, 1, 0]], np.uint8)).save(tmp_path / "SegmentationClass" / "x.png")
    lists = tmp_path / "ImageSets" / "Segmentation"
    (lists / "train.txt").write_text("x\n\n")
    assert VocReader(tmp_path, "train")[0].masks[0, 0].int().tolist() == [0, 0, 1, 1, 0]
    with pytest.raises(UserError, match="did you mean 'train'"):
        VocReader(tmp_path, "trian")
    (lists / "train.txt").write_text("x\ny\n")
    with pytest.raises(UserError, match=r"train\.txt: image .*y\.jpg is listed but missing"):
        VocReader(tmp_path, "train")
    with pytest.raises(UserError, match="does not have VOC's layout"):
        VocReader(tmp_path / "JPEGImages", "train")


@pytest.mark.realdata
def test_real_voc_and_coco128(data_root: Path) -> None:
    voc = VocReader(data_root / "voc2012_256", "train_aug", limit=5)
    assert len(voc) == 5 and all(inside(s) for s in voc)
    assert len(VocReader(data_root / "voc2012_256", "val")) == 462
    few = InstancesReader(data_root / "coco128_seg", part=(0, 10))
    assert len(few) == 49 and inside(few[0])
