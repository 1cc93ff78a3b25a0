"""Can the data tell two groups apart? Exact permutation tests, with intervals and words instead of bare p-values.

Where a design is so small that no outcome could reach 5 %, that is said instead of a p-value. Several comparisons at
once are corrected by Holm's method (Holm 1979), because one of many will look real by chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np

#: Exact up to this many rearrangements, drawn at random beyond.
_EXACT = 200_000
_DRAWS = 20_000
_LEVEL = 0.05


@dataclass(frozen=True)
class Test:
    """A two-sided permutation test of ``first`` against ``second``.

    Attributes:
        unit: what was rearranged: ``seeds``, ``pairs`` or ``paired seeds``; ``n_first`` and ``n_second`` count them.
        difference: mean of first - mean of second; ``low`` to ``high`` its 95 % interval by Student's t (Welch), NaN
            for a single value.
        p: two-sided p-value; ``smallest``: the smallest this design could give.
        adjusted: p after Holm's correction for ``comparisons`` tests of one question.
        decided: adjusted <= 0.05. ``verdict`` says it in words.
    """

    first: str
    second: str
    what: str
    unit: str
    n_first: int
    n_second: int
    difference: float
    low: float
    high: float
    p: float
    smallest: float
    exact: bool
    adjusted: float
    comparisons: int
    decided: bool
    verdict: str


def permutation_test(
    a: np.ndarray, b: np.ndarray, first: str, second: str, what: str = "hypervolume"
) -> Test:
    """Two-sided test of equal means over all ways to deal the seeds to two groups (random ones beyond
    200,000).
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    ways = math.comb(len(a) + len(b), len(a))
    # With equal sizes every arrangement has a mirror image with the same distance.
    smallest = min(1.0, (2.0 if len(a) == len(b) else 1.0) / ways)
    pool, observed = np.concatenate([a, b]), float(a.mean() - b.mean())
    exact = ways <= _EXACT
    if exact:
        sums = np.array([pool[list(chosen)].sum() for chosen in combinations(range(len(pool)), len(a))])
    else:
        rng = np.random.default_rng(0)
        sums = np.array([rng.permutation(pool)[: len(a)].sum() for _ in range(_DRAWS)])
    distance = np.abs(sums / len(a) - (pool.sum() - sums) / len(b))
    p = _share(distance >= abs(observed) - 1e-12, exact)
    return _told(
        first, second, what, "seeds", (len(a), len(b)), (observed, *_welch(a, b)), (p, smallest, exact)
    )


def paired_test(
    differences: np.ndarray, first: str, second: str, what: str, clusters: Sequence[object] | None = None
) -> Test:
    """Two-sided sign-flip test that paired differences (first - second) have mean 0.

    Args:
        clusters: the seed of every pair. Pairs of one seed share their first weights and the order of the images, so
            they are no independent evidence: their signs flip together. None: every pair by itself.
    """
    d = np.asarray(differences, dtype=float)
    unit = "pairs" if clusters is None else "paired seeds"
    labels = list(range(len(d))) if clusters is None else list(clusters)
    sums = np.array([d[[x == label for x in labels]].sum() for label in dict.fromkeys(labels)])
    exact = 2 ** len(sums) <= _EXACT
    if exact:
        signs = np.array(list(product((1.0, -1.0), repeat=len(sums))))
    else:
        signs = np.random.default_rng(0).choice((1.0, -1.0), size=(_DRAWS, len(sums)))
    p = _share(np.abs(signs @ sums) >= abs(sums.sum()) - 1e-12, exact)
    means = np.array([d[[x == label for x in labels]].mean() for label in dict.fromkeys(labels)])
    effect = (float(d.mean()), *_student(means, float(d.mean())))
    smallest = min(1.0, 2.0 / 2 ** len(sums))
    return _told(first, second, what, unit, (len(sums), len(sums)), effect, (p, smallest, exact))


def holm(tests: Sequence[Test]) -> list[Test]:
    """The tests in their order, with p-values corrected for being ``len(tests)`` answers to one question."""
    adjusted = [0.0] * len(tests)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(tests)), key=lambda i: tests[i].p)):
        largest = max(largest, min(1.0, (len(tests) - rank) * tests[i].p))
        adjusted[i] = largest
    return [_judged(replace(t, adjusted=p, comparisons=len(tests))) for t, p in zip(tests, adjusted)]


def _share(extreme: np.ndarray, exact: bool) -> float:
    """p-value; drawn rearrangements count the observed one too, so that p is never 0."""
    return float(extreme.mean()) if exact else float((extreme.sum() + 1) / (len(extreme) + 1))


def _welch(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """95 % interval of the difference of means, spreads unequal."""
    from scipy import stats

    if min(len(a), len(b)) < 2:
        return float("nan"), float("nan")
    parts = [s.var(ddof=1) / len(s) for s in (a, b)]
    middle, error = float(a.mean() - b.mean()), math.sqrt(sum(parts))
    if error == 0:
        return middle, middle
    freedom = sum(parts) ** 2 / sum(p**2 / (len(s) - 1) for p, s in zip(parts, (a, b)))
    half = float(stats.t.ppf(0.975, freedom)) * error
    return middle - half, middle + half


def _student(values: np.ndarray, middle: float) -> tuple[float, float]:
    from scipy import stats

    if len(values) < 2:
        return float("nan"), float("nan")
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return middle - half, middle + half


def _told(
    first: str,
    second: str,
    what: str,
    unit: str,
    sizes: tuple[int, int],
    effect: tuple[float, float, float],
    chance: tuple[float, float, bool],
) -> Test:
    p, smallest, exact = chance
    return _judged(Test(first, second, what, unit, *sizes, *effect, p, smallest, exact, p, 1, False, ""))


def _judged(test: Test) -> Test:
    """The test with its decision and the sentence that says it."""
    smallest = min(1.0, test.smallest * test.comparisons)
    decided = test.adjusted <= _LEVEL and smallest <= _LEVEL
    interval = (
        "one value: no interval"
        if math.isnan(test.low)
        else f"95 % interval {test.low:+.4g} to {test.high:+.4g}"
    )
    said = f"{test.first} against {test.second}, {test.what}: {test.difference:+.4g} ({interval})"
    among = f" in {test.comparisons} comparisons" if test.comparisons > 1 else ""
    if smallest > _LEVEL:
        n = (
            f"{test.n_first} and {test.n_second} seeds"
            if test.unit == "seeds"
            else f"{test.n_first} {test.unit}"
        )
        verdict = f"{said}; {n} cannot reach 5 %{among} (smallest possible p = {smallest:.2g}): undecided"
    else:
        corrected = f", {test.adjusted:.3g} corrected for {test.comparisons} comparisons"
        p = f"p = {test.p:.3g}{corrected if among else ''}"
        better = test.first if test.difference > 0 else test.second
        verdict = f"{said}; {p}: {f'{better} is better' if decided else 'the data cannot tell them apart'}"
    return replace(test, decided=decided, verdict=verdict)
