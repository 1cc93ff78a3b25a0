"""Values and trials as JSON can hold them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from analysis.plain import plain, plain_trial, plain_trials


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
        (pd.NA, None),
        (pd.NaT, None),
        (np.float64("nan"), None),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (2.0, 2),
        (2.5, 2.5),
        (2.0**53, 2.0**53),  # from here on a float is not every whole number
        ("x", "x"),
        (pd.Timestamp("2024-05-06 07:08:09"), "2024-05-06T07:08:09"),
    ],
)
def test_a_value_becomes_what_json_can_hold(value, expected):
    found = plain(value)
    assert found == expected
    assert type(found) is type(expected)
    json.dumps(found, allow_nan=False)


def test_a_trial_has_its_identity_its_finals_and_its_config_without_what_is_not_set():
    row = {
        "sweep": "s", "trial": "t0001", "seed": np.int64(0), "macs": 400.0, "accuracy_drop": float("nan"),
        "prune.ratio": 0.3, "prune.count": pd.NA, "pareto_rank": 1.0, "not_asked_for": 7,
    }  # fmt: skip
    found = plain_trial(row, ["prune.ratio", "prune.count"])
    assert found["trial"] == "t0001"
    assert found["run_id"] is None, "identity is always there"
    assert (found["macs"], found["accuracy_drop"]) == (400, None)
    assert "params" not in found, "a value that the table does not have"
    assert found["config"] == {"prune.ratio": 0.3}
    assert found["pareto_rank"] == 1
    assert "not_asked_for" not in found
    assert plain_trials(pd.DataFrame([row]), ["prune.ratio", "prune.count"]) == [found]
