"""Attainment surfaces and their difference."""

import numpy as np
import pytest

from analysis.evidence import compare
from analysis.front.attainment import attainment, attainment_difference
from analysis.show.attainment_figures import draw_attainment, draw_difference
from tests.analysis.evidence.tables import GOALS, two_methods


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


def test_the_difference_map_favours_the_better_method_everywhere():
    parts = compare.split(two_methods(2.0), "prune.criterion")
    boxes = attainment_difference(parts["good"], parts["poor"], GOALS)
    assert (boxes["difference"] >= 0).all()
    assert boxes["difference"].max() == pytest.approx(1.0)
    assert draw_difference(boxes, "macs", "val_accuracy", ("good", "#0072B2"), ("poor", "#E69F00")).axes
