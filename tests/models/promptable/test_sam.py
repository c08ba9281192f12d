"""Trunk, tail and decoder against transformers' own SAM, and the laws of frames, prompts and windows."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import SamConfig, SamModel
from transformers.models.sam.configuration_sam import (
    SamMaskDecoderConfig,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

from everseg.models.promptable.protocol import (
    PADDING,
    TAP,
    Adaptation,
    FramePrompts,
    first_adapted,
    stretch,
    to_frame,
)
from everseg.models.promptable.sam import Sam
from everseg.models.promptable.windows import partition, unpartition
from everseg.types import Prompts

SIDE = 112  # a grid of 7 x 7, which windows of 3 do not divide


@pytest.fixture(scope="module")
def model() -> SamModel:
    torch.manual_seed(0)
    vision = SamVisionConfig(
        hidden_size=24,
        output_channels=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=SIDE,
        window_size=3,
        global_attn_indexes=[1, 3],
        num_pos_feats=8,
        mlp_ratio=2.0,
        initializer_range=0.2,
    )
    prompt = SamPromptEncoderConfig(hidden_size=16, image_size=SIDE)
    decoder = SamMaskDecoderConfig(hidden_size=16, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16)
    model = SamModel(
        SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return model


def prompts(points: bool, boxes: bool) -> FramePrompts:
    """Two images, three objects, two clicks each."""
    generator = torch.Generator().manual_seed(1)
    xy = SIDE * torch.rand(2, 3, 2, 2, generator=generator)
    labels = torch.tensor([[[1, 1], [1, 0], [0, 1]]]).expand(2, -1, -1)
    corners = (SIDE / 2) * torch.rand(2, 3, 4, generator=generator)
    corners[..., 2:] += SIDE / 2
    return FramePrompts(xy if points else None, labels if points else None, corners if boxes else None)


@pytest.mark.parametrize(("points", "boxes"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("first", [1, 2, 3, None])
def test_the_parts_make_up_the_model(model: SamModel, points: bool, boxes: bool, first: int | None) -> None:
    sam = Sam(model, "small", first)
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    given = prompts(points, boxes)
    with torch.no_grad():
        whole = model(pixels, given.points, given.labels, given.boxes, multimask_output=False)
        features = sam.trunk(pixels)
        logits, iou = sam.decode(sam.tail(features), given)
    assert features[TAP].shape == (2, 7, 7, 24)
    assert logits.shape == (2, 3, 28, 28)
    torch.testing.assert_close(logits, whole.pred_masks[:, :, 0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(iou, whole.iou_scores[:, :, 0], rtol=1e-5, atol=1e-5)


def test_objects_do_not_meet(model: SamModel) -> None:
    """Three objects in one pass are three passes of one object."""
    sam = Sam(model, "small")
    given = prompts(True, False)
    assert given.points is not None and given.labels is not None
    with torch.no_grad():
        embedding = sam.tail(
            sam.trunk(torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)))
        )
        logits, iou = sam.decode(embedding, given)
        for n in range(3):
            one = FramePrompts(given.points[:, n : n + 1], given.labels[:, n : n + 1], None)
            alone, alone_iou = sam.decode(embedding, one)
            torch.testing.assert_close(alone[:, 0], logits[:, n], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(alone_iou[:, 0], iou[:, n], rtol=1e-5, atol=1e-5)


def test_what_the_model_says_of_itself(model: SamModel) -> None:
    sam = Sam(model, "small")
    assert (sam.image_size, sam.grid, sam.depth, sam.width, sam.channels) == (SIDE, 7, 4, 24, 16)
    assert sam.adapted == (2, 3)
    assert not any(p.requires_grad for p in sam.model.parameters())
    assert [first_adapted(d) for d in (6, 12, 24, 32)] == [3, 7, 14, 18]


def test_the_fingerprint_knows_the_weights(model: SamModel) -> None:
    before = Sam(model, "one").fingerprint
    assert Sam(model, "two").fingerprint == before
    bias = model.vision_encoder.layers[0].mlp.lin1.bias
    with torch.no_grad():
        bias[0] += 1
        assert Sam(model, "one").fingerprint != before
        bias[0] -= 1


class Constant(Adaptation):
    """An adaptation that adds one number in one place."""

    def __init__(self, place: str, value: float) -> None:
        self.place, self.value = place, value
        self.windows: dict[int, tuple[int, ...]] = {}

    def attention(self, block: int, tokens: Tensor, window: int) -> Tensor | None:
        self.windows[block] = (window, *tokens.shape)
        return torch.full_like(tokens, self.value) if self.place == "attention" else None

    def neck_in(self) -> Tensor | None:
        return torch.full((2, 24, 7, 7), self.value) if self.place == "neck_in" else None

    def neck_out(self) -> Tensor | None:
        return torch.full((2, 16, 7, 7), self.value) if self.place == "neck_out" else None


def test_an_adaptation_is_asked_and_heard_in_each_place(model: SamModel) -> None:
    sam = Sam(model, "small")
    with torch.no_grad():
        features = sam.trunk(torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)))
        plain = sam.tail(features)["image"]
        for place in ("attention", "neck_in", "neck_out"):
            asked = Constant(place, 0.5)
            changed = sam.tail(features, asked)["image"]
            assert asked.windows == {2: (3, 18, 3, 3, 24), 3: (0, 2, 7, 7, 24)}
            assert not torch.equal(changed, plain)
            assert torch.equal(sam.tail(features, Constant(place, 0.0))["image"], plain)
        torch.testing.assert_close(sam.tail(features, Constant("neck_out", 0.5))["image"], plain + 0.5)


# --- windows ---


@pytest.mark.parametrize(("size", "window"), [((7, 7), 3), ((6, 9), 3), ((64, 64), 14), ((5, 8), 8)])
def test_windows_equal_transformers(model: SamModel, size: tuple[int, int], window: int) -> None:
    layer = model.vision_encoder.layers[0]
    x = torch.randn(2, *size, 5, generator=torch.Generator().manual_seed(0))
    wanted, padded = layer.window_partition(x, window)
    cut = partition(x, window)
    assert torch.equal(cut, wanted)
    assert torch.equal(unpartition(cut, window, size), x)
    assert torch.equal(unpartition(cut, window, size), layer.window_unpartition(wanted, window, padded, size))


def test_no_window_is_no_cut() -> None:
    x = torch.randn(2, 5, 5, 3)
    assert partition(x, 0) is x
    assert unpartition(x, 0, (5, 5)) is x


# --- frames and prompts ---


def test_stretching_gives_squares_close_to_pillow() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 45, 3), dtype=np.uint8)
    tall = torch.from_numpy(pixels).permute(2, 0, 1)
    square = torch.zeros(3, 32, 32, dtype=torch.uint8)
    out = stretch([tall, square], 32)
    assert out.shape == (2, 3, 32, 32)
    assert out.dtype == torch.uint8
    assert torch.equal(out[1], square)
    theirs = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(out[0].permute(1, 2, 0).numpy().astype(int) - theirs).max() <= 1
    for size in (16, 100):
        flat = stretch([torch.full((3, 40, 30), 77, dtype=torch.uint8)], size)
        assert (flat == 77).all()


def test_pixels_are_normalised_as_segment_anything_does(model: SamModel) -> None:
    sam = Sam(model, "small")
    pixels = sam.pixels([torch.full((3, 20, 30), 128, dtype=torch.uint8)])
    assert pixels.shape == (1, 3, SIDE, SIDE)
    wanted = [(128 - m) / s for m, s in ((123.675, 58.395), (116.28, 57.12), (103.53, 57.375))]
    assert pixels[0, :, 5, 5].tolist() == pytest.approx(wanted, rel=1e-6)


def test_prompts_move_with_the_stretched_image() -> None:
    given = Prompts(
        torch.tensor([[[30.0, 10.0]], [[0.0, 40.0]]]),
        torch.tensor([[1], [0]]),
        torch.tensor([[0.0, 0.0, 60.0, 40.0]] * 2),
    )
    frame = to_frame(given, (40, 60), 120)
    assert frame.points is not None and frame.labels is not None and frame.boxes is not None
    assert frame.points.tolist() == [[[[60.0, 30.0]], [[0.0, 120.0]]]]
    assert frame.labels.tolist() == [[[1], [0]]]
    assert frame.boxes.tolist() == [[[0.0, 0.0, 120.0, 120.0]] * 2]
    alone = to_frame(Prompts(boxes=torch.zeros(1, 4)), (40, 60), 120)
    assert alone.points is None and alone.labels is None


@pytest.mark.parametrize("boxes", [False, True])
def test_padding_leaves_no_trace(model: SamModel, boxes: bool) -> None:
    """A row gives what it gives alone, however many clicks its neighbours have; none at all beside a box."""
    sam = Sam(model, "small")
    counts = [1, 3, 0, 3] if boxes else [1, 3, 2, 3]
    generator = torch.Generator().manual_seed(0)
    points = SIDE * torch.rand(4, 2, 3, 2, generator=generator)
    labels = torch.ones(4, 2, 3).long()
    box = torch.tensor([[[5.0, 5.0, 50.0, 60.0], [20.0, 30.0, 90.0, 99.0]]]) if boxes else None
    alone = []
    for row, count in enumerate(counts):
        labels[row, :, count:] = PADDING
        alone.append(FramePrompts(points[row : row + 1, :, :count], labels[row : row + 1, :, :count], box))
    both = FramePrompts(points, labels, None if box is None else box.expand(4, -1, -1))
    embedding = {"image": torch.randn(4, 16, 7, 7, generator=generator, requires_grad=True)}
    logits, iou = sam.decode(embedding, both)
    (gradient,) = torch.autograd.grad(logits.square().sum(), embedding["image"], retain_graph=True)
    assert gradient.flatten(1).any(1).all()
    for row, one in enumerate(alone):
        wanted, wanted_iou = sam.decode({"image": embedding["image"][row : row + 1]}, one)
        torch.testing.assert_close(logits[row], wanted[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(iou[row], wanted_iou[0], rtol=1e-5, atol=1e-5)


def test_objects_of_one_image_may_differ_in_clicks(model: SamModel) -> None:
    sam = Sam(model, "small")
    generator = torch.Generator().manual_seed(0)
    points = SIDE * torch.rand(1, 2, 3, 2, generator=generator)
    embedding = {"image": torch.randn(1, 16, 7, 7, generator=generator)}
    logits, iou = sam.decode(
        embedding, FramePrompts(points, torch.tensor([[[1, 0, 1], [1, -10, -10]]]), None)
    )
    assert logits.shape[:2] == iou.shape == (1, 2)
    first, _ = sam.decode(embedding, FramePrompts(points[:, :1], torch.tensor([[[1, 0, 1]]]), None))
    second, _ = sam.decode(embedding, FramePrompts(points[:, 1:, :1], torch.tensor([[[1]]]), None))
    torch.testing.assert_close(logits, torch.cat([first, second], 1), rtol=1e-5, atol=1e-5)
