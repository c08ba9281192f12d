"""Streams and samples from memory: one form whatever the type, and a sentence for everything else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from everseg.data import FolderReader, Stream, SyntheticDomain, write_synthetic
from everseg.errors import UserError
from everseg.methods import configure
from everseg.runs.folder import RunConfig
from everseg.runs.learn import run
from everseg.types import PromptSample, Query, SemanticSample
from everseg.types.pixels import content_key

DOCS = Path(__file__).resolve().parents[2] / "docs" / "data.md"
GENERATOR = np.random.default_rng(0)
IMAGE = GENERATOR.integers(0, 256, (24, 32, 3), dtype=np.uint8)
MASK = np.zeros((24, 32), bool)
MASK[4:9, 6:20] = True
OTHER = np.zeros((24, 32), bool)
OTHER[15:20, 2:5] = True


def same(a: PromptSample, b: PromptSample) -> bool:
    parts = ("points", "labels", "boxes")
    return (
        torch.equal(a.image, b.image)
        and torch.equal(a.masks, b.masks)
        and a.key == b.key
        and all(str(getattr(a.prompts, p)) == str(getattr(b.prompts, p)) for p in parts)
    )


def test_the_docs_run() -> None:
    section = DOCS.read_text(encoding="utf-8").partition("## From arrays in memory")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(compile(code[1], "data.md", "exec"), names)
    assert names["sample"].prompts.points.shape == (1, 3, 2)
    assert [s.name for s in (*names["stream"].stages, *names["stream"].unseen)] == [
        "site-a",
        "site-b",
        "never-learned",
    ]


@pytest.mark.parametrize(
    "image",
    [torch.from_numpy(IMAGE).permute(2, 0, 1), Image.fromarray(IMAGE), IMAGE[:, ::-1][:, ::-1]],
    ids=["tensor", "pil", "strided"],
)
@pytest.mark.parametrize(
    "mask",
    [
        MASK.astype(np.uint8),
        MASK.astype(np.uint8) * 255,
        MASK.astype(np.float32),
        MASK[None],
        torch.from_numpy(MASK),
        Image.fromarray(MASK),
        Image.fromarray(MASK.astype(np.uint8) * 255),
        Image.fromarray(MASK.astype(np.uint8) * 255).convert("RGB"),
    ],
)
def test_every_form_of_the_same_pixels_is_the_same_sample(image: Any, mask: Any) -> None:
    expected = PromptSample.from_mask(IMAGE, MASK, name="x")
    assert same(PromptSample.from_mask(image, mask, name="x"), expected)
    assert torch.equal(expected.image, torch.from_numpy(IMAGE).permute(2, 0, 1))
    assert torch.equal(expected.masks, torch.from_numpy(MASK)[None])


def test_grey_images_have_three_equal_channels() -> None:
    expected = PromptSample.from_mask(np.repeat(IMAGE[..., :1], 3, axis=2), MASK)
    for grey in (IMAGE[..., 0], torch.from_numpy(IMAGE[..., 0].copy()), Image.fromarray(IMAGE[..., 0])):
        assert same(PromptSample.from_mask(grey, MASK), expected)


def test_prompts_lie_on_their_objects_and_depend_on_seed_and_name() -> None:
    stack = np.stack([MASK, OTHER])
    sample = PromptSample.from_mask(IMAGE, stack, clicks=5, box=True, name="x")
    points, boxes = sample.prompts.points, sample.prompts.boxes
    assert points is not None and boxes is not None
    for mask, clicks in zip(stack, points.long(), strict=True):
        assert mask[clicks[:, 1], clicks[:, 0]].all()
    assert boxes.tolist() == [[6, 4, 19, 8], [2, 15, 4, 19]]
    assert same(sample, PromptSample.from_mask(IMAGE, stack, clicks=5, box=True, name="x"))
    assert not same(sample, PromptSample.from_mask(IMAGE, stack, clicks=5, box=True, name="y"))
    assert not same(sample, PromptSample.from_mask(IMAGE, stack, clicks=5, box=True, name="x", seed=1))
    numbers = MASK + 7 * OTHER.astype(np.uint16)
    assert same(sample, PromptSample.from_mask(IMAGE, numbers, clicks=5, box=True, name="x", numbered=True))
    boxed = PromptSample.from_mask(IMAGE, MASK, clicks=0, box=True)
    assert boxed.prompts.points is None and boxed.prompts.boxes is not None


def test_samples_do_not_change_with_the_arrays_they_come_from() -> None:
    image, mask = IMAGE.copy(), MASK.copy()
    sample = PromptSample.from_mask(image, mask)
    image[:], mask[:] = 0, False
    assert same(sample, PromptSample.from_mask(IMAGE, MASK))


WRONG: list[tuple[Any, Any, str]] = [
    (IMAGE / 255.0, MASK, r"float64.*from 0 to 1; convert with \(image \* 255.0\)"),
    (IMAGE.astype(np.float32), MASK, r"float32.*image\.round\(\)\.astype"),
    (torch.from_numpy(IMAGE).permute(2, 0, 1) / 255, MASK, r"\.round\(\)\.to\(torch\.uint8\)"),
    (IMAGE.astype(np.uint16) * 257, MASK, r"uint16.*image / 257"),
    (IMAGE.astype(np.uint16) * 16, MASK, r"uint16.*image / 16"),
    (Image.fromarray(IMAGE[..., 0].astype(np.uint16) * 257), MASK, r"np\.asarray\(image\) / 257"),
    (IMAGE.astype(np.int64), MASK, r"int64.*image\.astype\(np\.uint8\)"),
    (IMAGE.astype(np.float32) - 128, MASK, "undo its normalisation"),
    (np.where(MASK[..., None], np.nan, IMAGE), MASK, "NaN"),
    (IMAGE.transpose(2, 0, 1), MASK, r"shape \(3, 24, 32\).*\(H, W, 3\).*transpose\(1, 2, 0\)"),
    (torch.from_numpy(IMAGE), MASK, r"shape \(24, 32, 3\).*\(3, H, W\).*permute\(2, 0, 1\)"),
    (np.dstack([IMAGE, IMAGE[..., :1]]), MASK, "drop the alpha channel"),
    (IMAGE[..., :1], MASK, r"image\[\.\.\., 0\]"),
    (IMAGE[None], MASK, "one by one"),
    (IMAGE[:0], MASK, r"shape \(0, 32, 3\)"),
    (None, MASK, "image is None"),
    ("x.png", MASK, "image is of type str"),
    (np.array([IMAGE, None], object), MASK, "dtype object"),
    (IMAGE, None, "mask is None"),
    (IMAGE, np.array([MASK, None], object), "dtype object"),
    (IMAGE, MASK[:, :-1], r"shape \(24, 31\), but its image is 24 high and 32 wide"),
    (IMAGE, np.dstack([MASK, OTHER]), "put the objects first"),
    (IMAGE, MASK[0], "a mask is"),
    (IMAGE, ~MASK & MASK, "mask is empty"),
    (IMAGE, np.stack([MASK, MASK & OTHER]), r"mask\[1\] is empty"),
    (IMAGE, np.zeros((0, 24, 32), bool), "mask is empty"),
    (IMAGE, MASK * 2, "has the values 0, 2; .*numbered=True"),
    (IMAGE, MASK + 254 * OTHER, "has the values 0, 1, 254; .*mask > 127"),
    (IMAGE, MASK * 0.75, "mask > 0.5"),
    (IMAGE, np.where(MASK, np.nan, 0), "NaN"),
]


@pytest.mark.parametrize(("image", "mask", "said"), WRONG)
def test_what_is_wrong_is_said_with_what_to_do(image: Any, mask: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        PromptSample.from_mask(image, mask)


@pytest.mark.parametrize(
    ("mask", "said"),
    [(MASK[None], "numbers the objects"), (MASK.astype(float), "integers"), (0 * MASK, "is empty")],
)
def test_wrong_numbers_of_objects(mask: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        PromptSample.from_mask(IMAGE, mask, numbered=True)


def test_a_sample_needs_a_prompt() -> None:
    with pytest.raises(UserError, match="box=True"):
        PromptSample.from_mask(IMAGE, MASK, clicks=0)


# ---------------------------------------------------------------- streams


def test_paths_give_what_the_folder_reader_gives(tmp_path: Path) -> None:
    write_synthetic(tmp_path, "polyps", 3, size=32)
    images, masks = (sorted((tmp_path / kind).glob("*.*g")) for kind in ("images", "masks"))
    reader = FolderReader(tmp_path, prompts="clicks+box", seed=5)
    made = Stream.from_arrays({"a": (images, masks)}, {"a": (images, masks)}, box=True, seed=5)
    for ours, theirs in zip(made.stages[0].train, reader, strict=True):
        assert ours.name == theirs.name
        pairs = zip(ours.tensors().items(), theirs.tensors().items(), strict=True)
        assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_an_object_is_a_sample_and_shares_its_image() -> None:
    pair = ([IMAGE, IMAGE], [MASK, np.stack([MASK, OTHER])])
    made = Stream.from_arrays({"a": pair}, {"a": pair, "b": pair}, box=True)
    train = made.stages[0].train
    assert [s.name for s in train] == ["00000", "00001#1", "00001#2"]
    assert all(s.masks.shape == (1, 24, 32) and len(s.prompts) == 1 for s in train)
    assert train[1].image is train[2].image and train[1].key == train[0].key
    assert [s.name for s in made.unseen] == ["b"] and not made.unseen[0].train
    ready = Stream.from_arrays({"a": list(train)}, {"a": list(train)})
    assert made.fingerprint(made.stages[0]) == ready.fingerprint(ready.stages[0])


def test_a_batch_is_a_list() -> None:
    one = Stream.from_arrays({"a": ([IMAGE], [MASK])}, {"a": ([IMAGE], [MASK])})
    batch = torch.from_numpy(IMAGE).permute(2, 0, 1)[None], MASK[None]
    many = Stream.from_arrays({"a": batch}, {"a": batch})
    assert one.fingerprint(one.stages[0]) == many.fingerprint(many.stages[0])


def test_the_fingerprint_is_of_the_content() -> None:
    def of(image: Any, mask: Any, **how: Any) -> str:
        made = Stream.from_arrays({"a": ([image], [mask])}, {"a": ([image], [mask])}, **how)
        return made.fingerprint(made.stages[0])

    kept = of(IMAGE, MASK)
    assert kept == of(IMAGE.copy(), MASK.astype(np.uint8) * 255)
    changed = IMAGE.copy()
    changed[0, 0] ^= 1
    assert (
        len({kept, of(changed, MASK), of(IMAGE, OTHER), of(IMAGE, MASK, seed=1), of(IMAGE, MASK, box=True)})
        == 5
    )


class Pairs(Dataset[Any]):
    """A data set of torch, as a user has it; it counts what is asked for."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.asked = items, list[int]()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        self.asked.append(index)
        return self.items[index]


@pytest.mark.parametrize("form", [list, Pairs, lambda items: [list(pair) for pair in items]])
def test_pairs_are_images_and_masks(form: Any) -> None:
    """Three pairs and two pairs: lists of two items are pairs only where the items are tuples."""
    pairs = [(IMAGE, MASK), (IMAGE[::-1], OTHER), (IMAGE, OTHER)]
    wanted = Stream.from_arrays({"a": tuple(zip(*pairs, strict=True))}, {"a": ([IMAGE], [MASK])})
    made = Stream.from_arrays({"a": form(pairs)}, {"a": Pairs([(IMAGE, MASK)])})
    assert made.fingerprint(made.stages[0]) == wanted.fingerprint(wanted.stages[0])
    for ours, theirs in zip(made.stages[0].train, wanted.stages[0].train, strict=True):
        assert same(ours, theirs) and ours.name == theirs.name


def test_two_pairs_are_no_two_lists() -> None:
    two = [(IMAGE, MASK), (IMAGE[::-1], OTHER)]
    made = Stream.from_arrays({"a": two}, {"a": Pairs(two)}).stages[0]
    assert all(same(ours, theirs) for ours, theirs in zip(made.train, made.test, strict=True))
    with pytest.raises(UserError, match=r"train\['a'\], masks|mask"):
        Stream.from_arrays({"a": [list(pair) for pair in two]}, {"a": two})


def test_a_dataset_is_asked_when_a_sample_is_needed() -> None:
    given = Pairs([(IMAGE, MASK)] * 5)
    samples = Stream.from_arrays({"a": given}, {"a": GOOD}).stages[0].train
    assert given.asked == [0]
    assert [s.name for s in samples[3:]] == ["00003", "00004"] and given.asked == [0, 3, 4]
    several = Stream.from_arrays({"a": Pairs([(IMAGE, np.stack([MASK, OTHER]))])}, {"a": GOOD})
    assert several.stages[0].train[0].masks.shape == (2, 24, 32)
    ready = Stream.from_arrays({"a": Pairs(list(several.stages[0].train))}, {"a": GOOD}).stages[0].train
    assert [s.key for s in ready] == [several.stages[0].train[0].key]
    reader = SyntheticDomain("polyps", 2, size=32)
    assert Stream.from_arrays({"a": reader}, {"a": GOOD}).stages[0].train is reader


def test_mask_files_of_a_dataset_mean_one_thing(tmp_path: Path) -> None:
    for i, value in enumerate((255, 255, 38)):
        Image.fromarray(MASK.astype(np.uint8) * value).save(tmp_path / f"{i}.png")
    files = [(IMAGE, str(tmp_path / f"{i}.png")) for i in range(3)]
    made = Stream.from_arrays({"a": Pairs(files[:2])}, {"a": GOOD}).stages[0].train
    assert torch.equal(made[1].masks[0], torch.from_numpy(MASK))
    with pytest.raises(UserError, match=r"hold the values 0 .*38 .*255 .*mask_values: \[38, 255\]"):
        Stream.from_arrays({"a": Pairs(files)}, {"a": GOOD})
    mixed = Stream.from_arrays({"a": Pairs([(IMAGE, MASK), files[0]])}, {"a": GOOD}).stages[0].train
    with pytest.raises(UserError, match=r"the mask .*0\.png is a file, but the first one is not"):
        mixed[1]


def test_a_sample_without_a_key_has_that_of_its_pixels() -> None:
    made = PromptSample.from_mask(IMAGE, MASK)
    bare = PromptSample(made.image, made.prompts, made.masks)
    labelled = SemanticSample(made.image, made.masks[0].to(torch.uint8))
    keys = {made.key, bare.key, bare.query().key, labelled.key, Query(made.image, made.prompts).key}
    assert keys == {content_key(made.image)}
    assert content_key(made.image.flip(1)) not in keys
    assert Query(made.image, made.prompts, "").key == "", "given as empty, features are not kept"


GOOD = ([IMAGE], [MASK])


@pytest.mark.parametrize(
    ("train", "test", "how", "said"),
    [
        ({"a": ([IMAGE, IMAGE], [MASK])}, {"a": GOOD}, {}, r"train\['a'\] has 2 images and 1 mask;"),
        ({"a": GOOD}, {"a": ([], [])}, {}, r"test\['a'\] has no images"),
        ({"a": GOOD}, {}, {}, "domain 'a' and test does not"),
        ({}, {"a": GOOD}, {}, "no domains"),
        ([GOOD], {"a": GOOD}, {}, "train is of type list"),
        ({"a": GOOD}, {"a": None}, {}, r"test\['a'\] is None"),
        ({"a": (IMAGE, MASK)}, {"a": GOOD}, {}, "single mask; give lists"),
        ({"a": [IMAGE, IMAGE, IMAGE]}, {"a": GOOD}, {}, "has 3 parts"),
        ({"a": (None, [MASK])}, {"a": GOOD}, {}, r"train\['a'\], images is None"),
        ({"a": ({"x": IMAGE}, [MASK])}, {"a": GOOD}, {}, "images is of type dict"),
        ({"a": ([IMAGE, IMAGE[:9]], [MASK, MASK])}, {"a": GOOD}, {}, r"train\['a'\]: mask 00001"),
        ({"a": Pairs([{"image": IMAGE}])}, {"a": GOOD}, {}, r"train\['a'\]\[0\] is a dict; give"),
        ({"a": Pairs([(IMAGE, MASK, 1)])}, {"a": GOOD}, {}, "is a tuple of 3"),
        ({"a": Pairs([(IMAGE / 255, MASK)])}, {"a": GOOD}, {}, r"train\['a'\]: image 00000 .*float64"),
        ({"a": Pairs([])}, {"a": GOOD}, {}, r"train\['a'\] has no images"),
        ({"a": (["x/1.png", "x/1.png"], [MASK, MASK])}, {"a": GOOD}, {}, "two samples named 1.png"),
        ({"a": (["none.png"], [MASK])}, {"a": GOOD}, {}, "none.png"),
        ({"a": GOOD, "b": GOOD}, {"a": GOOD, "b": GOOD}, {"background": "a"}, "must be the last"),
        ({"a": GOOD}, {"a": GOOD}, {"background": "natural"}, "background 'natural'"),
        ({"a/b": GOOD}, {"a/b": GOOD}, {}, "cannot be a file name"),
    ],
)
def test_wrong_streams(train: Any, test: Any, how: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Stream.from_arrays(train, test, **how)


def test_a_run_goes_on_when_the_images_are_gone(micro: Any, tmp_path: Path) -> None:
    settings = configure("sequential", assignments=["tune.fit.epochs=1", "tune.fit.batch=2"])
    config = RunConfig("sequential", settings, "micro", baseline=False)
    turned = ([IMAGE.transpose(1, 0, 2)], [MASK.T])
    run(Stream.from_arrays({"a": GOOD}, {"a": GOOD}), config, tmp_path / "run", micro)
    more = Stream.from_arrays({"a": None, "b": turned}, {"a": GOOD, "b": turned})
    assert run(more, config, tmp_path / "run", micro).results.stages == ("a", "b")
    other = Stream.from_arrays({"a": turned, "b": turned}, {"a": GOOD, "b": turned})
    with pytest.raises(UserError, match="'a' was learned from other data"):
        run(other, config, tmp_path / "run", micro)
