"""Two branches in one convolution: the function is that of two, and what stays is the mean of both."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from everseg.models.semantic.branches import branched


def network() -> nn.Sequential:
    """A dilated convolution and a depthwise one, each with a normalisation that has seen something and rests,
    and one of another size."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=2, dilation=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 4, 1),
    )
    model(torch.randn(4, 3, 9, 9))
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            module.eval()
    return model


def pixels() -> Tensor:
    return torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def test_channels_are_of_one_branch_or_of_both() -> None:
    model = network()[:2]
    model[1].eval()
    old = copy.deepcopy(model)
    with branched(model):
        model[0].parametrizations.weight.original.data.normal_()
        new = copy.deepcopy(old)
        new[0].weight.data.copy_(model[0].parametrizations.weight.original)
        a, b = old(pixels()), new(pixels())
        kinds = set()
        for seed in range(8):
            torch.manual_seed(seed)
            mixed = model(pixels())
            for c in range(8):
                fits = [
                    k
                    for k in (0, 0.5, 1)
                    if torch.allclose(mixed[:, c], torch.lerp(a, b, k)[:, c], atol=1e-5)
                ]
                assert len(fits) == 1, "every image of a batch alike"
                kinds.update(fits)
        assert kinds == {0, 0.5, 1}
        model[0].eval()
        assert torch.allclose(model(pixels()), (a + b) / 2, atol=1e-5), "nothing drops in evaluation"


def test_it_begins_as_it_was_and_ends_as_the_mean() -> None:
    model = network()
    before, said = copy.deepcopy(model.state_dict()), model(pixels())
    state = torch.get_rng_state()
    with branched(model):
        assert torch.equal(torch.get_rng_state(), state), "nothing is drawn before the first pass"
        assert torch.allclose(model(pixels()), said, atol=1e-6)
        parameters = dict(model.named_parameters())
        assert len(parameters) == len(list(network().parameters()))
        for parameter in parameters.values():
            parameter.data.add_(1)
    after = model.state_dict()
    assert list(after) == list(before) and not any(hasattr(m, "parametrizations") for m in model)
    assert model.training and model[0].training
    for name in ("0.weight", "3.weight"):
        assert torch.allclose(after[name], before[name] + 0.5)
    for name in ("3.bias", "5.weight"):
        assert torch.allclose(after[name], before[name] + 1), "what has no branch trains as ever"
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in model.parameters())


def test_the_branch_at_rest_gets_no_gradient() -> None:
    model = network()
    with branched(model):
        model(pixels()).square().mean().backward()
        weight = model[0].parametrizations.weight
        assert weight.original.grad.abs().sum() > 0 and not weight[0].old.requires_grad
