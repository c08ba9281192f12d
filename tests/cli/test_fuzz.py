"""Malformed inputs by the hundred: whatever a file or an argument holds, the command ends with 0, 1 or 2 and
with one sentence, and leaves nothing half-written.

Every case is a function of its kind and number. `EVERSEG_FUZZ=5000 pytest tests/cli/test_fuzz.py -m slow`
runs 5,000 of each kind; `EVERSEG_FUZZ_FIRST=4321 EVERSEG_FUZZ=1` runs one again.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from everseg import cli
from everseg.methods import METHODS

CASES = int(os.environ.get("EVERSEG_FUZZ", "40"))
FIRST = int(os.environ.get("EVERSEG_FUZZ_FIRST", "0"))
W, H = 16, 12

ODD: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        255,
        256,
        3.5,
        -0.0,
        10**30,
        10**400,
        1e308,
        float("nan"),
        float("inf"),
    ),
    *(
        "",
        " ",
        ".",
        "..",
        "/",
        "0",
        "1.0",
        "true",
        "a\0b",
        "x" * 5000,
        "\ud800",
        "\udcfc",
        "é",
        "e\u0301",
        "🙂",
    ),
    *(
        "-1",
        "null",
        "~",
        "${HOME}",
        "${NOT_SET}",
        "${",
        "json:loads",
        "os:getcwd",
        "builtins:int",
        "a:b",
        ":",
    ),
    *(
        "folder",
        "coco",
        "voc",
        "line\nbreak",
        "\u2028",
        "C:\\x\\y.png",
        "2026-99-99",
        "con",
        "%s%n",
        "--help",
    ),
    *(
        [],
        [[]],
        [None],
        {},
        {"a": 1},
        {"": {}},
        [1, 2, 3],
        [0.5] * 8,
        ["x"],
        [[1, 2], [3, 4]],
        {"x": 1, "y": 2},
    ),
]


# ---------------------------------------------------------------- mutations


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def mutated(tree: Any, rng: random.Random) -> Any:
    """A tree with one to three values replaced, removed, renamed, doubled or nested."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 2, 3))):
        *path, last = rng.choice([p for p in places(tree) if p] or [(None,)])
        if last is None:
            return rng.choice(ODD)
        parent = tree
        for key in path:
            parent = parent[key]
        match rng.randrange(6):
            case 0:
                del parent[last]
            case 1 if isinstance(parent, dict):
                parent[rng.choice([o for o in ODD if isinstance(o, str)])] = parent.pop(last)
            case 2 if isinstance(parent, list):
                parent.insert(last, copy.deepcopy(parent[last]))
            case 3:
                parent[last] = [parent[last]]
            case _:
                parent[last] = copy.deepcopy(rng.choice(ODD))
    return tree


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes that were cut, flipped, doubled, filled or encoded otherwise."""
    data = bytearray(content)
    at = rng.randrange(len(data) + 1)
    match rng.randrange(8):
        case 0:
            return bytes(data[:at])
        case 1:
            for _ in range(rng.choice((1, 3, 30))):
                if data:
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 2:
            data[at:at] = rng.randbytes(rng.choice((1, 4, 400)))
        case 3:
            data[at:at] = data[: rng.randrange(len(data) + 1)]
        case 4:
            return content.decode("latin-1").encode(
                rng.choice(("utf-16", "utf-16-le", "utf-8-sig", "utf-32"))
            )
        case 5:
            data[at : at + rng.choice((1, 8, 64))] = b"\0" * 8
        case 6:
            return rng.choice((b"", b"\0", b"[" * 9000, b"{", b"\xff\xfe", b"null", b"5", b"\n" * 50))
        case _:
            words = bytes(data).split(b" ")
            rng.shuffle(words)
            return b" ".join(words)
    return bytes(data)


def text_of(tree: Any, rng: random.Random) -> bytes:
    """JSON of a tree, in most cases as it is."""
    content = json.dumps(tree, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    return damaged(content, rng) if rng.random() < 0.2 else content


# ---------------------------------------------------------------- what is mutated

SQUARE = [2, 2, 9, 2, 9, 9, 2, 9]
COCO: dict[str, Any] = {
    "images": [{"id": i, "file_name": f"im{i}.png", "width": W, "height": H} for i in (0, 1)],
    "annotations": [
        {"id": 1, "image_id": 0, "category_id": 1, "iscrowd": 0, "area": 49.0, "segmentation": [SQUARE]},
        {
            **{"id": 2, "image_id": 1, "category_id": 1, "bbox": [2, 2, 7, 7]},
            "segmentation": {"counts": [26, 7, 159], "size": [H, W]},
        },
    ],
    "categories": [{"id": 1, "name": "cat"}],
}
POINTS = {"im0.png": [[[300, 300], [1, 1]], [1, 0]], "im1.png": [[[400.5, 300]], [1]]}
SHAPE = {"label": "cat", "points": [[2, 2], [9, 2], [9, 9]], "shape_type": "polygon", "group_id": None}
VOC_LINES = ["im0", "im1.png", "/JPEGImages/im0.png /SegmentationClass/im0.png", "im1 -1", "im 0 1"]
FOLDER = {"stages": [{"name": "one", "train": "one", "test": {"path": "two", "prompts": "clicks"}}]}
STREAMS: list[Any] = [
    {**FOLDER, "name": "s", "root": ".", "seed": 0, "mask_threshold": 127},
    {**FOLDER, "unseen": [{"name": "ct", "test": {"kind": "instances", "path": "three", "limit": 1}}]},
    {"stages": [{"name": "a", "train": {"kind": "voc", "path": "voc", "split": "train"}, "test": "two"}]},
    {
        "stages": [
            {
                "name": "a",
                "train": {"kind": "coco", "images": "one/images", "annotations": "coco.json", "min_area": 1},
                "test": {"kind": "synthetic", "domain": "polyps", "count": 1, "size": 32},
            }
        ]
    },
    {
        "classes": ["cat", "dog"],
        "train": {"path": "maps"},
        "test": "maps",
        "stages": [{"name": "a", "classes": ["cat"]}, {"name": "b", "classes": [2]}],
    },
    {"classes": {1: "cat", 2: "dog"}, "train": "maps", "test": "maps", "steps": "1-1", "setting": "disjoint"},
]


def write_data(root: Path) -> None:
    """A split of each kind, all tiny and healthy."""
    rng = np.random.default_rng(0)
    folders = {"one": "masks", "two": "masks", "three": "instances", "maps": "masks"}
    for number, (name, masks) in enumerate(folders.items()):
        (root / name / "images").mkdir(parents=True)
        (root / name / masks).mkdir()
        for i in (0, 1):
            Image.fromarray(rng.integers(0, 255, (H, W, 3), np.uint8)).save(root / name / f"images/im{i}.png")
            mask = np.zeros((H, W), np.uint8)
            mask[2:9, 2 + number : 9] = 255 if masks == "masks" and name != "maps" else 1 + i
            Image.fromarray(mask).save(root / name / masks / f"im{i}.png")
    for name in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (root / "voc" / name).mkdir(parents=True)
    for i in (0, 1):
        shutil.copy(root / f"one/images/im{i}.png", root / "voc/JPEGImages")
        shutil.copy(root / f"maps/masks/im{i}.png", root / "voc/SegmentationClass")
    (root / "voc/ImageSets/Segmentation/train.txt").write_text("im0\nim1\n")
    (root / "coco.json").write_text(json.dumps(COCO))
    (root / "yolo/labels").mkdir(parents=True)
    shutil.copytree(root / "one/images", root / "yolo/images")
    for i in (0, 1):
        tree = {"shapes": [SHAPE], "imagePath": f"images/im{i}.png", "imageHeight": H, "imageWidth": W}
        (root / f"one/im{i}.json").write_text(json.dumps(tree))
        (root / f"yolo/labels/im{i}.txt").write_text("0 .1 .1 .6 .1 .6 .6\n1 .5 .5 .2 .2\n")
        shutil.copy(root / f"three/instances/im{i}.png", root / "voc/SegmentationObject")
    (root / "yolo/data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    (root / "voc/labelmap.txt").write_text("cat:3,3,3::\ndog:2,2,2::\nbird:1,1,1::\n")


def stream_file(root: Path, rng: random.Random) -> list[str]:
    tree = mutated(rng.choice(STREAMS), rng)
    (root / "stream.yaml").write_bytes(text_of(tree, rng))
    return ["data", "check", str(root / "stream.yaml")]


def check_split(root: Path, **options: Any) -> list[str]:
    stream = {"stages": [{"name": "a", "train": options, "test": "two"}]}
    (root / "stream.yaml").write_text(json.dumps(stream))
    return ["data", "check", str(root / "stream.yaml")]


def coco_file(root: Path, rng: random.Random) -> list[str]:
    (root / "coco.json").write_bytes(text_of(mutated(COCO, rng), rng))
    more = {
        "use_boxes": True,
        "skip_faulty": True,
        "instances": "merged",
        "categories": ["cat"],
        "min_area": 1,
    }
    options = {key: value for key, value in more.items() if rng.random() < 0.3}
    return check_split(root, kind="coco", images="one/images", annotations="coco.json", **options)


def points_file(root: Path, rng: random.Random) -> list[str]:
    (root / "one/masks/points.json").write_bytes(text_of(mutated(POINTS, rng), rng))
    return check_split(root, path="one", **({"prompts": "stored+box"} if rng.random() < 0.3 else {}))


def annotation_file(root: Path, rng: random.Random) -> list[str]:
    """A file of an annotation tool, with numbers in it replaced or as other files are changed."""
    places = {
        "labelme": ("one/im0.json", {"path": "one"}),
        "yolo": (rng.choice(("yolo/data.yaml", "yolo/labels/im0.txt")), {"path": "yolo", "boxes": True}),
        "cvat": ("voc/labelmap.txt", {"path": "voc"}),
    }
    kind = rng.choice(list(places))
    place, options = places[kind]
    file = root / place
    if file.suffix == ".json" and rng.random() < 0.7:
        file.write_bytes(text_of(mutated(json.loads(file.read_text()), rng), rng))
    elif rng.random() < 0.5:
        numbers = ("-1", "nan", "1e999", "1e300", "99", "0", "1" * 300, "", "x")
        words = re.split(r"([\d.]+)", file.read_text())
        words[rng.randrange(len(words))] = rng.choice(numbers)
        file.write_text("".join(words))
    else:
        file.write_bytes(damaged(file.read_bytes(), rng))
    return check_split(root, kind=kind, **options)


def voc_list(root: Path, rng: random.Random) -> list[str]:
    lines = [rng.choice([*VOC_LINES, *(str(o) for o in ODD)]) for _ in range(rng.randrange(4))]
    end = rng.choice(("\n", "\r\n", "\r", " ", "\t"))
    content = end.join(lines).encode("utf-8", "surrogatepass")
    content = damaged(content, rng) if rng.random() < 0.5 else content
    (root / "voc/ImageSets/Segmentation/train.txt").write_bytes(content)
    return check_split(root, kind="voc", path="voc", split="train")


def image_file(root: Path, rng: random.Random) -> list[str]:
    folder, masks = rng.choice((("one", "masks"), ("three", "instances"), ("maps", "masks")))
    file = root / folder / rng.choice(("images", masks)) / "im0.png"
    mode = rng.choice(("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F", "YCbCr"))
    size = rng.choice(((W, H), (1, 1), (H, W), (1, 5000)))
    form = rng.choice(("png", "tiff", "jpeg", "gif", "bmp", "webp"))
    written = io.BytesIO()
    with contextlib.suppress(OSError, ValueError, KeyError):
        picture = Image.fromarray(np.full(size[::-1], rng.choice((0, 1, 255)), np.uint8)).convert(mode)
        picture.save(written, form)
    content = written.getvalue() or file.read_bytes()
    file.write_bytes(damaged(content, rng) if rng.random() < 0.6 else content)
    if folder == "maps":
        (root / "stream.yaml").write_text(json.dumps(STREAMS[4]))
        return ["data", "check", str(root / "stream.yaml")]
    return check_split(
        root, **({"path": "one"} if folder == "one" else {"kind": "instances", "path": "three"})
    )


def run_folder(root: Path, rng: random.Random) -> list[str]:
    run = root / "run"
    record = json.loads((run / "run.json").read_text())
    file = run / rng.choice(("run.json", record["results"], "events.jsonl", record["state"]))
    if file.suffix == ".json" and rng.random() < 0.7:
        file.write_bytes(text_of(mutated(json.loads(file.read_text()), rng), rng))
    else:
        file.write_bytes(damaged(file.read_bytes(), rng))
    if file.name in (record["results"], record["state"]) and rng.random() < 0.8:
        # Changed by somebody who also changed the checksum: otherwise that differs.
        part = "results" if file.suffix == ".json" else "state"
        record["sha256"][part] = hashlib.sha256(file.read_bytes()).hexdigest()
        (run / "run.json").write_text(json.dumps(record))
    verbs = [["compare", str(run)], ["compare", str(run), "--json"], ["pool", "show", str(run)]]
    return rng.choice([*verbs, ["report", str(run), "--base", str(root / "base")]])


def arguments(root: Path, rng: random.Random) -> list[str]:
    stream, run, image = (str(root / part) for part in ("good.yaml", "run", "one/images/im0.png"))
    odd = [
        "",
        "x" * 5000,
        "a\nb",
        "\udcfc",
        "nope",
        "1,2",
        "nan,nan",
        "-1",
        "1e999",
        "=",
        "a=b",
        stream,
        run,
        image,
    ]
    out = ["--out", rng.choice([str(root / "new"), run, image, "x" * 5000, str(root / "x" / ("y" * 300))])]
    commands = [
        ["data", "check", stream],
        ["data", "check", stream, "--sheet", str(root / "new.png")],
        ["data", "points", str(root / "one/masks")],
        [
            "learn",
            stream,
            *out,
            "--base",
            str(root / "base"),
            "--method",
            rng.choice([*METHODS, "json:loads"]),
        ],
        ["predict", run, image, *out, "--point", "3,3", "--base", str(root / "base")],
        ["compare", run],
        ["settings", "samcl"],
        ["forget", run, "--domain", "lesions"],
        ["data", "synthetic", str(root / "new"), "--train", "1", "--test", "1"],
        ["pool", "show", run],
        ["export", run, "--out", str(root / "new")],
    ]
    given = rng.choice(commands)
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(1, len(given) + 1)
        match rng.randrange(4):
            case 0:
                given = given[:at]
            case 1:
                flags = ("--json", "--seed", "--set", "--point", "--box", "--stage", "--score", "--workers")
                given = [*given[:at], rng.choice(flags), *given[at:]]
            case _:
                given = [*given[:at], rng.choice(odd), *given[at + 1 :]]
    if given[0] == "learn" and "json:loads" not in given:  # Training takes too long; refusing does not.
        given = [*given, "--set", rng.choice(("nope=1", "=", "x" * 300, "tune.fit.steps=x", "a.b.c=1"))]
    return given


KINDS: dict[str, Callable[[Path, random.Random], list[str]]] = {
    f.__name__: f
    for f in (
        stream_file,
        coco_file,
        annotation_file,
        points_file,
        voc_list,
        image_file,
        run_folder,
        arguments,
    )
}


# ---------------------------------------------------------------- the law


@pytest.fixture(scope="module")
def healthy(micro_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of every kind, a run and its base. Nobody writes to them."""
    from everseg.data import Stream
    from everseg.methods import configure
    from everseg.models.promptable.load import load_base
    from everseg.runs.learn import run
    from everseg.runs.run import RunConfig

    root = tmp_path_factory.mktemp("fuzz") / "healthy"
    write_data(root)
    (root / "good.yaml").write_text(json.dumps(FOLDER))
    shutil.copytree(micro_folder, root / "base")
    config = RunConfig("zero-shot", configure("zero-shot"), str(root / "base"))
    base = load_base(str(root / "base"))
    run(Stream.from_yaml(root / "good.yaml"), config, root / "run", base)
    return root


def called(given: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code and standard error of the console command, both strict about what they can encode."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict") for _ in range(2))
    monkeypatch.setattr(sys, "argv", ["everseg", *given])
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    code: Any = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cli.main()
    except SystemExit as ended:
        code = ended.code or 0
    err.flush()
    buffer = err.buffer
    assert isinstance(buffer, io.BytesIO)
    return code, buffer.getvalue().decode()


def files_of(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file() and path.name != ".lock"}


def breach(given: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """How a call breaks the law; "" if it does not."""
    try:
        with monkeypatch.context() as patched:
            code, said = called(given, patched)
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} in {place.filename}:{place.lineno}"
    sentences = [line for line in said.splitlines() if line.startswith("error: ")]
    if code not in (0, 1, 2):
        return f"exit code {code!r}"
    if code == 2 and len(sentences) != 1 and (said or len(given) > 2):  # A group of commands prints its help.
        return f"exit code 2 with {said[-300:]!r}"
    if any(len(sentence) > 1500 for sentence in sentences):
        return "a sentence of more than 1,500 letters"
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_given_ends_with_a_sentence(
    healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERSEG_CACHE", str(tmp_path / "cache"))
    before = signal.getsignal(signal.SIGINT)
    failures = []
    for number in range(FIRST, FIRST + CASES):
        root = tmp_path / "case"
        shutil.copytree(healthy, root)
        given = KINDS[kind](root, random.Random(f"{kind} {number}"))
        there = files_of(root)
        wrong = breach(given, monkeypatch)
        written = files_of(root) ^ there
        if not wrong and any(path.suffix == ".partial" for path in written):
            wrong = f"left {written}"
        if not wrong and given[:2] == ["data", "check"] and "--sheet" not in given and written:
            wrong = f"wrote {written}"
        if wrong:
            failures.append(f"{kind} {number} {[part[:80] for part in given]}: {wrong}")
        shutil.rmtree(root)
    signal.signal(signal.SIGINT, before)
    assert not failures, "\n".join([f"{len(failures)} of {CASES}", *failures[:40]])
