"""The images behind an accuracy, and how sure they make it."""

import numpy as np
import pytest

from analysis.runs.sampling import images_behind, interval


@pytest.mark.parametrize(
    ("right", "images", "low", "high"),
    [
        # Wilson (1927), z = 1.96: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
        (90, 100, 82.56, 94.48),
        (332, 337, 96.57, 99.36),
        (0, 20, 0.0, 16.11),
        (20, 20, 83.89, 100.0),
    ],
)
def test_the_interval_is_wilsons(right, images, low, high):
    found = interval(np.array([100 * right / images]), np.array([float(images)]))
    assert [round(float(end[0]), 2) for end in found] == [low, high]


@pytest.mark.parametrize(("share", "images"), [(0.5, 40), (0.9, 100), (0.985, 337)])
def test_the_interval_covers_the_true_share_in_about_95_of_100_draws(share, images):
    rng = np.random.default_rng(0)
    drawn = rng.binomial(images, share, size=20_000)
    low, high = interval(100 * drawn / images, np.full(len(drawn), float(images)))
    covered = ((low <= 100 * share) & (100 * share <= high)).mean()
    assert 0.93 < covered < 0.985


def test_an_unknown_accuracy_or_number_of_images_has_no_interval():
    low, high = interval(np.array([np.nan, 90.0]), np.array([100.0, np.nan]))
    assert np.isnan([*low, *high]).all()


@pytest.mark.parametrize("images", [337, 5000, 10_000, 1280])
def test_the_number_of_images_is_found_in_the_accuracies(images):
    right = np.random.default_rng(1).integers(images // 2, images, size=30)
    assert images_behind(100.0 * right / images) == images
    assert images_behind(100.0 * (right / images)) == images
    assert images_behind([*(100.0 * right / images), np.nan]) == images


@pytest.mark.parametrize(
    "values",
    [[], [np.nan], [97.31, 96.02, 95.1], [96.1523, 97.0], list(np.random.default_rng(2).uniform(80, 99, 5))],
)
def test_numbers_that_are_no_counts_or_were_rounded_say_nothing(values):
    assert images_behind(values, rounded=True) is None
