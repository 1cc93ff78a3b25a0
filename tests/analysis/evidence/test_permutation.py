"""Exact permutation tests and the intervals that go with them."""

from itertools import permutations, product

import numpy as np
import pytest
from scipy import stats

from analysis.evidence import permutation
from analysis.evidence.permutation import Question, paired_test, permutation_test

AB = Question("a", "b")


def brute_p(a, b):
    """Twice the smaller share of all orderings of the pooled values whose difference is as far out on one side."""
    observed = np.mean(a) - np.mean(b)
    found = [
        np.mean(order[: len(a)]) - np.mean(order[len(a) :]) for order in permutations(np.concatenate([a, b]))
    ]
    tails = [np.mean(sign * (np.array(found) - observed) >= -1e-12) for sign in (1, -1)]
    return min(1.0, 2 * min(tails))


def test_the_permutation_test_equals_counting_all_orderings():
    rng = np.random.default_rng(2)
    for sizes in ((3, 3), (2, 4), (4, 3)):
        a, b = rng.normal(0, 1, sizes[0]), rng.normal(1, 1, sizes[1])
        assert permutation_test(a, b, AB).p == pytest.approx(brute_p(a, b))


@pytest.mark.parametrize("sizes", [(6, 6), (6, 8), (9, 7)])
def test_the_permutation_test_is_scipys(sizes):
    rng = np.random.default_rng(3)
    a, b = rng.normal(1, 1, sizes[0]), rng.normal(0, 1, sizes[1])
    theirs = stats.permutation_test(
        (a, b), lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis), n_resamples=np.inf, vectorized=True
    )
    assert permutation_test(a, b, AB).p == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("n", [6, 7, 10])
def test_the_paired_test_is_scipys(n):
    d = np.random.default_rng(n).normal(0.5, 1, n)
    theirs = stats.permutation_test(
        (d,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    )
    assert paired_test(d, AB).p == pytest.approx(theirs.pvalue)


def test_drawn_rearrangements_agree_with_all_of_them(monkeypatch):
    rng = np.random.default_rng(4)
    a, b, d = rng.normal(0.9, 1, 8), rng.normal(0, 1, 8), rng.normal(0.5, 1, 12)
    exact = permutation_test(a, b, AB), paired_test(d, AB)
    monkeypatch.setattr(permutation, "_EXACT", 10)
    for whole, drawn in zip(exact, (permutation_test(a, b, AB), paired_test(d, AB))):
        assert (whole.exact, drawn.exact) == (True, False)
        assert (drawn.p, drawn.low, drawn.high) == pytest.approx(
            (whole.p, whole.low, whole.high), rel=0.1, abs=0.02
        )


@pytest.mark.parametrize(("n", "smallest"), [(3, 0.1), (4, 2 / 70), (5, 2 / 252), (6, 2 / 924)])
def test_fewer_than_six_units_a_side_never_decide(n, smallest):
    found = permutation_test(np.arange(n) + 100.0, np.arange(n), AB)
    assert found.p == pytest.approx(found.smallest) == pytest.approx(smallest), (
        "no overlap reaches the smallest"
    )
    assert found.decided == (n >= 6)
    assert found.decided != np.isnan(found.low), "an interval stands only where a test can decide"
    if n < 6:
        assert found.verdict == (
            f"a against b, hypervolume: +100 (mean of {n} and {n} seeds); fewer than 6 seeds a side decide "
            "nothing: undecided"
        )


def test_five_pairs_never_decide_however_large_and_the_sentence_gives_their_range_instead_of_an_interval():
    found = paired_test([90.0, 95.0, 100.0, 105.0, 110.0], Question("frs", "l1", "accuracy"))
    assert not found.decided
    assert (found.better, found.values) == ("", (90.0, 95.0, 100.0, 105.0, 110.0))
    assert found.verdict == (
        "frs against l1, accuracy: +100 (mean of 5 paired seeds, from +90 to +110); fewer than 6 paired seeds decide "
        "nothing: undecided"
    )
    one = paired_test([3.0], AB)
    assert "(mean of 1 paired seed); fewer than 6" in one.verdict


def test_six_pairs_of_one_sign_decide_and_their_interval_is_their_range():
    # Of 2^6 sign choices only "all as they are" and its mirror image are as far out: p = 2/64. Refuted are the effects
    # beyond every pair, so the interval ends at the smallest and the largest.
    found = paired_test([1.0, 2.0, 3.0, 1.5, 2.5, 0.5], AB)
    assert (found.p, found.low, found.high) == (2 / 64, 0.5, 3.0)
    assert (found.decided, found.better) == (True, "a")
    assert found.verdict == (
        "a against b, hypervolume: +1.75 (95 % interval +0.5 to +3); 6 paired seeds, p = 0.0312: a is better"
    )


def test_where_low_values_are_wanted_the_lower_side_is_better():
    found = paired_test([1.0, 2.0, 3.0, 1.5, 2.5, 0.5], Question("a", "b", "macs", goal="min"))
    assert found.better == "b"


def test_intervals_carry_the_correction_of_the_p_values():
    d = np.random.default_rng(0).normal(0.6, 1.0, 10)
    one, three = (paired_test(d, Question("a", "b", comparisons=m)) for m in (1, 3))
    assert three.adjusted == pytest.approx(3 * one.p)
    assert three.low < one.low < one.high < three.high
    assert one.decided
    assert not three.decided
    assert three.low < 0
    assert "corrected for all); 10 paired seeds, p = " in three.verdict
    assert "corrected for 3 comparisons: the data cannot tell them apart" in three.verdict


def test_the_interval_leaves_out_zero_exactly_where_the_test_decides():
    """Both designs, 1 to 4 comparisons, shifts about the limit: never one without the other."""
    rng = np.random.default_rng(5)
    seen = set()
    for m, paired, _ in product((1, 2, 4), (True, False), range(40)):
        ask = Question("a", "b", comparisons=m)
        a, b = rng.normal(1.0, 1.0, 8), rng.normal(0.0, 1.0, 8)
        found = paired_test(a - b, ask) if paired else permutation_test(a, b, ask)
        assert found.decided == (not found.low <= 0 <= found.high)
        assert found.decided == (found.adjusted <= 0.05)
        seen.add(found.decided)
    assert seen == {True, False}


def test_intervals_cover_the_truth_in_at_least_95_per_cent():
    rng = np.random.default_rng(6)
    held = []
    for _ in range(400):
        pairs = paired_test(2.0 + rng.normal(0, 1, 8), AB)
        sides = permutation_test(2.0 + rng.normal(0, 1, 6), rng.normal(0, 1, 6), AB)
        held += [pairs.low <= 2.0 <= pairs.high, sides.low <= 2.0 <= sides.high]
    assert np.mean(held) >= 0.94


def test_a_design_that_a_correction_makes_too_small_is_undecided_and_says_what_would_do():
    found = paired_test([1.0, 2.0, 3.0, 1.5, 2.5, 0.5], Question("a", "b", comparisons=3))
    # 3 x 2/64 = 0.094; with seven pairs 3 x 2/128 = 0.047.
    assert not found.decided
    assert np.isnan(found.low)
    assert found.verdict.endswith("fewer than 7 paired seeds decide nothing in 3 comparisons: undecided")
    assert paired_test(np.arange(7) + 1.0, Question("a", "b", comparisons=3)).decided
