"""Tables of results that are means over the rows which a benchmark wrote: by file, a function from its rows.

`tools/tables.py` puts them into pages like tables that stand in a file.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Row = dict[str, Any]
Tables = dict[str, dict[str, Any]]

SETS = {
    "kvasir": "polyps",
    "isic": "skin lesions",
    "nuclei": "nuclei",
    "cracks": "cracks",
    "roads": "roads",
    "coco": "COCO128",
    "voc": "VOC val",
}


def mean(values: Iterable[float]) -> float:
    told = list(values)
    return sum(told) / len(told)


def signed(value: float, digits: int = 3) -> str:
    """A difference with its sign; one that rounds to nothing has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def where(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """The rows that have these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


# ---------------------------------------------------------------- images of no domain


WAYS = {
    "selector": "selector alone",
    "p-values": "with p-values",
    "both": "and natural images known",
    "gaussian": "without stored embeddings",
}
STRICTER = {"both": "0.001", "0.005": "0.005", "0.01": "0.01"}


def outside(rows: Sequence[Row]) -> Tables:
    """Of benchmarks/outside.py: means over seeds and left-out domains."""
    away, known = where(rows, known=False), where(rows, known=True)

    def cell(name: str, way: str) -> str:
        own = where(away, set=name, way=way)
        return f"{signed(mean(r['difference'] for r in own))} ({mean(r['module_used'] for r in own):.2f})"

    def right(way: str) -> float:
        return mean(r["right"] for r in where(known, way=way))

    def lost(way: str) -> float:
        return mean(r["difference"] - r["own"] for r in where(known, way=way))

    sets = []
    for name, label in SETS.items():
        own = where(away, set=name)
        begun = f"{label} ({own[0]['images']} images)" if not sets else f"{label} ({own[0]['images']})"
        sets.append([begun, mean(r["plain"] for r in own), *(cell(name, way) for way in WAYS)])
    areas = [
        row["auroc"] for row in where(away, way="both") if row["auroc"] is not None and row["best"] == "plain"
    ]
    worst = [min(mean(r["difference"] for r in where(away, set=s, way=w)) for s in SETS) for w in STRICTER]
    return {
        "outside": {"columns": ["outside", "untouched base", *WAYS.values()], "rows": sets},
        "learned": {
            "columns": ["learned", *WAYS.values()],
            "rows": [
                ["images that went to their own module", *(f"{right(way):.4f}" for way in WAYS)],
                ["IoU less that of always using the own module", *(signed(lost(way), 4) for way in WAYS)],
            ],
        },
        "auroc": {
            "columns": ["AUROC of the largest p-value, where the untouched base is best", "mean", "worst"],
            "digits": 4,
            "rows": [["known against outside images", mean(areas), min(areas)]],
        },
        "abstain": {
            "columns": ["`selector.abstain`", *STRICTER.values()],
            "rows": [
                ["IoU of the worst outside set less the untouched base", *map(signed, worst)],
                [
                    "IoU of learned domains less that of their own modules",
                    *(signed(lost(w), 4) for w in STRICTER),
                ],
                [
                    "images of learned domains that went to their own module",
                    *(f"{right(w):.4f}" for w in STRICTER),
                ],
            ],
        },
    }


KINDS = {
    "own": "the distance",
    "beside": "the distance in comparison with natural images",
    "smaller": "the smaller of the two",
    "both": "twice the smaller (as it is now)",
}


def plausible(rows: Sequence[Row]) -> Tables:
    """Of benchmarks/plausible.py: shares of held-out images, means over parts and left-out domains."""
    sets = {name: SETS[name].replace(" val", "") for name in SETS if name != "coco"}
    lines = []
    for kind, label in KINDS.items():
        own = where(rows, kind=kind)
        taken = [mean(r["accepted"] for r in where(own, set=name, known=False)) for name in sets]
        away = mean(1 - r["accepted"] for r in where(own, known=True))
        lines.append([label, f"{away:.4f}", *taken])
    first, *others = sets.values()
    heads = ["p-value of", "known images turned away", f"outside images accepted: {first}", *others]
    return {"shares": {"columns": heads, "rows": lines}}


def cost(rows: Sequence[Row]) -> Tables:
    """Of benchmarks/abstain.py."""
    lines = [[r["domains"], f"{r['with_to_without']:.3f}", f"{r['to_one_domain']:.3f}"] for r in rows]
    columns = ["domains", "time with p-values to without", "time to that with one domain"]
    return {"time": {"columns": columns, "rows": lines}}


def guard(rows: Sequence[Row]) -> Tables:
    """Of benchmarks/guard.py."""
    return {
        "iou": {
            "columns": ["test images", "untouched base", "merged adapter", "with the guard", "let through"],
            "rows": [
                [
                    f"{SETS[row['set']]} ({row['images']}{', learned' if row['learned'] else ''})",
                    *(row[key] for key in ("plain", "merged", "guarded")),
                    f"{row['through']:.2f}",
                ]
                for row in sorted(rows, key=lambda row: not row["learned"])
            ],
        }
    }


# ---------------------------------------------------------------- domains that are found


def discovered(rows: Sequence[Row]) -> Tables:
    """Of benchmarks/discover.py: means over shuffles."""
    lines = []
    for pile in dict.fromkeys(row["pile"] for row in rows):
        own = where(rows, pile=pile)
        cells = []
        for batch in sorted({row["batch"] for row in own}, reverse=True):
            told = where(own, batch=batch)
            one = f" ({mean(r['rand_nuclei_as_one'] for r in told):.3f})" if pile == "real" else ""
            cells.append(f"{mean(r['rand'] for r in told):.3f}{one}")
        lines.append([f"{pile} ({own[0]['images']} images)", *cells])
    return {"rand": {"columns": ["pile", "all at once", "two batches", "four batches"], "rows": lines}}


def learned(rows: Sequence[Row]) -> Tables:
    """Of benchmarks/discovered.py: each domain's IoU after named and after discovered stages, and what was
    found."""
    kinds, first = ("named", "discovered"), rows[0]
    lines = [
        [SETS.get(row["set"], row["set"]), row["images"], *(row[kind] for kind in kinds)] for row in rows
    ]
    lines.append(["mean (AA)", "", *(mean(row[kind] for row in rows) for kind in kinds)])
    columns = ["domain", "test images", "named stages", "discovered"]
    found = ["domains", "found", "images that wait", "adjusted Rand index"]
    return {
        "iou": {"columns": columns, "rows": lines},
        "mean": {"columns": columns, "rows": lines[-1:]},
        "found": {
            "columns": found,
            "rows": [[len(rows), first["found"], first["waiting"], first["rand"]]],
        },
    }


# ---------------------------------------------------------------- the gate, and mixed batches


PLANTED = {
    "none": "nothing",
    "margin": "every score of every column falls by the margin",
    "domain": "one domain loses 2 points, each in turn",
    "box": "box prompts lose 5 points everywhere",
    "tail": "5 % of the images keep at most 0.3 of their IoU",
}


def gate(rows: Sequence[Row]) -> Tables:
    """Of benchmarks/gate.py."""
    lines = [
        [
            PLANTED[row["planted"]],
            row["images"],
            row["failed"],
            "" if row["planted"] in ("none", "margin") else row["seen"],
            f"{row['caught']} of {row['seen']}" if row["seen"] else "",
        ]
        for row in rows
    ]
    columns = ["planted", "images per column", "fail", "can be seen", "of these caught"]
    return {"planted": {"columns": columns, "rows": lines}}


MIXED = ("one module", "grouped", "half", "gathered", "by row")


def mixed(rows: Sequence[Row]) -> Tables:
    """Of benchmarks/mixed_batch.py: images per second as a ratio to plain SAM."""
    lines = []
    for base, domains in dict.fromkeys((row["base"], row["domains"]) for row in rows):
        own = where(rows, base=base, domains=domains)
        told = {row["way"]: f"{row['of_plain']:.3f}" for row in own}
        lines.append([base, domains, own[0]["repeat"], *(told.get(way) for way in MIXED)])
    return {"ratios": {"columns": ["base", "domains", "rounds", *MIXED], "rows": lines}}


METHODS = {
    "joint": "joint (BCE)",
    "fine-tuning": "fine-tuning",
    "mib": "MiB",
    "mib-nest": "MiB, NeST",
    "plop": "PLOP",
    "rcil": "RCIL",
    "ssul": "SSUL",
    "dkd": "DKD",
    "dkd-m": "DKD-M",
    "dkd-m-quiet": "DKD-M, `memory_teaches=false`",
    "star": "STAR",
    "eir-features": "EIR, features instead of pixels",
    "eir": "**EIR**",
}


def classes(rows: Sequence[Row]) -> Tables:
    """Of benchmarks/classes.py: mean IoU, and its standard deviation over seeds where there are several."""

    old = next(list(first) for row in rows for first, *later in [row["iou"].values()] if later)

    def kept(step: dict[str, float]) -> float:
        return mean(step[name] for name in old)

    def added(step: dict[str, float]) -> float:
        return mean(v for name, v in step.items() if name not in old)

    def scores(row: Row) -> dict[str, float | None]:
        steps = list(row["iou"].values())
        second = steps[1] if len(steps) > 1 else None  # Joint training has one step.
        return {
            "old after the second step": None if second is None else kept(second),
            "new after the second step": None if second is None else added(second),
            "old at the end": kept(steps[-1]),
            "new at the end": added(steps[-1]),
            "all at the end": mean(steps[-1].values()),
        }

    lines, seeds = [], []
    for method in [name for name in METHODS if where(rows, method=name)]:
        own = where(rows, method=method)
        told = [scores(row) for row in own]
        cells = []
        for column in told[0]:
            values = [each[column] for each in told]
            cells.append(None if None in values else spread([v for v in values if v is not None]))
        stored = mean(row["bytes_of_images"] for row in own)
        images = "all" if method == "joint" else f"{stored / 1000:,.0f} kB" if stored else "nothing"
        lines.append([METHODS[method], len(own), *cells, images])
        each = [", ".join("\N{EN DASH}" if t[c] is None else f"{t[c]:.3f}" for t in told) for c in told[0]]
        seeds.append([METHODS[method], *each])
    columns = list(told[0])
    return {
        "miou": {"columns": ["mIoU", "seeds", *columns, "kept of images"], "rows": lines},
        "seeds": {"columns": ["mIoU of seeds 0, 1, ...", *columns], "rows": seeds},
    }


UNTAUGHT = "before the second step, on the images scored at the end"


def pairs(rows: Sequence[Row]) -> Tables:
    """Of benchmarks/pairs.py and foreign.py: a line for each pair and seed, and the settings tried in the
    second step."""
    lines, plain, tried = [], [], []
    for row in rows:
        (first, after), (second, end) = row["iou"].items()
        both = row.get("joint")
        backgrounds = ", ".join(f"{step['background']:.3f}" for step in (after, end))
        together = f"{both[first]:.3f}, {both[second]:.3f}" if both else None
        told = [f"{first}, then {second}", row["seed"]]
        told += [f"{value:.3f}" for value in (after[first], end[first], end[second])]
        early = f"{row['untaught']:.3f}" if "untaught" in row else None
        lines.append([*told, early, backgrounds, together])
        plain.append([*told, backgrounds])
        tried.append([", ".join(f"`{s}`" for s in row["set"]) or "the default", *told, backgrounds])
    columns = ["stream", "seed", "first class after its step", "at the end", "second class"]
    columns.append("background after each step")
    return {
        "pairs": {"columns": [*columns[:-1], UNTAUGHT, columns[-1], "both learned at once"], "rows": lines},
        "plain": {"columns": columns, "rows": plain},
        "tried": {"columns": ["settings of the second step", *columns], "rows": tried},
    }


PROPOSED = ["tune.later.lr=0.002", "tune.later.steps=450"]
"""What pairs-rates.json compares other settings with."""


def rates(rows: Sequence[Row]) -> Tables:
    """Settings of the second step: what they keep and teach over their streams, and what the proposed one
    does over the same."""

    def told(row: Row) -> tuple[float, float]:
        (first, after), (second, end) = row["iou"].items()
        return 100 * (after[first] - end[first]), end[second]

    def cells(found: Sequence[tuple[float, float]]) -> list[str]:
        falls, seconds = zip(*found, strict=True)
        return [
            f"{mean(falls):.1f} (at most {max(falls):.1f})",
            f"{mean(seconds):.3f} (at least {min(seconds):.3f})",
        ]

    proposed = {(row["pair"], row["seed"]): told(row) for row in where(rows, set=PROPOSED)}
    lines = []
    for words in dict.fromkeys(tuple(row["set"]) for row in rows if row["set"] != PROPOSED):
        own = where(rows, set=list(words))
        same = [proposed[row["pair"], row["seed"]] for row in own]
        what = ", ".join(f"`{word}`" for word in words)
        lines.append([what, len(own), *cells([told(row) for row in own]), *cells(same)])
    columns = ["second step", "runs", "first class falls by points", "second class"]
    return {"rates": {"columns": [*columns, "as proposed: falls by", "as proposed: second"], "rows": lines}}


FEATURES = {None: "none", "base": "MobileNetV2", "efficientnet-lite1": "EfficientNet-Lite1"}


def weighed(rows: Sequence[Row]) -> Tables:
    """Of one network per stream with different posteriors: means over the streams of the first class, the
    others, and the background."""
    kinds = list(dict.fromkeys(row["images"] for row in rows))
    lines = []
    for backbone, weight in dict.fromkeys((row["posterior_backbone"], row["weight"]) for row in rows):
        line: list[Any] = [FEATURES[backbone], f"{weight:g}" if weight else None]
        for kind in kinds:
            own = where(rows, posterior_backbone=backbone, weight=weight, images=kind)
            ends = [list(row["iou"].values()) for row in own]
            for pick in (lambda e: e[1], lambda e: mean(e[2:]), lambda e: e[0]):
                line.append(f"{mean(pick(end) for end in ends):.3f}")
        lines.append(line)
    parts = ("first class", "later ones", "background")
    columns = ["features", "weight", *(f"{kind}: {part}" for kind in kinds for part in parts)]
    return {"posterior": {"columns": columns, "rows": lines}}


def spread(values: Sequence[float]) -> str:
    """The mean, and the standard deviation of several."""
    return f"{mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


SUMMARIES: dict[str, Callable[[Sequence[Row]], Tables]] = {
    "outside.json": outside,
    "plausible.json": plausible,
    "guard.json": guard,
    "abstain.json": cost,
    "discover-train.json": discovered,
    "discover-test.json": discovered,
    "discovered-painted.json": learned,
    "discovered-real.json": learned,
    "gate.json": gate,
    "mixed-batch.json": mixed,
    "voc-classes.json": classes,
    "voc-defaults.json": classes,
    "painted-classes.json": classes,
    "painted-variants.json": classes,
    "pairs.json": pairs,
    "pairs-few.json": pairs,
    "pairs-tried.json": pairs,
    "pairs-rates.json": rates,
    "posterior-weights.json": weighed,
    "foreign.json": pairs,
    "foreign-tried.json": pairs,
}
