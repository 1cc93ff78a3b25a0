"""Cheap answers about targets agree with the core's own check, point by point."""

from __future__ import annotations

import dataclasses
import random

from gcp_core.config import ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.errors import InfeasibleTarget
from gcp_core.training import run_trial
from gcp_core.training.setup import check_config
from sweeps.commands.forecast import forecast, num_baselines, sample_points
from sweeps.config.space import Point
from sweeps.strategy.feasibility import SLACK, Feasibility
from tests.sweeps.inline import config

SMALL = {
    "data.val_share": 0.25,
    "model.width": 0.125,
    "train.epochs": 8,
    "prune.until": 1.0,
    "prune.criterion": "l1",
}


def _checked(tmp_path, **more):
    return config(tmp_path, {**SMALL, **more})


def test_what_the_core_refuses_is_never_proposed(tmp_path) -> None:
    checked = _checked(
        tmp_path, **{"prune.target": {"low": 0.3, "high": 0.9, "step": 0.3}, "prune.interval": 4}
    )
    feasibility = Feasibility()
    answers = []
    for point in checked.space.grid():
        trial = checked.space.resolve(point)
        answers.append((feasibility.impossible(trial), _refused(trial)))
    assert (False, True) not in answers
    assert {(True, True), (False, False)} <= set(answers)


def _refused(trial) -> bool:
    try:
        check_config(trial)
    except InfeasibleTarget:
        return True
    return False


def test_a_target_that_a_usual_criterion_misses_by_far_is_not_proposed(tmp_path) -> None:
    """With the costliest units first more is within reach than chance, or any criterion of ours, gets to."""
    checked = _checked(tmp_path, **{"prune.interval": 3, "prune.ratio": 0.3})
    feasibility = Feasibility()
    endless = checked.space.resolve({"prune.target": 0.3})
    reached = max(_removed_at_the_end(endless, criterion) for criterion in ("random", "l1"))
    for target in (0.3, 0.6, 0.8, 0.9):
        trial = checked.space.resolve({"prune.target": target})
        assert feasibility.impossible(trial) == (reached < target - SLACK), target
        assert _refused(trial) == (target == 0.9), "the core trains what some criterion could reach"


def _removed_at_the_end(trial, criterion):
    """By all events of the trial's schedule, whatever its target."""
    prune = dataclasses.replace(trial.prune, criterion=criterion, target=None)
    return run_trial(dataclasses.replace(trial, prune=prune)).finals["macs_removed"]


def test_a_schedule_that_finishes_reaches_what_its_floors_allow(tmp_path) -> None:
    checked = _checked(tmp_path, **{"prune.interval": 4, "prune.ratio": 0.1, "prune.target": 0.8})
    missing = checked.space.resolve(checked.space.first())
    finishing = dataclasses.replace(missing, prune=dataclasses.replace(missing.prune, finish=True))
    assert Feasibility().impossible(missing)
    assert not Feasibility().impossible(finishing)
    result = run_trial(finishing)
    assert result.finals["target_reached"] == 1
    assert 0.8 <= result.finals["macs_removed"] < 0.85
    assert [plan.meta["epoch"] for plan in result.plans] == [4, 8]
    assert result.plans[0].num_units < result.plans[1].num_units


def test_a_schedule_without_an_event_is_impossible(tmp_path) -> None:
    checked = _checked(tmp_path, **{"prune.start": 9})
    assert Feasibility().impossible(checked.space.resolve(checked.space.first()))


def test_one_large_event_reaches_a_small_target_and_many_small_ones_take_longer(tmp_path) -> None:
    space = _checked(tmp_path).space
    feasibility = Feasibility()
    quick: Point = {"prune.interval": 1, "prune.ratio": 0.4, "prune.target": 0.3}
    reached, events = feasibility.play(space.resolve(quick))
    assert (reached, events) == (True, 1)
    slow = {**quick, "prune.ratio": 0.1, "prune.target": 0.6}
    reached, more = feasibility.play(space.resolve(slow))
    assert reached
    assert more > events


def test_the_forecast_counts_points_trials_baselines_and_epochs(tmp_path) -> None:
    checked = _checked(tmp_path, **{"seed": {"choice": [0, 1]}, "prune.ratio": 0.2, "search.trials": 5})
    prediction = forecast(checked, timed=False)
    # 2 seeds x 4 intervals x 7 targets; a baseline per seed; 5 trials and 2 baselines of 8 epochs
    assert (prediction.points, prediction.trials, prediction.baselines, prediction.epochs) == (56, 5, 2, 56)
    # All 56 were looked at. Two events of a fifth, every four epochs, leave 64 % of the units: 0.9 is out of reach.
    feasibility = Feasibility()
    impossible = [feasibility.impossible(checked.space.resolve(point)) for point in checked.space.grid()]
    assert 0 < sum(impossible) < len(impossible) == prediction.sampled == 56
    assert prediction.impossible_share == sum(impossible) / 56
    assert 0 <= prediction.short_share <= 1 - prediction.impossible_share
    assert "distinct points   56" in prediction.text()
    assert list(tmp_path.iterdir()) == []


def test_baselines_are_never_more_than_trials(tmp_path) -> None:
    assert num_baselines(_checked(tmp_path, **{"seed": {"low": 0, "high": 99}, "search.trials": 3})) == 3
    assert (
        num_baselines(_checked(tmp_path, **{"train.lr": {"low": 0.01, "high": 0.1}, "search.trials": 4})) == 4
    )


def test_a_large_space_is_sampled_within_its_ranges(tmp_path) -> None:
    checked = _checked(tmp_path, **{"train.lr": {"low": 0.001, "high": 0.1, "log": True}})
    points = sample_points(checked, 40)
    assert len(points) == 40
    assert all(checked.space.canonical(point) == point for point in points)


def test_a_space_with_fewer_points_than_are_sampled_is_sampled_whole_on_a_log_scale_too(tmp_path) -> None:
    searched = {"prune.interval": {"low": 1, "high": 4, "log": True}, "prune.target": {"choice": [0.3, 0.5]}}
    checked = _checked(tmp_path, **searched, **{"prune.ratio": 0.2})
    assert checked.space.size() == 8, "or the sample would never be complete"
    points = sample_points(checked, 40)
    found = sorted((point["prune.interval"], point["prune.target"]) for point in points)
    assert found == [(interval, target) for interval in (1, 2, 3, 4) for target in (0.3, 0.5)]


def test_a_range_that_holds_fewer_values_than_are_sampled_is_sampled_as_far_as_it_goes(tmp_path) -> None:
    """Values are drawn with six digits: there are eleven from the one end to the other."""
    fixed = {"prune.interval": 1, "prune.target": 0.3, "prune.ratio": 0.2}
    checked = _checked(tmp_path, **fixed, **{"train.lr": {"low": 0.1, "high": 0.10001}})
    assert checked.space.size() is None
    points = sample_points(checked, 40)
    assert sorted(point["train.lr"] for point in points) == [round(0.1 + i * 1e-6, 6) for i in range(11)]


def test_a_projection_is_the_end_of_the_whole_play_whatever_was_remembered() -> None:
    """Thirty targets and ends of three schedules, one after the other, against plays that remember nothing."""
    feasibility, rng = Feasibility(), random.Random(0)
    for number in range(30):
        rule = {"interval": 1 + number % 3, "ratio": 0.2, "of": ("macs", "params")[number % 2]}
        target = rng.choice([None, rng.uniform(0.1, 0.95), rng.uniform(0.1, 0.95)])
        prune = PruneConfig(**rule, target=target, until=rng.choice([0.5, 1.0]), min_share=0.3)
        trial = TrialConfig(
            model=ModelConfig("vgg_tiny", width=0.25), train=TrainConfig(epochs=6), prune=prune
        )
        last = [feasibility.groups(trial), *feasibility._played(trial, 0)][-1]
        assert feasibility.project(trial).final == dict(
            zip(("macs", "params"), map(float, last.cost()), strict=True)
        )


def test_a_target_that_is_hit_exactly_is_reached_and_possible() -> None:
    """Every unit costs a tenth of the net: what floors of 2 and 8 units leave is 0.2 and 0.8 of it, with a hair."""
    feasibility = Feasibility(usual=False)
    for target, floor in ((0.8, 2), (0.2, 8)):
        prune = PruneConfig(
            "l1", interval=1, ratio=1.0, target=target, until=1.0, min_channels=floor, min_share=0.0
        )
        trial = TrialConfig(
            model=ModelConfig("tests.oracles.small_paths:ten_channels"),
            train=TrainConfig(epochs=4),
            prune=prune,
        )
        assert not feasibility.impossible(trial)
        assert feasibility.play(trial) == (True, 1)
        assert feasibility.project(trial).final["macs"] == (10 - 10 * target) / 10 * 5860
