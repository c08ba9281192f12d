"""Which test images a report shows: chosen by a rule, not by hand."""

from __future__ import annotations

from everseg.results import Results


def pick(results: Results, metric: str, count: int = 3) -> dict[str, list[str]]:
    """Names of `count` test images of each domain, evenly spread over the ranking of their last scores.

    The first is the worst and, from three on, one is the median and the last is the best; two are the worst
    and the median. Equal scores are ranked by name, so that the choice is the same every time.
    """
    assert count > 0
    worst_first = 1.0 if not results.matrix(metric).lower_is_better else -1.0
    ranked: dict[str, list[tuple[float, str]]] = {}
    for score in results.scores.get(len(results.stages) - 1, ()):
        ranked.setdefault(score.column, []).append((worst_first * score.values[metric], score.image))
    chosen = {}
    for domain in (column for column in results.columns if column in ranked):
        names = [name for _, name in sorted(ranked[domain])]
        # Steps of a half for two images: worst and median.
        steps = max(count - 1, 2)
        places = sorted({round(i * (len(names) - 1) / steps) for i in range(count)})
        chosen[domain] = [names[place] for place in places]
    return chosen
