"""What an outcome is worth: the last word on its status, its objective values, how far it breaks a constraint."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from sweeps.records.job import Outcome
from sweeps.strategy.judging import (
    accuracy_drop,
    baseline_needed_by,
    baseline_values,
    dense_costs,
    judge,
    shares_of_limits,
    waits_for_baseline,
    with_finals,
)
from tests.sweeps.inline import config

BASELINE = Outcome("complete", {"val_accuracy": 92.0, "macs": 1000.0})
TRIAL = Outcome("complete", {"val_accuracy": 90.5, "macs": 400.0})


def _config(*constraints: str, **search: object):
    overrides = {f"search.{name}": value for name, value in search.items()}
    return config(Path("/nowhere"), {"search.constraints": list(constraints), **overrides})


def test_a_complete_trial_has_its_objectives_in_the_order_of_the_config():
    outcome, values, violations = judge(_config(), TRIAL, None)
    assert (outcome.status, values, violations) == ("complete", (90.5, 400.0), {})
    reverse = _config(objectives={"macs": "min", "val_accuracy": "max"})
    assert judge(reverse, TRIAL, None)[1] == (400.0, 90.5)


@pytest.mark.parametrize("status", ["stopped", "diverged", "failed", "lost"])
def test_what_did_not_end_well_is_worth_nothing(status):
    ended = Outcome(status, TRIAL.finals)
    assert judge(_config("macs <= 300"), ended, BASELINE) == (ended, None, {})


def test_a_broken_constraint_makes_a_trial_infeasible_and_keeps_its_values():
    """30 % of 1000 are 300, exceeded by 100; the drop of 1.5 points is 0.5 below the 2 that are allowed."""
    trial = with_finals(TRIAL, accuracy_drop=1.5)
    outcome, values, violations = judge(_config("macs <= 30%", "accuracy_drop <= 2"), trial, BASELINE)
    assert outcome.status == "infeasible"
    assert outcome.error == "violates macs <= 30%"
    assert values == (90.5, 400.0)
    assert violations == {"macs <= 30%": 100.0, "accuracy_drop <= 2": -0.5}


def test_a_constraint_that_is_just_kept_is_kept():
    outcome, _, violations = judge(_config("macs <= 40%"), TRIAL, BASELINE)
    assert (outcome.status, violations) == ("complete", {"macs <= 40%": 0.0})


def test_a_share_is_judged_by_the_trials_own_dense_costs_or_by_its_baseline():
    """The trial's own count wins: 40 % of 500 are 200, exceeded by 200; of the baseline's 1000 they are just kept."""
    config_ = _config("macs <= 40%")
    assert judge(config_, TRIAL, BASELINE, {"macs": 500.0})[2] == {"macs <= 40%": 200.0}
    assert judge(config_, TRIAL, BASELINE)[2] == {"macs <= 40%": 0.0}
    outcome, values, _ = judge(config_, TRIAL, None)
    assert (outcome.status, values) == ("failed", None)
    assert outcome.error == "macs <= 40% cannot be judged: its baseline does not say"
    assert judge(_config("macs <= 500"), TRIAL, None)[0].status == "complete", "this one needs nobody"


def test_the_dense_costs_are_those_of_the_manifest_or_follow_from_the_finals(tmp_path):
    """76,074 MACs are 49.9 % of 152,384; 6,504 params times 2.8416 are 18,482 (a real trial's numbers)."""
    finals = {
        "macs": 76074.0, "macs_removed": 0.5007743595128098,
        "params": 6504.0, "compression": 2.841635916359164,
    }  # fmt: skip
    assert dense_costs(tmp_path, finals) == {"macs": 152384.0, "params": 18482.0}
    assert dense_costs(tmp_path, {"macs": 1.0, "macs_removed": 1.0}) == {}
    (tmp_path / "model").mkdir()
    manifest = tmp_path / "model" / "manifest.json"
    manifest.write_text(json.dumps({"dense": {"macs": 7, "params": 8, "latency_ms": 9}}))
    assert dense_costs(tmp_path, finals) == {"macs": 7.0, "params": 8.0}
    manifest.write_text("half of i")
    assert dense_costs(tmp_path, finals) == {"macs": 152384.0, "params": 18482.0}


@pytest.mark.parametrize(
    ("limit", "finals", "excess", "share"),
    [
        ("accuracy_drop <= 2", {}, 3.0, 1.5),
        ("accuracy_drop <= 0", {}, 0.5, 0.5),
        ("accuracy_drop <= -2", {}, 1.0, 0.5),
        ("val_accuracy >= 80", {}, 4.0, 0.05),
        ("macs <= 500", {}, -100.0, -0.2),
        ("macs <= 30%", {"macs": 400.0, "macs_removed": 0.6}, 100.0, 1 / 3),  # of 300
        (
            "macs <= 30%",
            {"macs": 900.0, "macs_removed": 0.1},
            100.0,
            1 / 3,
        ),  # stopped: foreseen, not yet there
        ("macs <= 30%", {"macs": 400.0}, 100.0, 1 / 3),  # 400 - 100
        ("macs >= 30%", {"macs": 200.0}, 100.0, 1 / 3),
        ("params <= 25%", {"params": 500.0, "compression": 2.0}, 250.0, 1.0),
        ("latency_ms <= 50%", {"latency_ms": 6.0}, 1.0, 0.2),
        ("macs_removed >= 50%", {}, 0.1, 0.2),
    ],
)
def test_how_far_a_limit_is_exceeded_is_told_as_a_share_of_the_limit(limit, finals, excess, share):
    shares = shares_of_limits(_config(limit).search.limits(), {limit: excess}, finals)
    assert shares == {limit: pytest.approx(share, rel=1e-12)}


def test_of_limits_that_nobody_judged_there_is_nothing_to_tell():
    limits = _config("macs <= 30%", "accuracy_drop <= 2").search.limits()
    assert shares_of_limits(limits, {}, {}) == {}
    assert shares_of_limits(limits, {"accuracy_drop <= 2": 1.0}, {}) == {"accuracy_drop <= 2": 0.5}


def test_only_answers_that_need_its_values_wait_for_a_baseline():
    dense = {"macs": 1000.0, "params": 1.0}
    for constraint, known, waits in [
        ("accuracy_drop <= 1", dense, "accuracy_drop <= 1"),
        ("macs <= 50%", dense, ""),
        ("macs <= 50%", {}, "macs <= 50%"),
        ("macs <= 500", {}, ""),
    ]:
        search = _config(constraint).search
        assert waits_for_baseline(search, TRIAL, known) == waits, constraint
        assert waits_for_baseline(search, Outcome("stopped"), known) == "", "there is nothing to judge"
    drop = _config(objectives={"accuracy_drop": "min", "macs": "min"}).search
    assert waits_for_baseline(drop, TRIAL, dense) == "accuracy_drop"
    assert baseline_needed_by(drop) == "accuracy_drop"
    assert baseline_needed_by(_config("macs <= 500").search) == ""


@pytest.mark.parametrize(
    ("finals", "error"),
    [
        ({"val_accuracy": math.nan, "macs": 400.0}, "final val_accuracy is nan"),
        ({"val_accuracy": 90.5}, "final macs is missing"),
        ({"val_accuracy": 90.5, "macs": 400.0}, "final latency_ms is missing"),
    ],
)
def test_an_objective_or_a_limited_value_that_is_no_number_fails_the_trial(finals, error):
    outcome, values, _ = judge(_config("latency_ms <= 2"), Outcome("complete", finals), None)
    assert (outcome.status, outcome.error, values) == ("failed", error, None)


def test_the_accuracy_drop_is_baseline_minus_trial_in_points():
    assert accuracy_drop(TRIAL, BASELINE) == 1.5
    assert accuracy_drop(Outcome("complete"), BASELINE) is None
    assert accuracy_drop(TRIAL, Outcome("failed")) is None


def test_a_baselines_value_is_its_accuracy_if_it_ended_with_one():
    assert baseline_values(BASELINE) == (92.0,)
    assert baseline_values(Outcome("failed", {"val_accuracy": 92.0})) is None
    assert baseline_values(Outcome("complete", {"val_accuracy": math.nan})) is None
    assert baseline_values(Outcome("complete")) is None


def test_only_names_of_the_schema_are_added_to_the_finals():
    assert with_finals(TRIAL, accuracy_drop=1.5).finals == {**TRIAL.finals, "accuracy_drop": 1.5}
    with pytest.raises(KeyError, match="acuracy_drop"):
        with_finals(TRIAL, acuracy_drop=1.5)
