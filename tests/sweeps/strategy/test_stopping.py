"""Rungs for several objectives: who goes on, who stops, and what the rest of the sweep is told."""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gcp_core.config import TrialConfig
from gcp_core.errors import ConfigError
from sweeps.conduct.conductor import Conductor
from sweeps.records import spool
from sweeps.records.job import Job, Outcome, Stop, read_outcome, read_stop, write_stop
from sweeps.records.ledger import Ledger
from sweeps.strategy.feasibility import Feasibility, Projection
from sweeps.strategy.sampling import Proposer
from sweeps.strategy.stopping import Rungs
from sweeps.strategy.stopping.courses import rung_epochs
from sweeps.strategy.stopping.foresight import expected_accuracy
from sweeps.worker.trial import run_job
from tests.sweeps.fake_runner import DENSE_MACS, DENSE_PARAMS
from tests.sweeps.inline import RUNNER, Recorder, Silent, config, drive

DENSE = {"macs": DENSE_MACS, "params": DENSE_PARAMS}


def fake_projection(trial: TrialConfig) -> Projection:
    """What the fake runner's trials end with: their target, exactly."""
    end = {kind: value * (1 - trial.prune.target) for kind, value in DENSE.items()}
    return Projection(DENSE, end, {"macs": end["macs"], "params": 0.0}, end["macs"])


def rungs_for(tmp_path: Path, **overrides: Any) -> Rungs:
    """The rule at epochs 2 and 4 of 8."""
    return Rungs(config(tmp_path, {"train.epochs": 8, **overrides}).search, fake_projection)


def job(tmp_path: Path, number: int, target: float | None, **overrides: Any) -> Job:
    checked = config(tmp_path, {"train.epochs": 8, **overrides})
    point = {"prune.interval": 4, "prune.ratio": 0.3, "prune.target": target or 0.3}
    trial = checked.space.resolve(point)
    if target is None:
        return Job(f"b{number:04d}", "baseline", number, trial.baseline(), {}, str(tmp_path))
    return Job(f"t{number:04d}", "trial", number, trial, point, str(tmp_path))


def row(epoch: int, accuracy: float, left: float = 1.0) -> dict[str, float]:
    """One epoch of a trial that has ``left`` of its cost at the moment."""
    return {
        "epoch": epoch,
        "val/accuracy": accuracy,
        "cost/macs": DENSE_MACS * left,
        "cost/params": DENSE_PARAMS * left,
    }


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(12, (3, 6)), (20, (5, 10)), (160, (40, 80)), (6, (2, 3)), (4, (2,)), (3, (2,)), (2, ())],
)
def test_rungs_are_shares_of_the_epochs_and_never_before_the_second(
    epochs: int, expected: tuple[int, ...]
) -> None:
    assert rung_epochs((0.25, 0.5), epochs) == expected


# --- the accuracy to be expected --------------------------------------------------------------------------------------


def test_where_small_nets_lead_early_the_expected_accuracy_still_rises_with_cost() -> None:
    log_macs = np.linspace(0, 2, 8)
    known = np.column_stack([60 - 5 * log_macs, log_macs])  # so far the cheaper, the better
    finals = 70 + 4 * log_macs  # in the end the dearer, the better
    expected = expected_accuracy(known, known, finals)
    assert (np.diff(expected) > 0).all()
    assert expected == pytest.approx(finals, abs=0.5)


def test_at_equal_cost_the_better_accuracy_so_far_is_expected_to_end_better() -> None:
    so_far = np.array([40.0, 45, 50, 55, 60, 65])
    known = np.column_stack([so_far, np.tile([0.0, 1.0], 3)])
    expected = expected_accuracy(np.array([[42.0, 0.5], [58.0, 0.5]]), known, 60 + so_far / 5)
    assert expected == pytest.approx([60 + 42 / 5, 60 + 58 / 5], abs=0.5)


def test_accuracy_so_far_that_predicts_the_wrong_way_round_is_not_used() -> None:
    known = np.column_stack([[10.0, 20, 30, 40, 50, 60], [0.0, 1, 0, 1, 0, 1]])
    expected = expected_accuracy(
        np.array([[10.0, 0.5], [60.0, 0.5]]), known, np.array([70.0, 69, 68, 67, 66, 65])
    )
    assert expected[0] == expected[1]


# --- the rule ---------------------------------------------------------------------------------------------------------


def finish(rungs: Rungs, tmp_path: Path, targets: list[float], first: int = 0, **overrides: Any) -> None:
    """Trials that were trained to the end: 40 % after two epochs, then 90 - 10 * target; the start says nothing."""
    for number, target in enumerate(targets, start=first):
        history = tuple(row(epoch, 40.0 if epoch <= 4 else 80.0, 1 - target) for epoch in range(1, 9))
        finals = {
            "val_accuracy": 90 - 10 * target,
            "macs": DENSE_MACS * (1 - target),
            "params": DENSE_PARAMS * (1 - target),
        }
        rungs.ended(job(tmp_path, number, target, **overrides), Outcome("complete", finals, history))


def informed(tmp_path: Path, **overrides: Any) -> Rungs:
    """The rule once six trials have been trained to the end, from the dearest to the cheapest."""
    rungs = rungs_for(tmp_path, **overrides)
    finish(rungs, tmp_path, [0.3, 0.4, 0.5, 0.6, 0.7, 0.9], **overrides)
    return rungs


def test_nobody_is_stopped_before_six_were_trained_to_the_end(tmp_path: Path) -> None:
    rungs = rungs_for(tmp_path)
    finish(rungs, tmp_path, [0.3, 0.4, 0.5, 0.6, 0.9])
    assert rungs.epoch(job(tmp_path, 10, 0.35), row(2, 1.0)) is None
    finish(rungs, tmp_path, [0.7], first=5)
    stop = rungs.epoch(job(tmp_path, 11, 0.35), row(2, 1.0))
    assert stop == Stop("stopped after epoch 2: not among the better 50% there")


def test_a_trial_is_judged_by_its_final_cost_not_by_its_cost_at_the_rung(tmp_path: Path) -> None:
    rungs = informed(tmp_path)
    # It has not pruned yet and is no better than others, but between targets 0.7 and 0.9 there is room.
    assert rungs.epoch(job(tmp_path, 6, 0.8), row(2, 40.0, left=1.0)) is None
    # It has pruned as much as that one will, but it will end where there are two already.
    assert rungs.epoch(job(tmp_path, 7, 0.6), row(2, 40.0, left=0.45)) is not None


def test_a_dip_right_after_an_event_is_not_held_against_a_trial(tmp_path: Path) -> None:
    overrides = {"search.objectives": {"val_accuracy": "max"}}
    rungs = rungs_for(tmp_path, **overrides)
    for number in range(6):  # the better so far, the better in the end
        history = tuple(row(epoch, 40.0 + number) for epoch in range(1, 9))
        finals = {"val_accuracy": 80.0 + number, "macs": 1e5, "params": 1e4}
        rungs.ended(job(tmp_path, number, 0.9, **overrides), Outcome("complete", finals, history))
    dipped, poor = job(tmp_path, 6, 0.9, **overrides), job(tmp_path, 7, 0.9, **overrides)
    rungs.epoch(dipped, row(1, 44.5))
    rungs.epoch(poor, row(1, 40.5))
    assert rungs.epoch(dipped, row(2, 10.0)) is None
    assert rungs.epoch(poor, row(2, 10.0)) is not None


def test_baselines_and_confirm_runs_are_never_stopped(tmp_path: Path) -> None:
    rungs = informed(tmp_path)
    poor = job(tmp_path, 6, 0.35)
    assert rungs.epoch(job(tmp_path, 0, None), row(2, 1.0)) is None
    assert rungs.epoch(dataclasses.replace(poor, trial_id="c0000", kind="confirm"), row(2, 1.0)) is None
    assert rungs.epoch(poor, row(2, 1.0)) is not None


def test_trials_of_another_length_are_not_compared(tmp_path: Path) -> None:
    rungs = informed(tmp_path)
    assert rungs.epoch(job(tmp_path, 6, 0.35, **{"train.epochs": 9}), row(2, 1.0)) is None


def test_stopped_trials_still_count_at_their_rung(tmp_path: Path) -> None:
    rungs = informed(tmp_path, **{"search.objectives": {"macs": "min"}})
    for number in (6, 7, 8):  # the dearest of all
        assert rungs.epoch(job(tmp_path, number, 0.3), row(2, 40.0)) is not None
    # Fifth of ten by cost, so among the better five; of the seven that were not stopped only four would go on.
    assert rungs.epoch(job(tmp_path, 9, 0.5), row(2, 40.0)) is None


def test_an_accuracy_that_is_no_number_neither_stops_nor_disturbs_anybody(tmp_path: Path) -> None:
    rungs = informed(tmp_path)
    assert rungs.epoch(job(tmp_path, 6, 0.35), row(2, math.nan)) is None
    assert rungs.epoch(job(tmp_path, 7, 0.8), row(2, 40.0)) is None
    assert rungs.epoch(job(tmp_path, 8, 0.35), row(2, 1.0)) is not None


def test_accuracy_drop_is_judged_against_the_trials_own_baseline(tmp_path: Path) -> None:
    rungs = informed(tmp_path, **{"search.objectives": {"accuracy_drop": "min", "macs": "min"}})
    # The baseline has not come as far: nobody can be judged.
    assert rungs.epoch(job(tmp_path, 6, 0.35), row(2, 1.0)) is None
    rungs.epoch(job(tmp_path, 0, None), row(2, 50.0))
    assert rungs.epoch(job(tmp_path, 7, 0.35), row(2, 1.0)) is not None
    assert rungs.epoch(job(tmp_path, 8, 0.8), row(2, 40.0)) is None


def test_an_objective_that_cannot_be_foreseen_is_left_out(tmp_path: Path) -> None:
    objectives = {"epochs": "min", "latency_ms": "min", "val_accuracy": "max"}
    rungs = rungs_for(tmp_path, **{"search.objectives": objectives})
    assert list(rungs.objectives) == ["latency_ms", "val_accuracy"]


# --- caps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("constraint", "target", "excess"),
    [
        ("macs <= 50%", 0.3, 0.2 * DENSE_MACS),  # 70 % will be left, whatever happens
        ("macs <= 50%", 0.5, None),
        ("macs_removed >= 0.6", 0.5, 0.1),
        ("macs >= 90%", 0.5, None),  # a lower bound on the cost is not what least cost can answer
        ("accuracy_drop <= 0", 0.3, None),
        ("params <= 101", 0.3, None),  # its params may still fall: nobody knows how far
    ],
)
def test_a_trial_that_can_no_longer_keep_a_cap_stops_at_once(
    tmp_path: Path, constraint: str, target: float, excess: float | None
) -> None:
    stop = rungs_for(tmp_path, **{"search.constraints": [constraint]}).epoch(
        job(tmp_path, 0, target), row(1, 50.0)
    )
    if excess is None:
        assert stop is None
    else:
        assert stop.reason == f"stopped after epoch 1: can no longer keep {constraint}"
        assert stop.violations == {constraint: pytest.approx(excess)}


def test_once_the_events_are_over_the_cost_is_what_it_is(tmp_path: Path) -> None:
    rungs = rungs_for(tmp_path, **{"search.constraints": ["params <= 30000"], "prune.until": 4})
    trial = job(tmp_path, 0, 0.9, **{"prune.until": 4})
    assert rungs.epoch(trial, row(3, 50.0, left=0.8)) is None
    stop = rungs.epoch(trial, row(4, 50.0, left=0.8))  # 0.8 * 50,000 = 40,000 params, and no event is left
    assert stop.violations == {"params <= 30000": pytest.approx(10_000)}


# --- in a sweep -------------------------------------------------------------------------------------------------------


def conductor_with_rungs(tmp_path: Path, **overrides: Any) -> tuple[Conductor, Recorder, Ledger]:
    checked = config(
        tmp_path, {"train.epochs": 8, "search.trials": 16, "search.sampler": "random", **overrides}
    )
    folder = Path(checked.folder)
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(folder, checked.name, checked.search.objectives)
    recorder = Recorder()
    rungs = Rungs(checked.search, fake_projection)
    return Conductor(checked, ledger, recorder, Silent(), rungs=rungs), recorder, ledger


def test_stopped_trials_end_at_a_rung_pruned_in_the_ledger_and_without_values(tmp_path: Path) -> None:
    conductor, recorder, ledger = conductor_with_rungs(tmp_path)
    drive(conductor)
    records = ledger.records("trial")
    stopped = [record for record in records if record.status == "stopped"]
    assert conductor.complete
    assert 3 <= len(stopped) < 13
    assert {record.status for record in records} == {"stopped", "complete"}
    assert {record.values for record in stopped} == {None}
    states = {trial.number: trial.state.name for trial in ledger._study("trial").get_trials()}
    assert {states[record.job.number] for record in stopped} == {"PRUNED"}
    for record in stopped:
        outcome = read_outcome(record.job.folder)
        assert outcome.last_epoch in (2, 4)
        assert record.error == f"stopped after epoch {outcome.last_epoch}: not among the better 50% there"
        assert recorder.statuses[record.job.trial_id] == "stopped"


def test_a_trial_that_cannot_keep_a_cap_is_stopped_with_its_violation_on_record(tmp_path: Path) -> None:
    overrides = {
        "search.constraints": ["macs <= 40%"],
        "search.trials": 8,
        "search.rungs": [],
        # The fake runner's cost falls until the end, so the last event must be there.
        "prune.interval": {"choice": [1, 2, 4]},
        "prune.until": 1.0,
    }
    conductor, _, ledger = conductor_with_rungs(tmp_path, **overrides)
    drive(conductor)
    records = ledger.records("trial")
    hopeless = [record for record in records if record.job.point["prune.target"] < 0.6]
    assert 0 < len(hopeless) < 8
    assert [record for record in records if record.status == "stopped"] == hopeless
    for record in hopeless:
        left = 1 - record.job.point["prune.target"]
        assert record.violations == {"macs <= 40%": pytest.approx((left - 0.4) * DENSE_MACS)}
        assert read_outcome(record.job.folder).last_epoch == 1
    assert {record.status for record in records if record not in hopeless} == {"complete"}


def test_a_continued_sweep_decides_as_if_its_driver_had_never_died(tmp_path: Path) -> None:
    whole, _, expected = conductor_with_rungs(
        tmp_path / "whole", **{"search.sampler": "grid", "search.trials": 20}
    )
    drive(whole)
    overrides = {"search.sampler": "grid", "search.trials": 20}
    first, _, _ = conductor_with_rungs(tmp_path / "parts", **{**overrides, "search.trials": 12})
    drive(first)
    second, _, ledger = conductor_with_rungs(tmp_path / "parts", **overrides)
    drive(second)
    assert [r.status for r in ledger.records("trial")] == [r.status for r in expected.records("trial")]


def test_a_running_trials_epochs_under_an_earlier_driver_count_at_their_rung(tmp_path: Path) -> None:
    first, _, _ = conductor_with_rungs(tmp_path)
    assert [first.next_job().trial_id] == ["b0000"]
    first.finish("b0000", run_job(first.active[0], RUNNER, lambda row: None))
    running = first.next_job()
    for epoch in (1, 2, 3):  # as the trial's process does, before the driver hears of it
        spool.append(Path(running.folder), spool.stamp(row(epoch, 10.0 * epoch)))
    second, _, _ = conductor_with_rungs(tmp_path)
    standing = second._rungs.standing(8, 2)
    assert standing.reading.tolist() == [20.0]


def test_the_drivers_word_outlives_the_driver(tmp_path: Path) -> None:
    stop = Stop("stopped after epoch 2: for a reason", {"macs <= 50%": 3.0})
    assert read_stop(tmp_path) is None
    write_stop(tmp_path, stop)
    assert read_stop(tmp_path) == stop


def test_tpe_looks_away_from_where_trials_were_stopped(tmp_path: Path) -> None:
    """All trials at small targets were stopped, those at large targets trained: the next target is larger, on average
    over seeds, than if the stopped ones had been forgotten (as failed ones are)."""
    checked = config(tmp_path, {"search.trials": 200})

    def next_target(seed: int, stopped: bool) -> float:
        rng = random.Random(seed)
        proposer = Proposer(
            checked.space, checked.search, 30, seed, key=lambda point: repr(sorted(point.items()))
        )
        for number in range(20):
            good = proposer.propose(number)["prune.target"] >= 0.7
            values = (80 + 10 * rng.random(), rng.random()) if good else None
            proposer.answer(number, values, {}, stopped=stopped and not good)
        return proposer.propose(20)["prune.target"]

    stopped, forgotten = (np.mean([next_target(seed, told) for seed in range(12)]) for told in (True, False))
    assert stopped > forgotten + 0.03


# --- config ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("search.stopping", "rung", "'rung' is unknown"),
        ("search.rungs", [0.5, 1.0], "1.0 is not a number between 0 and 1"),
        ("search.rung_share", 0.0, r"0.0 is not a number in \(0, 1\]"),
    ],
)
def test_a_mistake_in_the_stopping_section_is_named(
    tmp_path: Path, path: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        config(tmp_path, {path: value})
    assert error.value.where.startswith(path)


@pytest.mark.parametrize(
    ("sampler", "given", "expected"),
    [
        ("tpe", None, "rungs"),
        ("gp", None, "rungs"),
        ("nsga2", None, "rungs"),
        ("grid", None, "none"),
        ("random", None, "none"),
        ("qmc", None, "none"),
        ("tpe", "none", "none"),
        ("grid", "rungs", "rungs"),
    ],
)
def test_early_stopping_is_on_by_default_where_the_sampler_learns(
    tmp_path: Path, sampler: str, given: str | None, expected: str
) -> None:
    checked = config(tmp_path, {"search.sampler": sampler, "search.stopping": given})
    assert checked.search.stopping == checked.tree["search"]["stopping"] == expected


# --- foresight --------------------------------------------------------------------------------------------------------


def test_the_projection_is_what_play_ends_with_and_the_least_cost_is_never_undercut(tmp_path: Path) -> None:
    checked = config(
        tmp_path, {"data.val_share": 0.25, "model.width": 0.25, "train.epochs": 8, "prune.until": 1.0}
    )
    feasibility = Feasibility()
    for interval, ratio, target in ((1, 0.4, 0.5), (2, 0.2, 0.7), (4, 0.1, 0.9)):
        point = {"prune.interval": interval, "prune.ratio": ratio, "prune.target": target}
        trial = checked.space.resolve(point)
        reached, _ = feasibility.play(trial)
        projection = feasibility.project(trial)
        assert projection.limit == pytest.approx((1 - target) * projection.dense["macs"])
        assert reached == (projection.final["macs"] <= projection.limit)
        assert projection.least["macs"] <= projection.final["macs"] < projection.dense["macs"]
        assert projection.least["params"] == 0
