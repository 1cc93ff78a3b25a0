"""A trial's measured values wait for their baseline; nothing makes them worthless."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sweeps.conduct.alike import FirstEnds
from sweeps.conduct.baselines import Baselines
from sweeps.conduct.conductor import Conductor
from sweeps.records.job import Job, Outcome
from sweeps.strategy.judging import dense_costs
from sweeps.worker.trial import run_job
from tests.sweeps.inline import RUNNER, config, drive, new_conductor

DROP: dict[str, Any] = {"search.objectives": {"accuracy_drop": "min", "macs": "min"}}
LOST = Outcome("lost", error="lost because its node died")


def _end(conductor: Conductor, job: Job) -> None:
    conductor.finish(job.trial_id, run_job(job, RUNNER, lambda row: None))


def _drive_losing(conductor: Conductor, ending: Outcome, times: int) -> list[str]:
    """Drive it; the first ``times`` baselines end so. The names of all jobs in the order of their start."""
    started = []
    while (job := conductor.next_job()) is not None:
        started.append(job.trial_id)
        if job.kind == "baseline" and times:
            times -= 1
            conductor.finish(job.trial_id, ending)
        else:
            _end(conductor, job)
    return started


@pytest.mark.parametrize(
    "ending",
    [
        LOST,
        Outcome("failed", error="out of memory with train.batch_size=64; lower it"),
        Outcome("failed", error="OSError: [Errno 5] Input/output error"),
        Outcome("failed", error="AcceleratorError: CUDA error: unspecified launch failure"),
    ],
)
def test_a_baseline_that_the_machine_took_is_trained_again_before_anything_else(
    tmp_path: Path, ending: Outcome
) -> None:
    conductor, recorder, ledger = new_conductor(config(tmp_path, DROP))
    assert _drive_losing(conductor, ending, times=2)[:4] == ["b0000", "b0001", "b0002", "t0000"]
    assert conductor.complete
    assert [record.status for record in ledger.records("baseline")] == [ending.status] * 2 + ["complete"]
    assert [record.status for record in ledger.records("trial")] == ["complete"] * 6
    assert recorder.statuses["b0000"] == ending.status


def test_answers_that_came_before_the_baseline_was_lost_wait_for_the_next_attempt(tmp_path: Path) -> None:
    conductor, _, ledger = new_conductor(config(tmp_path, {**DROP, "search.concurrency": 2}))
    baseline, trial = conductor.next_job(), conductor.next_job()
    _end(conductor, trial)
    conductor.finish(baseline.trial_id, LOST)
    assert [record.status for record in ledger.records("trial")] == ["running"]
    again = conductor.next_job()
    assert (again.trial_id, again.config) == ("b0001", baseline.config)
    _end(conductor, again)
    (record,) = ledger.records("trial")
    assert (record.status, record.values is not None) == ("complete", True)


def test_a_baseline_that_stays_away_ends_the_sweep_and_the_next_driver_judges_what_was_trained(
    tmp_path: Path,
) -> None:
    checked = config(tmp_path, {**DROP, "search.concurrency": 3, "resources.retries": 1})
    conductor, recorder, ledger = new_conductor(checked)
    baseline, *trials = [conductor.next_job() for _ in range(3)]
    _end(conductor, trials[0])
    conductor.finish(baseline.trial_id, LOST)
    conductor.finish(conductor.next_job().trial_id, LOST)
    assert conductor.next_job() is None, "what needs a baseline that cannot be had is not trained for nothing"
    _end(conductor, trials[1])  # it ran already, and comes to its end
    assert not conductor.has_work
    assert not conductor.complete
    assert conductor.stop_reason == (
        "the baseline b0001 was lost (lost because its node died), and accuracy_drop needs it;"
        " 1 trial waits for it: run again to continue"
    )
    assert conductor.waiting == tuple(trials)
    assert [record.status for record in ledger.records("trial")] == ["running"] * 2
    assert set(recorder.statuses) == {"b0000", "b0001"}

    again, recorder, ledger = new_conductor(checked)
    drive(again)
    assert again.complete
    assert recorder.named("started")[0] == "b0002"
    assert not {"t0000", "t0001"} & set(recorder.named("started")), "trained again"
    assert [record.status for record in ledger.records("trial")] == ["complete"] * 6


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (Outcome("failed", error="ValueError: no such thing"), "failed (ValueError: no such thing)"),
        (Outcome("diverged", error="the loss is nan"), "ended as diverged (the loss is nan)"),
        (Outcome("complete", {"val_accuracy": float("nan")}), "failed (final val_accuracy is nan)"),
    ],
)
def test_a_baseline_that_fails_by_itself_is_not_tried_again_by_this_driver_and_its_answers_wait(
    tmp_path: Path, ending: Outcome, words: str
) -> None:
    checked = config(tmp_path, {**DROP, "search.concurrency": 2})
    conductor, _, ledger = new_conductor(checked)
    baseline, trial = conductor.next_job(), conductor.next_job()
    _end(conductor, trial)
    conductor.finish(baseline.trial_id, ending)
    assert not conductor.has_work
    assert f"the baseline b0000 {words}" in conductor.stop_reason
    (record,) = ledger.records("trial")
    assert record.status == "running"
    again, _, ledger = new_conductor(checked)
    drive(again)
    assert [record.status for record in ledger.records("trial")] == ["complete"] * 6


def test_one_seeds_lost_baseline_does_not_hold_up_the_trials_of_others(tmp_path: Path) -> None:
    seeds = {"seed": {"choice": [0, 1]}, "search.trials": 12, "resources.retries": 0}
    checked = config(tmp_path, {**DROP, **seeds})
    conductor, _, ledger = new_conductor(checked)
    assert len(_drive_losing(conductor, LOST, times=1)) == 14
    assert not conductor.complete
    waiting = conductor.waiting
    assert {job.config.seed for job in waiting} == {ledger.records("baseline")[0].job.config.seed}
    assert conductor.missing == (
        "the baseline b0000 was lost (lost because its node died), and accuracy_drop needs it;"
        f" {len(waiting)} trials wait for it: run again to continue"
    )
    statuses = Counter(record.status for record in ledger.records("trial"))
    assert statuses == {"complete": 12 - len(waiting), "running": len(waiting)}


def test_attempts_count_over_the_connections_of_one_driver(tmp_path: Path) -> None:
    """A baseline that takes Ray down with it each time comes back through a new conductor."""
    checked = config(tmp_path, {**DROP, "resources.retries": 1})
    attempts: Counter[str] = Counter()
    for _ in range(2):
        conductor, _, ledger = new_conductor(checked, attempts=attempts)
        conductor.finish(conductor.next_job().trial_id, LOST)
    assert not conductor.has_work
    assert len(ledger.records("baseline")) == 2


def test_a_sweep_that_needs_no_baseline_goes_on_without_and_has_its_drop_when_it_comes(
    tmp_path: Path,
) -> None:
    conductor, recorder, ledger = new_conductor(config(tmp_path, {"search.concurrency": 2}))
    baseline, trial = conductor.next_job(), conductor.next_job()
    _end(conductor, trial)
    conductor.finish(baseline.trial_id, LOST)
    assert [record.status for record in ledger.records("trial")] == ["complete"]
    drive(conductor)
    assert conductor.complete
    assert recorder.finals["t0000"]["accuracy_drop"] == pytest.approx(
        recorder.finals["b0001"]["val_accuracy"] - recorder.finals["t0000"]["val_accuracy"]
    )


def test_a_trial_that_did_not_reach_its_end_waits_for_nobody(tmp_path: Path) -> None:
    conductor, _, ledger = new_conductor(config(tmp_path, {**DROP, "search.concurrency": 2}))
    _, trial = conductor.next_job(), conductor.next_job()
    conductor.finish(trial.trial_id, Outcome("diverged", error="the loss is nan"))
    assert [record.status for record in ledger.records("trial")] == ["diverged"]


@pytest.mark.parametrize("limit", ["macs <= 50%", "params <= 50%"])
def test_shares_of_dense_costs_are_judged_without_any_baseline(tmp_path: Path, limit: str) -> None:
    """The fake's unpruned model has 1,000,000 MACs; what is removed is the target."""
    overrides = {"search.concurrency": 2, "search.constraints": [limit], "resources.retries": 0}
    conductor, _, ledger = new_conductor(config(tmp_path, overrides))
    baseline = conductor.next_job()
    conductor.finish(baseline.trial_id, LOST)
    drive(conductor)
    assert conductor.complete
    for record in ledger.records("trial"):
        expected = "complete" if record.job.point["prune.target"] >= 0.5 else "infeasible"
        assert record.status == expected
    assert {"complete", "infeasible"} == {record.status for record in ledger.records("trial")}


def test_dense_costs_come_from_the_manifest_and_else_from_what_was_removed(tmp_path: Path) -> None:
    finals = {"macs": 250.0, "macs_removed": 0.75, "params": 40.0, "compression": 2.5}
    assert dense_costs(tmp_path, finals) == {"macs": 1000.0, "params": 100.0}
    assert dense_costs(tmp_path, {"macs": 250.0}) == {}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "manifest.json").write_text('{"dense": {"macs": 1001, "params": 101}}')
    assert dense_costs(tmp_path, finals) == {"macs": 1001.0, "params": 101.0}


def test_of_thousands_of_ends_the_driver_keeps_no_history(tmp_path: Path) -> None:
    """Neither those before their baseline nor the first ones of the sweep: what is kept of each is one row at most."""
    history = tuple({"epoch": epoch, "val/accuracy": 1.0} for epoch in range(1, 200))
    checked = config(tmp_path)
    trial = checked.space.resolve(checked.space.first())
    baselines, first = Baselines(0), FirstEnds()
    for number in range(20):
        job = Job(f"t{number:04d}", "trial", number, trial, {}, "/nowhere")
        outcome = Outcome("complete", {"val_accuracy": 1.0}, history)
        baselines.lacks_drop(job, outcome)
        first.add(job, outcome, 20)
    late = baselines.late(trial.baseline().key())
    assert [(len(answer.history), answer.last_epoch) for _, answer in late] == [(1, 199)] * 20
    assert len(first._ended) <= 4
    assert not any(end.history for end in first._ended.values())
