"""What is written for predictions: forms, going on after an interruption, full disks."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from everseg.data.domains.rle import decode_rle
from everseg.errors import UserError
from everseg.models.promptable.load import load_base
from everseg.pictures.drawn import Region, numbered, union
from everseg.runs import outputs
from everseg.runs.folder import load
from everseg.runs.inputs import find_images
from everseg.runs.outputs import COCO, OutputFolder, check_coco, write_coco
from everseg.runs.predict import Outcome, predict_files
from everseg.runs.predicting import How
from everseg.runs.prompts import Asked, ImagePrompts
from everseg.runs.run import Run

EARLIER = Path(__file__).parents[1] / "assets" / "earlier_run"


@pytest.fixture(scope="module")
def micro_earlier() -> Any:
    return load_base(str(EARLIER / "base"))


@pytest.fixture(scope="module")
def learned(micro_earlier: Any) -> Run:
    return load(EARLIER / "runs" / "samcl", micro_earlier)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for n in range(4):
        pixels = np.random.default_rng(n).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        path = folder / f"s{n % 2}" / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


MIXED = ImagePrompts(
    (
        Asked(((20, 10),), (1,), name="one"),
        Asked(((9, 9), (30, 30)), (1, 0), name="two", category=5),
        Asked(box=(5, 5, 30, 30), name="three"),
        Asked(((12, 12),), (1,), (2, 2, 40, 35), "four"),
    )
)


def predicted(
    learned: Run, images: Path, out: Path, asked: ImagePrompts = MIXED, **how: Any
) -> list[Outcome]:
    sources = find_images([images], out)
    return list(predict_files(learned, sources, [asked] * len(sources), out, How(**how)))


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_forms_say_the_same(learned: Run, images: Path, tmp_path: Path) -> None:
    outs = {form: tmp_path / form for form in ("masks", "labels", "coco")}
    records = {form: predicted(learned, images, out, form=form) for form, out in outs.items()}
    for source, plain, label, coco in zip(find_images([images], tmp_path), *records.values(), strict=True):
        assert plain.record and label.record and coco.record
        assert [m["object"] for m in plain.record["masks"]] == ["one", "two", "three", "four"]
        with Image.open(outs["labels"] / f"{source.name}_labels.png") as picture:
            numbers = np.array(picture)
        seen = np.zeros((40, 50), bool)
        for n, (mask, entry) in enumerate(zip(plain.record["masks"], coco.record["masks"], strict=True), 1):
            with Image.open(outs["masks"] / Path(source.name).with_name(mask["file"])) as picture:
                pixels = np.array(picture) == 255
            packed = entry["segmentation"]
            assert np.array_equal(decode_rle(packed["counts"], *packed["size"]), pixels)
            assert entry["area"] == mask["pixels"] == pixels.sum()
            assert entry["category_id"] == (5 if n == 2 else 1)
            assert not (numbers == n)[~pixels].any()
            seen |= pixels
        assert np.array_equal(numbers > 0, seen)


def test_objects_of_an_image_are_as_each_alone(learned: Run, images: Path, tmp_path: Path) -> None:
    together = predicted(learned, images, tmp_path / "together", overlay=False)[0]
    assert together.record is not None
    for n, one in enumerate(MIXED.objects):
        alone = predicted(learned, images, tmp_path / f"{n}", ImagePrompts((one,)), overlay=False)[0]
        a, b = (np.array(Image.open(f)) for f in (together.files[n], alone.files[0]))
        assert (a != b).mean() < 0.01


class Stopped(BaseException):
    """As if the process had been killed."""


def test_a_command_goes_on_where_it_stopped(
    learned: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at every single write in turn: whole files only, and in the end the same as in one go."""
    once, out = tmp_path / "once", tmp_path / "out"
    predicted(learned, images, once, workers=0)
    whole = content(once)
    real = {"write_bytes": outputs.write_bytes, "write_json": outputs.write_json}

    def stop_after(count: int) -> None:
        left = iter(range(count))

        def limited(name: str) -> Any:
            def write(*arguments: Any) -> None:
                if next(left, None) is None:
                    raise Stopped
                real[name](*arguments)

            return write

        for name in real:
            monkeypatch.setattr(outputs, name, limited(name))

    for count in (1, 3, 7, 2, 6):
        stop_after(count)
        try:
            predicted(learned, images, out, workers=0)
        except Stopped:
            assert all(whole[name] == bytes_ for name, bytes_ in content(out).items())
    stop_after(1000)
    last = predicted(learned, images, out)
    assert content(out) == whole and any(o.skipped for o in last)
    assert all(o.skipped for o in predicted(learned, images, out))


def test_other_prompts_other_pixels_and_other_options_are_predicted_anew(
    learned: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other = tmp_path / "out", ImagePrompts(MIXED.objects[:1])

    def skipped(asked: ImagePrompts = MIXED, **how: Any) -> int:
        return sum(o.skipped for o in predicted(learned, images, out, asked, **how))

    assert (skipped(), skipped(), skipped(workers=0)) == (0, 4, 4)
    assert (skipped(other), skipped(other)) == (0, 4)
    assert (skipped(other, form="labels"), skipped(other, form="labels")) == (0, 4)
    assert (skipped(other, overlay=False), skipped(other, stage="polyps")) == (0, 0)
    assert (skipped(), skipped()) == (0, 4)
    (out / "s0" / "0_mask_2.png").unlink()
    assert skipped() == 3
    Image.new("RGB", (50, 40)).save(images / "s1" / "1.png")
    assert skipped() == 3
    # Stopped between the pictures of other prompts and their record: the old record does not count any more.
    monkeypatch.setattr(OutputFolder, "_pictures", lambda *_: (_ for _ in ()).throw(Stopped))
    monkeypatch.setattr(OutputFolder, "check_free", lambda *_: None)
    with pytest.raises(Stopped):
        skipped(other, workers=0)
    monkeypatch.undo()
    assert skipped() == 3


def test_a_full_disk_ends_the_command_and_leaves_whole_files(
    learned: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = outputs.write_bytes, iter(range(7))

    def full(path: Path, data: bytes) -> None:
        if next(left, None) is None:
            try:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            except OSError as error:
                raise UserError(f"cannot write {path}: {error.strerror}; free some space") from error
        real(path, data)

    monkeypatch.setattr(outputs, "write_bytes", full)
    with pytest.raises(UserError, match="No space left on device"):
        predicted(learned, images, tmp_path / "out", workers=0)  # Threads would share out the seven writes.
    monkeypatch.undo()
    assert (tmp_path / "out" / "s0" / "0.json").exists()
    assert sum(o.skipped for o in predicted(learned, images, tmp_path / "out")) == 1


def test_objects_of_an_image_share_its_features(
    learned: Run, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one command and in Python: a further click takes the tail and the decoder only."""
    encoded: list[int] = []
    learned.learner.cache.recent.clear()  # type: ignore[attr-defined]
    trunk = learned.base.trunk
    monkeypatch.setattr(learned.base, "trunk", lambda pixels: encoded.append(len(pixels)) or trunk(pixels))
    predicted(learned, images, tmp_path / "out")
    assert encoded == [1] * 4
    encoded.clear()
    first, second = (np.full((30, 40, 3), value, np.uint8) for value in (60, 200))
    for image in (first, second, first):
        learned.predict(image, points=[(4, 5)])
        again = learned.predict(image.copy(), boxes=[1, 2, 20, 25])
    assert encoded == [1, 1]
    assert len(learned.learner.cache.recent) == 4  # type: ignore[attr-defined]
    assert not learned.learner.cache.entries  # type: ignore[attr-defined]
    assert np.array_equal(again.masks, learned.predict(first, boxes=[1, 2, 20, 25]).masks)


def test_a_name_that_is_too_long_fails_alone(learned: Run, images: Path, tmp_path: Path) -> None:
    (images / "s0" / "0.png").rename(images / "s0" / f"{'x' * 245}.png")
    done = predicted(learned, images, tmp_path / "out")
    assert [bool(o.error) for o in done] == [False, True, False, False]
    assert "no file can have this name" in done[1].error


def test_leftovers_of_a_killed_command_are_swept(tmp_path: Path) -> None:
    for name in (".x_mask.png.0123abcd.partial", "x.partial", ".git"):
        (tmp_path / name).write_bytes(b"")
    OutputFolder(tmp_path, "").sweep(["x"])
    assert sorted(content(tmp_path)) == [".git", "x.partial"]


def test_coco_results_of_others_are_not_replaced(learned: Run, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = predicted(learned, images, out, form="coco", overlay=False)
    folder = OutputFolder(out, learned.problem.outputs)

    def numbered_sources() -> Iterator[tuple[Any, int]]:
        return ((o.source, n) for n, o in enumerate(done, 7))

    check_coco(out)
    path = write_coco(folder, numbered_sources())
    entries = json.loads(path.read_text())
    assert [e["image_id"] for e in entries] == [7] * 4 + [8] * 4 + [9] * 4 + [10] * 4
    assert {e["file_name"] for e in entries} == {str(o.source.path) for o in done}
    assert all(set(e) >= {"category_id", "segmentation", "score", "bbox", "area"} for e in entries)
    check_coco(out)
    write_coco(folder, iter([]))
    assert json.loads(path.read_text()) == []
    check_coco(out)
    (out / COCO).write_text("[{}]")
    with pytest.raises(UserError, match="was not written by everseg"):
        check_coco(out)


def test_regions() -> None:
    mask = np.zeros((6, 7), bool)
    mask[2:4, 3:6] = True
    region = Region.of(mask, 10, 20, (40, 50))
    assert (region.bbox, region.count, region.full().shape) == ([13, 22, 3, 2], 6, (40, 50))
    assert np.array_equal(region.full()[20:26, 10:17], mask)
    inner = Region(np.ones((1, 1), bool), 14, 23, (40, 50))
    numbers = numbered([inner, region], (40, 50))
    assert numbers.dtype == np.uint8 and numbers[23, 14] == 1 and (numbers == 2).sum() == 5
    assert np.array_equal(union([inner, region], (40, 50)), region.full())
    assert numbered([inner] * 255, (40, 50)).dtype == np.uint16
