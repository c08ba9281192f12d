"""Scoring classes: every pixel of every test image once, on the crop of the literature or at full size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from everseg.classes.scoring import ClassScoreConfig, by_step, score_classes, score_images
from everseg.data import CentreCropped, centre_crop
from everseg.types import ImageQuery, SemanticSample


def samples() -> list[SemanticSample]:
    """Images whose first channel says the class, 0 to 2, in blocks of 8 x 8."""
    generator = torch.Generator().manual_seed(0)
    out = []
    for i, (rows, columns) in enumerate([(4, 6), (7, 4), (5, 5)]):
        blocks = torch.randint(0, 3, (rows, columns), generator=generator, dtype=torch.uint8)
        labels = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)
        image = torch.stack([labels, labels + 100, labels + 7])
        labels = labels.clone()
        labels[:2] = 255
        out.append(SemanticSample(image, labels, f"{i}", f"key{i}"))
    return out


def reads(queries: Sequence[ImageQuery]) -> list[Tensor]:
    return [query.image[0].clamp(max=2) for query in queries]


def test_who_reads_the_answer_is_right_everywhere() -> None:
    confusion = score_classes(reads, samples(), "abc", ClassScoreConfig(size="original", batch=2))
    assert confusion.iou().tolist() == [1.0, 1.0, 1.0]
    assert int(confusion.counts.sum()) == sum(int((s.labels != 255).sum()) for s in samples())


def test_it_is_one_matrix_and_not_a_mean_over_images() -> None:
    def says_nothing(queries: Sequence[ImageQuery]) -> list[Tensor]:
        return [torch.zeros(q.image.shape[1:], dtype=torch.int64) for q in queries]

    config = ClassScoreConfig(size="original", batch=2)
    confusion = score_classes(says_nothing, samples(), "abc", config)
    known = [s.labels[s.labels != 255] for s in samples()]
    assert confusion.iou()[0] == pytest.approx(float((torch.cat(known) == 0).double().mean()))
    assert confusion.iou()[0] != pytest.approx(sum(float((k == 0).double().mean()) for k in known) / 3)


@pytest.mark.parametrize("size", [16, 32, 40])
def test_the_crop_is_a_square_of_the_middle(size: int) -> None:
    for sample in samples():
        crop = centre_crop(sample, size)
        assert crop.image.shape == (3, size, size) and crop.labels.shape == (size, size)
        assert (
            set(crop.labels.unique().tolist()) <= {0, 1, 2, 255} and crop.key == f"{sample.key}:crop-{size}"
        )
    config = ClassScoreConfig(size=size)
    shapes = set()

    def looks(queries: Sequence[ImageQuery]) -> list[Tensor]:
        shapes.update(tuple(q.image.shape) for q in queries)
        return reads(queries)

    total = score_classes(looks, samples(), "abc", config)
    cropped = [centre_crop(s, size) for s in samples()]
    assert shapes == {(3, size, size)}
    assert int(total.counts.sum()) == sum(int((s.labels != 255).sum()) for s in cropped)


def test_a_crop_of_the_native_short_side_moves_no_pixel() -> None:
    wide, tall, _ = samples()
    crop = centre_crop(wide, 32)
    assert torch.equal(crop.image, wide.image[:, :, 8:40]) and torch.equal(crop.labels, wide.labels[:, 8:40])
    crop = centre_crop(tall, 32)
    assert torch.equal(crop.image, tall.image[:, 12:44]) and torch.equal(crop.labels, tall.labels[12:44])


def test_enlarged_labels_lie_where_the_enlarged_image_has_them() -> None:
    """Twice the size: each label becomes four, and the image is Pillow's bilinear enlargement."""
    import numpy as np
    from PIL import Image

    square = samples()[2]
    crop = centre_crop(square, 80)
    assert torch.equal(crop.labels, square.labels.repeat_interleave(2, 0).repeat_interleave(2, 1))
    pillow = Image.fromarray(square.image.permute(1, 2, 0).numpy()).resize(
        (80, 80), Image.Resampling.BILINEAR
    )
    theirs = torch.from_numpy(np.array(pillow)).permute(2, 0, 1)
    assert int((crop.image.int() - theirs.int()).abs().max()) <= 1


def test_cropped_samples_are_lazy() -> None:
    cropped = CentreCropped(samples(), 16)
    assert len(cropped) == 3 and [s.name for s in cropped[1:]] == ["1", "2"]
    assert cropped[0].labels.shape == (16, 16)


def test_each_image_has_the_iou_of_the_classes_that_it_shows() -> None:
    """By hand: a missed class is 0, a class that is not in the truth is none."""
    truth = torch.tensor([[0, 1], [1, 2]], dtype=torch.uint8)
    one = SemanticSample(torch.zeros(3, 2, 2, dtype=torch.uint8), truth, "one")
    two = SemanticSample(torch.ones(3, 2, 2, dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.uint8), "two")
    said = torch.tensor([[0, 1], [0, 0]])

    def predict(queries: Sequence[ImageQuery]) -> list[Tensor]:
        return [said for _ in queries]

    names = ("background", "cat", "cow")
    _, images = score_images(predict, [one, two], names, ClassScoreConfig(size="original"))
    assert images[0][0] == "one" and images[0][1] == pytest.approx([1 / 3, 1 / 2, 0.0])
    assert images[1][1] == pytest.approx([3 / 4, math.nan, math.nan], nan_ok=True)
    learned_at = {"background": 0, "cat": 0, "cow": 1}
    found = by_step(images, names, learned_at, ["first", "second"])
    # The background would make "two" look good, which shows no class at all.
    assert [(s.column, s.image, s.values["iou"]) for s in found] == [
        ("first", "one", 0.5),
        ("second", "one", 0.0),
    ]
    assert [s.column for s in by_step(images, names, learned_at, ["first", "second"], first=1)] == ["second"]
    assert by_step([*images, images[0]], names, learned_at, ["first", "second"]) == [], "one name, two images"
