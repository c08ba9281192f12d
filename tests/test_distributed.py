"""One process exchanges nothing; two processes are one with twice the hands."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from everseg.data import Described, Stream, SyntheticDomain
from everseg.data.synthetic.classes import SyntheticClasses
from everseg.distributed import add_up, gather, shard, wait, world
from everseg.domains.cache import CacheConfig
from everseg.domains.prepare import prepare
from everseg.errors import UserError
from everseg.fit import FitConfig
from everseg.methods import configure
from everseg.models.promptable.load import load_base
from everseg.runs.folder import load
from everseg.runs.learn import run
from everseg.runs.run import RunConfig
from everseg.types import ImageQuery, PromptSample, SemanticSample, Stage

SETTINGS = ("tune.fit.epochs=3", "tune.fit.batch=3", "selector.size=5")


def test_alone_every_exchange_is_nothing() -> None:
    here = world()
    assert (here.rank, here.size, here.main) == (0, 1, True)
    assert shard([3, 1, 2]) == [3, 1, 2]
    numbers = torch.tensor([1.0, 2.0])
    add_up([numbers])
    add_up([])
    assert numbers.tolist() == [1.0, 2.0]
    assert gather([1, "a"]) == [[1, "a"]]
    wait()


LEFT = """
import atexit, os, sys, time, torch

def check_left():
    tasks = os.listdir("/proc/self/task") if sys.platform == "linux" else ()
    names = [open(f"/proc/self/task/{task}/comm").read() for task in tasks]
    if torch.distributed.is_initialized() or any("gloo" in name for name in names):
        os._exit(7)

# Said first, asked last: threads of a group that outlive the interpreter abort its process now and then.
atexit.register(check_left)
"""

SCRIPT = """
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[4])
import everseg.domains.prepare as preparing
from everseg.classes.losses.pseudo import EntropyMedians
from everseg.classes.scoring import ClassScoreConfig, score_classes
from everseg.distributed import add_up, gather, shard, world
from everseg.files import sha256_tensors
from everseg.models.promptable.load import load_base
from everseg.models.semantic.base import load_semantic_base
from everseg.runs.learn import run
import test_distributed as here

base, backbone, out = sys.argv[1:4]
assert world().size == 2
# Four types of rows: a share may be empty, and sums and lists meet every process.
assert gather(shard([7])) == [[7], []]
assert gather(shard([5, 6, 7])) == [[5, 7], [6]]
a, b = torch.full((2,), float(world().rank)), torch.ones(1, 3)
add_up([a, b])
assert a.tolist() == [1.0, 1.0] and b.tolist() == [[2.0, 2.0, 2.0]]
medians = EntropyMedians(2)
medians.counts[1, 5] = 1 + world().rank
medians.add_up()
assert medians.counts.sum() == medians.counts[1, 5] == 3
confusion = score_classes(here.says_one, here.class_samples(), "ab", ClassScoreConfig(size="original"))
assert confusion.counts.tolist() == [[0, 3], [0, 33]]
# A process that comes later must not count what another has written meanwhile.
cache = preparing.FeatureCache
preparing.FeatureCache = lambda *given: time.sleep(0.3 * world().rank) or cache(*given)
torch.save(here.prepared(load_base(base), out), f"{out}/prepared-{world().rank}.pt")
run(here.stream(), here.config(base), f"{out}/domains", load_base(base))
done = run(here.class_stream(), here.class_config(backbone), f"{out}/classes", load_semantic_base(backbone))
mine, other = gather([sha256_tensors(done.learner.model.state_dict())])
assert mine == other, "processes part"
"""


def stream() -> Stream:
    """Seven training images, so that the last batch of three has one row and one process has none of it."""
    stages = [
        Stage(
            i,
            domain,
            SyntheticDomain(domain, 7, size=64),
            SyntheticDomain(domain, 3, size=64, split="test"),
        )
        for i, domain in enumerate(("lesions", "cracks"))
    ]
    return Stream(tuple(stages))


class Objects(Described[PromptSample]):
    """Objects of which three lie in one image, so that an image lies in two batches."""

    def __init__(self, count: int, faulty: int = -1) -> None:
        self.images, self.count, self.faulty = SyntheticDomain("nuclei", count, size=64), count, faulty

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        if index == self.faulty:
            raise UserError(f"object {index} is empty; remove it")
        if index >= self.count:
            raise IndexError
        sample = self.images[index // 3]
        masks = sample.masks.roll(index, -1)
        return replace(sample, masks=masks, key=f"image {index // 3}", name=f"object {index}")

    def file(self, index: int) -> str:
        return f"image {index // 3}"


def prepared(base: Any, folder: Path | str) -> dict[str, Any]:
    """What `prepare` makes of 40 objects, how many images this process has encoded for it, with features in
    memory, without, on the disk and out of budget, and what it says of an object that cannot be read."""
    encoded = 0
    trunk = base.trunk

    def counted(pixels: Tensor) -> Any:
        nonlocal encoded
        encoded += len(pixels)
        return trunk(pixels)

    base.trunk = counted
    found: dict[str, Any] = {}
    budgets = {"memory": 2**30, "off": 0, "disk": 2**30, "small": 20_000}
    for name, budget in budgets.items():
        where: Any = "memory" if name == "small" else name
        config, encoded = CacheConfig(where, folder=f"{folder}/features", budget=budget), 0
        ready = prepare(Objects(40), base, config, FitConfig(), name, embedded=range(39, -1, -2))
        found[name] = {"encoded": encoded, "embeddings": ready.embeddings, "rows": ready.rows}
        found[name]["entries"] = {key: dict(entry) for key, entry in ready.cache.entries.items()}
        found[name]["bytes"] = ready.cache.bytes
        rows = [ready[i] for i in range(len(ready))]
        found[name]["truth"] = torch.cat([row.truth for row in rows])
        found[name]["points"] = torch.cat([row.prompts.points for row in rows])
    for faulty in (3, 20):
        with pytest.raises(UserError) as caught:
            prepare(Objects(40, faulty), base, CacheConfig(), FitConfig(), "faulty")
        found[f"fault {faulty}"] = str(caught.value)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_processes_share_the_pass_through_a_stage(
    together: Path, tmp_path: Path, micro_folder: Path
) -> None:
    """Each encodes its share, and both have what one process has, to the bit."""
    alone = prepared(load_base(str(micro_folder)), tmp_path)
    both = [torch.load(together / f"prepared-{rank}.pt", weights_only=False) for rank in (0, 1)]
    assert [alone[name]["encoded"] for name in ("memory", "off", "disk")] == [14, 14 + 2, 14]
    for name in ("memory", "off", "disk"):
        shares = [found[name].pop("encoded") for found in both]
        assert sum(shares) == alone[name].pop("encoded"), "nothing is encoded twice"
        assert max(shares) <= 2 + min(shares) + 3
    assert alone["small"].pop("encoded") >= 14
    for found in both:
        found["small"].pop("encoded")
        same(found, alone)
    assert alone["fault 20"] == "object 20 is empty; remove it"


def same(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key, value in theirs.items():
            same(ours[key], value)
    else:
        assert ours == theirs


def class_samples() -> list[SemanticSample]:
    """Three images of twelve pixels, each with a pixel of background."""
    labels = torch.ones(3, 4, dtype=torch.uint8)
    labels[0, 0] = 0
    return [SemanticSample(torch.zeros(3, 3, 4, dtype=torch.uint8), labels) for _ in range(3)]


def says_one(queries: Sequence[ImageQuery]) -> list[Tensor]:
    return [torch.ones(q.image.shape[1:], dtype=torch.uint8) for q in queries]


def config(base: str) -> RunConfig:
    return RunConfig("samcl", configure("samcl", assignments=SETTINGS), base)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def together(
    micro_folder: Path, micro_backbone_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of two runs, `domains` and `classes`, that two processes have made together."""
    folder = tmp_path_factory.mktemp("together")
    (folder / "script.py").write_text(LEFT + SCRIPT)
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    places = [folder / "script.py", micro_folder, micro_backbone_folder, folder, Path(__file__).parent]
    done = subprocess.run(
        [sys.executable, *command, *map(str, places)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def tensors(state: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(state, dict):
        return {k: v for name, part in state.items() for k, v in tensors(part, f"{prefix}/{name}").items()}
    return {prefix: state}


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_processes_learn_and_score_what_one_does(
    together: Path, tmp_path: Path, micro_folder: Path
) -> None:
    alone, both = run(stream(), config(str(micro_folder)), tmp_path), load(together / "domains")
    one, two = tensors(alone.learner.state_dict()), tensors(both.learner.state_dict())
    assert list(one) == list(two)
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(two[name], value, rtol=0, atol=1e-5)
        else:
            assert two[name] == value
    # Every test image is in every row once, with the values that one process finds.
    ours, theirs = alone.results.scores, both.results.scores
    assert ours.keys() == theirs.keys()
    for row in ours:
        assert [(s.column, s.image) for s in theirs[row]] == [(s.column, s.image) for s in ours[row]]
        assert len({(s.column, s.image) for s in theirs[row]}) == len(theirs[row])
        for a, b in zip(ours[row], theirs[row], strict=True):
            assert b.values == pytest.approx(a.values, abs=1e-3)
            assert b.route == a.route
    assert both.learned == alone.learned
    assert not (together / "domains" / "work").exists()


def class_stream() -> Stream:
    """Five images a step, in two batches of which the second has one row for two processes."""
    kinds = ["ball", "tile", "leaf"]

    def images(split: str, count: int, seed: int, known: tuple[int, ...]) -> list[SemanticSample]:
        painted = SyntheticClasses(count, split, size=64, seed=seed, kinds=kinds)
        return [
            replace(s, labels=torch.where(torch.isin(s.labels, torch.tensor(known)), s.labels, 0).byte())
            for s in painted
        ]

    def stage(step: int, own: tuple[int, ...]) -> Stage:
        known = tuple(range(1, 1 + max(own)))
        classes = tuple(kinds[c - 1] for c in own)
        test = images("test", 2, 0, known)
        return Stage(step, f"step-{step}", images("train", 5, step, own), test, classes)

    return Stream((stage(0, (1, 2)), stage(1, (3,))))


def class_config(base: str) -> RunConfig:
    settings = ["tune.crop=64", "count=6", *(f"tune.{w}.epochs=2" for w in ("first", "later"))]
    settings += [f"tune.{w}.batch=4" for w in ("first", "later")]
    return RunConfig("eir", configure("eir", assignments=settings), base)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_processes_learn_classes_as_one_model_with_one_pool(
    together: Path, tmp_path: Path, micro_backbone_folder: Path
) -> None:
    """Statistics of batch normalisation are those of each process's rows, so weights differ from a single
    process's; what is drawn and kept does not."""
    alone = run(class_stream(), class_config(str(micro_backbone_folder)), tmp_path)
    both = load(together / "classes")
    assert both.learner.pool.state_dict().keys() == alone.learner.pool.state_dict().keys()
    assert sorted(both.learner.pool.items) == sorted(alone.learner.pool.items) != []
    assert both.results.stages == alone.results.stages
    one, two = tensors(alone.learner.state_dict()), tensors(both.learner.state_dict())
    assert list(one) == list(two)
