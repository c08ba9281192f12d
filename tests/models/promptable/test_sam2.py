"""SAM 2's trunk, tail and decoder against transformers' own, and SAMCL on it from end to end."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Sam2Model

from everseg.config import override
from everseg.data import SyntheticDomain
from everseg.domains.adapters.aug import AugModule
from everseg.domains.cache import CacheConfig, FeatureCache
from everseg.domains.heatmap import click_heatmap
from everseg.domains.methods.samcl import SAMCL, SAMCLConfig
from everseg.models.promptable.protocol import PADDING, TAP, Adaptation, Features, FramePrompts
from everseg.models.promptable.sam2 import Sam2, after_first_global
from everseg.types import NoScratch, Stage

SIDE = 128
LEVELS = {TAP: (8, 8, 32), "s0": (4, 32, 32), "s1": (8, 16, 16)}


@pytest.fixture(scope="module")
def micro2(micro2_model: Sam2Model) -> Sam2:
    return Sam2(micro2_model, "micro2")


def pixels(rows: int = 2) -> Tensor:
    return torch.randn(rows, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def features(micro2: Sam2) -> Features:
    return micro2.trunk(pixels())


def prompts(points: bool, boxes: bool) -> FramePrompts:
    """Two images, three objects, two clicks each."""
    generator = torch.Generator().manual_seed(1)
    xy = SIDE * torch.rand(2, 3, 2, 2, generator=generator)
    labels = torch.tensor([[[1, 1], [1, 0], [0, 1]]]).expand(2, -1, -1)
    corners = (SIDE / 2) * torch.rand(2, 3, 4, generator=generator)
    corners[..., 2:] += SIDE / 2
    return FramePrompts(xy if points else None, labels if points else None, corners if boxes else None)


def stability(micro2: Sam2, embedding: Features, given: FramePrompts) -> Tensor:
    """The share of the pixels above -delta that are above delta, for each object's single mask."""
    logits, _ = micro2.decode(embedding, given, single=True)
    delta = micro2.model.mask_decoder.dynamic_multimask_stability_delta
    return (logits > delta).sum((-2, -1)) / (logits > -delta).sum((-2, -1))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- against transformers


@pytest.mark.parametrize(("points", "boxes"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("first", [4, 5, 6, None])
def test_the_parts_make_up_the_model(
    micro2_model: Sam2Model, points: bool, boxes: bool, first: int | None
) -> None:
    sam, given = Sam2(micro2_model, "small", first), prompts(points, boxes)
    asked = (pixels(), given.points, given.labels, given.boxes)
    with torch.no_grad():
        embedding = sam.tail(sam.trunk(pixels()))
        for single in (False, True):
            logits, iou = sam.decode(embedding, given, single=single)
            micro2_model.mask_decoder.train(single)
            whole = micro2_model(*asked, multimask_output=False)
            micro2_model.eval()
            assert logits.shape == (2, 3, 32, 32)
            close(logits, whole.pred_masks[:, :, 0])
            close(iou, whole.iou_scores[:, :, 0])


def test_each_object_has_its_own_choice_of_mask(
    micro2_model: Sam2Model, micro2: Sam2, features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several objects the unstable ones get their best further mask, and the stable ones their single
    one."""
    given = prompts(True, False)
    asked = (pixels(), given.points, given.labels)
    embedding = micro2.tail(features)
    shares = stability(micro2, embedding, given)
    between = shares.flatten().sort().values[2:4].mean().item()
    monkeypatch.setattr(micro2_model.mask_decoder, "dynamic_multimask_stability_thresh", between)
    logits, iou = micro2.decode(embedding, given)
    alone, alone_iou = micro2.decode(embedding, given, single=True)
    with torch.no_grad():
        further = micro2_model(*asked, multimask_output=True)
        whole = micro2_model(*asked, multimask_output=False)
    close(logits, whole.pred_masks[:, :, 0])
    close(iou, whole.iou_scores[:, :, 0])
    stable = shares >= between
    assert stable.any() and not stable.all()
    close(logits[stable], alone[stable])
    close(iou[stable], alone_iou[stable])
    best = further.iou_scores.argmax(-1)
    for i, n in (~stable).nonzero().tolist():
        close(logits[i, n], further.pred_masks[i, n, best[i, n]])
        close(iou[i, n], further.iou_scores[i, n].max())
    monkeypatch.setattr(micro2_model.mask_decoder, "dynamic_multimask_via_stability", False)
    assert torch.equal(micro2.decode(embedding, given)[0], alone)


def test_a_mask_of_nothing_is_stable(micro2_model: Sam2Model, features: Features) -> None:
    """No pixel is above either threshold: there is no share to take."""
    sam = Sam2(deepcopy(micro2_model), "flat")
    decoder = sam.model.mask_decoder
    decoder.dynamic_multimask_stability_delta = 0.0
    head = decoder.output_hypernetworks_mlps[0].proj_out
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
    logits, _ = sam.decode(sam.tail(features), prompts(True, False))
    assert not logits.any()


@pytest.mark.parametrize("single", [False, True])
def test_objects_do_not_meet(micro2: Sam2, features: Features, single: bool) -> None:
    """Three objects in one pass are three passes of one object."""
    given = prompts(True, True)
    assert given.points is not None and given.labels is not None and given.boxes is not None
    embedding = micro2.tail(features)
    logits, iou = micro2.decode(embedding, given, single=single)
    for n in range(3):
        part = slice(n, n + 1)
        one = FramePrompts(given.points[:, part], given.labels[:, part], given.boxes[:, part])
        alone, alone_iou = micro2.decode(embedding, one, single=single)
        close(alone, logits[:, part])
        close(alone_iou, iou[:, part])


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("boxes", [False, True])
def test_padding_leaves_no_trace(micro2: Sam2, boxes: bool, single: bool) -> None:
    """A row gives what it gives alone, however many clicks its neighbours have; none at all beside a box."""
    generator = torch.Generator().manual_seed(0)
    points = SIDE * torch.rand(4, 2, 3, 2, generator=generator)
    labels = torch.ones(4, 2, 3).long()
    box = torch.tensor([[[5.0, 5.0, 50.0, 60.0], [20.0, 30.0, 90.0, 99.0]]]) if boxes else None
    rows = []
    for i, count in enumerate([1, 3, 0, 3] if boxes else [1, 3, 2, 3]):
        labels[i, :, count:] = PADDING
        rows.append(FramePrompts(points[i : i + 1, :, :count], labels[i : i + 1, :, :count], box))
    together = FramePrompts(points, labels, None if box is None else box.expand(4, -1, -1))
    embedding = micro2.tail(micro2.trunk(pixels(4)))
    embedding["image"].requires_grad_()
    logits, iou = micro2.decode(embedding, together, single=single)
    (gradient,) = torch.autograd.grad(logits.square().sum(), embedding["image"], retain_graph=True)
    assert gradient.flatten(1).any(1).all()
    for i, row in enumerate(rows):
        own = {name: level[i : i + 1] for name, level in embedding.items()}
        wanted, wanted_iou = micro2.decode(own, row, single=single)
        close(logits[i], wanted[0])
        close(iou[i], wanted_iou[0])


def test_objects_of_one_image_may_differ_in_clicks(micro2: Sam2, features: Features) -> None:
    embedding = {name: level[:1] for name, level in micro2.tail(features).items()}
    points = SIDE * torch.rand(1, 2, 3, 2, generator=torch.Generator().manual_seed(0))
    logits, iou = micro2.decode(
        embedding, FramePrompts(points, torch.tensor([[[1, 0, 1], [1, -10, -10]]]), None)
    )
    assert logits.shape[:2] == iou.shape == (1, 2)
    first, _ = micro2.decode(embedding, FramePrompts(points[:, :1], torch.tensor([[[1, 0, 1]]]), None))
    second, _ = micro2.decode(embedding, FramePrompts(points[:, 1:, :1], torch.tensor([[[1]]]), None))
    close(logits, torch.cat([first, second], 1))


# ---------------------------------------------------------------- what it is


def test_what_the_model_says_of_itself(micro2: Sam2, features: Features) -> None:
    assert (micro2.image_size, micro2.grid, micro2.depth, micro2.width, micro2.channels) == (
        SIDE,
        8,
        8,
        32,
        32,
    )
    assert micro2.adapted == (5, 6)
    assert not micro2.has_neck
    assert not any(p.requires_grad for p in micro2.model.parameters())
    assert {name: tuple(level.shape[1:]) for name, level in features.items()} == LEVELS
    embedding = micro2.tail(features)
    assert embedding["image"].shape == (2, 32, 8, 8)
    assert all(embedding[name] is features[name] for name in ("s0", "s1"))


def test_the_tap_is_the_first_global_block_of_stage_three() -> None:
    assert after_first_global(3, 10, [5, 7, 9]) == 6  # tiny
    assert after_first_global(3, 14, [7, 10, 13]) == 8  # small
    assert after_first_global(5, 21, [12, 16, 20]) == 13  # base+
    assert after_first_global(8, 44, [23, 33, 43]) == 24  # large
    assert after_first_global(3, 10, [1, 9]) == after_first_global(3, 10, []) == 6


@pytest.mark.parametrize("first", [0, 3, 7, 8])
def test_the_adapted_blocks_lie_in_stage_three(micro2_model: Sam2Model, first: int) -> None:
    with pytest.raises(AssertionError, match=r"4\.\.6, within stage 3, not"):
        Sam2(micro2_model, "small", first)


def test_the_fingerprint_knows_the_weights(micro2_model: Sam2Model, micro2: Sam2) -> None:
    assert Sam2(micro2_model, "other name", 4).fingerprint == micro2.fingerprint
    other = deepcopy(micro2_model)
    with torch.no_grad():
        other.no_memory_embedding[0, 0, 0] += 1
    assert Sam2(other, "micro2").fingerprint != micro2.fingerprint


def test_pixels_are_normalised_as_imagenet(micro2: Sam2) -> None:
    found = micro2.pixels([torch.full((3, 20, 30), 128, dtype=torch.uint8)])
    assert found.shape == (1, 3, SIDE, SIDE)
    wanted = [(128 / 255 - m) / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    assert found[0, :, 5, 5].tolist() == pytest.approx(wanted, rel=1e-6)


# ---------------------------------------------------------------- adaptations


class Constant(Adaptation):
    """An adaptation that adds one number beside the attention, and knows of no neck."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.seen: dict[int, tuple[int, ...]] = {}

    def attention(self, block: int, tokens: Tensor, window: int) -> Tensor | None:
        self.seen[block] = (window, *tokens.shape)
        return torch.full_like(tokens, self.value)

    def neck_in(self) -> Tensor | None:
        raise AssertionError("there is no neck")

    neck_out = neck_in


def test_an_adaptation_is_asked_and_heard_in_its_windows(micro2: Sam2, features: Features) -> None:
    plain = micro2.tail(features)["image"]
    asked = Constant(0.5)
    assert not torch.equal(micro2.tail(features, asked)["image"], plain)
    assert asked.seen == {5: (6, 8, 6, 6, 32), 6: (0, 2, 8, 8, 32)}
    assert torch.equal(micro2.tail(features, Constant(0.0))["image"], plain)


def bound(micro2: Sam2, module: AugModule) -> Any:
    given = prompts(True, False)
    assert given.points is not None
    heat = click_heatmap(given.points[:, 0], torch.ones(2, 2), micro2.image_size, micro2.grid)
    return module.bind(heat)


def test_a_fresh_module_is_the_identity(micro2: Sam2, features: Features) -> None:
    module = AugModule.beside(micro2)
    assert (module.width, module.blocks, module.config.neck) == (32, (5, 6), False)
    adapted = micro2.tail(features, bound(micro2, module))["image"]
    assert torch.equal(adapted, micro2.tail(features)["image"])


@pytest.mark.parametrize("single", [False, True])
def test_gradients_reach_the_whole_module_and_nothing_else(
    micro2: Sam2, features: Features, single: bool
) -> None:
    module = AugModule.beside(micro2, None, torch.Generator().manual_seed(0))

    def gradients() -> dict[str, Tensor]:
        module.zero_grad()
        logits, iou = micro2.decode(
            micro2.tail(features, bound(micro2, module)), prompts(True, False), single=single
        )
        (logits.square().mean() + iou.sum()).backward()
        return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}

    # What leads out of a fresh module is zero, so nothing behind it feels anything yet.
    assert {n for n, g in gradients().items() if g.any()} == {
        f"up.{i}.{kind}" for i in range(2) for kind in ("weight", "bias")
    }
    with torch.no_grad():
        for up in module.up.parameters():
            up.normal_(std=0.1)
    found = gradients()
    assert found.keys() == dict(module.named_parameters()).keys()
    assert all(g.any() for g in found.values()), [n for n, g in found.items() if not g.any()]
    assert all(p.grad is None for p in micro2.model.parameters())


# ---------------------------------------------------------------- the cache and SAMCL


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_the_cache_keeps_every_level(micro2: Sam2, tmp_path: Path, where: Any, precision: Any) -> None:
    asked = [s.query() for s in SyntheticDomain("lesions", 3, size=64)]
    config = CacheConfig(where, precision, folder=str(tmp_path))
    exact = micro2.trunk(micro2.pixels([q.image for q in asked]))
    cache = FeatureCache(micro2, config)
    first = cache.features(asked)
    for found in (first, cache.features(asked), FeatureCache(micro2, config).features(asked)):
        assert found.keys() == LEVELS.keys()
        for name, level in found.items():
            assert level.dtype == torch.float32
            assert torch.equal(level, exact[name] if precision == "fp32" else exact[name].half().float())
    assert (cache.hits, cache.misses) == (3, 3)
    assert cache.bytes == 3 * sum(torch.Size(s).numel() for s in LEVELS.values()) * int(precision[2:]) // 8
    plain, kept = (micro2.decode(micro2.tail(f), prompts_of(3))[0] for f in (exact, first))
    torch.testing.assert_close(kept, plain, rtol=0, atol=1e-5 if precision == "fp32" else 2e-2)


def prompts_of(rows: int) -> FramePrompts:
    return FramePrompts(torch.full((rows, 1, 1, 2), SIDE / 2), torch.ones(rows, 1, 1).long(), None)


def test_samcl_learns_and_its_state_comes_back(micro2: Sam2) -> None:
    settings = ("tune.fit.epochs=2", "tune.fit.batch=4", "selector.size=8", "cache.precision=fp32")

    def fresh() -> SAMCL:
        return SAMCL(micro2, override(SAMCLConfig(), settings))

    domains = ("lesions", "cracks")
    learned = fresh()
    for i, domain in enumerate(domains):
        figures = learned.learn(Stage(i, domain, SyntheticDomain(domain, 8, size=64), ()), NoScratch())
        assert figures["trainable_parameters"] == learned.modules[domain].total_parameters
    assert all(rows.shape == (8, 32) for rows in learned.state_dict()["buffer"].values())
    asked = [s.query() for d in domains for s in SyntheticDomain(d, 3, size=64, split="test")]
    found = learned.predict(asked)
    # Both modules in one pass give what each gives alone, and that is not what the base gives.
    for query, prediction in zip(asked, found, strict=True):
        assert prediction.route is not None and prediction.logits.shape[-2:] == (32, 32)
        close(prediction.logits, learned.predict_as([query], prediction.route.name)[0].logits)
        plain = learned.predict_as([query], "never learned")[0].logits
        assert (prediction.logits - plain).abs().max() > 1e-3
    again = fresh()
    again.load_state_dict(learned.state_dict())
    for a, b in zip(found, again.predict(asked), strict=True):
        assert torch.equal(a.logits, b.logits)
        assert a.route == b.route
