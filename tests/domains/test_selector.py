"""The module selector: growing, folding, counting batches, tiny buffers, determinism."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from everseg.domains.selector import (
    REFERENCE,
    ModuleSelector,
    SelectorConfig,
    draw_rows,
    kept_as,
    train_selector,
)
from everseg.errors import UserError

D = 16


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def domain(centre: int, count: int, seed: int = 0, width: int = D) -> Tensor:
    """Embeddings around a corner of their own."""
    shift = torch.zeros(width)
    shift[centre] = 4.0
    return shift + 0.5 * torch.randn(count, width, generator=generator(100 * seed + centre))


def lived_in(selector: ModuleSelector, seed: int = 0) -> ModuleSelector:
    """Random weights and statistics, all classes seen."""
    g = generator(seed)
    with torch.no_grad():
        for name, value in selector.named_parameters():
            value.copy_(torch.randn(value.shape, generator=g) * (0.1 if "layer" in name else 1.0))
        for norm in (selector.norm1, selector.norm2, selector.norm3):
            norm.running_mean.copy_(torch.randn(norm.num_features, generator=g))
            norm.running_var.copy_(torch.rand(norm.num_features, generator=g) + 0.2)
    selector.seen[:] = True
    return selector.eval()


@pytest.mark.parametrize(
    ("width", "whole", "small", "ratio"), [(768, 778_758, 185_862, 4.19), (384, 195_846, 46_854, 4.18)]
)
def test_the_published_sizes(width: int, whole: int, small: int, ratio: float) -> None:
    selector = ModuleSelector(width, list("abcdef"))
    assert sum(p.numel() for p in selector.parameters()) == whole
    folded = sum(p.numel() for p in selector.folded().parameters())
    assert folded == small
    assert whole / folded == pytest.approx(ratio, abs=0.01)


def test_folding_keeps_the_function() -> None:
    selector = lived_in(ModuleSelector(64, list("abcd")))
    e = torch.randn(1000, 64, generator=generator(1))
    with torch.no_grad():
        mine, folded = selector(e), selector.folded()(e)
    assert (mine - folded).abs().max() < 5e-6 * max(1.0, float(mine.abs().max()))
    assert torch.equal(mine.argmax(-1), folded.argmax(-1))
    torch.testing.assert_close(
        selector.folded().probabilities(e), selector.probabilities(e), rtol=1e-4, atol=1e-5
    )


def test_folding_copies() -> None:
    selector = lived_in(ModuleSelector(D, ["a", "b"]))
    folded, e = selector.folded(), torch.ones(1, D)
    before = folded(e)
    with torch.no_grad():
        for p in selector.parameters():
            p.zero_()
    assert torch.equal(folded(e), before)


def test_growing_keeps_names_weights_and_logits() -> None:
    selector = lived_in(ModuleSelector(D, ["a", "b"]))
    e = torch.randn(5, D, generator=generator(1))
    old_logits, old = selector(e), {n: v.clone() for n, v in selector.state_dict().items()}
    selector.grow(["b", "c", "c"], generator(2))
    assert selector.names == ("a", "b", "c")
    assert selector.seen.tolist() == [True, True, False]
    assert torch.equal(selector.layer4.weight[:2], old["layer4.weight"])
    torch.testing.assert_close(selector(e)[:, :2], old_logits)
    other = lived_in(ModuleSelector(D, ["a", "b"]))
    other.grow(["c"], generator(2))
    assert torch.equal(selector.layer4.weight, other.layer4.weight)
    assert 0 < selector.layer4.weight[2].abs().max() <= (D // 4) ** -0.5
    assert all(p.requires_grad for p in selector.parameters())


def test_the_first_class_grows_from_none() -> None:
    selector = ModuleSelector(D)
    assert selector.layer4.weight.shape == (0, D // 4)
    selector.grow(["a"], generator())
    train_selector(selector, {"a": domain(0, 30)}, SelectorConfig(epochs=1), generator())
    assert selector.probabilities(domain(0, 3)).tolist() == [[1.0]] * 3


def test_unseen_classes_cannot_win_unless_asked() -> None:
    e = domain(0, 4)
    masked = lived_in(ModuleSelector(D, list("abc")))
    masked.seen[:] = torch.tensor([True, False, True])
    p = masked.probabilities(e)
    assert not p[:, 1].any()
    torch.testing.assert_close(p.sum(-1), torch.ones(4))
    torch.testing.assert_close(masked.folded().probabilities(e), p, rtol=1e-4, atol=1e-5)
    masked.mask_unseen = False
    assert masked.probabilities(e)[:, 1].all()


def test_probabilities_are_of_evaluation_and_leave_the_mode() -> None:
    selector = lived_in(ModuleSelector(D, ["a", "b"]))
    e = domain(0, 4)
    wanted = selector(e).softmax(-1)
    selector.train()
    assert torch.equal(selector.probabilities(e), wanted)
    assert selector.training


def test_initial_weights_come_from_the_generator() -> None:
    one, two, other = (ModuleSelector(D, ["a"], generator=generator(s)).state_dict() for s in (3, 3, 4))
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert not torch.equal(one["layer1.weight"], other["layer1.weight"])


def test_a_state_dict_goes_there_and_back() -> None:
    selector = lived_in(ModuleSelector(D, ["a", "b"]))
    copy = ModuleSelector(D, ["a", "b"])
    copy.load_state_dict(selector.state_dict())
    assert torch.equal(copy.eval()(domain(0, 3)), selector(domain(0, 3)))


# --- training
# -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sizes", "batches"), [((300,) * 5 + (100,), 6300), ((300,) * 5 + (200,), 6400)])
def test_the_published_batch_counters(sizes: tuple[int, ...], batches: int) -> None:
    """After each domain 25 epochs over all that is kept so far, of which we run one; BatchNorm counts."""
    names = [f"d{i}" for i in range(6)]
    selector = ModuleSelector(8, names)
    buffer: dict[str, Tensor] = {}
    counted = 0.0
    for i, (name, size) in enumerate(zip(names, sizes, strict=True)):
        buffer[name] = domain(i, size, width=8)
        counted += train_selector(selector, buffer, replace(REFERENCE, epochs=1), generator(i))["batches"]
    assert selector.norm1.num_batches_tracked is not None
    assert REFERENCE.epochs * counted == batches
    assert REFERENCE.epochs * int(selector.norm1.num_batches_tracked) == batches


def test_the_counter_of_a_run_on_the_test_splits() -> None:
    kept = [min(300, n) for n in (200, 250, 540, 379, 2026, 100)]
    assert sum(25 * (sum(kept[: t + 1]) // 24) for t in range(6)) == 5400


def test_it_learns_and_going_on_keeps_the_old() -> None:
    selector = ModuleSelector(D, ["a", "b"], generator=generator())
    buffer = {"a": domain(0, 100), "b": domain(1, 40)}
    train_selector(selector, buffer, SelectorConfig(), generator(1))
    selector.grow(["c"], generator(2))
    buffer["c"] = domain(2, 40)
    figures = train_selector(selector, buffer, SelectorConfig(), generator(3))
    assert figures["accuracy"] > 0.98
    assert figures["loss"] < 0.5
    assert selector.seen.all()
    assert not selector.training
    fresh = torch.cat([domain(i, 20, seed=9) for i in range(3)])
    right = selector.probabilities(fresh).argmax(-1) == torch.arange(3).repeat_interleave(20)
    assert right.float().mean() > 0.95


def test_training_depends_on_the_generator_alone() -> None:
    buffers = [{"a": domain(0, 30), "b": domain(1, 30)}, {"b": domain(1, 30), "a": domain(0, 30)}]
    states = []
    for buffer, seed in ((buffers[0], 5), (buffers[1], 5), (buffers[0], 6)):
        torch.rand(1)  # moves the global generator, which is of no account
        selector = ModuleSelector(D, ["a", "b"], generator=generator())
        train_selector(selector, buffer, SelectorConfig(epochs=2), generator(seed))
        states.append(selector.state_dict())
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    assert not torch.equal(states[0]["layer1.weight"], states[2]["layer1.weight"])


@pytest.mark.parametrize("counts", [(2, 0), (1, 1), (25, 0), (1, 24), (3, 46)])
def test_tiny_buffers_and_tails_work(counts: tuple[int, int]) -> None:
    selector = ModuleSelector(D, ["a", "b"], generator=generator())
    buffer = {"a": domain(0, counts[0]), "b": domain(1, counts[1])}
    figures = train_selector(selector, buffer, SelectorConfig(epochs=3), generator())
    total = sum(counts)
    assert figures["batches"] == 3 * (total // min(total, 24))
    assert math.isfinite(figures["loss"])
    assert all(p.isfinite().all() for p in selector.parameters())
    assert selector.seen.tolist() == [n > 0 for n in counts]


@pytest.mark.parametrize("rows", [0, 1])
def test_with_fewer_than_two_embeddings_nothing_is_trained(rows: int) -> None:
    selector = ModuleSelector(D, ["a"], generator=generator())
    before = {n: v.clone() for n, v in selector.state_dict().items() if n != "seen"}
    figures = train_selector(selector, {"a": domain(0, rows)}, SelectorConfig(), generator())
    assert figures == {"batches": 0}
    assert all(torch.equal(v, selector.state_dict()[n]) for n, v in before.items())
    assert bool(selector.seen) == (rows == 1)
    assert selector.probabilities(domain(0, 2)).tolist() == [[1.0], [1.0]]


def test_balance_changes_nothing_where_sizes_agree_and_helps_the_small_where_not() -> None:
    def train(sizes: tuple[int, int], balance: bool) -> ModuleSelector:
        selector = ModuleSelector(D, ["a", "b"], generator=generator())
        overlapping = {"a": 0.2 * domain(0, sizes[0]), "b": 0.2 * domain(1, sizes[1])}
        train_selector(selector, overlapping, SelectorConfig(epochs=10, balance=balance), generator(1))
        return selector

    same = [train((24, 24), b).state_dict() for b in (True, False)]
    assert all(torch.equal(same[0][n], same[1][n]) for n in same[0])
    unknown = torch.zeros(1, D)
    small = [float(train((240, 24), b).probabilities(unknown)[0, 1]) for b in (True, False)]
    assert small[0] > small[1] + 0.05


def test_a_strange_class_in_the_buffer_is_told() -> None:
    with pytest.raises(UserError, match="'b'"):
        train_selector(ModuleSelector(D, ["a"]), {"b": domain(0, 4)}, SelectorConfig(), generator())


def test_a_step_is_plain_sgd_on_cross_entropy() -> None:
    config = SelectorConfig(epochs=1, batch=24, balance=False)
    mine, theirs = (ModuleSelector(D, ["a", "b"], generator=generator()) for _ in range(2))
    buffer = {"a": domain(0, 12), "b": domain(1, 12)}
    train_selector(mine, buffer, config, generator(1))
    theirs.seen[:] = True
    theirs.train()
    loss = nn.functional.cross_entropy(
        theirs(torch.cat([buffer["a"], buffer["b"]])), torch.arange(2).repeat_interleave(12)
    )
    loss.backward()
    with torch.no_grad():
        for p in theirs.parameters():
            p.sub_(0.01 * p.grad)
    for name, value in theirs.named_parameters():
        torch.testing.assert_close(dict(mine.named_parameters())[name], value, rtol=1e-5, atol=1e-6)


# --- buffers
# ------------------------------------------------------------------------------------------------------


def test_a_buffer_is_of_the_first_rows_of_a_shuffled_pass() -> None:
    rows = draw_rows(40, 30, generator(1))
    assert len(set(rows)) == 30
    assert rows != draw_rows(40, 30, generator(2))
    assert sorted(draw_rows(40, 300, generator(1))) == list(range(40))


def test_half_precision_halves_what_is_stored_and_trains() -> None:
    e = domain(0, 50)
    half, single = kept_as(e, "fp16"), kept_as(e)
    assert half.nbytes * 2 == single.nbytes
    torch.testing.assert_close(half.float(), single, rtol=1e-3, atol=1e-4)
    selector = ModuleSelector(D, ["a"], generator=generator())
    assert train_selector(selector, {"a": half}, SelectorConfig(epochs=1), generator())["batches"] == 2


def test_settling_makes_evaluation_agree_with_a_whole_batch() -> None:
    """With the buffer's own statistics, evaluation gives what training sees of the whole buffer."""
    rows = torch.randn(96, 16, generator=torch.Generator().manual_seed(3)) * 4 + 1
    buffer = {"a": rows[:48], "b": rows[48:] + 2}
    whole = torch.cat(list(buffer.values()))
    gaps = {}
    for settle in (True, False):
        selector = ModuleSelector(16, ("a", "b"), generator=torch.Generator().manual_seed(0))
        config = SelectorConfig(epochs=3, settle=settle)
        train_selector(selector, buffer, config, torch.Generator().manual_seed(1))
        evaluated = selector.probabilities(whole).detach()
        momenta = [norm.momentum for norm in (selector.norm1, selector.norm2, selector.norm3)]
        trained = selector.train()(whole).softmax(-1).detach()
        gaps[settle] = float((evaluated - trained).abs().max())
        assert momenta == [0.1, 0.1, 0.1]
    assert gaps[True] < 0.02 < gaps[False]
