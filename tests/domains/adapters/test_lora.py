"""The parallel low-rank adapter: size, identity at the start, what it computes."""

import pytest
import torch
from torch.nn import functional as F

from everseg.domains.adapters.lora import LoRAConfig, ParallelLoRA


@pytest.mark.parametrize(
    ("width", "blocks", "count"), [(768, range(7, 12), 80_690), (384, range(6, 10), 32_296)]
)
def test_the_published_sizes(width: int, blocks: range, count: int) -> None:
    assert ParallelLoRA(width, blocks).total_parameters == count


def test_fresh_it_adds_exactly_nothing() -> None:
    adaptation = ParallelLoRA(24, (3, 4)).bind(torch.zeros(2, 8, 8))
    tokens = torch.randn(8, 4, 4, 24, generator=torch.Generator().manual_seed(0))
    added = adaptation.attention(3, tokens, 4)
    assert added is not None
    assert not added.any()
    assert added.shape == tokens.shape
    assert adaptation.attention(2, tokens, 4) is None
    assert adaptation.neck_in() is None
    assert adaptation.neck_out() is None


def test_each_block_has_its_own_pair() -> None:
    module = ParallelLoRA(24, (3, 4), LoRAConfig(rank=2))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    tokens = torch.randn(1, 4, 4, 24, generator=generator)
    for i, block in enumerate((3, 4)):
        a, b = module.down[i], module.up[i]
        wanted = F.linear(tokens @ a.weight.T + a.bias, b.weight, b.bias)
        added = module.bind(None).attention(block, tokens, 0)
        torch.testing.assert_close(added, wanted)


def test_initial_weights_come_from_the_generator() -> None:
    one, two, other = (
        ParallelLoRA(24, (3,), generator=torch.Generator().manual_seed(s)).state_dict() for s in (7, 7, 8)
    )
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert not torch.equal(one["down.0.weight"], other["down.0.weight"])
    assert one["down.0.weight"].abs().max() <= 24**-0.5
