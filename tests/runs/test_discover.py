"""Images without stages: their domains are found, kept in a table that a person may edit, and learned as any
stream is."""

from __future__ import annotations

import csv
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import everseg
from everseg import cli
from everseg.data import Stream, check
from everseg.domains.discover import discover
from everseg.domains.methods.samcl import SAMCL
from everseg.errors import UserError
from everseg.files import load_state, save_state
from everseg.report.collect import collect
from everseg.report.page import page
from everseg.runs.discover import discover_domains
from everseg.runs.folder import load
from everseg.runs.history import restore
from everseg.runs.natural import natural_of

COUNT = 24
SMALL: dict[str, Any] = {
    "tune__fit__steps": 1,
    "tune__fit__batch": 4,
    "selector__size": 20,
    "selector__epochs": 1,
}


COLOURS = {"shadows": (70, 90, 60), "nuclei": (20, 15, 40), "polyps": (220, 110, 90)}


def add(folder: Path, scene: str, count: int, seed: int = 0) -> None:
    """More images of a made-up kind in a folder that may hold others."""
    numbers = np.random.default_rng([seed, *COLOURS[scene]])
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        x, y = numbers.integers(8, 40, 2)
        mask = np.zeros((64, 64), np.uint8)
        mask[y : y + 16, x : x + 16] = 255
        image = COLOURS[scene] + numbers.normal(0, 4, (64, 64, 3)) + numbers.normal(0, 4, 3)
        image[mask > 0] += 30
        name = f"{seed}-{scene}-{i:03}.png"
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / "images" / name)
        Image.fromarray(mask).save(folder / "masks" / name)


def write(folder: Path, count: int = 1, **more: Any) -> Path:
    path = folder / "pile.yaml"
    batches = [{"name": f"b{n}", "train": f"b{n}"} for n in range(1, count + 1)]
    path.write_text(yaml.safe_dump({"domains": "discover", "batches": batches, **more}))
    return path


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "pile.domains.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def scenes_of(rows: list[dict[str, str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["domain"], set()).add(row["image"].split("-")[1])
    return found


@pytest.fixture(scope="module")
def discovered(micro: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pile of two domains, with its table."""
    folder = tmp_path_factory.mktemp("pile")
    add(folder / "b1", "shadows", COUNT)
    add(folder / "b1", "nuclei", 2 * COUNT)
    assert discover_domains(write(folder), micro) is not None
    return folder


@pytest.fixture
def pile(discovered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(discovered, tmp_path / "pile"))


def test_each_image_goes_to_a_domain_of_one_scene(pile: Path) -> None:
    rows = table(pile)
    assert len(rows) == 3 * COUNT
    found = scenes_of(rows)
    assert all(len(scenes) == 1 for domain, scenes in found.items() if domain != "pending"), found
    assert {"nuclei", "shadows"} == set().union(*found.values())
    stream = Stream.from_yaml(pile / "pile.yaml")
    for stage in stream.stages:
        own = [row["use"] for row in rows if row["domain"] == stage.name]
        assert (own.count("train"), own.count("test")) == (len(stage.train), len(stage.test))
        assert len(stage.test) == len(own) // 5


def test_nothing_new_changes_nothing(pile: Path, micro: Any) -> None:
    before = (pile / "pile.domains.csv").read_bytes()
    assert discover_domains(pile / "pile.yaml", micro) is None
    assert (pile / "pile.domains.csv").read_bytes() == before


def test_the_run_is_that_of_named_stages_to_the_bit(pile: Path, micro: Any, tmp_path: Path) -> None:
    rows = table(pile)
    domains = [stage.name for stage in Stream.from_yaml(pile / "pile.yaml").stages]
    stages = []
    for domain in domains:
        for row in rows:
            if row["domain"] == domain:
                for part in ("images", "masks"):
                    place = tmp_path / "named" / domain / row["use"] / part
                    place.mkdir(parents=True, exist_ok=True)
                    shutil.copy(pile / "b1" / part / row["image"], place)
        stages.append({"name": domain, "train": f"{domain}/train", "test": f"{domain}/test"})
    (tmp_path / "named" / "stream.yaml").write_text(yaml.safe_dump({"stages": stages}))
    everseg.learn(tmp_path / "named" / "stream.yaml", out=tmp_path / "a", base=micro, **SMALL)
    everseg.learn(pile / "pile.yaml", out=tmp_path / "b", base=micro, **SMALL)
    one, other = (load(tmp_path / name, micro) for name in "ab")
    assert one.record.sha256 is not None and one.record.sha256 == other.record.sha256
    assert [s.name for s in other.record.learned] == domains
    assert [s.fingerprint for s in one.record.learned] == [s.fingerprint for s in other.record.learned]


def test_a_discovery_that_was_interrupted_ends_with_the_same_table(
    pile: Path, micro: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (pile / "pile.domains.csv").read_bytes()
    (pile / "pile.domains.csv").unlink()
    monkeypatch.setattr(
        "everseg.runs.discover.write_table", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        discover_domains(pile / "pile.yaml", micro)
    monkeypatch.undo()
    discover_domains(pile / "pile.yaml", micro)
    assert (pile / "pile.domains.csv").read_bytes() == before


def test_a_later_batch_adds_a_domain_and_leaves_the_others(pile: Path, micro: Any) -> None:
    before = Stream.from_yaml(pile / "pile.yaml")
    add(pile / "b2", "nuclei", COUNT, seed=1)
    add(pile / "b2", "polyps", 2 * COUNT, seed=1)
    shutil.rmtree(pile / "b1")  # What is listed may be gone.
    found = discover_domains(write(pile, 2), micro)
    assert found is not None and any("new domain" in line for line in found.lines())
    learned = [stage.name for stage in before.stages]
    after = Stream.from_yaml(pile / "pile.yaml", learned)
    assert [s.name for s in after.stages][: len(learned)] == learned and len(after.stages) > len(learned)
    rows = [row for row in table(pile) if row["batch"] == "b2"]
    own = {row["domain"] for row in rows if "nuclei" in row["image"]} - {"pending"}
    assert own <= set(learned)
    new = {stage.name for stage in after.stages[len(learned) :]}
    assert all("polyps" in row["image"] for row in rows if row["domain"] in new)


def test_images_that_waited_join_the_domain_that_a_later_batch_opens(tmp_path: Path, micro: Any) -> None:
    add(tmp_path / "b1", "nuclei", COUNT)
    add(tmp_path / "b1", "polyps", 8)
    discover_domains(write(tmp_path), micro)
    assert [row["domain"] for row in table(tmp_path) if "polyps" in row["image"]] == ["pending"] * 8
    add(tmp_path / "b2", "polyps", COUNT, seed=1)
    for file in (tmp_path / "b2").glob("*/1-*"):  # Some are called like those that waited.
        file.rename(file.with_name(f"0{file.name[1:]}"))
    discover_domains(write(tmp_path, 2), micro)
    stream = Stream.from_yaml(tmp_path / "pile.yaml")
    (stage,) = (s for s in stream.stages if "polyps" in s.train[0].name)
    names = [stage.train[i].name for i in range(len(stage.train))]
    assert len(set(names)) == len(names) and len(names) + len(stage.test) == 8 + COUNT
    assert {name.split("/")[0] for name in names} == {"b1", "b2"}
    again = Stream.from_yaml(tmp_path / "pile.yaml")
    assert stream.fingerprints(stage) == again.fingerprints(again.stages[stage.index])
    assert check(tmp_path / "pile.yaml").ok


def with_later_nuclei(pile: Path, base: Any, count: int = 2 * COUNT, **more: Any) -> Path:
    """The pile with a second batch, of more nuclei, which the table says are of the first domain."""
    before = {row["image"] for row in table(pile)}
    add(pile / "b2", "nuclei", count, seed=1)
    path = write(pile, 2, **more)
    discover_domains(path, base)
    rows = table(pile)
    for row in rows:
        if row["image"] not in before:
            use = "test" if row["image"].endswith("0.png") else "train"
            row.update(domain="domain-1", round="2", use=use)
    edit(pile, rows)
    return path


@pytest.mark.parametrize(
    ("later", "names", "of"),
    [("choose", ["domain-1-2"], "domain-1"), ("beside", ["domain-1-2"], ""), ("leave", [], "")],
)
def test_later_images_of_a_known_domain_are_chosen_for_or_beside_or_left(
    pile: Path, micro: Any, later: str, names: list[str], of: str
) -> None:
    before = [stage.name for stage in Stream.from_yaml(pile / "pile.yaml").stages]
    stages = Stream.from_yaml(with_later_nuclei(pile, micro, later=later)).stages
    assert [stage.name for stage in stages] == [*before, *names]
    assert all(stage.later_of == of for stage in stages[len(before) :])


def test_few_later_images_wait_for_more(pile: Path, micro: Any) -> None:
    before = Stream.from_yaml(pile / "pile.yaml").stages
    path = with_later_nuclei(pile, micro, 12)
    assert len(Stream.from_yaml(path).stages) == len(before)
    rows = table(pile)
    rows += [
        row | {"batch": "b3", "round": "4", "image": row["image"].replace("1-", "2-")}
        for row in rows
        if row["batch"] == "b2"
    ]
    add(pile / "b3", "nuclei", 12, seed=2)
    edit(pile, rows)
    *_, stage = Stream.from_yaml(write(pile, 3)).stages
    assert stage.name == "domain-1-4" and len(stage.train) == 20 and len(stage.test) == 4


def test_later_images_are_tested_on_too(pile: Path, micro: Any) -> None:
    """One in five, where their batch has no test images, counted on from those that were there."""
    add(pile / "b2", "nuclei", 20, seed=1)
    discover_domains(write(pile, 2), micro)
    own = [row["use"] for row in table(pile) if row["batch"] == "b2" and row["domain"] == "domain-1"]
    assert len(own) // 5 <= own.count("test") <= len(own) // 5 + 1


@pytest.mark.slow
def test_what_was_chosen_is_in_the_record_and_the_report_and_can_be_undone(
    pile: Path, micro: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other = tmp_path / "run", tmp_path / "other"
    path = with_later_nuclei(pile, micro)
    first = everseg.learn(path, out=out, base=micro, until="domain-2", **SMALL)
    files = {name: (out / name).read_bytes() for name in ("run.json", first.record.state)}
    number = first.record.number
    done = everseg.learn(path, out=out, base=micro, **SMALL)
    (found,) = [stage.later for stage in done.record.learned if stage.later is not None]
    assert done.learned[-1] == "domain-1-2" and found.of == "domain-1"
    assert found.chosen == max(found.scores, key=lambda name: found.scores[name])
    assert found.images > 0 and set(found.scores) == {"known", "tuned", "new"}
    assert done.summary()["later"]["domain-1-2"]["chosen"] == found.chosen
    again = load(out, micro)
    assert again.record.learned[-1].later == found and again.results.later == {"domain-1-2": "domain-1"}
    assert "Later images of known domains" in page(collect(again, None))

    # Interrupted while the own module is trained, the same command ends with the same bytes.
    train = SAMCL.train

    def broken(learner: Any, stage: Any, *given: Any) -> Any:
        if stage.name == "domain-1-2" and not given[-1]:
            raise KeyboardInterrupt
        return train(learner, stage, *given)

    monkeypatch.setattr(SAMCL, "train", broken)
    with pytest.raises(KeyboardInterrupt):
        everseg.learn(path, out=other, base=micro, **SMALL)
    monkeypatch.undo()
    resumed = everseg.learn(path, out=other, base=micro, **SMALL)
    assert resumed.record.sha256 is not None and done.record.sha256 is not None
    assert resumed.record.sha256.state == done.record.sha256.state
    assert resumed.record.learned == done.record.learned

    restore(out, number)
    assert all((out / name).read_bytes() == content for name, content in files.items())


def test_domains_of_one_name_are_one(pile: Path) -> None:
    before = Stream.from_yaml(pile / "pile.yaml").stages
    names = {stage.name: "all" for stage in before}
    (stage,) = Stream.from_yaml(write(pile, names=names)).stages
    assert len(stage.train) == sum(len(s.train) for s in before) and stage.name == "all"
    assert len(stage.test) == sum(len(s.test) for s in before)


def edit(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "pile.domains.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def test_a_correction_and_a_name_are_respected(pile: Path, micro: Any) -> None:
    rows = table(pile)
    moved = next(row for row in rows if row["domain"] == "domain-1" and row["use"] == "train")
    moved["domain"] = "pending"
    edit(pile, rows)
    path = write(pile, names={"domain-1": "cells"})
    assert discover_domains(path, micro) is None
    stage = Stream.from_yaml(path).stages[0]
    assert stage.name == "cells"
    assert moved["image"] not in [stage.train[i].name for i in range(len(stage.train))]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("batch,image\n", "does not begin with batch,split,image,domain,use,round,p"),
        ("{head}\nb1,train,x.png,domain-1,train,1\n", "line 2: there are 6 values, but 7 columns"),
        ("{head}\nb1,train,x.png,a b,train,1,0.5\n", "line 2: the domain 'a b' cannot be a stage's name"),
        ("{head}\nb1,train,x.png,a,both,1,0.5\n", "set each to train or test"),
        ("{head}\nb1,train,x.png,a,train,one,0.5\n", "the round 'one' is not a number"),
        ("{head}\n" + "b1,train,x.png,a,train,1,0.5\n" * 2, "is listed twice"),
        ("{head}\nb1,train,x.png,a,train,1,0.5\n", "lists 'x.png', which batch 'b1', train, does not have"),
        ("{head}\nb9,train,x.png,a,train,1,0.5\n", "batch 'b9', train, which the stream file does not have"),
        ("{head}\nb1,train,x.png,pending,train,1,\n", "all 1 images are pending"),
        ("{head}\n", "the domains are not discovered yet; run everseg data discover"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_in_a_sentence(pile: Path, wrong: str, sentence: str) -> None:
    head = "batch,split,image,domain,use,round,p"
    (pile / "pile.domains.csv").write_text(wrong.replace("{head}", head))
    with pytest.raises(UserError, match=sentence):
        Stream.from_yaml(pile / "pile.yaml")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"names": {"domain-9": "x"}}, "domain-9"),
        ({"later": "merge"}, "later"),
        ({"batches": [{"name": "b1", "train": "b1"}] * 2}, "two batches are named 'b1'"),
        ({"stages": []}, "unknown key .* 'stages'"),
        ({"batches": [{"name": "b1"}]}, "batch 'b1' has no 'train'"),
    ],
)
def test_what_is_wrong_with_the_stream_file_is_said_in_a_sentence(
    pile: Path, more: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        Stream.from_yaml(write(pile, **more))


def test_another_base_is_refused(pile: Path, micro: Any) -> None:
    add(pile / "b2", "polyps", 1, seed=1)

    class Other:
        fingerprint, natural = "other", None

    with pytest.raises(UserError, match="was made with another base"):
        discover_domains(write(pile, 2), Other())  # type: ignore[arg-type]


def test_the_command_says_what_it_found_and_refuses_named_stages(
    tmp_path: Path, micro_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*given: object) -> int:
        monkeypatch.setattr(sys, "argv", ["everseg", "data", "discover", *map(str, given)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
            sys.exit(0)
        return int(ended.value.code or 0)

    add(tmp_path / "b1", "nuclei", COUNT)
    path = write(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    try:
        monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
        natural, features = ("--natural", tmp_path / "b1" / "images"), tmp_path / "features"
        assert call(path, "--base", micro_folder, *natural, "--cache", features) == 0
        assert list((tmp_path / "home").rglob("*.safetensors"))
        assert len(list(features.glob("*.safetensors"))) == COUNT
        said = capsys.readouterr().out
        assert f"domain-1: {COUNT} images added (new domain)" in said and "pile.domains.csv" in said
        assert call(path, "--base", micro_folder, "--sheet", tmp_path / "sheet.png") == 0
        assert "nothing new" in capsys.readouterr().out and (tmp_path / "sheet.png").is_file()
        path.write_text("stages: [{name: a, train: b1, test: b1}]")
        assert call(path) == 2
        assert "lists its own stages" in capsys.readouterr().err
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def scaled_by(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float | None]:
    """By which natural images distances were measured in each discovery: a number of theirs."""
    told: list[float | None] = []

    def noted(e_ND: Any, known: Any, natural: Any) -> Any:
        told.append(None if natural is None else float(natural.mean.sum()))
        return discover(e_ND, known, natural)

    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr("everseg.runs.discover.discover", noted)
    return told


def test_later_batches_are_measured_by_the_natural_images_of_the_first(
    tmp_path: Path, micro: Any, scaled_by: list[float | None]
) -> None:
    add(tmp_path / "b1", "nuclei", COUNT)
    path, out = write(tmp_path), tmp_path / "run"
    add(tmp_path / "pictures", "polyps", 8)
    add(tmp_path / "others", "shadows", 8)
    begun = everseg.learn(path, out=out, base=micro, natural=tmp_path / "pictures", **SMALL)
    for n in (2, 3, 4):
        add(tmp_path / f"b{n}", "nuclei", 2, seed=n)
    everseg.learn(write(tmp_path, 2), out=out, base=micro, **SMALL)
    kept = tmp_path / "pile.domains.csv.safetensors"
    state = load_state(kept)  # Without the table's own, the run knows them.
    save_state(kept, {key: value for key, value in state.items() if key != "natural"})
    everseg.learn(write(tmp_path, 3), out=out, base=micro, **SMALL)
    assert scaled_by[0] is not None and scaled_by == [scaled_by[0]] * 3
    assert micro.natural is None
    before = (tmp_path / "pile.domains.csv").read_bytes()
    with pytest.raises(UserError, match=r"was not begun with the natural images in .*others"):
        everseg.learn(write(tmp_path, 4), out=out, base=micro, natural=tmp_path / "others", **SMALL)
    with pytest.raises(UserError, match=r"holds a run with other settings .*seed is 1 now and was 0"):
        everseg.learn(path, out=out, base=micro, seed=1, **SMALL)
    assert (tmp_path / "pile.domains.csv").read_bytes() == before and len(scaled_by) == 3
    assert load(out, micro).learned == begun.learned


def test_a_table_keeps_the_natural_images_that_it_was_begun_with(
    tmp_path: Path, micro: Any, scaled_by: list[float | None]
) -> None:
    add(tmp_path / "b1", "nuclei", COUNT)
    add(tmp_path / "pictures", "polyps", 8)
    add(tmp_path / "others", "shadows", 8)
    natural, other = (
        natural_of(tmp_path / name, micro, tmp_path / "nothing") for name in ("pictures", "others")
    )
    discover_domains(write(tmp_path), micro, natural=natural)
    add(tmp_path / "b2", "nuclei", 2, seed=2)
    with pytest.raises(UserError, match="was made with other natural images; leave out --natural"):
        discover_domains(write(tmp_path, 2), micro, natural=other)
    discover_domains(write(tmp_path, 2), micro)
    assert scaled_by[0] is not None and scaled_by == [scaled_by[0]] * 2
    without = Path(shutil.copytree(tmp_path / "b1", tmp_path / "without" / "b1")).parent
    discover_domains(write(without), micro)
    assert scaled_by[2:] == [None]
    shutil.copytree(tmp_path / "b2", without / "b2")
    with pytest.raises(UserError, match="was made without natural images"):
        discover_domains(write(without, 2), micro, natural=natural)


def counting(base: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that go through the trunk from now on."""
    sizes: list[int] = []
    trunk = base.trunk

    def counted(pixels: Any) -> Any:
        sizes.append(len(pixels))
        return trunk(pixels)

    monkeypatch.setattr(base, "trunk", counted)
    return sizes


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_learning_does_not_encode_again_what_discovering_has_encoded(
    tmp_path: Path, micro: Any, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path / "b1", "nuclei", 32)
    add(tmp_path / "b1t", "nuclei", 3, seed=1)
    path = write(tmp_path, batches=[{"name": "b1", "train": "b1", "test": "b1t"}])
    how = {"cache__where": where, "cache__folder": str(tmp_path / "features"), "baseline": False, **SMALL}
    whole = everseg.learn(path, out=tmp_path / "whole", base=micro, **how)
    for table in tmp_path.glob("pile.domains.csv*"):
        table.unlink()
    shutil.rmtree(tmp_path / "features", ignore_errors=True)
    sizes = counting(micro, monkeypatch)
    discovered = everseg.learn(path, out=tmp_path / "run", base=micro, **how)
    assert len(discovered.learned) == 1 and micro.encoded is None
    # All 35 in batches of 16, and the test images once more, to be scored.
    assert sum(sizes) == 35 + 3 * (where == "memory"), sizes
    sizes.clear()
    again = everseg.learn(path, out=tmp_path / "again", base=micro, **how)
    assert sum(sizes) == (35 if where == "memory" else 0)
    for run in (discovered, again):
        assert run.record.sha256 == whole.record.sha256
