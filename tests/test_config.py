"""Settings: dotted assignments, what is refused and how it is said, and the way to a file and back."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_type_hints

import pytest

from everseg import merge
from everseg.config import Setting, before, describe, differences, inherit, override, plain, restore
from everseg.errors import UserError
from everseg.fit import FitConfig
from everseg.methods import METHODS, build, configure, find
from everseg.runs.folder import read_config
from everseg.runs.problem import problem_of
from everseg.runs.run import RunConfig

PRESETS = [(name, preset) for name in METHODS for preset in find(name).Config.presets()]


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    kind: Literal["a", "b", "off"] = "a"
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    epochs: int = 3
    name: str = "x"
    on: bool = False
    either: Literal["original"] | int = "original"
    pair: tuple[float, float] = (0.0, 1.0)
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("epochs=5", ("epochs",), 5),
        ("epochs = 5", ("epochs",), 5),
        ("name=a=b", ("name",), "a=b"),
        ("name=off", ("name",), "off"),
        ("name=5", ("name",), "5"),
        ("on=true", ("on",), True),
        ("either=1024", ("either",), 1024),
        ("inner.rate=1e-3", ("inner", "rate"), 0.001),
        ("inner.rate=2", ("inner", "rate"), 2.0),
        ("inner.kind=b", ("inner", "kind"), "b"),
        ("inner.kind=off", ("inner", "kind"), "off"),
        ("inner.sizes=[4, 5, 6]", ("inner", "sizes"), (4, 5, 6)),
    ],
)
def test_an_assignment_changes_one_value_and_its_type_is_the_fields(
    assignment: str, path: tuple[str, ...], value: object
) -> None:
    before = Outer()
    found: Any = override(before, [assignment])
    for name in path:
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)
    assert before == Outer()


def test_assignments_apply_in_order() -> None:
    assert override(Outer(), ["epochs=1", "epochs=2", "inner.rate=1"]) == Outer(epochs=2, inner=Inner(rate=1))
    assert override(Outer(), []) == Outer()


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("epoch=5", "did you mean 'epochs'"),
        ("inner.rat=5", "did you mean 'rate'"),
        ("zzz=5", "choose one of either, epochs, inner, name, on, pair"),
        ("epochs", "write it as key=value"),
        ("epochs=many", "give a whole number"),
        ("epochs=1.5", "give a whole number"),
        ("inner.rate=fast", "give a number"),
        ("on=2", "give true or false"),
        ("either=some", "choose 'original' or give a whole number"),
        ("inner.sizes=4", "give values in brackets, as in [A,B]"),
        ("pair=4", "give 2 values in brackets, as in [A,B]"),
        ("pair=[4]", "give 2 values in brackets, as in [A,B]"),
        ("pair=[a, b]", "'pair=[a, b]': give a number"),
        ("inner.kind=c", "choose 'a', 'b' or 'off'"),
        ("inner=5", "set one of inner.rate, inner.kind, inner.sizes"),
        ("epochs.more=5", "is a single value without settings of its own"),
        ("name=[", "not valid YAML"),
        ("=5", "unknown setting"),
    ],
)
def test_a_wrong_assignment_is_refused_with_its_own_words(assignment: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        override(Outer(), [assignment])
    assert said in str(caught.value)
    assert assignment.split("=")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "assignment",
    [
        "batch=0",
        "epochs=-1",
        "lr=-0.1",
        "lr=.nan",
        "lr=.inf",
        "micro_batch=-2",
        "workers=-1",
        "weight_decay=-1",
        "clip=-1",
    ],
)
def test_numbers_that_cannot_be_trained_with_are_refused(assignment: str) -> None:
    with pytest.raises(UserError, match=assignment.partition("=")[0]):
        override(FitConfig(), [assignment])


@pytest.mark.parametrize(
    ("method", "assignment", "said"),
    [
        ("samcl", "tune.loss.focal_gamma=-1", "tune.loss.focal_gamma is -1.0; it must be a number from 0"),
        ("samcl", "tune.fit.lr=.inf", "tune.fit.lr is inf; it must be a number from 0"),
        ("eir", "gamma=1e300", "gamma is 1e+300, which is too large; choose a lower number"),
        ("eir", "count=99999999999999999999", "count is 99999999999999999999, which is too large"),
        ("samcl", "tune.fit.batch=0", "tune.fit.batch is 0; it must be a whole number from 1"),
        ("regcl", "merge.offdiag=2", "merge.offdiag is 2.0; it must be a number from 0 to 1"),
        ("mib", "distil=-1", "distil is -1.0; it must be a number from 0"),
        ("eir", "paste.jitter=[2, 1]", "paste.jitter is [2.0, 1.0]; write the lower number first"),
        ("eir", "tune.area=[0, 1]", "tune.area is 0.0; it must be a number above 0"),
        ("ssul", "tune.replay=1", "tune.replay is 1, which leaves no new images"),
        ("merged", "merger.options={drop: 2}", "unknown option of rule average"),
    ],
)
def test_a_number_out_of_range_is_refused_under_its_whole_name(
    method: str, assignment: str, said: str
) -> None:
    with pytest.raises(UserError) as caught:
        configure(method, "paper", [assignment])
    assert str(caught.value).startswith(said)


def test_a_number_out_of_range_is_refused_wherever_it_comes_from() -> None:
    for wrong in ({"batch": 2.5}, {"batch": True}, {"lr": "fast"}, {"lr": None}):
        with pytest.raises(UserError, match=rf"{next(iter(wrong))} is .*; it must be a"):
            FitConfig(**wrong)
    assert problem_of("samcl").Score(size="original").size == "original"
    with pytest.raises(UserError, match="size is 'whole'; it must be a whole number from 1"):
        problem_of("samcl").Score(size="whole")
    kept = plain(configure("samcl"))
    kept["tune"]["fit"]["lr"] = -1
    with pytest.raises(
        UserError, match=r"run.json: setting 'tune.fit.lr' is damaged .*\(it is -1.0; it must"
    ):
        restore(find("samcl").Config, kept, "run.json")


def test_an_option_of_a_rule_is_refused_with_the_rule() -> None:
    for options, said in (
        ("{keep: 3}", "(of rule ties) is 3.0; it must be a number from 0 to 1"),
        ("{keep: few}", "(of rule ties) is 'few'; it must be a number"),
        ("{combine: max}", "(of rule ties) is 'max'; it must be one of mean, sum"),
    ):
        with pytest.raises(UserError) as caught:
            configure("merged", "paper", ["merger.rule=ties", f"merger.options={options}"])
        assert said in str(caught.value) and str(caught.value).startswith("merger.options.")


def settings_classes() -> Iterator[type]:
    """Every configuration of a method, a score or a rule of merging, with its parts."""
    waiting = [type(configure(name)) for name in METHODS]
    waiting += [problem_of(name).Score for name in ("samcl", "eir")] + [
        merge.find(name) for name in merge.RULES
    ]
    seen = set()
    while waiting:
        kind = waiting.pop()
        if kind in seen:
            continue
        seen.add(kind)
        yield kind
        waiting += [h for h in get_type_hints(kind).values() if dataclasses.is_dataclass(h)]


def test_every_number_declares_its_range() -> None:
    free = {("Layerwise", "anchor")}  # an index, counted from either end
    kinds = list(settings_classes())
    assert len(kinds) > 40
    for kind in kinds:
        hints = get_type_hints(kind, include_extras=True)
        for f in dataclasses.fields(kind):
            if re.search(r"\b(int|float)\b", str(hints[f.name])) and (kind.__name__, f.name) not in free:
                assert "Range(" in str(hints[f.name]) or f.name == "options", f"{kind.__name__}.{f.name}"


@pytest.mark.parametrize(("method", "preset"), PRESETS)
def test_settings_survive_the_way_through_a_file(method: str, preset: str) -> None:
    kind = problem_of(method).Score
    scored = kind.presets().get(preset, kind())
    config = RunConfig(method, configure(method, preset), "here", preset, 7, scored, "all", False)
    kept = json.loads(json.dumps(plain(config)))
    settings = restore(find(method).Config, kept["settings"], "here")
    assert settings == config.settings
    assert read_config({**kept, "settings": settings}, "here") == config
    assert differences(plain(config), kept) == []


@pytest.mark.parametrize(("method", "preset"), PRESETS)
def test_every_setting_of_every_method_can_be_assigned_its_own_value(method: str, preset: str) -> None:
    config = configure(method, preset)

    def leaves(value: Any, prefix: str) -> list[str]:
        out = []
        for f in dataclasses.fields(value):
            part, name = getattr(value, f.name), f"{prefix}{f.name}"
            out += leaves(part, name + ".") if dataclasses.is_dataclass(part) else [f"{name}={plain(part)!r}"]
        return out

    assignments = [a.replace("True", "true").replace("False", "false") for a in leaves(config, "")]
    assert assignments
    assert configure(method, preset, assignments) == config


@pytest.mark.parametrize(("method", "preset"), PRESETS)
def test_every_setting_of_every_method_has_a_meaning(method: str, preset: str) -> None:
    def silent(config: Any) -> list[str]:
        nested = [getattr(config, f.name) for f in dataclasses.fields(config)]
        found = [name for part in nested if dataclasses.is_dataclass(part) for name in silent(part)]
        own = [s for s in describe(config) if "." not in s.name]
        return found + [f"{type(config).__name__}.{s.name}" for s in own if not s.meaning.endswith(".")]

    kind = problem_of(method).Score
    said = "write what it means in a string below the field, as a sentence"
    assert not silent(configure(method, preset)), said
    assert not silent(kind.presets().get(preset, kind())), said


@dataclass(frozen=True)
class Documented:
    """The words of a class are not those of its fields."""

    rate: float = 0.5
    """How fast it goes, in a sentence that goes on for so long
    that it takes two lines. [SAMCL, section 3]"""
    sizes: tuple[int, ...] = (1, 2)
    """Sizes in [0, 9]."""
    silent: Literal["original"] | int = "original"
    options: dict[str, float] = field(default_factory=dict)
    """Whatever else."""


@dataclass(frozen=True)
class Heir(Documented):
    rate: float = 0.25
    """How fast the heir goes."""
    inner: Documented = field(default_factory=Documented)
    """A group. [ours]"""


def test_settings_are_described_by_the_strings_below_their_fields() -> None:
    rate = "How fast it goes, in a sentence that goes on for so long that it takes two lines."
    own = [
        Setting("rate", "float", 0.5, rate, "SAMCL, section 3"),
        Setting("sizes", "[int, ...]", [1, 2], "Sizes in [0, 9].", ""),
        Setting("silent", "original | int", "original", "", ""),
        Setting("options", "{str: float}", {}, "Whatever else.", ""),
    ]
    assert describe(Documented()) == own
    assert describe(Heir()) == [
        own[0]._replace(value=0.25, meaning="How fast the heir goes.", source=""),
        *own[1:],
        Setting("inner", "group", None, "A group.", "ours"),
        *[s._replace(name=f"inner.{s.name}") for s in own],
    ]


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("size=0", "--score 'size=0': size is 0; it must be a whole number from 1"),
        ("sise=3", "unknown setting in --score 'sise=3'"),
        ("size", "--score 'size' has no '=': write it as key=value, as in --score size=original"),
    ],
)
def test_a_wrong_setting_of_scoring_names_its_option(assignment: str, said: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(said)}"):
        override(problem_of("eir").Score(), [assignment], "--score")


def test_a_wrong_setting_names_the_command_that_lists_them() -> None:
    with pytest.raises(UserError, match=r"did you mean 'rank'.*`everseg settings samcl`"):
        configure("samcl", assignments=["aug.rnk=3"])


def test_the_presets_differ_where_the_paper_and_its_code_do() -> None:
    found = differences(plain(configure("samcl", "paper")), plain(configure("samcl", "reference")))
    told = list(map(str, found))
    assert "tune.fit.optimiser is 'adamw' now and was 'adam'" in told
    assert "tune.fit.schedule is 'total' now and was 'per_iter_T20'" in told
    assert any(d.startswith("aug.neck_transposed") for d in told)
    assert any(d.startswith("selector.balance") for d in told)


def test_differences_are_sentences() -> None:
    ours = {"a": 1, "b": {"c": 2, "d": [1]}, "new": 0}
    theirs = {"a": 1, "b": {"c": 3, "d": [2]}}
    assert list(map(str, differences(ours, theirs))) == [
        "b.c is 2 now and was 3",
        "b.d is [1] now and was [2]",
        "new is 0 now and was None",
    ]
    assert differences(ours, ours) == []


def test_what_does_not_fit_names_its_place() -> None:
    with pytest.raises(UserError, match=r"run\.json: setting 'inner\.rate'"):
        restore(Outer, {"inner": {"rate": "fast"}}, "run.json")


def test_methods_and_presets_are_found_by_name_or_path() -> None:
    with pytest.raises(UserError, match="did you mean 'samcl'"):
        find("samlc")
    with pytest.raises(UserError, match=r"cannot be imported: No module named"):
        find("everseg.nowhere:Method")
    with pytest.raises(UserError, match="cannot be imported"):
        find("everseg.domains.methods.samcl:Nothing")
    with pytest.raises(UserError, match="preset of samcl 'papre': did you mean 'paper'"):
        configure("samcl", "papre")
    assert find("everseg.domains.methods.samcl:SAMCL") is find("samcl")


def test_a_learner_is_built_from_kept_values_too(micro: Any) -> None:
    config = configure("samcl", assignments=["aug.rank=3"])
    assert build("samcl", micro, plain(config), 0).config == config  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Grown:
    """A configuration with a field that earlier versions did not have."""

    rate: float = 0.1
    strict: bool = field(default=True, metadata=before(False))


@dataclass(frozen=True)
class Whole:
    part: Grown = field(default_factory=Grown)


def test_what_an_earlier_version_wrote_means_what_it_did() -> None:
    assert restore(Whole, {"part": {"rate": 0.5}}, "run.json") == Whole(Grown(0.5, strict=False))
    assert restore(Whole, {"part": {"rate": 0.5, "strict": True}}, "run.json") == Whole(Grown(0.5))
    assert restore(Whole, {}, "run.json") == Whole()


def test_a_run_goes_on_as_an_earlier_version_began_it() -> None:
    written = {"part": {"rate": 0.1}}
    earlier = restore(Whole, written, "run.json")
    assert inherit(Whole(), earlier, written) == earlier
    assert inherit(Whole(Grown(0.7)), earlier, written) == Whole(Grown(0.7, strict=False))
    assert inherit(Whole(), Whole(Grown(strict=False)), plain(Whole())) == Whole()
