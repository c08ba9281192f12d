"""points.json: what SAMCL published, what we write, and what we refuse."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from everseg.data import FolderReader, mask_rule, read_mask, read_points, write_points
from everseg.data.samples import PartlyReadable
from everseg.errors import UserError

# specs/samcl.md 1.2 and 7.1.7: train and test counts, and the first 16 digits of the files' sha256.
PUBLISHED = {
    "Kvasir": (800, 200, "74b9a89293e2a4db", "94f7e8e72136c6bc"),
    "CAMO": (1000, 250, "4199c6fc5cb67013", "eb30f978e9b7be2a"),
    "ISTD": (1330, 540, "11e0b15a5659fe06", "8e66d182afe7a0ee"),
    "ISIC": (900, 379, "b489404440d2e467", "4ec6cd488fced433"),
    "COD": (3040, 2026, "b58aea8dd665fb7c", "c035f67fc7a57a01"),
    "COCO": (100, 100, "59308011837d6683", "d8f23b28c3fd97d8"),
}


@pytest.mark.realdata
@pytest.mark.parametrize("domain", PUBLISHED)
def test_published_points(data_root: Path, domain: str) -> None:
    *counts, train_hash, test_hash = PUBLISHED[domain]
    for split, count, digest in (("train", counts[0], train_hash), ("test", counts[1], test_hash)):
        path = data_root / "samcl_layout" / domain / split / "masks" / "points.json"
        assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(digest)
        points = read_points(path)
        assert len(points) == count and list(points) == sorted(points)
        for clicks in points.values():
            assert clicks.labels == (1, 1, 1) and len(clicks.points) == 3
            assert all(0 <= v <= 1023 and v == int(v) for point in clicks.points for v in point)


@pytest.mark.realdata
@pytest.mark.parametrize("domain", PUBLISHED)
def test_published_points_lie_on_the_published_masks(data_root: Path, domain: str) -> None:
    reader = FolderReader(data_root / "samcl_layout" / domain / "test", mask_threshold="==255")
    assert len(reader) == 5
    points = read_points(data_root / "samcl_layout" / domain / "test" / "masks" / "points.json")
    for entry in reader.entries:
        path = data_root / "samcl_layout" / domain / "test" / "masks" / entry.image.name
        grey = Image.open(path).convert("L").resize((1024, 1024), Image.Resampling.NEAREST)
        mask = np.asarray(grey) == 255
        assert all(mask[int(y), int(x)] for x, y in points[path.name].points)
    first = reader.entries[0]
    assert first.stored is not None and first.stored.on(first.mask()).all()


def test_written_points_are_read_back_seeded_by_name(make_folder: Callable[..., Path]) -> None:
    masks = make_folder() / "masks"
    path = write_points(masks, seed=1)
    before = read_points(path)
    assert list(before) == [f"im{i}.png" for i in range(4)] and json.loads(path.read_text())["im0.png"][
        1
    ] == [1, 1, 1]
    for name, clicks in before.items():
        assert clicks.on(read_mask(masks / name, mask_rule())).all()
    text = path.read_text()
    assert write_points(masks, seed=1, force=True).read_text() == text
    (masks / "im0.png").unlink()
    assert read_points(write_points(masks, seed=1, force=True)) == {
        k: v for k, v in before.items() if k != "im0.png"
    }
    assert read_points(write_points(masks, seed=2, force=True)) != before


def test_refusals(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    masks = make_folder() / "masks"
    path = write_points(masks)
    with pytest.raises(UserError, match=r"points\.json exists"):
        write_points(masks)
    before = path.read_text()
    Image.new("L", (4, 4)).save(masks / "void.png")
    with pytest.raises(UserError, match=r"void\.png is an empty mask"):
        write_points(masks, force=True)
    assert path.read_text() == before
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="holds no masks"):
        write_points(tmp_path / "none")
    with pytest.raises(UserError, match="is not a folder"):
        write_points(tmp_path / "absent")
    with pytest.raises(UserError, match="at least 1"):
        write_points(masks, clicks=0)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("[[[1, 2]], [1, 1]]", "one label a point"),
        ("[[], []]", "one label a point"),
        ("{}", "one label a point"),
        ("[[[1, 2, 3]], [1]]", "not \\[x, y\\]"),
        ('[[["1", 2]], [1]]', "not \\[x, y\\]"),
        ("[[[NaN, 2]], [1]]", "outside"),
        ("[[[1, 1024.5]], [1]]", "outside"),
        ("[[[1, %s]], [1]]" % ("9" * 400), "outside"),
        ("[[[-1, 2]], [1]]", "outside"),
        ("[[[1, 2]], [2]]", "labels"),
        ('[[[1, 2]], ["1"]]', "labels"),
        ("[[[1, 2]], [[1]]]", "labels"),
        ("[[[1, 2]], [-1]]", "only padding"),
        ("null", "one label a point"),
    ],
)
def test_wrong_entries_are_named(tmp_path: Path, entry: str, says: str) -> None:
    path = tmp_path / "points.json"
    path.write_text(f'{{"good.png": [[[1, 2]], [1]], "bad.png": {entry}}}')
    with pytest.raises(UserError, match=says) as caught:
        read_points(path)
    assert "points.json: entry 'bad.png' " in str(caught.value)


def test_all_wrong_entries_are_counted(make_folder: Callable[..., Path]) -> None:
    folder = make_folder(count=6)
    wrong = {f"im{i}.png": [[[5000, 1]], [1]] for i in range(4)}
    (folder / "masks" / "points.json").write_text(json.dumps({**wrong, "im4.png": [[[1, 1]], [1]]}))
    with pytest.raises(PartlyReadable) as caught:
        FolderReader(folder)
    assert [problem.partition("points.json: ")[2].partition(";")[0] for problem in caught.value.problems] == [
        "4 entries ('im0.png', 'im1.png', 'im2.png', ...) have a point outside the 1024x1024 frame "
        "([5000, 1])",
        "mask im5.png has no clicks",
    ]
    assert [s.name for s in caught.value.rest] == ["im4.png"]


@pytest.mark.parametrize(
    "key", ["im0.png", "im0.jpg", "im0", "cafe\u0301.png", "caf\u00e9.jpg"], ids=lambda key: ascii(key)
)
def test_keys_may_name_the_image_and_be_spelt_otherwise(make_folder: Callable[..., Path], key: str) -> None:
    folder = make_folder(count=1)
    if "caf" in key:
        for part in ("images", "masks"):
            (folder / part / "im0.png").rename(folder / part / "caf\u00e9.png")
    points = folder / "masks" / "points.json"
    points.write_text(json.dumps({key: [[[300, 300]], [1]]}, ensure_ascii=False), encoding="utf-8-sig")
    assert FolderReader(folder)[0].prompts.points.tolist() == [[[300 * 40 / 1024, 300 * 30 / 1024]]]


def test_keys_of_two_stems_are_no_guess(make_folder: Callable[..., Path]) -> None:
    folder = make_folder(count=1)
    entry = [[[300, 300]], [1]]
    (folder / "masks" / "points.json").write_text(json.dumps({"im0.gif": entry, "im0.jpg": entry}))
    with pytest.raises(UserError, match="has no clicks"):
        FolderReader(folder)


def test_forms_of_clicks(tmp_path: Path) -> None:
    path = tmp_path / "points.json"
    path.write_text(
        '{"a": [[[1.5, 1024], [2, 3], [0, 0]], [true, 0.0, -1]], "b": [[[7, 7], [0, 0]], [0, -10]]}'
    )
    read = read_points(path)
    assert (read["a"].points, read["a"].labels) == (((1.5, 1023), (2, 3)), (1, 0))
    assert (read["b"].points, read["b"].labels) == (((7, 7),), (0,))


def test_clicks_off_the_object_alone_point_at_nothing(make_folder: Callable[..., Path]) -> None:
    folder = make_folder(count=2)
    points = {"im0.png": [[[1, 1]], [0]], "im1.png": [[[300, 300], [1, 1]], [1, 0]]}
    (folder / "masks" / "points.json").write_text(json.dumps(points))
    with pytest.raises(PartlyReadable, match=r"mask im0\.png has only clicks off the object") as caught:
        FolderReader(folder)
    assert len(caught.value.rest) == 1
    assert len(FolderReader(folder, prompts="stored+box")) == 2


def test_wrong_files(tmp_path: Path) -> None:
    (tmp_path / "points.json").write_text("[]")
    with pytest.raises(UserError, match=r"points\.json holds a list"):
        read_points(tmp_path / "points.json")
    with pytest.raises(UserError, match="cannot read"):
        read_points(tmp_path / "absent.json")
