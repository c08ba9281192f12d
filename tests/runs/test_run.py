"""`everseg.learn`, `everseg.load(run).predict`, and what they say to wrong arguments."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import everseg
from everseg.data import Stream, SyntheticDomain
from everseg.errors import UserError
from everseg.methods import build, configure
from everseg.runs.run import PLAIN, Run
from everseg.types import Prompts, Query, Stage


def stream(*names: str) -> Stream:
    def stage(index: int, name: str) -> Stage:
        test = SyntheticDomain(name, 2, size=64, split="test")
        return Stage(index, name, SyntheticDomain(name, 4, size=64), test)

    return Stream(tuple(stage(index, name) for index, name in enumerate(names)))


SMALL: dict[str, Any] = {
    "tune__fit__epochs": 1,
    "tune__fit__batch": 4,
    "selector__size": 3,
    "selector__epochs": 1,
}


@pytest.fixture(scope="module")
def folder(micro: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "samcl"
    everseg.learn(stream("lesions", "cracks"), out=folder, base=micro, **SMALL)
    return folder


@pytest.fixture
def learned(folder: Path, micro: Any) -> Run:
    return everseg.load(folder, micro)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


# ---------------------------------------------------------------- learn


def test_learn_says_the_method_once(learned: Run) -> None:
    assert learned.config.method == "samcl" and learned.learned == ["lesions", "cracks"]
    assert learned.config.settings.tune.fit.epochs == 1 and learned.config.settings.selector.size == 3


def test_the_same_call_resumes_and_a_longer_stream_adds(folder: Path, micro: Any) -> None:
    before = sorted(p.name for p in folder.iterdir())
    again = everseg.learn(stream("lesions", "cracks"), out=folder, base=micro, **SMALL)
    assert again.learned == ["lesions", "cracks"] and sorted(p.name for p in folder.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"method": "samlc"}, "did you mean 'samcl'"),
        ({"preset": "papers"}, "did you mean 'paper'"),
        ({"tune__fit__epoch": 3}, "did you mean 'epochs'"),
        ({"tune__fit__epochs": "many"}, "tune.fit.epochs=many"),
        ({"stream": 7}, "the stream is of type int"),
        ({"stream": "nowhere.yaml"}, "nowhere.yaml"),
        ({"until": "nuclei"}, "unknown stage 'nuclei'"),
        ({"seed": "a"}, "the seed is 'a'"),
        ({"seed": 1.5}, "the seed is 1.5"),
        ({"seed": True}, "the seed is True"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"evaluate": "some"}, "unknown evaluate 'some'"),
        ({"base": 3}, "the base is of type int"),
        ({"out": 3}, "out is of type int"),
        ({"method": 3}, "the method is of type int"),
        ({"method": "json:loads"}, "'json:loads' is not a method"),
        ({"method": "os:system"}, "'os:system' is not a method"),
        ({"method": "collections:OrderedDict"}, "is not a method"),
        ({"method": ":x"}, "cannot be imported"),
        ({"method": "../x:y"}, "cannot be imported"),
    ],
)
def test_wrong_arguments_of_learn(tmp_path: Path, micro: Any, arguments: dict[str, Any], said: str) -> None:
    given = {"stream": stream("lesions"), "out": tmp_path / "run", "base": micro, **arguments}
    with pytest.raises(UserError) as caught:
        everseg.learn(given.pop("stream"), **given)
    assert "--" not in str(caught.value), "options of the command line mean nothing here"
    assert said in str(caught.value)
    assert not (tmp_path / "run" / "run.json").exists()


# ---------------------------------------------------------------- predict


def test_any_form_of_an_image_gives_the_same_masks(learned: Run, pixels: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    forms = (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels, tensor)
    found = [learned.predict(form, points=[(20, 10), (30, 12)]) for form in forms]
    assert all(np.array_equal(f.masks, found[0].masks) for f in found)
    assert found[0].masks.shape == (1, 40, 60) and found[0].masks.dtype == np.bool_
    assert found[0].iou.shape == (1,)
    points = torch.tensor([[[20.0, 10.0], [30.0, 12.0]]])
    (wanted,) = learned.learner.predict([Query(tensor, Prompts(points, torch.ones(1, 2).long()))])
    assert np.array_equal(found[0].masks, wanted.masks().numpy())


def test_grey_images_are_images(learned: Run, pixels: np.ndarray) -> None:
    assert learned.predict(pixels[..., 0], points=[(5, 5)]).masks.shape == (1, 40, 60)


def test_several_objects_are_several_masks(learned: Run, pixels: np.ndarray) -> None:
    boxes = [[0, 0, 20, 20], [10, 10, 50, 39], [3, 3, 9, 9]]
    together = learned.predict(pixels, boxes=boxes)
    assert together.masks.shape == (3, 40, 60)
    for n, box in enumerate(boxes):
        assert np.array_equal(together.masks[n], learned.predict(pixels, boxes=box).masks[0])
    points = np.array([[[5, 5], [6, 6]], [[40, 30], [50, 30]]])
    labels = [[1, 0], [1, 1]]
    assert learned.predict(pixels, points, labels).masks.shape == (2, 40, 60)
    # A box points at its object, so clicks beside it may all be off it.
    assert learned.predict(pixels, points, [[0, 0], [1, 0]], boxes[:2]).masks.shape == (2, 40, 60)


def test_the_route_has_all_probabilities(learned: Run, pixels: np.ndarray) -> None:
    route = learned.predict(pixels, points=[(5, 5)]).route
    assert set(route.probabilities) == {"lesions", "cracks"}
    assert sum(route.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert route.probability == max(route.probabilities.values()) == route.probabilities[route.name]


def test_a_stage_may_be_named_and_so_may_the_untouched_base(
    learned: Run, pixels: np.ndarray, micro: Any
) -> None:
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    query = Query(tensor, Prompts(torch.tensor([[[5.0, 5.0]]]), torch.ones(1, 1).long()))
    plain = build("zero-shot", micro, configure("zero-shot"), 0).predict([query])[0]
    found = learned.predict(pixels, points=[(5, 5)], stage=PLAIN)
    assert np.array_equal(found.masks, plain.masks().numpy()) and found.route is None
    named = learned.predict(pixels, points=[(5, 5)], stage="cracks")
    (wanted,) = learned.learner.predict_as([query], "cracks")  # type: ignore[attr-defined]
    assert np.array_equal(named.masks, wanted.masks().numpy())


IMAGE = np.zeros((40, 60, 3), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"image": [1, 2]}, "the image"),
        ({"image": None}, "the image"),
        ({"image": IMAGE.astype(np.float32)}, "uint8"),
        ({"image": IMAGE.transpose(2, 0, 1)}, "(3, 40, 60)"),
        ({"image": IMAGE[:0]}, "the image"),
        ({"image": "none.png"}, "none.png"),
        ({}, "no prompt points at the object"),
        ({"points": [(70, 5)]}, "outside the image of 60x40"),
        ({"points": [(float("nan"), 5)]}, "finite"),
        ({"points": "5,5"}, "points"),
        ({"points": [(5, 5, 5)]}, "points"),
        ({"points": []}, "points"),
        ({"points": [(5, 5)], "labels": [1, 1]}, "labels"),
        ({"points": [(5, 5)], "labels": [2]}, "labels"),
        ({"points": [(5, 5)], "labels": [0]}, "at least one click on it (label 1), or a box"),
        ({"points": [[(5, 5)], [(6, 6)]], "labels": [[1], [0]]}, "at least one click on it (label 1)"),
        ({"labels": [1]}, "points"),
        ({"boxes": [5, 5, 5, 9]}, "empty"),
        ({"boxes": [1, 2, 3]}, "boxes"),
        ({"points": [(5, 5)], "boxes": [[0, 0, 9, 9], [1, 1, 5, 5]]}, "the number of boxes is 2"),
        ({"points": [(5, 5)], "stage": "nuclei"}, "no stage 'nuclei'"),
    ],
)
def test_wrong_arguments_of_predict(learned: Run, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        learned.predict(**{"image": IMAGE, **arguments})
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_stage_cannot_have_the_name_of_the_untouched_base() -> None:
    with pytest.raises(UserError, match="'plain' stands for the untouched base"):
        Stream((replace(stream("lesions").stages[0], name="plain"),))


@pytest.mark.parametrize(("folder", "base", "said"), [(3, None, "run folder"), ("nowhere", 5, "nowhere")])
def test_wrong_arguments_of_load(folder: Any, base: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        everseg.load(folder, base)


# ---------------------------------------------------------------- the package


def test_every_public_name_is_there() -> None:
    for name in everseg.__all__:
        assert getattr(everseg, name) is not None
    assert set(everseg.__all__) <= set(dir(everseg))
    with pytest.raises(AttributeError, match="'everseg' has no attribute 'nothing'"):
        _ = everseg.nothing


HEAVY = "{'torch', 'transformers', 'numpy', 'scipy', 'PIL', 'accelerate', 'matplotlib', 'jinja2'}"
LIGHT = f"import atexit, os, sys; atexit.register(lambda: {HEAVY} & {{*sys.modules}} and os._exit(77))\n"


def exit_code(code: str) -> int:
    """Of a fresh interpreter; 77 where something heavy was imported."""
    return subprocess.run([sys.executable, "-c", LIGHT + code], capture_output=True).returncode


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert exit_code("import everseg, everseg.data, everseg.merge") == 0


def test_a_check_of_data_needs_torch_but_nothing_that_draws() -> None:
    code = "import sys, everseg.data.checks, everseg.data.readers; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("--version", 0),
        ("--help", 0),
        ("learn --help", 0),
        ("lern", 2),
        ("predict run --no-such", 2),
        ("learn stream.yaml", 2),
    ],
)
def test_a_command_answers_without_what_it_does_not_need(arguments: str, code: int) -> None:
    run = f"sys.argv = ['everseg', *{arguments!r}.split()]; from everseg.cli import main; main()"
    assert exit_code(run) == code
