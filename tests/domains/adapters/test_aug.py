"""AugModule and bank: sizes, identity at the start, and gradients."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from everseg.domains.adapters.aug import RELEASED, AugConfig, AugModule, from_released
from everseg.domains.heatmap import click_heatmap
from everseg.errors import UserError
from everseg.models.promptable.protocol import FramePrompts
from everseg.models.promptable.sam import Sam
from everseg.models.promptable.tiny import build_tiny_sam
from everseg.models.promptable.windows import partition

MB = 2**20
VARIANTS = [AugConfig(), RELEASED, AugConfig(neck=False), AugConfig(prompt_map=False), AugConfig(rank=4)]
D, C, G, W, BLOCKS = 24, 12, 10, 4, (2, 3, 4)


def randomise(module: AugModule, seed: int) -> AugModule:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator))
    return module


def module(seed: int, config: AugConfig | None = None) -> AugModule:
    return randomise(AugModule(D, C, BLOCKS, config), seed)


def heat(rows: int, seed: int = 0) -> Tensor:
    points = 1024 * torch.rand(rows, 3, 2, generator=torch.Generator().manual_seed(seed))
    return click_heatmap(points, torch.ones(rows, 3), 1024, G)


def tokens(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, G, G, D, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def tiny() -> Sam:
    torch.manual_seed(0)
    return Sam(build_tiny_sam(), "tiny")


# --- sizes
# -------------------------------------------------------------------------------------------------------


def test_the_published_sizes_of_sam() -> None:
    m = AugModule(768, 256, range(7, 12))
    assert (m.counted_parameters, m.total_parameters) == (61_304, 61_524)
    assert len(list(m.parameters())) == 40
    assert 4 * m.total_parameters == 246_096
    assert f"{4 * m.counted_parameters / MB:.5f}" == "0.23386"
    slora = AugModule(768, 256, range(7, 12), AugConfig(prompt_map=False))
    assert slora.counted_parameters == slora.total_parameters == 49_930
    assert f"{4 * slora.counted_parameters / MB:.5f}" == "0.19047"


def test_the_published_sizes_of_sam2() -> None:
    m = AugModule(384, 256, range(6, 10), AugConfig(neck=False))
    assert (m.counted_parameters, m.total_parameters) == (20_856, 21_036)
    assert f"{4 * m.counted_parameters / MB:.5f}" == "0.07956"
    slora = AugModule(384, 256, range(6, 10), AugConfig(prompt_map=False))
    assert slora.counted_parameters == 20_746
    assert f"{4 * slora.counted_parameters / MB:.5f}" == "0.07914"


def test_the_papers_arithmetic() -> None:
    """Sizes in its tables, from our parts: "HydraLoRA" has one A and four B for each block."""
    for width, blocks, printed in ((768, 5, 0.67387), (384, 4, 0.27250)):
        a, b = width * 10 + 10, 10 * width + width
        assert 4 * (a + 4 * blocks * b) / MB == pytest.approx(printed, abs=5e-6)
    assert (0.308 - 0.233) / 0.308 == pytest.approx(0.243, abs=1e-3)
    assert (0.123 - 0.079) / 0.123 == pytest.approx(0.357, abs=1e-3)
    raw = 300 * 3 * 256 * 256 * 4
    assert raw / MB == 225
    assert (raw / (300 * 768 * 4), raw / (300 * 384 * 4)) == (256, 512)
    assert 300 * 768 * 4 / MB == pytest.approx(0.8789, abs=5e-5)
    assert 300 * 384 * 4 / MB == pytest.approx(0.4395, abs=5e-5)
    # The total of 9.11 adds up parts that were each cut to three digits; uncut it is 9.12.
    assert 5 * 0.233 + 5 * 0.878 + 0.585 + 2.97 == pytest.approx(9.11)
    module, buffer, coco, selector = 61_304 * 4, 300 * 768 * 4, 200 * 768 * 4, 778_758 * 4
    assert (5 * module + 5 * buffer + coco + selector) / MB == pytest.approx(9.12, abs=5e-3)


# --- identity and gradients
# ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", VARIANTS)
def test_fresh_it_adds_exactly_nothing(config: AugConfig) -> None:
    bound = AugModule(D, C, BLOCKS, config).bind(heat(2))
    x = tokens(2)
    for added in (
        bound.attention(2, x, 0),
        bound.attention(3, partition(x, W), W),
        bound.neck_in(),
        bound.neck_out(),
    ):
        assert added is None or not added.any()
    assert bound.attention(1, x, 0) is None


def test_fresh_it_leaves_the_whole_model_bitwise_alone(tiny: Sam) -> None:
    pixels = torch.randn(2, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    prompts = FramePrompts(
        torch.tensor([[[[60.0, 80.0]]], [[[20.0, 200.0]]]]), torch.ones(2, 1, 1).long(), None
    )
    assert prompts.points is not None and prompts.labels is not None
    m = AugModule.beside(tiny)
    assert m.blocks == tiny.adapted
    heat_BYX = click_heatmap(prompts.points[:, 0], prompts.labels[:, 0], tiny.image_size, tiny.grid)
    with torch.no_grad():
        features = tiny.trunk(pixels)
        plain = tiny.decode(tiny.tail(features), prompts)
        fresh = tiny.decode(tiny.tail(features, m.bind(heat_BYX)), prompts)
    assert torch.equal(plain[0], fresh[0])
    assert torch.equal(plain[1], fresh[1])


def step_zero(tiny: Sam, m: AugModule) -> dict[str, Tensor]:
    """Gradients of a loss through tail and decoder, by parameter."""
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(1, 3, 256, 256, generator=generator)
    prompts = FramePrompts(torch.tensor([[[[60.0, 80.0]]]]), torch.ones(1, 1, 1).long(), None)
    assert prompts.points is not None and prompts.labels is not None
    heat_BYX = click_heatmap(prompts.points[:, 0], prompts.labels[:, 0], tiny.image_size, tiny.grid)
    with torch.no_grad():
        features = tiny.trunk(pixels)
    logits, iou = tiny.decode(tiny.tail(features, m.bind(heat_BYX)), prompts)
    (logits * torch.randn(logits.shape, generator=generator)).sum().add(iou.sum()).backward()
    assert all(p.grad is None for p in tiny.model.parameters())
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in m.named_parameters()}


def test_at_step_zero_only_what_leads_out_has_a_gradient(tiny: Sam) -> None:
    m = AugModule.beside(tiny)
    gradients = step_zero(tiny, m)
    moving = {n for n, g in gradients.items() if g.any()}
    outward = {n for n in gradients if n.startswith(("up.", "neck_in.", "neck_out."))}
    assert moving == outward
    assert len(outward) == 2 * len(m.blocks) + 4


@pytest.mark.parametrize("config", [AugConfig(), RELEASED])
def test_gradients_that_must_agree(tiny: Sam, config: AugConfig) -> None:
    m = AugModule.beside(tiny, config)
    with torch.no_grad():
        for p in m.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    gradients = step_zero(tiny, m)
    assert all(g.any() for g in gradients.values())
    columns = gradients["map_layer.weight"]
    assert torch.equal(columns, columns[:, :1].expand_as(columns))
    for i in range(len(m.blocks)):
        one, two = gradients[f"norm_tokens.{i}.bias"], gradients[f"norm_map.{i}.bias"]
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5 * float(one.abs().max()))


def test_the_gradient_of_the_shared_matrix_is_the_sum_over_blocks() -> None:
    m, x = module(1), tokens(2)
    bound = m.bind(heat(2))
    outs = [bound.attention(b, x, 0) for b in BLOCKS]
    single = [
        torch.autograd.grad(o.square().sum(), m.down.weight, retain_graph=True)[0]
        for o in outs
        if o is not None
    ]
    (whole,) = torch.autograd.grad(sum(o.square().sum() for o in outs if o is not None), m.down.weight)  # type: ignore[union-attr, arg-type]
    torch.testing.assert_close(torch.stack(single).sum(0), whole)


# --- what is computed
# ---------------------------------------------------------------------------------------------


def honest(m: AugModule, heat_BYX: Tensor) -> Tensor:
    """P with ten equal channels through the whole 10 x 10 layer."""
    r = m.config.rank
    return F.relu(m.map_norm(m.map_layer(heat_BYX[..., None].expand(-1, -1, -1, r))))


def test_the_prompt_map_equals_its_long_form() -> None:
    m = module(1)
    torch.testing.assert_close(m.bind(heat(2)).map_BYXr, honest(m, heat(2)))


@pytest.mark.parametrize("config", [AugConfig(), RELEASED])
def test_attention_and_neck_are_their_formulas(config: AugConfig) -> None:
    m, x, h = module(1, config), tokens(2), heat(2)
    p, bound = honest(m, h), m.bind(h)
    low = m.norm_tokens[0](m.down(x))
    torch.testing.assert_close(bound.attention(2, x, 0), m.up[0](low + m.norm_map[0](p)))
    windows = partition(x, W)
    if config.window_heatmap == "partition":
        seen = partition(p, W)
    else:
        rows = [int(i * G / W) for i in range(W)]
        seen = p[:, rows][:, :, rows].repeat_interleave(len(windows) // 2, 0)
    low = m.norm_tokens[1](m.down(windows))
    got, real = bound.attention(3, windows, W), partition(torch.ones_like(x), W) > 0
    assert got is not None
    torch.testing.assert_close(got[real], m.up[1](low + m.norm_map[1](seen))[real])
    flip = (0, 3, 2, 1) if config.neck_transposed else (0, 3, 1, 2)
    torch.testing.assert_close(bound.neck_in(), m.neck_in(p).permute(flip))
    torch.testing.assert_close(bound.neck_out(), m.neck_out(p).permute(flip))


@pytest.mark.parametrize("config", [AugConfig(), RELEASED])
def test_the_neck_is_added_in_place_in_whatever_order_memory_lies(config: AugConfig) -> None:
    m, seen = module(1, config), []
    with torch.no_grad():
        bound = m.bind(heat(2), lambda name, inputs: seen.append((name, inputs)))
        added = {"neck_in": bound.neck_in(), "neck_out": bound.neck_out()}
        told = dict(seen)
        for name, add in (("neck_in", bound.add_neck_in), ("neck_out", bound.add_neck_out)):
            whole = added[name]
            assert whole is not None
            x = torch.randn(whole.shape, generator=torch.Generator().manual_seed(2))
            strided = torch.empty(*x.shape[:-1], 2 * G)[..., ::2]
            for like in (x.clone(), x.to(memory_format=torch.channels_last), strided.copy_(x)):
                seen.clear()
                done = add(like)
                assert done is like
                torch.testing.assert_close(done, x + whole)
                assert [n for n, _ in seen] == [name] and torch.equal(seen[0][1], told[name])


def test_a_thumbnail_takes_the_published_cells() -> None:
    grid = torch.arange(64.0).view(1, 1, 64, 1).expand(1, 1, 64, 64)
    rows = F.interpolate(grid, size=(14, 14), mode="nearest")[0, 0, :, 0].int().tolist()
    assert rows == [0, 4, 9, 13, 18, 22, 27, 32, 36, 41, 45, 50, 54, 59]


def test_partitioned_windows_equal_the_global_form() -> None:
    """Cut into windows or not, a token gets the same addition; the padding is of no account."""
    m, x = module(1), tokens(2)
    bound = m.bind(heat(2))
    cut = bound.attention(3, partition(x, W), W)
    whole = bound.attention(3, x, 0)
    assert cut is not None and whole is not None
    wanted, real = partition(whole, W), partition(torch.ones_like(x), W) > 0
    torch.testing.assert_close(cut[real], wanted[real])


# --- making and loading
# -------------------------------------------------------------------------------------------


def test_initial_weights_come_from_the_generator() -> None:
    one, two, other = (
        AugModule(D, C, BLOCKS, generator=torch.Generator().manual_seed(s)).state_dict() for s in (7, 7, 8)
    )
    assert all(torch.equal(one[n], two[n]) for n in one)
    for name, bound in (
        ("down.weight", D**-0.5),
        ("map_layer.weight", 10**-0.5),
        ("map_layer.bias", 10**-0.5),
    ):
        assert not torch.equal(one[name], other[name])
        assert 0.7 * bound < one[name].abs().max() <= bound
    assert not one["down.bias"].any()


def test_a_base_without_a_neck_gets_none(tiny: Sam) -> None:
    class Headless:
        width, channels, adapted, has_neck, device = 24, 12, (1, 2), False, torch.device("cpu")

    m = AugModule.beside(Headless())  # type: ignore[arg-type]
    assert m.config == replace(AugConfig(), neck=False)
    assert m.bind(heat(1)).neck_in() is None


def test_released_names_map_onto_ours() -> None:
    parts = {"down": "A", "map_layer": "extra.layer", "map_norm": "extra.norm"} | {
        "neck_in": "extra.upward",
        "neck_out": "extra.upward_",
    }
    for i in range(3):
        parts |= {f"up.{i}": f"B_00{i}", f"norm_tokens.{i}": f"norm1_00{i}", f"norm_map.{i}": f"norm2_00{i}"}
    m = module(4)
    theirs = {f"{parts[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": v for n, v in m.state_dict().items()}
    fresh = AugModule(D, C, BLOCKS)
    fresh.load_state_dict(from_released(theirs))
    assert all(torch.equal(v, fresh.state_dict()[n]) for n, v in m.state_dict().items())
    with pytest.raises(UserError, match="C_000"):
        from_released({"C_000.weight": torch.zeros(1)})
