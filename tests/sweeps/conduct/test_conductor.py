"""What runs next and what an answer means, on a fake trial with a known front."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from sweeps.conduct.agenda import DRAWN_AT_ONCE
from sweeps.records.job import Outcome, Snap, read_outcome
from sweeps.strategy.judging import judge
from sweeps.strategy.trunk import Trunk
from sweeps.worker.trial import run_job
from tests.sweeps.fake_paths import finals_at
from tests.sweeps.inline import OF_PATHS, RUNNER, config, drive, new_conductor


def test_the_baseline_comes_first_and_every_trial_ends(tmp_path: Path) -> None:
    conductor, recorder, ledger = new_conductor(config(tmp_path))
    drive(conductor)
    assert recorder.named("started")[0] == "b0000"
    assert conductor.complete
    assert [record.status for record in ledger.records("trial")] == ["complete"] * 6
    assert [record.status for record in ledger.records("baseline")] == ["complete"]


def test_accuracy_drop_is_baseline_minus_pruned_even_for_trials_that_ended_before_it(tmp_path: Path) -> None:
    conductor, recorder, _ = new_conductor(config(tmp_path, {"search.concurrency": 3}))
    jobs = [conductor.next_job() for _ in range(3)]
    assert [job.trial_id for job in jobs] == ["b0000", "t0000", "t0001"]
    for job in reversed(jobs):  # the baseline ends last
        conductor.finish(job.trial_id, run_job(job, RUNNER, lambda row: None))
    assert recorder.named("finished") == ["t0001", "t0000", "b0000"]
    assert sorted(recorder.named("late")) == ["t0000", "t0001"]
    for job in jobs[1:]:
        expected = recorder.finals["b0000"]["val_accuracy"] - recorder.finals[job.trial_id]["val_accuracy"]
        assert recorder.finals[job.trial_id]["accuracy_drop"] == pytest.approx(expected)
    assert recorder.finals["b0000"]["accuracy_drop"] == 0.0


def test_a_confirmation_run_that_ended_before_its_baseline_has_its_drop_from_the_next_driver(
    tmp_path: Path,
) -> None:
    drive(new_conductor(config(tmp_path, {"search.trials": 2}))[0])
    confirming = config(tmp_path, {"search.trials": 2, "search.concurrency": 2, "confirm.seeds": 1})
    conductor, _, _ = new_conductor(confirming)
    baseline, run = conductor.next_job(), conductor.next_job()
    assert (baseline.trial_id, run.trial_id) == ("b0001", "c0000")
    conductor.finish(run.trial_id, run_job(run, RUNNER, lambda row: None))  # then the driver is killed
    again, recorder, ledger = new_conductor(confirming)
    drive(again)
    assert recorder.named("late") == ["c0000"]
    expected = recorder.finals["b0001"]["val_accuracy"] - ledger.records("confirm")[0].finals["val_accuracy"]
    assert recorder.finals["c0000"]["accuracy_drop"] == pytest.approx(expected)


def test_many_trials_that_have_to_wait_are_not_all_drawn_for_one_worker(tmp_path: Path) -> None:
    """A thousand drawn at once hold up the reports of all others."""
    size = {"search.concurrency": 300, "search.trials": 300, "search.sampler": "random", "train.epochs": 50}
    space = {"prune.ratio": {"low": 0.1, "high": 0.4}, "prune.target": {"low": 0.3, "high": 0.9}}
    conductor, _, ledger = new_conductor(config(tmp_path, {**size, **space}), trunk=Trunk(True))
    entered = [0]
    while entered[-1] < 300:
        conductor.next_job()
        entered.append(len(ledger.records("trial")))
        assert conductor.has_work
    drawn = [after - before for before, after in pairwise(entered)]
    assert max(drawn) == DRAWN_AT_ONCE
    assert len(conductor.active) < 10  # the others wait for these


def test_an_answer_that_needs_its_baseline_waits_for_it_and_others_go_on(tmp_path: Path) -> None:
    overrides = {"search.concurrency": 2, "search.objectives": {"accuracy_drop": "min", "macs": "min"}}
    conductor, recorder, ledger = new_conductor(config(tmp_path, overrides))
    baseline, *_ = jobs = [conductor.next_job(), conductor.next_job()]
    conductor.finish(jobs[1].trial_id, run_job(jobs[1], RUNNER, lambda row: None))
    assert [record.status for record in ledger.records("trial")] == ["running"]
    assert conductor.next_job().trial_id == "t0001"
    conductor.finish(baseline.trial_id, run_job(baseline, RUNNER, lambda row: None))
    assert [record.status for record in ledger.records("trial")] == ["complete", "running"]
    assert ledger.records("trial")[0].values[0] == pytest.approx(recorder.finals["t0000"]["accuracy_drop"])


def test_a_failed_baseline_costs_no_trial_its_values(tmp_path: Path) -> None:
    """What becomes of the answers that wait: ``test_baselines``. What is in the ledger is neither lost nor failed."""
    overrides = {"search.concurrency": 2, "search.constraints": ["accuracy_drop <= 1", "macs <= 50%"]}
    conductor, _, ledger = new_conductor(config(tmp_path, overrides))
    baseline, trial = conductor.next_job(), conductor.next_job()
    measured = run_job(trial, RUNNER, lambda row: None)
    conductor.finish(trial.trial_id, measured)
    conductor.finish(baseline.trial_id, Outcome("failed", error="ValueError: no such thing"))
    (record, *_) = ledger.records("trial")
    assert (record.status, record.values) == ("running", None)
    assert not conductor.complete
    again, _, ledger = new_conductor(conductor.config)
    again.finish(again.next_job().trial_id, Outcome("complete", {"val_accuracy": 95.0}))
    (record, *_) = ledger.records("trial")
    assert record.values == (measured.finals["val_accuracy"], measured.finals["macs"])
    assert record.finals["accuracy_drop"] == 95.0 - measured.finals["val_accuracy"]


def test_one_baseline_per_seed(tmp_path: Path) -> None:
    conductor, _, ledger = new_conductor(config(tmp_path, {"seed": {"choice": [0, 1]}, "search.trials": 12}))
    drive(conductor)
    assert sorted(record.job.config.seed for record in ledger.records("baseline")) == [0, 1]
    keys = {record.key for record in ledger.records("baseline")}
    assert {record.job.baseline_key for record in ledger.records("trial")} == keys


def test_a_failing_trial_does_not_end_the_sweep(tmp_path: Path) -> None:
    conductor, recorder, ledger = new_conductor(
        config(tmp_path, {"model.name": "third-broken", "search.trials": 20})
    )
    drive(conductor)
    expected = [
        "failed" if r.job.point["prune.interval"] == 3 else "complete" for r in ledger.records("trial")
    ]
    assert [record.status for record in ledger.records("trial")] == expected
    assert "failed" in expected
    assert len(recorder.named("finished")) == 21


def test_a_sweep_whose_first_trials_all_fail_alike_stops_and_says_why(tmp_path: Path) -> None:
    conductor, recorder, _ = new_conductor(config(tmp_path, {"model.name": "broken"}))
    drive(conductor)
    assert len(recorder.named("finished")) == 3
    # The message differs from trial to trial (the target is in it), the error does not.
    assert conductor.stop_reason == (
        "the first 3 trials all failed in the same way: ValueError: no such thing at target 0.0"
    )
    assert conductor.failed_alike
    assert not conductor.complete


def test_losses_beside_a_path_that_has_come_to_rest_do_not_end_the_sweep(tmp_path: Path) -> None:
    """Paths rest more often than they end, so three spot nodes that go may be the first ends of a driver."""
    checked = config(tmp_path, {**OF_PATHS, "search.trials": 6, "search.concurrency": 6})
    conductor, _, ledger = new_conductor(checked)
    resting, *others = [job for job in iter(conductor.next_job, None) if job.kind == "trial"][:4]
    snap = Snap(1, 3, finals_at(resting.config, 0.5, 3))
    conductor.snapshot(resting.trial_id, snap)
    conductor.finish(resting.trial_id, Outcome("paused", snap.finals, snapshots=(snap,), ended="paused"))
    for job in others:
        conductor.finish(job.trial_id, Outcome("lost", error="lost because its node died"))
    assert [record.status for record in ledger.records("trial")][:4] == ["paused", "lost", "lost", "lost"]
    assert (conductor.stop_reason, conductor.failed_alike) == ("", False)


def test_a_final_value_that_is_no_number_fails_the_trial(tmp_path: Path) -> None:
    conductor, _, ledger = new_conductor(config(tmp_path, {"model.name": "nan", "search.trials": 1}))
    drive(conductor)
    (record,) = ledger.records("trial")
    assert (record.status, record.error, record.values) == ("failed", "final val_accuracy is nan", None)


def test_a_broken_constraint_makes_a_trial_infeasible_with_its_values_kept(tmp_path: Path) -> None:
    checked = config(tmp_path, {"search.constraints": ["macs <= 50%", "accuracy_drop <= 3"]})
    finals = {"val_accuracy": 90.0, "macs": 600.0, "accuracy_drop": 2.0}
    baseline = Outcome("complete", {"val_accuracy": 92.0, "macs": 1000.0})
    outcome, values, violations = judge(checked, Outcome("complete", finals), baseline)
    assert (outcome.status, outcome.error) == ("infeasible", "violates macs <= 50%")
    assert values == (90.0, 600.0)
    assert violations == {"macs <= 50%": 100.0, "accuracy_drop <= 3": -1.0}


def test_the_sampler_is_told_how_far_limits_are_broken_as_shares_of_them(tmp_path: Path) -> None:
    checked = config(tmp_path, {"search.constraints": ["macs <= 1%", "val_accuracy >= 99.9"]})
    conductor, _, ledger = new_conductor(checked)
    drive(conductor)
    records = ledger.records("trial")
    assert [record.status for record in records] == ["infeasible"] * 6
    # 1 % of 1,000,000 multiply-adds are 10,000.
    shares = [[macs / 10_000, accuracy / 99.9] for macs, accuracy in (r.violations.values() for r in records)]
    for driver in (conductor, new_conductor(checked)[0]):
        trials = driver._proposals._proposer._mirror.trials()
        told = [list(trial.constraints.values()) for trial in trials if trial.constraints]
        assert told == [pytest.approx(one) for one in shares]


def test_continuing_trains_nothing_twice_and_keeps_running_trials_under_their_ids(tmp_path: Path) -> None:
    checked = config(tmp_path, {"search.concurrency": 2})
    conductor, _, ledger = new_conductor(checked)
    jobs = [conductor.next_job(), conductor.next_job()]
    conductor.finish("b0000", run_job(jobs[0], RUNNER, lambda row: None))
    lost = conductor.next_job()  # the driver dies: t0000 has finished unseen, t0001 has not started
    run_job(jobs[1], RUNNER, lambda row: None)
    again, recorder, ledger = new_conductor(checked)
    assert recorder.named("finished") == ["t0000"]
    drive(again)
    assert recorder.named("started")[0] == lost.trial_id == "t0001"
    assert "t0000" not in recorder.named("started")
    assert "b0000" not in recorder.named("started")
    records = ledger.records("trial")
    assert [record.job.trial_id for record in records] == [f"t{n:04d}" for n in range(6)]
    assert len({record.key for record in records}) == 6
    assert all(record.status == "complete" for record in records)


def test_a_finished_sweep_has_nothing_to_do_until_more_trials_are_asked_for(tmp_path: Path) -> None:
    drive(new_conductor(config(tmp_path))[0])
    idle, recorder, _ = new_conductor(config(tmp_path))
    assert not idle.has_work
    assert idle.complete
    more, recorder, ledger = new_conductor(config(tmp_path, {"search.trials": 9}))
    drive(more)
    assert sorted(recorder.named("started")) == ["t0006", "t0007", "t0008"]
    assert len({record.key for record in ledger.records("trial")}) == 9


def test_a_population_goes_on_from_what_earlier_drivers_trained(tmp_path: Path) -> None:
    """The next driver's twenty trials are children of the best, not twenty more by chance."""
    fine = {"low": 0.3, "high": 0.9, "step": 0.005}
    more = {"search.sampler": "nsga2", "prune.target": fine, "prune.ratio": {**fine, "low": 0.1, "high": 0.4}}
    drive(new_conductor(config(tmp_path, {**more, "search.trials": 20}))[0])
    conductor, _, ledger = new_conductor(config(tmp_path, {**more, "search.trials": 40}))
    drive(conductor)
    points = [record.job.point for record in ledger.records("trial")]
    known = [{point[name] for point in points[:20]} for name in ("prune.target", "prune.ratio")]
    inherited = [(p["prune.target"] in known[0]) + (p["prune.ratio"] in known[1]) for p in points[20:]]
    # By chance a target is one of 20 of 121, a ratio one of 20 of 61: half of one per trial.
    assert sum(inherited) >= 20


@pytest.mark.parametrize("seed", [0, 1])
def test_64_trials_of_tpe_on_a_grid_of_240_points_train_nothing_twice(tmp_path: Path, seed: int) -> None:
    grid = {"prune.target": {"low": 0.2, "high": 0.9, "step": 0.05}, "search.trials": 64, "seed": seed}
    checked = config(tmp_path, {**grid, "search.concurrency": 4, "train.epochs": 1})
    assert checked.space.size() == 240
    conductor, recorder, ledger = new_conductor(checked)
    drive(conductor)
    trials = ledger.records("trial")
    assert len({record.key for record in trials}) == len(trials) == 64
    assert Counter(recorder.named("started")) == Counter(
        ["b0000", *(record.job.trial_id for record in trials)]
    )
    assert {record.status for record in trials} == {"complete"}


def test_a_used_up_space_ends_the_sweep_and_says_so(tmp_path: Path) -> None:
    overrides = {
        "prune.interval": {"choice": [1, 2]},
        "prune.ratio": 0.2,
        "prune.target": 0.5,
        "search.trials": 50,
    }
    conductor, _, _ = new_conductor(config(tmp_path, overrides))
    drive(conductor)
    assert (conductor.done, conductor.total, conductor.complete) == (2, 2, True)


def test_values_that_cannot_be_together_are_not_proposed_and_the_sweep_goes_on(tmp_path: Path) -> None:
    """Nesterov without a momentum is refused; no corner of this space has both."""
    searched = {"train.nesterov": {"choice": [False, True]}, "train.momentum": {"choice": [0.9, 0.0, 0.8]}}
    fixed = {"prune.interval": 1, "prune.ratio": 0.2, "prune.target": 0.5}
    grid = {"search.sampler": "grid", "search.trials": None}
    conductor, _, ledger = new_conductor(config(tmp_path, {**searched, **fixed, **grid}))
    drive(conductor)
    trained = [record.job.config.train for record in ledger.records("trial")]
    expected = [(False, 0.0), (False, 0.8), (False, 0.9), (True, 0.8), (True, 0.9)]
    assert sorted((train.nesterov, train.momentum) for train in trained) == expected
    assert conductor.complete
    refusals = [note for note in conductor._progress.named("note") if "not proposed" in note]
    assert len(refusals) == 1
    assert "train.nesterov: nesterov needs a momentum above 0" in refusals[0]


def test_an_interruption_leaves_running_trials_to_be_continued(tmp_path: Path) -> None:
    conductor, _, ledger = new_conductor(config(tmp_path))
    conductor.next_job()
    conductor.interrupt("interrupted")
    assert conductor.next_job() is None
    assert not conductor.complete
    assert [record.status for record in ledger.records("baseline")] == ["running"]


def test_the_folder_of_a_failed_trial_holds_traceback_and_log(tmp_path: Path) -> None:
    conductor, _, _ = new_conductor(config(tmp_path, {"model.name": "broken"}))
    job = conductor.next_job()
    outcome = run_job(job, RUNNER, lambda row: None)
    assert (outcome.status, outcome.error) == ("failed", "ValueError: no such thing at target 0.0")
    assert "Traceback" in (Path(job.folder) / "traceback.txt").read_text()
    assert "no such thing" in (Path(job.folder) / "trial.log").read_text()
    assert read_outcome(job.folder) == outcome
