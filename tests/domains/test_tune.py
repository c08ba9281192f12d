"""Preparing a stage, and predicting: an image's mask is its own, whatever else is in the batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from everseg.data import SyntheticDomain
from everseg.domains import tune as tune_file
from everseg.domains.adapters.aug import AugModule
from everseg.domains.adapters.kinds import AdapterKind, fresh_adapter
from everseg.domains.cache import CacheConfig, FeatureCache
from everseg.domains.prepare import pool, prepare
from everseg.domains.tune import Choice, TuneConfig, fit_adapter, predict, with_adapter, with_adapter_where
from everseg.fit import FitConfig
from everseg.models.promptable.protocol import TAP, Features, to_frame
from everseg.types import NoScratch, PromptPrediction, Prompts, PromptSample, Query, Route

OFF = CacheConfig("off", "fp32")
PRECISE = CacheConfig(precision="fp32")


def image(seed: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def clicks(*objects: list[tuple[float, float, int]]) -> tuple[Tensor, Tensor]:
    """Clicks of each object, padded as `Prompts` wants them."""
    most = max(len(o) for o in objects)
    points, labels = torch.zeros(len(objects), most, 2), torch.full((len(objects), most), -10)
    for n, clicked in enumerate(objects):
        for p, (x, y, label) in enumerate(clicked):
            points[n, p] = torch.tensor([x, y])
            labels[n, p] = label
    return points, labels


def mixed() -> list[Query]:
    one = [(10.0, 12.0, 1)]
    three = [(5.0, 6.0, 1), (30.0, 20.0, 1), (2.0, 2.0, 0)]
    box = torch.tensor([[3.0, 4.0, 30.0, 20.0]])
    return [
        Query(image(0, 40, 50), Prompts(*clicks(one))),
        Query(image(1, 64, 64), Prompts(*clicks(three))),
        Query(image(2, 30, 90), Prompts(boxes=box)),
        Query(image(3, 90, 30), Prompts(*clicks(one), boxes=box)),
        Query(image(4, 33, 31), Prompts(*clicks(one, three))),  # one object padded to the other's length
        Query(image(5, 50, 50), Prompts(boxes=box.repeat(3, 1) + torch.arange(3)[:, None])),
        Query(image(6, 50, 50), Prompts(*clicks(three, one), boxes=box.repeat(2, 1))),
        Query(image(7, 1, 1), Prompts(*clicks([(0.0, 0.0, 1)]))),
        Query(image(8, 3, 300), Prompts(*clicks([(299.0, 2.0, 1), (0.0, 0.0, 0)]))),
    ]


def trained(base: Any, seed: int) -> AugModule:
    """A module as training might leave it: nothing in it is zero."""
    return scattered(AugModule.beside(base, None, torch.Generator().manual_seed(seed)), seed)


def scattered(adapter: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapter.parameters():
            p += 0.2 * torch.randn(p.shape, generator=generator)
    return adapter


def close(a: PromptPrediction, b: PromptPrediction) -> None:
    torch.testing.assert_close(a.logits, b.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(a.iou, b.iou, rtol=0, atol=1e-5)
    assert a.size == b.size


# ---------------------------------------------------------------- predicting


@pytest.mark.parametrize("adapted", [False, True])
def test_queries_of_all_kinds_together_are_each_alone(micro: Any, adapted: bool) -> None:
    choose = with_adapter(trained(micro, 1) if adapted else None)
    cache = FeatureCache(micro, OFF)
    queries = mixed()
    together = predict(queries, micro, cache, choose)
    assert len(together) == len(queries)
    for query, found in zip(queries, together, strict=True):
        objects = len(query.prompts)
        assert found.logits.shape == (objects, 32, 32)
        assert found.iou.shape == (objects,)
        assert found.masks().shape == (objects, *query.image.shape[1:])
        assert found.masks().dtype == torch.bool
        close(found, predict([query], micro, cache, choose)[0])


@pytest.mark.parametrize("index", [4, 5, 6])
def test_objects_of_one_image_are_each_alone(micro: Any, index: int) -> None:
    """An object's mask hangs neither on its neighbours nor on the padding that makes their clicks a
    tensor."""
    cache, choose = FeatureCache(micro, OFF), with_adapter(trained(micro, 1))
    query = mixed()[index]
    whole = predict([query], micro, cache, choose)[0]
    p = query.prompts
    for n in range(len(p)):
        points = labels = None
        if p.points is not None and p.labels is not None:
            real = p.labels[n] != -10
            points, labels = p.points[n : n + 1, real], p.labels[n : n + 1, real]
        alone = Query(query.image, Prompts(points, labels, None if p.boxes is None else p.boxes[n : n + 1]))
        close(predict([alone], micro, cache, choose)[0], replace_rows(whole, n))


def replace_rows(prediction: PromptPrediction, n: int) -> PromptPrediction:
    return replace(prediction, logits=prediction.logits[n : n + 1], iou=prediction.iou[n : n + 1])


def test_it_is_the_bases_own_answer(micro: Any) -> None:
    """Against trunk, tail and decoder called by hand."""
    query = mixed()[1]
    [found] = predict([query], micro, FeatureCache(micro, OFF), with_adapter(None))
    with torch.no_grad():
        frame = to_frame(query.prompts, (64, 64), 64)
        logits, iou = micro.decode(micro.tail(micro.trunk(micro.pixels([query.image]))), frame)
    torch.testing.assert_close(found.logits, logits[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.iou, iou[0], rtol=0, atol=1e-5)


def test_a_fresh_adapter_changes_nothing(micro: Any) -> None:
    cache = FeatureCache(micro, OFF)
    plain = predict(mixed(), micro, cache, with_adapter(None))
    for a, b in zip(
        plain, predict(mixed(), micro, cache, with_adapter(AugModule.beside(micro))), strict=True
    ):
        assert torch.equal(a.logits, b.logits)


def test_many_objects_and_many_images_go_through_in_parts(micro: Any) -> None:
    points, labels = clicks(*[[(float(n), 3.0, 1)] for n in range(20)])
    queries = [Query(image(0, 40, 50), Prompts(points, labels)), *[mixed()[i % 9] for i in range(20)]]
    cache, choose = FeatureCache(micro, OFF), with_adapter(trained(micro, 1))
    found = predict(queries, micro, cache, choose)
    assert found[0].logits.shape[0] == 20
    for i in (0, 7, 20):
        close(found[i], predict([queries[i]], micro, cache, choose)[0])
    assert predict([], micro, cache, choose) == []


@pytest.mark.parametrize("size", [2, 16])
def test_a_batch_of_several_domains_is_each_domain_alone(
    micro: Any, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Each image gets its own adapter, or none, whether few or many images share a pass."""
    monkeypatch.setattr(tune_file, "images_at_once", lambda *_: size)
    adapters = [trained(micro, seed) for seed in (1, 2, 3)]
    chosen = [None if i < 0 else adapters[i] for i in (0, 1, 2, -1, 1, 0, -1, 2, 0)]
    routes = [Route(str(i), 1.0) for i in range(9)]
    cache, queries, starts = FeatureCache(micro, OFF), mixed(), iter(range(0, 9, size))

    def choose(features: Features) -> Choice:
        start = next(starts)
        return chosen[start : start + size], routes[start : start + size]

    together = predict(queries, micro, cache, choose)
    for query, adapter, route, found in zip(queries, chosen, routes, together, strict=True):
        close(found, predict([query], micro, cache, with_adapter(adapter))[0])
        assert found.route == route
    plain = predict(queries, micro, cache, with_adapter(None))
    assert not torch.allclose(plain[0].logits, together[0].logits, atol=1e-3)


@pytest.mark.parametrize("kind", get_args(AdapterKind))
def test_one_adapter_for_some_images_and_none_for_others(micro: Any, kind: AdapterKind) -> None:
    adapter = scattered(fresh_adapter(kind, micro, 3, None), 4)
    cache, queries = FeatureCache(micro, OFF), mixed()
    wanted = [i % 3 == 0 for i in range(len(queries))]
    routes = [Route("inside" if yes else "outside", 1.0) for yes in wanted]
    apart = {
        yes: predict(queries, micro, cache, with_adapter(adapter if yes else None)) for yes in (True, False)
    }
    found = predict(queries, micro, cache, lambda features: with_adapter_where(adapter, wanted, routes))
    for i, yes in enumerate(wanted):
        close(found[i], apart[yes][i])
        assert found[i].route == routes[i]
    assert with_adapter_where(adapter, [True, False]) == ([adapter, None], [None, None])
    assert not torch.allclose(apart[True][0].logits, apart[False][0].logits, atol=1e-3)


# ---------------------------------------------------------------- preparing and tuning


class Samples(list[PromptSample]):
    """Samples in memory."""


def sample(seed: int, prompts: Prompts, key: str = "") -> PromptSample:
    masks = torch.zeros(len(prompts), 48, 40, dtype=torch.bool)
    for n in range(len(prompts)):
        masks[n, 4 * n : 4 * n + 20, 5:30] = True
    return PromptSample(image(seed, 48, 40), prompts, masks, f"{seed}.png", key)


def several_objects() -> Samples:
    one, three = [(10.0, 12.0, 1)], [(5.0, 6.0, 1), (30.0, 20.0, 1), (2.0, 2.0, 0)]
    box = torch.tensor([[3.0, 4.0, 30.0, 20.0]])
    return Samples(
        [
            sample(0, Prompts(*clicks(one)), "a"),
            sample(1, Prompts(*clicks(one, three)), "b"),
            sample(2, Prompts(boxes=box.repeat(3, 1)), "c"),
            sample(3, Prompts(*clicks(three), boxes=box), ""),
        ]
    )


@pytest.mark.parametrize("cache", [OFF, PRECISE, CacheConfig(precision="fp32", budget=20_000)])
def test_rows_and_embeddings_keep_the_samples_order(micro: Any, cache: CacheConfig) -> None:
    samples = [SyntheticDomain("nuclei", 20, size=64)[i] for i in range(20)]
    prepared = prepare(samples, micro, cache, FitConfig(), "nuclei")
    assert prepared.rows == [(i, 0) for i in range(20)]
    assert len(prepared) == 20
    with torch.no_grad():
        wanted = pool(micro.trunk(micro.pixels([s.image for s in samples])))
    torch.testing.assert_close(prepared.embeddings, wanted, rtol=0, atol=1e-5)
    for i in (0, 1, 15, 16, 19):
        row = prepared[i]
        assert row.query.key == samples[i].key
        assert torch.equal(row.truth[0], samples[i].masks[0])
        assert row.prompts.points is not None and samples[i].prompts.points is not None
        assert torch.equal(row.prompts.points[0], samples[i].prompts.points)


def test_each_object_is_a_row(micro: Any) -> None:
    samples = several_objects()
    prepared = prepare(samples, micro, PRECISE, FitConfig(), "several")
    assert prepared.rows == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (3, 0)]
    assert prepared.embeddings.shape == (4, 32)
    assert prepared[1].prompts.points.shape == (1, 1, 1, 2)  # type: ignore[union-attr]
    assert prepared[2].prompts.points.shape == (1, 1, 3, 2)  # type: ignore[union-attr]
    assert prepared[4].prompts.points is None
    truth = torch.nn.functional.interpolate(samples[1].masks[None].float(), size=(64, 64))[0] > 0.5
    assert torch.equal(prepared[2].truth, truth[1:2])


@pytest.mark.parametrize("reduction", ["mean", "reference"])
def test_tuning_on_rows_of_all_kinds_is_one_row_at_a_time(micro: Any, reduction: Any) -> None:
    """A batch of clicks, boxes and both, of one to three clicks, against micro-batches of one row."""
    whole = TuneConfig(fit=FitConfig(epochs=2, batch=7))
    whole = replace(whole, loss=replace(whole.loss, reduction=reduction, upsample="none"))
    parts = replace(whole, fit=replace(whole.fit, micro_batch=1))
    found = []
    for config in (whole, parts):
        prepared = prepare(several_objects(), micro, PRECISE, config.fit, "several")
        module = trained(micro, 4)
        figures = fit_adapter(module, micro, prepared, config, seed=0, name="x", scratch=NoScratch())
        found.append(figures["loss"])
        assert figures["trainable_parameters"] == module.total_parameters
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_tuning_lowers_the_loss_and_leaves_the_base_alone(micro: Any) -> None:
    before = {k: v.clone() for k, v in micro.model.state_dict().items()}
    config = TuneConfig(fit=FitConfig(epochs=6, batch=4))
    first = replace(config, fit=replace(config.fit, epochs=1, lr=0.0))
    losses = []
    for c in (first, config):
        prepared = prepare(SyntheticDomain("lesions", 8, size=64), micro, PRECISE, c.fit, "lesions")
        module = AugModule.beside(micro, None, torch.Generator().manual_seed(0))
        losses.append(
            fit_adapter(module, micro, prepared, c, seed=0, name="lesions", scratch=NoScratch())["loss"]
        )
    assert losses[1] < losses[0]
    after = micro.model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert all(p.grad is None for p in micro.model.parameters())


def test_nothing_to_learn_from_is_no_error(micro: Any) -> None:
    prepared = prepare([], micro, PRECISE, FitConfig(), "nothing")
    assert len(prepared) == 0
    assert prepared.embeddings.shape == (0, 32)
    module = AugModule.beside(micro)
    figures = fit_adapter(module, micro, prepared, TuneConfig(), seed=0, name="nothing", scratch=NoScratch())
    assert figures["steps"] == 0


def test_the_pooled_tap_is_the_mean_of_its_positions() -> None:
    tap = torch.arange(2 * 3 * 3 * 4, dtype=torch.float32).view(2, 3, 3, 4)
    assert torch.equal(pool({TAP: tap}), tap.view(2, 9, 4).mean(1))
