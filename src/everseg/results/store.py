"""Results of a run: a row for each learned stage, per-image scores where there are any, and their JSON."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from everseg.errors import UserError, unknown
from everseg.results.matrix import ResultMatrix

BASE = -1
"""The row of the untouched base's scores."""

FORMAT = 1


@dataclass(frozen=True)
class ImageScore:
    """What one test image scored.

    column: its domain.
    image: its name, unique in the domain and the same after every stage.
    values: a number for each metric.
    route, probability: the module that was chosen and how surely; "" and NaN for methods that choose none.
    p_value: the largest of all domains; NaN for methods that tell none.
    insensitivity: overlap (IoU) of its masks with those of prompts that point elsewhere; NaN where that was
        not measured.
    """

    column: str
    image: str
    values: Mapping[str, float]
    route: str = ""
    probability: float = math.nan
    p_value: float = math.nan
    insensitivity: float = math.nan


@dataclass(frozen=True, eq=False, repr=False)
class Results:
    """All scores of a run. Every change makes a new `Results`.

    lower_is_better: for each metric.
    stages: names of the rows.
    columns: learned ones in the order they were learned, then unseen ones in the order they were met.
    learned_at: stage index of each learned column.
    background: columns that are not tasks in the averages.
    cells: values of (row, column), row `BASE` being the untouched base.
    scores: per-image scores of each row, empty for metrics that are not means over images.
    parts: where `scores` is empty, what is known of single images: of a run of classes the mean IoU over the
        classes that a stage taught and the image shows; `column` is the stage.
    forgotten: domains that were learned and taken out again.
    later: of columns that are later images of a domain learned before, that domain. The run's record keeps
        this and `forgotten`, not `to_json`.
    """

    lower_is_better: Mapping[str, bool]
    stages: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    learned_at: Mapping[str, int] = field(default_factory=dict)
    background: frozenset[str] = frozenset()
    cells: Mapping[tuple[int, str], Mapping[str, float]] = field(default_factory=dict)
    scores: Mapping[int, tuple[ImageScore, ...]] = field(default_factory=dict)
    parts: Mapping[int, tuple[ImageScore, ...]] = field(default_factory=dict)
    forgotten: frozenset[str] = frozenset()
    later: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"Results of {', '.join(self.lower_is_better)}\n"
            f"  after stages: {', '.join(self.stages) or 'none yet'}\n"
            f"  on columns: {', '.join(self.columns) or 'none yet'}"
        )

    def with_stage(
        self,
        name: str,
        scores: Sequence[ImageScore] = (),
        *,
        cells: Mapping[str, Mapping[str, float]] | None = None,
        learned: Sequence[str] | None = None,
        background: bool | Collection[str] = False,
    ) -> Results:
        """These results with a row for stage `name`, what was measured right after learning it.

        scores: one for each test image; a column's value is their mean. Columns not met before are added.
        cells: {column: {metric: value}} for scores that are not means over images (mIoU of a class).
        learned: columns that the stage taught; by default the one with the stage's name.
        background: whether the stage is no task in the averages; or the names of its columns that are none.
        """
        assert name not in self.stages, f"stage {name!r} is in the results already"
        row = len(self.stages)
        taught = (name,) if learned is None else tuple(learned)
        if isinstance(background, bool):
            background = taught if background else ()
        assert set(background) <= set(taught), "a background column is one of the stage's own"
        grown = self._with_row(row, scores, cells or {})
        unordered = dict.fromkeys([*self.columns, *taught, *grown.columns])
        learned_at = {**self.learned_at, **{column: row for column in taught}}
        return replace(
            grown,
            stages=(*self.stages, name),
            # A sort is stable: unseen columns stay in the order in which they were met.
            columns=tuple(sorted(unordered, key=lambda column: learned_at.get(column, row + 1))),
            learned_at=learned_at,
            background=self.background | set(background),
        )

    def with_baseline(
        self, scores: Sequence[ImageScore] = (), *, cells: Mapping[str, Mapping[str, float]] | None = None
    ) -> Results:
        """These results with scores of the untouched base, added to those it has (a stream can grow)."""
        before = [s for s in self.scores.get(BASE, ()) if s.column not in {new.column for new in scores}]
        return self._with_row(BASE, [*before, *scores], cells or {})

    def retested(
        self, scores: Sequence[ImageScore] = (), *, cells: Mapping[str, Mapping[str, float]] | None = None
    ) -> Results:
        """These results with scores of the last row on other test images. What earlier rows and the untouched
        base have in their columns was measured on the former images and is left out."""
        last, again = len(self.stages) - 1, {*(cells or {}), *(score.column for score in scores)}
        kept = {row: [s for s in told if s.column not in again] for row, told in self.scores.items()}
        rest = replace(
            self,
            cells={(r, c): values for (r, c), values in self.cells.items() if c not in again},
            scores={row: tuple(told) for row, told in kept.items() if told},
        )
        return rest._with_row(last, [*kept.get(last, ()), *scores], cells or {})

    def without(self, name: str) -> Results:
        """These results without the row and the column of a stage that was forgotten, without its images, and
        without what its module scored on other columns (`made_by`).

        Other rows keep what was measured then.
        """
        rows = [i for i, stage in enumerate(self.stages) if stage != name]
        now = {old: new for new, old in enumerate(rows)} | {BASE: BASE}
        learned_at = {c: now[r] for c, r in self.learned_at.items() if c != name and r in now}
        gone = self.made_by(name)
        return replace(
            self,
            stages=tuple(self.stages[i] for i in rows),
            columns=tuple(c for c in self.columns if c != name),
            learned_at=learned_at,
            background=self.background - {name},
            cells={
                (now[r], c): v
                for (r, c), v in self.cells.items()
                if r in now and c != name and (r, c) not in gone
            },
            scores={
                now[r]: tuple(s for s in kept if s.column != name and (r, s.column) not in gone)
                for r, kept in self.scores.items()
                if r in now
            },
            forgotten=self.forgotten | {name},
            later={stage: of for stage, of in self.later.items() if stage != name},
        )

    def domain_of(self, name: str) -> str:
        """The domain that a column, or the module of its name, is of."""
        return self.later.get(name, name)

    def made_by(self, module: str) -> dict[tuple[int, str], int]:
        """The cells (row, column) of other columns in which images went to the module of this name, and how
        many did. A mean over the other images alone would not be the column's score."""
        found: dict[tuple[int, str], int] = {}
        for row, scores in self.scores.items():
            for score in scores:
                if score.route == module and score.column != module:
                    found[(row, score.column)] = found.get((row, score.column), 0) + 1
        return found

    def _with_row(
        self, row: int, scores: Sequence[ImageScore], cells: Mapping[str, Mapping[str, float]]
    ) -> Results:
        means = {**cells, **self._means(scores)}
        assert all(set(values) == set(self.lower_is_better) for values in means.values()), (
            "one value a metric"
        )
        return replace(
            self,
            columns=(*self.columns, *(column for column in means if column not in self.columns)),
            cells={**self.cells, **{(row, column): values for column, values in means.items()}},
            scores={**self.scores, row: tuple(scores)} if scores else self.scores,
        )

    def _means(self, scores: Sequence[ImageScore]) -> dict[str, dict[str, float]]:
        by_column: dict[str, list[ImageScore]] = {}
        for score in scores:
            by_column.setdefault(score.column, []).append(score)
        for column, members in by_column.items():
            assert len({s.image for s in members}) == len(members), f"an image of {column!r} is scored twice"
        return {
            column: {name: float(np.mean([s.values[name] for s in members])) for name in self.lower_is_better}
            for column, members in by_column.items()
        }

    def matrix(self, metric: str) -> ResultMatrix:
        """The matrix of one metric.

        Raises:
            UserError: no such metric.
        """
        if metric not in self.lower_is_better:
            raise unknown("metric", metric, self.lower_is_better)

        def row(index: int) -> list[float]:
            return [self.cells.get((index, column), {}).get(metric, math.nan) for column in self.columns]

        rows = len(self.stages)
        return ResultMatrix(
            values=np.array([row(i) for i in range(rows)], dtype=np.float64).reshape(rows, len(self.columns)),
            learned_at=np.array([self.learned_at.get(c, rows) for c in self.columns], dtype=np.int64),
            lower_is_better=self.lower_is_better[metric],
            baseline=np.array(row(BASE), dtype=np.float64),
            background=np.array([c in self.background for c in self.columns], dtype=np.bool_),
            forgotten=np.array([c in self.forgotten for c in self.columns], dtype=np.bool_),
            stages=self.stages,
            columns=self.columns,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file: matrices as rows of numbers, null where not measured."""
        matrices = {metric: self.matrix(metric) for metric in self.lower_is_better}
        parts = {str(row): self._columnar(scores) for row, scores in self.parts.items()}
        return {
            **({"parts": parts} if parts else {}),
            "format": FORMAT,
            # Pairs, because their order is the reader's and JSON files are written with sorted keys.
            "lower_is_better": [[metric, lower] for metric, lower in self.lower_is_better.items()],
            "stages": list(self.stages),
            "columns": list(self.columns),
            "learned_at": dict(self.learned_at),
            "background": sorted(self.background),
            "values": {name: [_nulls(row) for row in m.values.tolist()] for name, m in matrices.items()},
            "baseline": {name: _nulls(m.baseline.tolist()) for name, m in matrices.items()},
            "scores": {str(row): self._columnar(scores) for row, scores in self.scores.items()},
        }

    def _columnar(self, scores: Sequence[ImageScore]) -> dict[str, Any]:
        """One list for each field: half the size of one object for each image. What was measured for no image
        is left out."""
        some = {"p_value": [s.p_value for s in scores], "insensitivity": [s.insensitivity for s in scores]}
        return {
            **{name: _nulls(told) for name, told in some.items() if not all(map(math.isnan, told))},
            "column": [s.column for s in scores],
            "image": [s.image for s in scores],
            "route": [s.route for s in scores],
            "probability": _nulls([s.probability for s in scores]),
            "values": {metric: [s.values[metric] for s in scores] for metric in self.lower_is_better},
        }

    @classmethod
    def from_json(cls, value: Any, where: str = "these results") -> Results:
        """What `to_json` wrote. `where` names the file in messages.

        Raises:
            UserError: something else, or a newer format.
        """
        try:
            if value["format"] != FORMAT:
                raise UserError(
                    f"{where} has format {value['format']!r}, but this version of everseg reads {FORMAT}; "
                    "use the version that wrote it"
                )
            lower_is_better, columns = dict(value["lower_is_better"]), _texts(value["columns"])
            stages = _texts(value["stages"])
            metrics = list(lower_is_better)
            rows = {BASE: value["baseline"]} | {
                i: {m: value["values"][m][i] for m in metrics} for i in range(len(stages))
            }
            # A cell is measured in all metrics or in none, so one metric's nulls are all metrics'.
            cells = {
                (i, column): {m: float(row[m][j]) for m in metrics}
                for i, row in rows.items()
                for j, column in enumerate(columns)
                if all(row[m][j] is not None for m in metrics)
            }
            learned_at = {str(column): int(row) for column, row in value["learned_at"].items()}
            scores = {int(row): _rows(table) for row, table in value["scores"].items()}
            # Earlier versions knew nothing of single images in runs of classes.
            parts = {int(row): _rows(table) for row, table in value.get("parts", {}).items()}
            _check(stages, columns, metrics, cells, learned_at, scores)
            _check_images(parts, stages, metrics, len(stages))
            return cls(
                lower_is_better=lower_is_better,
                stages=stages,
                columns=columns,
                learned_at=learned_at,
                background=frozenset(_texts(value["background"])),
                cells=cells,
                scores=scores,
                parts=parts,
            )
        except KeyError as error:
            raise UserError(
                f"{where} holds no results: {error} is missing; restore it from a copy"
            ) from error
        except (TypeError, IndexError, ValueError, AttributeError, OverflowError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UserError(
                f"{where} holds no results of everseg ({reason}); restore it from a copy"
            ) from error


def _nulls(numbers: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(number) else number for number in numbers]


def _check(
    stages: Sequence[str],
    columns: Sequence[str],
    metrics: Sequence[str],
    cells: Mapping[tuple[int, str], Mapping[str, float]],
    learned_at: Mapping[str, int],
    scores: Mapping[int, Sequence[ImageScore]],
) -> None:
    """Check that the parts of a results file fit each other. Raises ValueError."""
    if strange := set(learned_at) - set(columns):
        raise ValueError(f"learned_at names {strange}, which are not columns")
    if any(not 0 <= row < len(stages) for row in learned_at.values()):
        raise ValueError("learned_at names a row that is not there")
    if not all(math.isfinite(v) for values in cells.values() for v in values.values()):
        raise ValueError("a score is infinite")
    _check_images(scores, columns, metrics, len(stages))


def _check_images(
    scores: Mapping[int, Sequence[ImageScore]], columns: Sequence[str], metrics: Sequence[str], rows: int
) -> None:
    """Check that scores of images fit rows, columns and metrics. Raises ValueError."""
    for row, images in scores.items():
        if not BASE <= row < rows:
            raise ValueError(f"there are scores of row {row}, which is not there")
        for image in images:
            if image.column not in columns or set(image.values) != set(metrics):
                raise ValueError(f"the scores of image {image.image!r} fit no column or lack a metric")


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"{value!r} is not a list of names")
    return tuple(value)


def _rows(table: Mapping[str, Any]) -> tuple[ImageScore, ...]:
    columns, unknown = table["column"], [None] * len(table["column"])
    return tuple(
        ImageScore(
            column=str(column),
            image=str(image),
            values={metric: float(numbers[i]) for metric, numbers in table["values"].items()},
            route=str(route),
            probability=_number(probability),
            p_value=_number(p_value),
            insensitivity=_number(moved),
        )
        for i, (column, image, route, probability, p_value, moved) in enumerate(
            zip(
                columns,
                table["image"],
                table["route"],
                table["probability"],
                table.get("p_value", unknown),  # Earlier versions had neither.
                table.get("insensitivity", unknown),
                strict=True,
            )
        )
    )


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
