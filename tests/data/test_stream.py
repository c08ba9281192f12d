"""Stream files: what they give, and one sentence for every mistake."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from everseg.data import FolderReader, Stream, SyntheticDomain, write_points
from everseg.errors import UserError
from everseg.types import Stage

Make = Callable[..., Path]
Write = Callable[[str], Path]

EXAMPLES = Path(__file__).parents[2] / "examples"
SYNTHETIC = "{kind: synthetic, domain: polyps, count: 2, size: 32}"


def test_stages_background_and_unseen_in_order(make_folder: Make, write_stream: Write) -> None:
    for name in ("a/train", "a/test", "b/test"):
        make_folder(name)
    path = write_stream(
        f"""
        seed: 7
        stages:
          - {{name: a, train: a/train, test: {{path: a/test, limit: 2, clicks: 1}}}}
          - {{name: s, train: {SYNTHETIC}, test: {SYNTHETIC}}}
        background: {{name: nature, train: {SYNTHETIC}, test: {SYNTHETIC}}}
        unseen: [{{name: b, test: b/test, prompts: box}}]
        """
    )
    stream = Stream.from_yaml(path)
    assert [
        (s.index, s.name, s.background, len(s.train), len(s.test)) for s in (*stream.stages, *stream.unseen)
    ] == [
        (0, "a", False, 4, 2),
        (1, "s", False, 2, 2),
        (2, "nature", True, 2, 2),
        (3, "b", False, 0, 4),
    ]
    assert stream.name == "stream" and stream.source == path
    assert stream.stages[0].train.rule.seed == 7 and stream.stages[0].test.rule.clicks == 1
    assert stream.unseen[0].test[0].prompts.points is None
    assert not torch.equal(stream.stages[1].train[0].image, stream.stages[1].test[0].image)
    assert len(pickle.loads(pickle.dumps(stream)).stages) == 3


def test_later_images_name_their_domain(write_stream: Write) -> None:
    told = f"train: {SYNTHETIC}, test: {SYNTHETIC}"
    text = f"stages: [{{name: a, {told}}}, {{name: b, {told}}}, {{name: a-2, later_of: a, {told}}}]"
    assert [stage.later_of for stage in Stream.from_yaml(write_stream(text)).stages] == ["", "", "a"]


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        (
            "stages: [{name: a, later_of: a, %s}]",
            "'a': later_of: 'a' is not a domain.*there is none, so remove later_of:$",
        ),
        (
            "stages: [{name: a, later_of: b, %s}, {name: b, %s}]",
            "'a': later_of: 'b' is not a domain.*there is none",
        ),
        (
            "stages: [{name: a, %s}, {name: b, later_of: B-1, %s}]",
            "'b': later_of: 'B-1' is not a domain that an earlier stage learns; name one of a$",
        ),
        (
            "stages: [{name: a, %s}, {name: b, later_of: a/b, %s}]",
            "'b': later_of: the name 'a/b' cannot be a file name; use letters, digits",
        ),
        (
            "stages: [{name: a, %s}, {name: b, later_of: a, %s}, {name: c, later_of: b, %s}]",
            "'c': later_of: 'b' itself has later_of: 'a'; name 'a' instead$",
        ),
        (
            "stages: [{name: a, %s}]\nbackground: {name: b, later_of: a, %s}",
            "'later_of' has no effect.*remove",
        ),
    ],
)
def test_later_images_of_what_is_not_learned_are_refused(write_stream: Write, stages: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Stream.from_yaml(write_stream(stages.replace("%s", f"train: {SYNTHETIC}, test: {SYNTHETIC}")))


def test_root_and_variables(make_folder: Make, write_stream: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder("deep/er/d")
    text = "root: ${SOME_ROOT:-deep}/${SOME_LEAF}\nstages: [{name: d, train: d, test: d}]"
    monkeypatch.delenv("SOME_ROOT", raising=False)
    monkeypatch.setenv("SOME_LEAF", "er")
    assert len(Stream.from_yaml(write_stream(text)).stages[0].train) == 4
    monkeypatch.delenv("SOME_LEAF")
    with pytest.raises(UserError, match=r"\$\{SOME_LEAF\} is not set"):
        Stream.from_yaml(write_stream(text))


def test_mask_threshold_of_stream_stage_and_split(make_folder: Make, write_stream: Write) -> None:
    make_folder("d")
    stream = Stream.from_yaml(
        write_stream(
            """
            mask_threshold: "==255"
            stages:
              - {name: a, train: d, test: {path: d, mask_threshold: 9}}
              - {name: b, train: d, test: d, mask_threshold: 50}
            """
        )
    )
    a, b = stream.stages
    rules = [e.entries[0].meaning.key for e in (a.train, a.test, b.train)]
    assert rules == ['mask_threshold: "==255"', "mask_threshold: 9", "mask_threshold: 50"]


def test_a_reader_of_ones_own(write_stream: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my_reader.py").write_text(
        "from pathlib import Path\n"
        "def rows(path: Path, colour: str = 'red'): return [(path, colour)]\n"
        "nothing = lambda: 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    split = "{kind: 'my_reader:rows', path: x, colour: blue}"
    stream = Stream.from_yaml(write_stream(f"stages: [{{name: a, train: {split}, test: {split}}}]"))
    assert stream.stages[0].train[0] == (tmp_path / "x", "blue")
    for kind, says in (
        ("my_reader:nothing", "gave a int"),
        ("my_reader:rosw", "cannot be imported"),
        ("absent_module:x", "cannot be imported"),
    ):
        with pytest.raises(UserError, match=says):
            Stream.from_yaml(write_stream(f"stages: [{{name: a, train: {{kind: '{kind}'}}, test: x}}]"))


MISTAKES = {
    "": "is not a mapping",
    "stages: [": "not valid YAML in line",
    "seed: 1\nseed: 2\nstages: []": "'seed' is given twice",
    "name: x": "has no 'stages'",
    "stages: []": "no stages",
    "stages: [{name: a, train: d}]": "stage 'a' has no 'test'",
    "stages: [{train: d, test: d}]": r"stages\[0\] has no 'name'",
    "stages: [{name: a, trian: d, test: d}]": "'trian': did you mean 'train'",
    "stages: [{name: a, train: d, test: d, tset: d}]": "stage 'a'.*'tset': did you mean 'test'",
    "stage: [{name: a, train: d, test: d}]\nstages: []": "'stage': did you mean 'stages'",
    "stages: [{name: a/b, train: d, test: d}]": "'a/b' cannot be a file name",
    "stages: [{name: 2019, train: d, test: d}]": "2019 cannot be a file name",
    "stages: [{name: a, train: d, test: d}, {name: A, train: d, test: d}]": "two stages are named 'A'",
    "stages: [{name: a, train: 3, test: d}]": "'train' is 3",
    "stages: [just text]": "must be a mapping",
    "stages: [{name: a, train: nowhere, test: d}]": "stage 'a', train: .*nowhere/images is not a folder",
    "stages: [{name: a, train: {path: d, limt: 3}, test: d}]": "'limt': did you mean 'limit'",
    "stages: [{name: a, train: {path: d, limit: many}, test: d}]": "'limit' is 'many'",
    "stages: [{name: a, train: {path: d, prompts: clik}, test: d}]": "'prompts' is 'clik'",
    "stages: [{name: a, train: {path: d, mask_threshold: '=255'}, test: d}]": "mask_threshold '=255'",
    "stages: [{name: a, train: {path: d, part: [3]}, test: d}]": "'part' is",
    "stages: [{name: a, train: {kind: folderr, path: d}, test: d}]": "did you mean 'folder'",
    "stages: [{name: a, train: {kind: voc, path: d}, test: d}]": "needs the option 'split'",
    "stages: [{name: a, train: {kind: 3}, test: d}]": "kind is 3",
    "stages: [{name: a, test: d, train: {kind: synthetic, domain: polyp, count: 1}}]": "'polyps'",
    "stages: [{name: a, train: d, test: d, classes: [cat]}]": "the numbers in the class maps have no names",
    "seed: many\nstages: [{name: a, train: d, test: d}]": "'seed' is 'many'",
    "stages: [{name: a, train: d, test: d}]\nunseen: [{name: b, train: d, test: d}]": "stage 'b'.*'train'",
    "stages: [{name: a, train: d, test: d}]\nbackground: {name: b, train: d}": "background has no 'test'",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_are_sentences_naming_file_and_place(
    text: str, make_folder: Make, write_stream: Write
) -> None:
    make_folder("d")
    path = write_stream(text)
    with pytest.raises(UserError, match=MISTAKES[text]) as caught:
        Stream.from_yaml(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the stream file .*none\.yaml"):
        Stream.from_yaml(tmp_path / "none.yaml")
    with pytest.raises(UserError, match=r"Is a directory; give the file, such as .*stream\.yaml"):
        Stream.from_yaml(tmp_path)


def test_a_stream_from_python(make_folder: Make) -> None:
    data = SyntheticDomain("polyps", 2, size=32)
    stage = Stage(0, "a", data, data)
    assert Stream([stage]).stages == (stage,)
    for stages, says in (
        ([], "no stages"),
        ([Stage(1, "a", data, data)], "has index 1, not 0"),
        ([stage, Stage(1, "a", data, data)], "two stages"),
        ([Stage(0, "a", data, data, background=True)], "no stages"),
        ([Stage(0, "b", data, data, background=True), Stage(1, "a", data, data)], "must be the last"),
        ([Stage(0, "../a", data, data)], "cannot be a file name"),
        ([Stage(0, "a.", data, data)], "cannot be a file name"),
        ([Stage(0, "Nul.b", data, data)], "cannot be a file name"),
    ):
        with pytest.raises(UserError, match=says):
            Stream(stages)


def test_fingerprint_tells_changed_data(make_folder: Make, write_stream: Write) -> None:
    folder = make_folder("d")
    path = write_stream("stages: [{name: a, train: d, test: d}]")

    def fingerprint() -> str:
        stream = Stream.from_yaml(path)
        return stream.fingerprint(stream.stages[0])

    first = fingerprint()
    assert fingerprint() == first
    write_points(folder / "masks")
    assert fingerprint() != first
    samples: list[Any] = list(FolderReader(folder))
    stream = Stream([Stage(0, "a", samples, samples[:1])])
    plain = stream.fingerprint(stream.stages[0])
    assert plain == stream.fingerprint(Stage(0, "a", tuple(samples), samples[:1]))
    assert plain != stream.fingerprint(Stage(0, "a", samples[1:], samples[:1]))


def test_synthetic_example() -> None:
    stream = Stream.from_yaml(EXAMPLES / "synthetic.yaml")
    assert [s.name for s in stream.stages] == ["polyps", "lesions", "nuclei", "cracks", "natural"]
    assert [s.index for s in stream.unseen] == [5, 6] and stream.stages[4].background


@pytest.mark.realdata
def test_real_example(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERSEG_DATA", str(data_root))
    stream = Stream.from_yaml(EXAMPLES / "real.yaml")
    counts = {s.name: (len(s.train), len(s.test), s.train.rule.kind) for s in stream.stages}
    assert counts == {
        "kvasir": (798, 200, "stored"),
        "isic": (746, 305, "stored"),
        "nuclei": (150, 75, "clicks"),
        "cracks": (80, 38, "clicks"),
        "natural": (98, 28, "clicks"),
    }
    names = [{e.image.name for e in part.entries} for part in (stream.stages[4].train, stream.stages[4].test)]
    assert not names[0] & names[1]
