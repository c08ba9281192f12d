"""What every rule of merging makes of the same domains: IoU after the last one, seconds, bytes kept.

    python benchmarks/rules.py RUN STREAM [--every 2] [--rule ties ...]

RUN: a run of `--method merged --set measure=all`. STREAM: a stream file with its domains' test images. Each
of its domains' contributions is merged, in order, by each rule with its published defaults (the learned ones
with fewer steps: `STEPS`), once on factors and, for adapters with low-rank pairs, once on products where the
rule has both. Every n-th test image is scored, with features kept in memory between rules, so that a rule
takes seconds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from everseg.data import Stream
from everseg.domains.adapters.kinds import fresh_adapter, pairs
from everseg.domains.cache import CacheConfig, FeatureCache
from everseg.domains.merging import MergerConfig, merger
from everseg.domains.merging.contribution import Contribution, read_contribution
from everseg.domains.scoring import ScoreConfig, score
from everseg.domains.tune import predict, with_adapter
from everseg.errors import UserError
from everseg.files import read_json, state_bytes
from everseg.merge import RULES, find
from everseg.merge.regmean import RegMean, RegMeanConfig
from everseg.models.promptable.load import load_base
from everseg.models.promptable.protocol import Promptable
from everseg.results.summary import bytes_text
from everseg.runs.run import archived
from everseg.types import PromptSample

STEPS = {"concrete": {"steps": 100}, "adamerging": {"steps": 100}, "blockwise": {"budget": 60}}
AFFINE = RegMeanConfig(ridge=1e-6, affine=True)


def configs(rules: list[str]) -> list[tuple[str, MergerConfig]]:
    found = []
    for rule in rules:
        found.append((rule, MergerConfig(rule, options=STEPS.get(rule, {}))))
        if issubclass(find(rule), RegMean):
            found.append((f"{rule}, biases too", MergerConfig(rule, regmean=AFFINE)))
        if rule in ("average", "arithmetic", "ties"):
            found.append((f"{rule} on products", MergerConfig(rule, on="products")))
    return found


class Trial:
    """Test images of a stream's domains, and adapters tried on them."""

    def __init__(self, base: Promptable, stream: Stream, every: int) -> None:
        self.base, self.cache = base, FeatureCache(base, CacheConfig())
        self.tests: dict[str, list[PromptSample]] = {
            s.name: [s.test[i] for i in range(0, len(s.test), every)]
            for s in stream.stages
            if not s.background
        }

    def scores(self, like: Contribution, weights: object, rank: int) -> dict[str, float]:
        adapter = fresh_adapter(like.adapter, self.base, rank, None, mix=like.mix)
        adapter.load_state_dict(weights)  # type: ignore[arg-type]
        out = {}
        for name, samples in self.tests.items():
            rows = score(
                lambda queries: predict(queries, self.base, self.cache, with_adapter(adapter)),
                samples,
                name,
                ScoreConfig(),
            )
            out[name] = sum(row.values["iou"] for row in rows) / len(rows)
        return out


def told(name: str, values: dict[str, float], more: str = "") -> str:
    mean = sum(values.values()) / len(values)
    return f"{name:32s} AA {mean:.3f}   " + "  ".join(f"{n} {v:.3f}" for n, v in values.items()) + more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("stream", type=Path)
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--rule", action="append", choices=RULES)
    given = parser.parse_args()
    record = read_json(given.run / "run.json")
    base = load_base(record["config"]["base"])
    domains = [e["name"] for e in record["learned"] if e.get("contribution")]
    brought = [read_contribution(archived(given.run, name)) for name in domains]
    trial = Trial(base, Stream.from_yaml(given.stream), given.every)
    own = {c.domain: trial.scores(c, c.weights, c.rank)[c.domain] for c in brought}
    print(told("each domain its own adapter", own), flush=True)
    low_rank = bool(pairs(brought[0].weights))
    for name, config in configs(given.rule or list(RULES)):
        if config.on == "products" and not low_rank:
            continue
        made, began = merger(config, base), time.perf_counter()
        try:
            for contribution in brought:
                made.add(contribution)
            found = made.solve()
        except UserError as error:
            print(f"{name:32s} {error}")
            continue
        seconds, kept = time.perf_counter() - began, bytes_text(state_bytes(made.state_dict()))
        values = trial.scores(brought[0], found.weights, found.rank)
        print(told(name, values, f"   {seconds:.1f} s, keeps {kept}"), flush=True)


if __name__ == "__main__":
    main()
