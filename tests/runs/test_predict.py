"""Predicting on files: what may be asked, and every pixel that is written."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from everseg.data import Stream, SyntheticDomain
from everseg.errors import UserError
from everseg.methods import build, configure
from everseg.pictures.overlay import draw_mask
from everseg.runs.inputs import find_images
from everseg.runs.learn import run
from everseg.runs.predict import Outcome, predict_files
from everseg.runs.predicting import How
from everseg.runs.prompts import ImagePrompts, parse_numbers, prompts_of
from everseg.runs.run import Run, RunConfig
from everseg.types import Query, Stage


@pytest.fixture(scope="module")
def learned(micro: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.set_num_threads(1)
    stages = [
        Stage(i, d, SyntheticDomain(d, 4, size=64), SyntheticDomain(d, 1, size=64, split="test"))
        for i, d in enumerate(("lesions", "cracks"))
    ]
    settings = configure("samcl", assignments=["tune.fit.epochs=2", "cache.precision=fp32"])
    return run(
        Stream(tuple(stages)), RunConfig("samcl", settings, "micro"), tmp_path_factory.mktemp("run"), micro
    )


def picture(path: Path, size: tuple[int, int] = (50, 40), mode: str = "RGB", seed: int = 0) -> Path:
    """A file of noise, `size` = (width, height), in one of Pillow's modes."""
    rng = np.random.default_rng(seed)
    shape = (size[1], size[0])
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, shape, dtype=np.uint16))
    elif mode == "P":
        image = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).quantize(16)
    elif mode == "CMYK":
        image = Image.fromarray(rng.integers(0, 256, (*shape, 4), dtype=np.uint8), "CMYK")
    elif mode == "RGBA":
        image = Image.fromarray(rng.integers(0, 256, (*shape, 4), dtype=np.uint8))
    elif mode == "L":
        image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
    else:
        image = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    """(H, W) of a grey file, (H, W, 3) of one in colour."""
    with Image.open(path) as image:
        return np.array(image)


def predicted(
    run: Run, paths: Sequence[Path], prompts: ImagePrompts | None, out: Path, **how: Any
) -> list[Outcome]:
    """All images with the same prompts."""
    sources = find_images(paths, out)
    return list(predict_files(run, sources, [prompts] * len(sources), out, How(**how)))


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---------------------------------------------------------------- prompts


def test_clicks_are_one_object() -> None:
    found = prompts_of(["4,5", "6.5, 7"], ["1,2"], [])
    assert found is not None
    (one,) = found.tensors(9, 9)
    assert one.points is not None and one.labels is not None
    assert one.points.tolist() == [[[4.0, 5.0], [6.5, 7.0], [1.0, 2.0]]]
    assert one.labels.tolist() == [[1, 1, 0]]
    assert one.boxes is None


def test_boxes_are_objects_and_a_box_may_have_clicks() -> None:
    several = prompts_of([], [], ["0,0,5,5", "1,1,9,8"])
    assert several is not None
    assert [one.box for one in several.objects] == [(0, 0, 5, 5), (1, 1, 9, 8)]
    assert not any(one.points for one in several.objects)
    together = prompts_of([], ["3,3"], ["0,0,5,5"])
    assert together is not None
    (one,) = together.objects
    assert one.labels == (0,)


@pytest.mark.parametrize(
    ("points", "negatives", "boxes", "said"),
    [
        ([], ["1,2"], [], "no prompt points at the object"),
        (["1"], [], [], "is not 2 numbers; write x,y in pixels"),
        (["1,2,3"], [], [], "is not 2 numbers"),
        (["a,b"], [], [], "is not 2 numbers"),
        (["nan,2"], [], [], "is not 2 numbers"),
        (["1,inf"], [], [], "is not 2 numbers"),
        ([""], [], [], "is not 2 numbers"),
        (["1,2"], ["x"], [], "--negative 'x' is not 2 numbers"),
        ([], [], ["1,2,3"], "is not 4 numbers; write x0,y0,x1,y1"),
        ([], [], ["5,5,5,9"], "is empty"),
        ([], [], ["5,5,9,1"], "is empty"),
        (["1,2"], [], ["0,0,5,5", "1,1,9,8"], "several boxes are several objects"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    points: Sequence[str], negatives: Sequence[str], boxes: Sequence[str], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        prompts_of(points, negatives, boxes)
    assert said in str(caught.value)


def test_numbers() -> None:
    assert parse_numbers("1, 2.5", 2, "--point") == (1.0, 2.5)
    assert parse_numbers("-1,2e1,3,4", 4, "--box") == (-1.0, 20.0, 3.0, 4.0)


# ---------------------------------------------------------------- files


def test_every_pixel_that_is_written(learned: Run, tmp_path: Path) -> None:
    path = picture(tmp_path / "some image.png")
    out = tmp_path / "out"
    [written] = predicted(learned, [path], prompts_of(["20,10"], [], []), out)
    image = torch.from_numpy(pixels(path)).permute(2, 0, 1)
    prompts = prompts_of(["20,10"], [], [])
    assert prompts is not None
    [wanted] = learned.learner.predict([Query(image, prompts.tensors(40, 50)[0])])
    mask = wanted.masks()[0].numpy()

    assert np.array_equal(pixels(out / "some image_mask.png"), mask.astype(np.uint8) * 255)
    assert np.array_equal(pixels(out / "some image_overlay.png"), draw_mask(image, mask))
    record = json.loads((out / "some image.json").read_text())
    assert record == written.record
    said = {"module", "probability", "probabilities", "p_values"} & set(record)
    assert said >= {"module", "probability", "probabilities"}
    assert set(record) == {"image", "size", "masks", "inputs", *said}
    assert record["image"] == str(path)
    assert record["size"] == {"width": 50, "height": 40}
    assert [set(m) for m in record["masks"]] == [{"file", "pixels", "predicted_iou"}]
    assert record["masks"][0]["file"] == "some image_mask.png"
    assert record["masks"][0]["pixels"] == int(mask.sum())
    assert record["masks"][0]["predicted_iou"] == pytest.approx(float(wanted.iou[0]), abs=1e-4)
    assert wanted.route is not None
    assert record["module"] == wanted.route.name
    assert record["probability"] == pytest.approx(wanted.route.probability, abs=1e-4)
    assert sorted(p.name for p in out.iterdir()) == [
        "some image.json",
        "some image_mask.png",
        "some image_overlay.png",
    ]


def test_several_boxes_are_several_masks(learned: Run, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    prompts = prompts_of([], [], ["0,0,20,20", "10,10,50,40", "3,3,9,9"])
    [written] = predicted(learned, [path], prompts, tmp_path / "out")
    assert [p.name for p in written.files[:-1]] == ["a_mask_1.png", "a_mask_2.png", "a_mask_3.png"]
    assert [m["file"] for m in written.record["masks"]] == ["a_mask_1.png", "a_mask_2.png", "a_mask_3.png"]
    for n, box in enumerate(("0,0,20,20", "10,10,50,40", "3,3,9,9")):
        [alone] = predicted(learned, [path], prompts_of([], [], [box]), tmp_path / f"alone{n}")
        a, b = (pixels(p) for p in (written.files[n], alone.files[0]))
        assert (a != b).mean() < 0.01


@pytest.mark.parametrize(
    ("name", "mode", "size"),
    [
        ("one.png", "RGB", (1, 1)),
        ("deep.png", "I;16", (30, 20)),
        ("print.tif", "CMYK", (30, 20)),
        ("few.png", "P", (30, 20)),
        ("clear.png", "RGBA", (30, 20)),
        ("grey.jpg", "L", (30, 20)),
        ("wide.png", "RGB", (1500, 2)),
        ("tall.png", "RGB", (1, 900)),
    ],
)
def test_images_of_every_kind_and_shape(
    learned: Run, tmp_path: Path, name: str, mode: str, size: tuple[int, int]
) -> None:
    path = picture(tmp_path / name, size, mode)
    [written] = predicted(learned, [path], prompts_of(["0,0"], [], []), tmp_path / "out")
    mask, overlay = pixels(written.files[0]), pixels(written.files[-1])
    assert mask.shape == (size[1], size[0])
    assert overlay.shape == (size[1], size[0], 3)
    assert set(np.unique(mask)) <= {0, 255}


def test_images_of_different_sizes_in_one_go_are_each_alone(learned: Run, tmp_path: Path) -> None:
    paths = [
        picture(tmp_path / f"{i}.png", size, seed=i) for i, size in enumerate([(50, 40), (64, 64), (9, 90)])
    ]
    together = predicted(learned, paths, prompts_of(["5,6"], [], []), tmp_path / "together")
    assert [w.source.path for w in together] == paths
    for path, written in zip(paths, together, strict=True):
        [alone] = predicted(learned, [path], prompts_of(["5,6"], [], []), tmp_path / "alone")
        a, b = (pixels(w.files[0]) for w in (written, alone))
        assert (a != b).mean() < 0.01
        assert alone.record["module"] == written.record["module"]


@pytest.mark.parametrize(
    ("points", "boxes"),
    [(["51,3"], []), (["3,40.5"], []), (["-1,3"], []), ([], ["3,3,51,9"]), ([], ["-1,0,5,5"])],
)
def test_clicks_outside_the_image_are_refused(
    learned: Run, tmp_path: Path, points: Sequence[str], boxes: Sequence[str]
) -> None:
    path = picture(tmp_path / "a.png")
    other = picture(tmp_path / "b.png", (60, 50))
    out = tmp_path / "out"
    wrong, fine = predicted(learned, [path, other], prompts_of(points, [], boxes), out)
    assert re.search(r"a\.png: \(.*\) lies outside the image of 50x40 pixels", wrong.error)
    assert not list(out.glob("a*"))
    assert bool(fine.error) == any("-" in text for text in [*points, *boxes])


def test_a_box_may_end_where_the_image_does(learned: Run, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    assert predicted(learned, [path], prompts_of([], [], ["0,0,50,40"]), tmp_path / "out")


@pytest.mark.parametrize("name", ["x_mask.png", "x_mask_2.png", "x_overlay.png", "x.json"])
def test_files_of_others_are_not_replaced(learned: Run, tmp_path: Path, name: str) -> None:
    """Ground truth often has these names; what an earlier prediction wrote may go."""
    images = [picture(tmp_path / "x.png"), picture(tmp_path / "y.png")]
    out, prompts = tmp_path / "out", prompts_of(["4,5"], [], [])
    predicted(learned, images, prompts, out)
    (out / "x.json").unlink()
    predicted(learned, images, prompts_of(["4,6"], [], []), out)
    (out / "x.json").unlink()
    (out / "y.json").unlink()
    (out / name).write_bytes(b"[]")
    wrong, fine = predicted(learned, images, prompts, out)
    assert "already exists and was not written by everseg; choose another --out" in wrong.error
    assert (out / name).read_bytes() == b"[]"
    assert fine.record is not None and not fine.skipped


def test_pictures_of_an_earlier_version_are_known_by_their_record(learned: Run, tmp_path: Path) -> None:
    image, out = picture(tmp_path / "x.png"), tmp_path / "out"
    for name in ("x_mask.png", "x_overlay.png"):
        picture(out / name)
    (out / "x.json").write_text(json.dumps({"image": "x.png", "masks": [{"file": "x_mask.png"}]}))
    [done] = predicted(learned, [image], prompts_of(["4,5"], [], []), out)
    assert not done.error and pixels(out / "x_mask.png").ndim == 2


def test_what_an_earlier_prediction_wrote_and_this_does_not_is_deleted(learned: Run, tmp_path: Path) -> None:
    images = [
        picture(tmp_path / "x.png"),
        picture(tmp_path / "x_mask.png"),
        picture(tmp_path / "x_mask_1.png"),
    ]
    out = tmp_path / "out"
    predicted(learned, images, prompts_of([], [], ["0,0,9,9", "2,2,8,8"]), out)
    predicted(learned, images, prompts_of(["4,5"], [], []), out, overlay=False)
    assert sorted(content(out)) == sorted(
        f"{stem}{end}" for stem in ("x", "x_mask", "x_mask_1") for end in (".json", "_mask.png")
    )


def test_one_damaged_image_does_not_stop_the_others(learned: Run, tmp_path: Path) -> None:
    images = [picture(tmp_path / f"{name}.png") for name in ("a", "bad", "c")]
    images[1].write_bytes(images[1].read_bytes()[:200])
    first, bad, last = predicted(learned, images, prompts_of(["5,6"], [], []), tmp_path / "out")
    assert re.search(r"bad\.png is damaged or truncated", bad.error)
    assert bad.record is None and not list((tmp_path / "out").glob("bad*"))
    assert first.record is not None and last.record is not None


def test_a_stage_may_be_named(learned: Run, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    prompts = prompts_of(["20,10"], [], [])
    [written] = predicted(learned, [path], prompts, tmp_path / "out", stage="cracks")
    image = torch.from_numpy(pixels(path)).permute(2, 0, 1)
    assert prompts is not None
    one = prompts.tensors(40, 50)[0]
    [wanted] = learned.learner.predict_as([Query(image, one)], "cracks")  # type: ignore[attr-defined]
    assert np.array_equal(pixels(written.files[0]) > 0, wanted.masks()[0].numpy())
    with pytest.raises(UserError, match="no stage 'nuclei'; it learned lesions, cracks"):
        predicted(learned, [path], prompts, tmp_path / "out", stage="nuclei")


def test_a_method_without_modules_says_so(micro: Any, learned: Run, tmp_path: Path) -> None:
    plain = Run(
        learned.folder,
        RunConfig("zero-shot", configure("zero-shot"), "micro"),
        build("zero-shot", micro, configure("zero-shot"), 0),
        micro,
        learned.results,
        learned.record,
    )
    path = picture(tmp_path / "a.png")
    with pytest.raises(UserError, match="'zero-shot' keeps no module per stage; leave the stage out or"):
        predicted(plain, [path], prompts_of(["5,6"], [], []), tmp_path / "out", stage="cracks")
    [written] = predicted(plain, [path], prompts_of(["5,6"], [], []), tmp_path / "out")
    assert written.record["module"] is written.record["probability"] is None
