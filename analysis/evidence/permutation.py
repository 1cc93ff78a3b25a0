"""Can the data tell two groups apart? Exact permutation tests, with intervals and words instead of bare p-values.

Test and interval are one computation. A rearrangement of the units (swapping the sides of some pairs, or dealing all
units again to the two sides) takes away some of the difference; the size of a true effect at which it would take away
nothing is its *balance*. For swapped pairs that is the mean of their differences; for two groups it is the mean of what
leaves the first side minus the mean of what enters it. A supposed effect is refuted if almost all balances lie on one
side of it (Hartigan 1969: the true effect falls between any two neighbouring balances with equal chance). So the p-value
is twice the share of balances beyond 0, the interval ends at balances too, and it excludes 0 exactly if the test decides.
``scipy.stats.permutation_test`` gives the same p-value (a test of ours compares them) and no interval that belongs to it.

Several comparisons of one question are corrected by Bonferroni's method, because an interval can carry it as well as a
p-value: all intervals of one question hold together with 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from gcp_core.schema import Direction

#: Fewer units on a side than this never decide anything: six pairs are the fewest that can reach 5 %, and an exact p
#: of four against four rests on equal spreads that four values cannot show.
FEWEST = 6
#: Exact up to this many rearrangements, drawn at random beyond.
_EXACT = 200_000
_DRAWS = 20_000
_LEVEL = 0.05


@dataclass(frozen=True)
class Test:
    """A two-sided permutation test of ``first`` against ``second``.

    Attributes:
        unit: what was rearranged, for instance ``seeds`` or ``paired seeds``; ``n_first`` and ``n_second`` count them.
        difference: mean of first - mean of second, every unit with equal weight.
        low, high: the interval of all effects that the test does not refute. The intervals of all ``comparisons`` of
            one question hold together with 95 %. NaN where the design can refute nothing.
        p: two-sided p-value; ``smallest``: the smallest this design could give.
        adjusted: p times ``comparisons``, at most 1.
        decided: adjusted <= 0.05 from at least six units a side; then the interval excludes 0. ``better`` is the label
            that won ("" if undecided), given that ``goal`` is to have a high or a low value; ``verdict`` says it all.
        values: paired designs: the difference of each unit.
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
    better: str
    goal: Direction
    values: tuple[float, ...]
    verdict: str


@dataclass(frozen=True)
class Question:
    """What is asked of two groups.

    Attributes:
        first, second: labels of the groups; ``what`` is compared; ``unit`` names one unit of evidence, in the singular.
        comparisons: how many such tests answer the same question.
        goal: whether high or low values are better.
    """

    first: str
    second: str
    what: str = "hypervolume"
    unit: str = "seed"
    comparisons: int = 1
    goal: Direction = "max"


def permutation_test(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, ask: Question) -> Test:
    """Two-sided test of equal values over all ways to deal the units of ``a`` and ``b`` to two groups of their sizes
    (random ones beyond 200,000). For groups that share no unit; shared ones are paired.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    ways = math.comb(len(a) + len(b), len(a))
    smallest = min(1.0, 2.0 / ways)
    chosen = _deals(len(a), len(b), ways)
    inside = np.zeros((len(chosen), len(a) + len(b)), dtype=bool)
    np.put_along_axis(inside, chosen, True, axis=1)
    out, into = ~inside[:, : len(a)], inside[:, len(a) :]
    moved = into.sum(axis=1)
    balances = (out @ a - into @ b)[moved > 0] / moved[moved > 0]
    effect = float(a.mean() - b.mean())
    return _judged(ask, f"{ask.unit}s", (len(a), len(b)), effect, balances, (smallest, ways <= _EXACT), ())


def paired_test(differences: Sequence[float] | np.ndarray, ask: Question) -> Test:
    """Two-sided sign-flip test that the differences (first - second), one per unit of evidence, have mean 0."""
    d = np.asarray(differences, dtype=float)
    n = len(d)
    exact = 2**n <= _EXACT
    if exact:
        swapped = (np.arange(1, 2**n)[:, None] >> np.arange(n)) & 1
    else:
        swapped = np.random.default_rng(0).integers(0, 2, size=(_DRAWS, n))
        swapped = swapped[swapped.any(axis=1)]
    balances = swapped @ d / swapped.sum(axis=1)
    smallest = min(1.0, 2.0 / 2**n)
    mean = float(d.mean())
    return _judged(ask, f"paired {ask.unit}s", (n, n), mean, balances, (smallest, exact), tuple(d.tolist()))


def _deals(n: int, m: int, ways: int) -> np.ndarray:
    """(w, n) indices of the units that go to the first group, in every way or in random ones."""
    if ways <= _EXACT:
        return np.array(list(combinations(range(n + m), n)), dtype=np.intp)
    rng = np.random.default_rng(0)
    return np.array([rng.permutation(n + m)[:n] for _ in range(_DRAWS)], dtype=np.intp)


def _judged(
    ask: Question,
    unit: str,
    sizes: tuple[int, int],
    effect: float,
    balances: np.ndarray,
    design: tuple[float, bool],
    values: tuple[float, ...],
) -> Test:
    smallest, exact = design
    # The observed arrangement counts as one: p is never 0.
    arrangements = len(balances) + 1
    slack = 1e-12 * max(1.0, float(np.abs(balances).max(initial=0.0)))
    beyond = min((balances <= slack).sum(), (balances >= -slack).sum())
    p = min(1.0, 2.0 * (1 + int(beyond)) / arrangements)
    adjusted = min(1.0, p * ask.comparisons)
    low, high = math.nan, math.nan
    # Rounded up a little: 0.05 / 2 / 5 of 400 arrangements is 2, not 1.9999.
    reach = math.floor(_LEVEL / ask.comparisons / 2 * arrangements + 1e-9)
    able = min(sizes) >= FEWEST and reach >= 1 and smallest * ask.comparisons <= _LEVEL
    if able:
        ordered = np.sort(balances)
        low, high = float(ordered[reach - 1]), float(ordered[-reach])
    decided = able and adjusted <= _LEVEL
    ahead = ask.first if (effect > 0) == (ask.goal == "max") else ask.second
    test = Test(
        ask.first, ask.second, ask.what, unit, *sizes, effect, low, high, p, smallest, exact, adjusted,
        ask.comparisons, decided, ahead if decided else "", ask.goal, values, "",
    )  # fmt: skip
    return Test(**{**vars(test), "verdict": _verdict(test, ask, able)})


def _verdict(test: Test, ask: Question, able: bool) -> str:
    """The sentence that says what the test found."""
    said = f"{test.first} against {test.second}, {test.what}: {test.difference:+.4g}"
    units = test.unit if test.n_first != 1 else test.unit.removesuffix("s")
    n = f"{test.n_first} {units}" if test.values else f"{test.n_first} and {test.n_second} {test.unit}"
    among = f" in {test.comparisons} comparisons" if test.comparisons > 1 else ""
    if not able:
        seen = f", from {min(test.values):+.4g} to {max(test.values):+.4g}" if len(test.values) > 1 else ""
        needed = _needed(bool(test.values), ask.comparisons)
        a_side = "" if test.values else " a side"
        return f"{said} (mean of {n}{seen}); fewer than {needed} {test.unit}{a_side} decide nothing{among}: undecided"
    together = ", corrected for all" if among else ""
    corrected = f", {test.adjusted:.3g} corrected for {test.comparisons} comparisons" if among else ""
    end = f"{test.better} is better" if test.decided else "the data cannot tell them apart"
    return (
        f"{said} (95 % interval {test.low:+.4g} to {test.high:+.4g}{together}); "
        f"{n}, p = {test.p:.3g}{corrected}: {end}"
    )


def _needed(paired: bool, comparisons: int) -> int:
    """The fewest units (a side) with which so many comparisons can reach 5 %."""
    n = FEWEST
    while 2.0 / (2**n if paired else math.comb(2 * n, n)) * comparisons > _LEVEL:
        n += 1
    return n
