"""Attainment surfaces and their difference."""

import numpy as np
import pytest

from analysis.evidence import compare
from analysis.front.attainment import attainment, attainment_difference
from analysis.show.attainment_figures import draw_attainment, draw_difference
from tests.analysis.evidence.tables import GOALS, runs, two_methods


def test_median_attainment_is_reached_by_half_of_the_seeds():
    parts = compare.split(two_methods(2.0), "prune.criterion")
    surfaces = attainment(parts, GOALS)
    assert set(surfaces["band"]) == {"best", "median", "worst"}
    for row in surfaces.to_dict("records"):
        part = parts[row["label"]]
        reached = [
            ((g["val_accuracy"] >= row["val_accuracy"] - 1e-9) & (g["macs"] <= row["macs"] + 1e-9)).any()
            for _, g in part.groupby("seed")
        ]
        assert np.mean(reached) >= row["level"] / 100 - 1e-9
    assert draw_attainment(surfaces, "macs", "val_accuracy").axes[0].get_xlabel().startswith("Multiply-adds")


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_few_seeds_have_a_band_from_the_best_to_the_worst(seeds):
    df = runs([("a", s, base + s, macs) for s in range(seeds) for base, macs in ((80.0, 20.0), (85.0, 40.0))])
    surfaces = attainment({"a": df}, GOALS)
    assert surfaces.groupby("band")["val_accuracy"].max().drop("median").to_dict() == {
        "best": 84.0 + seeds,
        "worst": 85.0,
    }
    figure = draw_attainment(surfaces, "macs", "val_accuracy")
    assert len(figure.axes[0].collections) == 1, "the band"


def test_the_difference_map_favours_the_better_method_everywhere():
    parts = compare.split(two_methods(2.0), "prune.criterion")
    boxes = attainment_difference(parts["good"], parts["poor"], GOALS)
    assert (boxes["difference"] >= 0).all()
    assert boxes["difference"].max() == pytest.approx(1.0)
    assert draw_difference(boxes, "macs", "val_accuracy", ("good", "#0072B2"), ("poor", "#E69F00")).axes


@pytest.mark.parametrize("seeds", [1, 2])
def test_two_sides_with_one_and_the_same_front_differ_nowhere(seeds):
    side = runs(
        [("a", s, accuracy, macs) for s in range(seeds) for accuracy, macs in ((80.0, 20.0), (85.0, 40.0))]
    )
    boxes = attainment_difference(side, side.iloc[::-1], GOALS)
    assert boxes.empty
    assert list(boxes) == ["val_accuracy_low", "macs_low", "val_accuracy_high", "macs_high", "difference"]


@pytest.mark.parametrize("swapped", [False, True])
def test_the_difference_map_counts_shares_of_each_side_where_one_ran_more_seeds(swapped):
    """One seed with 80 % at 20 MACs against three seeds: 90 % at 10 MACs, and twice 70 % at 30."""
    one = runs([("a", 0, 80.0, 20.0)])
    three = runs([("b", 0, 90.0, 10.0), ("b", 1, 70.0, 30.0), ("b", 2, 70.0, 30.0)])
    boxes = attainment_difference(*((three, one) if swapped else (one, three)), GOALS)
    sign = -1.0 if swapped else 1.0

    def at(accuracy: float, macs: float) -> list[float]:
        inside = boxes["macs_low"].le(macs) & boxes["macs_high"].gt(macs)
        inside &= boxes["val_accuracy_low"].lt(accuracy) & boxes["val_accuracy_high"].ge(accuracy)
        return boxes.loc[inside, "difference"].tolist()

    assert at(85.0, 15.0) == pytest.approx([sign * -1 / 3]), "only one of the three reaches it"
    assert at(75.0, 25.0) == pytest.approx([sign * 2 / 3]), "the one, and one of the three"
    assert at(65.0, 35.0) in ([], [0.0]), "everybody reaches it"
