"""A live session learns beside its learner, from the trunk's features alone, and can be taken back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from everseg.config import override
from everseg.data import SyntheticDomain
from everseg.domains import live
from everseg.domains.live import LiveConfig, LiveSession
from everseg.domains.methods.samcl import SAMCL, SAMCLConfig
from everseg.domains.methods.zero_shot import ZeroShot
from everseg.errors import UserError
from everseg.files import sha256_tensors
from everseg.testing.trial import flat
from everseg.types import NoScratch, PromptPrediction, Prompts, PromptSample, Query, Stage

SETTINGS = ("tune.fit.epochs=1", "tune.fit.batch=8", "selector.size=12", "selector.epochs=4")


@pytest.fixture(scope="module")
def learner(micro: Any) -> SAMCL:
    """A learner of lesions."""
    torch.set_num_threads(1)
    found = SAMCL(micro, override(SAMCLConfig(), list(SETTINGS)))
    found.learn(Stage(0, "lesions", SyntheticDomain("lesions", 16, size=64), ()), NoScratch())
    return found


def images(domain: str = "lesions") -> list[PromptSample]:
    return list(SyntheticDomain(domain, 4, size=64, split="serve"))


def clicked(sample: PromptSample, clicks: int = 2) -> Query:
    """The first object of an image, with so many clicks."""
    prompts = sample.prompts
    assert prompts.points is not None and prompts.labels is not None
    one = Prompts(prompts.points[:1, :clicks], prompts.labels[:1, :clicks], None)
    return Query(sample.image, one, sample.key, lasting=False)


def teach(session: LiveSession, samples: Sequence[PromptSample]) -> None:
    """A click that corrects and an accepted mask on each."""
    for sample in samples:
        session.correct(clicked(sample))
        session.correct(clicked(sample, 3), sample.masks[0])


def digest(learner: SAMCL) -> str:
    tensors = {k: v for k, v in flat(learner.state_dict()).items() if isinstance(v, torch.Tensor)}
    return sha256_tensors(tensors)


def equal(ours: Sequence[PromptPrediction], theirs: Sequence[PromptPrediction]) -> bool:
    return all(torch.equal(a.logits, b.logits) for a, b in zip(ours, theirs, strict=True))


def test_a_session_answers_as_its_learner_until_it_is_corrected(learner: SAMCL) -> None:
    asked, session = [clicked(sample) for sample in images()], LiveSession(learner)
    known, before = digest(learner), learner.predict(asked)
    found = session.predict(asked)
    assert equal(found, before) and [p.route for p in found] == [p.route for p in before]
    teach(session, images()[:2])
    assert not equal(session.predict(asked), before)
    assert digest(learner) == known and equal(learner.predict(asked), before)


def test_a_correction_takes_no_pass_through_the_trunk(
    learner: SAMCL, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, one = LiveSession(learner), images()
    session.predict([clicked(sample, 1) for sample in one[:2]])
    monkeypatch.setattr(learner.base, "trunk", None)  # Whoever calls it fails.
    learner.cache.recent.clear()  # Others' images have been there since.
    teach(session, one[:2])
    assert session.corrections == 4 and session.objects == 2
    session.predict([clicked(one[0])])


def test_undoing_restores_every_bit(learner: SAMCL) -> None:
    one, asked = images(), [clicked(sample) for sample in images()]
    session, other = LiveSession(learner), LiveSession(learner)
    assert not session.undo()
    teach(session, one[:1])
    before = session.predict(asked)
    teach(session, one[1:2])
    assert not equal(session.predict(asked), before)
    assert session.undo() and session.undo() and equal(session.predict(asked), before)
    for each in (session, other):
        teach(each, one[2:] if each is session else [one[0], *one[2:]])
    assert equal(session.predict(asked), other.predict(asked))  # As if it had never been taught.
    while session.undo():
        pass
    assert session.adapter is None and equal(session.predict(asked), learner.predict(asked))


def test_it_sets_out_from_the_module_that_is_chosen_or_from_none(learner: SAMCL) -> None:
    known = learner.predict([clicked(images()[0])])[0].route
    assert known is not None and known.name == "lesions"
    still = LiveConfig(click_steps=0, accept_steps=0)
    session = LiveSession(learner, still)
    teach(session, images()[:1])
    assert session.start == "lesions"
    assert equal(
        session.predict([clicked(images()[1])]), learner.predict_as([clicked(images()[1])], "lesions")
    )
    blank = replace(images()[0], image=torch.full((3, 64, 64), 255, dtype=torch.uint8), key="white")
    route = learner.predict([clicked(blank)])[0].route
    assert route is not None and route.name == "outside"
    session = LiveSession(learner, still)
    teach(session, [blank])
    assert session.start == "" and equal(
        session.predict([clicked(blank)]), learner.predict_as([clicked(blank)], "plain")
    )


def test_it_learns_what_is_accepted(learner: SAMCL) -> None:
    sample, session = images("shadows")[0], LiveSession(learner, LiveConfig(accept_steps=40, lr=0.01))
    (before,) = session.predict([clicked(sample)])
    session.correct(clicked(sample), sample.masks[0])
    (after,) = session.predict([clicked(sample)])
    inside, outside = sample.masks[0], ~sample.masks[0]

    def margin(found: PromptPrediction) -> float:
        logits = torch.nn.functional.interpolate(found.logits[None], size=(64, 64), mode="bilinear")[0, 0]
        return float(logits[inside].mean() - logits[outside].mean())

    assert margin(after) > margin(before)


@pytest.mark.parametrize("label", [0, 1])
def test_a_click_teaches_what_lies_under_it(learner: SAMCL, label: int) -> None:
    sample, session = images()[0], LiveSession(learner, LiveConfig(click_steps=20, elsewhere=0.0))
    prompts = Prompts(torch.tensor([[[30.0, 30.0], [10.0, 50.0]]]), torch.tensor([[1, label]]), None)
    query = Query(sample.image, prompts, sample.key, lasting=False)

    def there() -> float:
        (found,) = session.predict([query])
        logits = torch.nn.functional.interpolate(found.logits[None], size=(64, 64), mode="bilinear")[0, 0]
        return float(logits[50, 10])

    before = there()
    session.correct(query)
    assert (there() > before) == bool(label)


def test_what_is_rehearsed_and_kept_is_bounded(learner: SAMCL, monkeypatch: pytest.MonkeyPatch) -> None:
    session = LiveSession(learner, LiveConfig(objects=2, undos=1, click_steps=1, accept_steps=1))
    teach(session, images())
    assert session.objects == 2 and session.undo() and not session.undo()
    size = session.held.bytes // len(session.held.entries)
    session.held.keep(set())
    assert len(session.held.entries) == 4  # The last few.
    small = LiveConfig(click_steps=1, accept_steps=1, budget=2 * size)
    monkeypatch.setattr(live, "RECENT", 1)
    session = LiveSession(learner, small)
    teach(session, images())
    assert session.held.bytes <= 2 * size and 1 <= session.objects <= 2
    while session.undo():
        session.predict([clicked(images()[0])])


def test_a_mask_thinner_than_the_frames_pixels_is_taught(learner: SAMCL) -> None:
    session = LiveSession(learner, LiveConfig(accept_steps=1))
    image = torch.randint(0, 255, (3, 256, 640), dtype=torch.uint8)
    mask = torch.zeros(256, 640, dtype=torch.bool)
    mask[77, 101] = True
    prompts = Prompts(torch.tensor([[[101.0, 77.0]]]), torch.tensor([[1]]), None)
    session.correct(Query(image, prompts, "thin"), mask)
    assert session.objects == 1


def test_objects_with_a_box_are_taught(learner: SAMCL) -> None:
    session, sample = LiveSession(learner), images()[0]
    boxed = Query(sample.image, Prompts(None, None, torch.tensor([[5.0, 5, 50, 50]])), sample.key)
    session.correct(boxed)  # Nothing to learn from: no click.
    for _ in range(3):
        session.correct(boxed, sample.masks[0])
    assert session.objects == 3


def test_what_cannot_be_taught_is_a_sentence(learner: SAMCL, micro: Any) -> None:
    session, sample = LiveSession(learner), images()[0]
    with pytest.raises(UserError, match="one object, but there are 2"):
        both = Prompts(torch.zeros(2, 1, 2), torch.ones(2, 1), None)
        session.correct(Query(sample.image, both, "two"))
    for wrong in (torch.zeros(64, 64, dtype=torch.bool), torch.ones(64, 63, dtype=torch.bool)):
        with pytest.raises(UserError, match="the size of its image and at least one pixel"):
            session.correct(clicked(sample), wrong)
    assert session.adapter is None and session.corrections == 0
    with pytest.raises(UserError, match="chooses no module"):
        LiveSession(ZeroShot(micro))
