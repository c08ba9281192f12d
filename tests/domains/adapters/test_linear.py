"""The adapter on the base's own linear layers: identity at the start, and the same as folding it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from everseg.data import SyntheticDomain
from everseg.domains.adapters.linear import LinearConfig, LinearLoRA
from everseg.domains.adapters.lora import ParallelLoRA
from everseg.files import load_state, save_state
from everseg.merge.collect import GramCollector
from everseg.merge.regmean_sums import RegMeanSums
from everseg.methods import build, configure
from everseg.models.promptable import sam as sam_file
from everseg.models.promptable.load import load_base
from everseg.models.promptable.protocol import Adaptation, Features
from everseg.models.promptable.sam import Sam
from everseg.models.promptable.sam2 import Sam2
from everseg.types import NoScratch, Query, Stage
from everseg.types.abilities import Exports

BASES = ("micro", "micro2", "tiny")
IN_A_BLOCK = {
    "micro": ("attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2"),
    "micro2": ("attn.qkv", "attn.proj", "mlp.proj_in", "mlp.proj_out"),
}


@pytest.fixture(scope="module")
def bases(micro_model: Any, micro2_model: Any) -> dict[str, Sam | Sam2]:
    return {"micro": Sam(micro_model, "micro"), "micro2": Sam2(micro2_model, "micro2"), "tiny": load_base()}


def features_of(base: Sam | Sam2) -> Features:
    draw = torch.Generator().manual_seed(2)
    return base.trunk(torch.randn(2, 3, base.image_size, base.image_size, generator=draw))


def filled(base: Sam | Sam2, alpha: float = 0.0) -> LinearLoRA:
    """An adapter that has learned something."""
    draw = torch.Generator().manual_seed(3)
    module = LinearLoRA.beside(base, LinearConfig(rank=3, alpha=alpha), draw)
    with torch.no_grad():
        for weight in module.up.parameters():
            weight.copy_(0.1 * torch.randn(weight.shape, generator=draw))
    return module


def folded(base: Sam | Sam2, module: LinearLoRA) -> Sam | Sam2:
    model = deepcopy(base.model)
    model.load_state_dict(module.folded(model.state_dict()))
    return type(base)(model, "folded", base.first)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.detach().abs().max()))


# ---------------------------------------------------------------- the module


def test_its_size() -> None:
    """Four layers in each of five blocks of ViT-B."""
    width = 768
    shapes = {"qkv": (width, 3 * width), "proj": (width, width), "in": (width, 4 * width)}
    shapes |= {"out": (4 * width, width)}
    module = LinearLoRA({f"layers.{i}.{n}": s for i in range(7, 12) for n, s in shapes.items()})
    assert module.total_parameters == 614_400
    assert not [n for n, _ in module.named_parameters() if "bias" in n]


@pytest.mark.parametrize("name", BASES)
def test_it_stands_on_every_linear_layer_of_the_adapted_blocks(
    bases: dict[str, Sam | Sam2], name: str
) -> None:
    base = bases[name]
    inside = IN_A_BLOCK.get(name, IN_A_BLOCK["micro"])
    block = "vision_encoder.backbone.blocks" if name == "micro2" else "vision_encoder.layers"
    assert list(base.linears) == [f"{block}.{i}.{part}" for i in base.adapted for part in inside]
    weights = base.model.state_dict()
    assert all(layer.weight is not None for layer in base.linears.values())
    assert all(torch.equal(weights[f"{n}.weight"], layer.weight) for n, layer in base.linears.items())
    assert LinearLoRA.beside(base).names == tuple(base.linears)


def test_initial_weights_come_from_the_generator(bases: dict[str, Sam | Sam2]) -> None:
    one, two, other = (
        LinearLoRA.beside(bases["micro"], None, torch.Generator().manual_seed(s)).state_dict()
        for s in (7, 7, 8)
    )
    assert all(torch.equal(one[n], two[n]) for n in one)
    name = next(iter(one))
    assert not torch.equal(one[name], other[name])
    assert one[name].abs().max() <= 32**-0.5


# ---------------------------------------------------------------- what it adds


@pytest.mark.parametrize("name", BASES)
def test_fresh_it_is_the_identity(bases: dict[str, Sam | Sam2], name: str) -> None:
    base = bases[name]
    features = features_of(base)
    with torch.no_grad():
        plain = base.tail(features)["image"]
        assert torch.equal(base.tail(features, LinearLoRA.beside(base).bind())["image"], plain)


@pytest.mark.parametrize("piece", [2**27, 2**13])
@pytest.mark.parametrize("alpha", [0.0, 6.0])
@pytest.mark.parametrize("name", BASES)
def test_adapting_is_folding(
    bases: dict[str, Sam | Sam2], name: str, alpha: float, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the attention is computed whole or, as where memory is scarce, in pieces."""
    monkeypatch.setattr(sam_file, "PIECE", piece)
    base = bases[name]
    features, module = features_of(base), filled(base, alpha)
    with torch.no_grad():
        plain, adapted = base.tail(features)["image"], base.tail(features, module.bind())["image"]
        assert (adapted - plain).abs().max() > 1e-2 * plain.abs().max()
        close(adapted, folded(base, module).tail(features)["image"])


def test_alpha_scales_what_is_added(bases: dict[str, Sam | Sam2]) -> None:
    base = bases["micro"]
    name = next(iter(base.linears))
    inputs = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(0))
    one, two = (filled(base, alpha).bind().linear(name, inputs) for alpha in (0.0, 6.0))
    torch.testing.assert_close(two, 2 * one)
    assert LinearConfig(rank=4, alpha=4).scale == LinearConfig(rank=4).scale == 1


@pytest.mark.parametrize("piece", [2**27, 2**13])
@pytest.mark.parametrize("name", BASES)
def test_gradients_reach_exactly_its_parameters(
    bases: dict[str, Sam | Sam2], name: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And they are those of the folded weights: dL/dB = dL/dW A^T, dL/dA = B^T dL/dW."""
    monkeypatch.setattr(sam_file, "PIECE", piece)
    base = bases[name]
    features, module = features_of(base), filled(base)
    base.tail(features, module.bind())["image"].square().mean().backward()
    assert not any(p.requires_grad or p.grad is not None for p in base.model.parameters())
    whole = folded(base, module)
    for layer in whole.linears.values():
        layer.weight.requires_grad_(True)
    whole.tail(features)["image"].square().mean().backward()
    for layer_name, layer in whole.linears.items():
        down, up = module.factors(layer_name)
        wanted = layer.weight.grad
        assert wanted is not None and down.grad is not None and up.grad is not None
        assert up.grad.any() and down.grad.any()
        close(up.grad, wanted @ down.T)
        close(down.grad, up.T @ wanted)


# ---------------------------------------------------------------- the base stays as it is


@pytest.mark.parametrize("name", BASES)
def test_the_base_is_itself_even_while_a_pass_goes_on(bases: dict[str, Sam | Sam2], name: str) -> None:
    base = bases[name]
    features, module = features_of(base), filled(base)

    class Meanwhile(Adaptation):
        """Predicts with the untouched base from within a pass through the adapted one."""

        linears = tuple(base.linears)

        def linear(self, layer: str, inputs: Tensor) -> Tensor:
            assert torch.equal(base.tail(features)["image"], plain)
            return module.bind().linear(layer, inputs)

    with torch.no_grad():
        plain = base.tail(features)["image"]
        inside = base.tail(features, Meanwhile())["image"]
        assert torch.equal(inside, base.tail(features, module.bind())["image"])


@pytest.mark.parametrize("name", BASES)
def test_nothing_is_left_behind_by_an_error(bases: dict[str, Sam | Sam2], name: str) -> None:
    base = bases[name]
    features, last = features_of(base), list(base.linears)[-1]

    def fail(layer: str, inputs: Tensor) -> None:
        if layer.endswith(last.replace(".", "-")):
            raise RuntimeError("no more memory")

    with torch.no_grad():
        plain = base.tail(features)["image"]
        with pytest.raises(RuntimeError, match="no more memory"):
            base.tail(features, filled(base).bind(None, fail))
        assert torch.equal(base.tail(features)["image"], plain)
    assert all(type(base.model.get_submodule(n)) is nn.Linear for n in base.linears)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in base.linears.values())


def test_other_adapters_pay_nothing(bases: dict[str, Sam | Sam2], monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks themselves are run, not copies."""
    base = bases["micro"]
    ran: list[object] = []
    block = sam_file._block

    def note(layer: Any, *rest: Any) -> Tensor:
        ran.append(layer)
        return block(layer, *rest)

    monkeypatch.setattr(sam_file, "_block", note)
    features = features_of(base)
    ran.clear()
    base.tail(features, ParallelLoRA.beside(base).bind())
    assert isinstance(base, Sam)
    assert all(a is b for a, b in zip(ran, base.encoder.layers[base.first :], strict=True))


# ---------------------------------------------------------------- merging it


def test_regmean_gets_each_layers_own_inputs(bases: dict[str, Sam | Sam2]) -> None:
    """A gets what the base's layer is given and B the low-rank code, so their outputs are what is added."""
    base = bases["micro"]
    module = filled(base, alpha=6.0)
    seen: dict[str, Tensor] = {}
    given: dict[str, Tensor] = {}
    whole = folded(base, module)
    hooks = [
        layer.register_forward_pre_hook(lambda m, args, name=name: given.update({name: args[0]}))
        for name, layer in whole.linears.items()
    ]
    features = features_of(base)
    with torch.no_grad():
        base.tail(features, module.bind(None, seen.__setitem__))
        whole.tail(features)
    for hook in hooks:
        hook.remove()
    parts = dict(module.named_modules())
    for name, inputs in given.items():
        part = name.replace(".", "-")
        close(seen[f"down.{part}"], inputs)
        close(seen[f"up.{part}"], module.config.scale * parts[f"down.{part}"](inputs))
    assert len(seen) == 2 * len(base.linears) == len(list(module.parameters()))


def test_one_adapter_merged_is_itself(bases: dict[str, Sam | Sam2]) -> None:
    base = bases["micro"]
    module = filled(base, alpha=6.0)
    layers = {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear)}
    collector = GramCollector(layers)
    with torch.no_grad():
        base.tail(features_of(base), module.bind(None, collector.see))
    sums = RegMeanSums()
    sums.add(dict(module.state_dict()), {n: g.mean() for n, g in collector.result().items()})
    merged, _ = sums.solve()
    again = LinearLoRA.beside(base, module.config)
    again.load_state_dict(merged)
    weights = base.model.state_dict()
    ours, theirs = again.folded(weights), module.folded(weights)
    assert all(torch.equal(ours[n], theirs[n]) for n in weights)


# ---------------------------------------------------------------- in the methods


SETTINGS = ("adapter=linear", "rank=2", "tune.fit.epochs=2", "tune.fit.batch=4")


def taught(method: str, base: Any, *domains: str) -> Any:
    # The images asked for are of none of the domains.
    more = ("abstain=0",) if method == "regcl" else ()
    found = build(method, base, configure(method, assignments=[*SETTINGS, *more]), 0)
    for domain in domains:
        found.learn(stage(domain), NoScratch())
    return found


def stage(domain: str) -> Stage:
    return Stage(0, domain, SyntheticDomain(domain, 6, size=64), ())


def asked() -> list[Query]:
    return [sample.query() for sample in SyntheticDomain("nuclei", 3, size=64)]


def logits(learner: Any) -> list[Tensor]:
    return [p.logits for p in learner.predict(asked())]


@pytest.mark.parametrize("method", ["regcl", "sequential", "joint"])
def test_a_method_learns_it(method: str, micro: Any, tmp_path: Path) -> None:
    found = taught(method, micro, "lesions", "cracks")
    fresh = taught(method, micro)
    plain, learned = logits(build("zero-shot", micro, configure("zero-shot"), 0)), logits(found)
    assert all(torch.equal(a, b) for a, b in zip(logits(fresh), plain, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(learned, plain, strict=True))
    assert isinstance(found, Exports) and isinstance(found.exports(), LinearLoRA)
    save_state(tmp_path / "state", found.state_dict())
    fresh.load_state_dict(load_state(tmp_path / "state"))
    assert all(torch.equal(a, b) for a, b in zip(logits(fresh), learned, strict=True))
    whole = Sam(deepcopy(micro.model), "folded", micro.first)
    whole.model.load_state_dict(found.exports().folded(whole.model.state_dict()))
    for a, b in zip(logits(build("zero-shot", whole, configure("zero-shot"), 0)), learned, strict=True):
        close(a, b)


@pytest.mark.parametrize("preset", ["paper", "reference", "robust"])
def test_regcl_merges_it_better_than_averaging(micro: Any, preset: str) -> None:
    """It has no biases, so moments with a constant, as `robust` takes them, are plain ones."""
    found = build("regcl", micro, configure("regcl", preset, SETTINGS), 0)
    found.learn(stage("lesions"), NoScratch())
    figures = found.learn(stage("cracks"), NoScratch())
    assert figures["trainable_parameters"] == found.exports().total_parameters
    if preset != "reference":  # The published arithmetic reports nothing.
        assert figures["merge_objective"] < 1
        assert figures["merge_worse_than_mean"] == 0
