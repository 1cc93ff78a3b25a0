"""Numbers as text."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis.text import count, digits, parameter, plural, quantity, spread


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (999, "999"),
        (999.6, "1.00 k"),
        (1234567, "1.23 M"),
        (12345678, "12.3 M"),
        (123456789, "123 M"),
        (999_600_000, "1.00 G"),
        (-1500, "-1.50 k"),
        (float("nan"), "-"),
    ],
)
def test_a_count_has_three_digits_and_a_prefix(value, expected):
    assert count(value) == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("macs", 6e7, "60.0 M MACs"),
        ("params", 1500, "1.50 k params"),
        ("val_accuracy", 91.234, "91.23 %"),
        ("accuracy_drop", 1.5, "1.50 points"),
        ("macs_removed", 0.5, "50.0 %"),
        ("macs_kept", 0.5, "50.0 %"),
        ("latency_ms", 1.23456, "1.23 ms"),
        ("compression", 3.0, "3.00x"),
        ("macs", float("nan"), "-"),
    ],
)
def test_a_quantity_has_its_unit(name, value, expected):
    assert quantity(name, value) == expected


def test_accuracies_spread_by_points_and_not_by_per_cent():
    assert spread("val_accuracy", 0.25) == "0.25 points"
    assert spread("macs", 1500) == quantity("macs", 1500)


def test_one_trial_is_no_trials():
    assert [plural(n, "trial") for n in (0, 1, 2)] == ["0 trials", "1 trial", "2 trials"]


def test_a_parameter_that_is_not_set_is_a_dash():
    assert [parameter(v) for v in (None, float("nan"), pd.NA, 0.123456, True)] == [
        "-",
        "-",
        "-",
        "0.1235",
        "True",
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (15_470_264_321.0, "15470264321"),
        (97.25, "97.25"),
        (100 / 3, "33.33333333"),
        (0.0, "0"),
        (float("nan"), "nan"),
    ],
)
def test_a_whole_number_keeps_all_of_its_digits(value, said):
    assert digits(value) == said
