"""Paths that rest and go on, under a rule that does as the test says."""

from __future__ import annotations

import shutil
from pathlib import Path

import optuna
import pytest

from sweeps.conduct import paths
from sweeps.conduct.conductor import Conductor
from sweeps.records.job import Job, Outcome, Rest, read_rest
from sweeps.records.ledger import Ledger
from sweeps.worker.trial import Extra, run_job
from tests.sweeps.conduct.scripted import Scripted, names, run_until_nothing, statuses, sweep
from tests.sweeps.inline import OF_PATHS, PATHS, Recorder, config, drive


@pytest.fixture
def scripted(monkeypatch):
    def use(**script) -> Scripted:
        choice = Scripted(**script)
        monkeypatch.setattr(paths, "Choice", choice)
        return choice

    return use


def test_a_path_that_rests_stays_open_and_its_snapshots_count(tmp_path, scripted):
    scripted(rest=[("t0000", 1)])
    conductor, recorder, ledger = sweep(tmp_path)
    run_until_nothing(conductor)
    assert statuses(ledger) == ["paused", "complete"]
    assert ledger._study("trial").trials[0].state == optuna.trial.TrialState.RUNNING
    assert names(ledger) == {"t0000": [0, 1], "t0001": [0, 1, 2, 3]}
    assert recorder.statuses["t0000"] == "paused"
    assert conductor._progress.named("rested") == ["t0000"], "its worker is free"
    assert not (Path(ledger.folder) / "trials/t0000/outcome.json").exists()
    assert conductor.done == 1


def test_the_decision_and_its_numbers_are_in_the_ledger(tmp_path, scripted):
    scripted(rest=[("t0000", 1)])
    conductor, _, ledger = sweep(tmp_path)
    run_until_nothing(conductor)
    first, second = ledger.records("trial")
    assert {level: known["action"] for level, known in first.decisions.items()} == {0: "go_on", 1: "pause"}
    assert first.decisions[1]["reason"] == "pause t0000"
    assert sorted(second.decisions) == [0, 1, 2], "at its last level there is nothing to decide"


def test_a_resting_path_goes_on_and_no_epoch_is_trained_twice(tmp_path, scripted):
    scripted(rest=[("t0000", 0), ("t0000", 2)], resumes=2)
    conductor, recorder, ledger = sweep(tmp_path)
    drive(conductor, PATHS)
    assert statuses(ledger) == ["complete", "complete"]
    epochs = [call[2] for call in recorder.calls if call[:2] == ("epoch", "t0000")]
    assert epochs == sorted(set(epochs))
    assert names(ledger) == {"t0000": [0, 1, 2, 3], "t0001": [0, 1, 2, 3]}
    assert recorder.named("started").count("t0000") == 3
    assert recorder.named("snapshot").count("t0000@0") == 1


def test_what_still_rests_at_the_end_of_the_sweep_is_complete(tmp_path, scripted):
    scripted(rest=[("t0000", 1)])
    conductor, recorder, ledger = sweep(tmp_path)
    drive(conductor, PATHS)
    record = ledger.records("trial")[0]
    assert (record.status, record.ended) == ("complete", "paused")
    assert record.finals["macs_removed"] == ledger.snapshots()["t0000"][-1].snap.finals["macs_removed"]
    assert record.values == ledger.snapshots()["t0000"][-1].values
    assert recorder.statuses["t0000"] == "complete"
    assert conductor.done == conductor.total == 2
    assert conductor.why_complete == "no further step is worth it: nothing is worth it"
    assert "running" not in statuses(ledger)


def test_a_sweep_that_ends_before_all_its_trials_started_says_why(tmp_path, scripted):
    scripted(starts=1)
    conductor, _, ledger = sweep(tmp_path, **{"search.trials": 4})
    drive(conductor, PATHS)
    assert statuses(ledger) == ["complete"]
    assert (conductor.complete, conductor.total) == (True, 1)
    assert conductor.why_complete == "no further step is worth it: nothing is worth it"


def test_a_path_is_never_alone_in_its_work_another_may_become_worth_it(tmp_path, scripted):
    """Tune never asks again once it was told that there is nothing more."""
    scripted(starts=1)
    conductor, _, _ = sweep(tmp_path, **{"search.concurrency": 2})
    job = conductor.next_job()
    assert (job.trial_id, conductor.next_job().kind) == ("t0000", "baseline")
    assert conductor.next_job() is None
    assert conductor.has_work


def test_a_path_ended_by_the_rule_does_not_go_on(tmp_path, scripted):
    scripted(end=[("t0000", 1)], resumes=5)
    conductor, recorder, ledger = sweep(tmp_path)
    drive(conductor, PATHS)
    assert recorder.named("started").count("t0000") == 1
    record = ledger.records("trial")[0]
    assert (record.status, record.ended) == ("complete", "constraint")
    assert names(ledger)["t0000"] == [0, 1]


# --- killed, continued ----------------------------------------------------------------------------------------------


def test_the_next_driver_leaves_a_resting_path_at_rest_until_it_is_worth_it(tmp_path, scripted):
    scripted(rest=[("t0000", 1)])
    run_until_nothing(sweep(tmp_path)[0])
    choice = scripted()
    conductor, recorder, ledger = sweep(tmp_path)
    assert choice.resting == ["t0000"]
    assert (conductor.has_work, conductor.done) == (False, 1)
    scripted(resumes=1)
    conductor, recorder, ledger = sweep(tmp_path)
    drive(conductor, PATHS)
    assert recorder.named("started") == ["t0000"]
    first = next(call[2] for call in recorder.calls if call[0] == "epoch")
    assert first == ledger.snapshots()["t0000"][1].snap.epoch + 1
    assert statuses(ledger) == ["complete", "complete"]


def test_a_driver_killed_before_it_concludes_is_followed_by_one_that_does(tmp_path, scripted):
    scripted(rest=[("t0000", 1)])
    run_until_nothing(sweep(tmp_path)[0])
    conductor, _, ledger = sweep(tmp_path)
    conductor.conclude()
    assert statuses(ledger) == ["complete", "complete"]


def test_a_path_whose_word_was_not_carried_out_hears_it_when_it_goes_on(tmp_path, scripted):
    """The driver died after its word and before the path's process came to it: it rests at once, nothing is trained."""
    scripted(rest=[("t0000", 1)])
    conductor, _, ledger = sweep(tmp_path)
    conductor._rest = lambda job, outcome: None  # it did not hear that the path rests
    run_until_nothing(conductor)
    assert statuses(ledger)[0] == "running"
    conductor, recorder, ledger = sweep(tmp_path)
    run_until_nothing(conductor)
    assert [call for call in recorder.calls if call[:2] == ("epoch", "t0000")] == []
    assert statuses(ledger)[0] == "paused"


def test_the_word_is_taken_back_when_the_path_goes_on(tmp_path, scripted):
    """A process that is lost right after it was started again must not rest by the old word."""
    scripted(rest=[("t0000", 1)])
    run_until_nothing(sweep(tmp_path)[0])
    folder = tmp_path / "inline/trials/t0000"
    assert read_rest(folder) == Rest(1, True, "pause t0000")
    scripted(resumes=1)
    conductor, _, _ = sweep(tmp_path)
    assert conductor.next_job().trial_id == "t0000"
    assert read_rest(folder) == Rest(1, False)


# --- deeper ---------------------------------------------------------------------------------------------------------

DEEPER = {"prune.target": 0.95}


def test_a_raised_target_takes_ended_paths_up_again_and_trains_only_the_new_cycles(tmp_path, scripted):
    scripted()
    drive(sweep(tmp_path)[0], PATHS)
    scripted(resumes=2)
    conductor, recorder, ledger = sweep(tmp_path, **DEEPER)
    assert conductor.done == 2
    drive(conductor, PATHS)
    assert names(ledger) == {"t0000": [0, 1, 2, 3, 4, 5], "t0001": [0, 1, 2, 3, 4, 5]}
    assert recorder.named("snapshot") == ["t0000@4", "t0000@5", "t0001@4", "t0001@5"]
    assert len(recorder.named("epoch")) == sum(
        2 * record.job.config.prune.interval for record in ledger.records("trial")
    )
    assert [(r.status, r.job.part, r.ended) for r in ledger.records("trial")] == [
        ("complete", 1, "target")
    ] * 2
    assert ledger.records("trial")[0].finals["macs_removed"] == pytest.approx(0.96875)
    assert (conductor.done, conductor.total, len(ledger._study("trial").trials)) == (2, 2, 2)


def test_killed_while_an_ended_path_goes_on_it_goes_on_again(tmp_path, scripted):
    scripted()
    drive(sweep(tmp_path)[0], PATHS)
    scripted(resumes=1)
    conductor, _, _ = sweep(tmp_path, **DEEPER)
    assert conductor.next_job().part == 1  # and here the driver dies
    scripted(resumes=1)
    conductor, recorder, ledger = sweep(tmp_path, **DEEPER)
    assert statuses(ledger) == ["running", "complete"]
    drive(conductor, PATHS)
    assert recorder.named("started") == ["t0000", "t0001"]
    assert [len(taken) for taken in names(ledger).values()] == [6, 6]
    assert [record.job.part for record in ledger.records("trial")] == [1, 1]


def test_nothing_is_worth_it_a_raised_target_changes_nothing(tmp_path, scripted):
    scripted()
    drive(sweep(tmp_path)[0], PATHS)
    conductor, recorder, ledger = sweep(tmp_path, **DEEPER)
    drive(conductor, PATHS)
    assert recorder.calls == []
    assert [record.job.part for record in ledger.records("trial")] == [0, 0]


def test_a_raised_target_reaches_a_path_that_was_under_way(tmp_path, scripted):
    scripted()
    conductor, _, _ = sweep(tmp_path)
    conductor.next_job()
    conductor, _, ledger = sweep(tmp_path, **DEEPER)
    drive(conductor, PATHS)
    assert len(names(ledger)["t0000"]) == 6


# --- budgets --------------------------------------------------------------------------------------------------------


def test_a_spent_budget_begins_no_further_cycle(tmp_path, scripted, monkeypatch):
    scripted(resumes=9)
    conductor, _, ledger = sweep(tmp_path)
    job = conductor.next_job()
    monkeypatch.setattr(conductor._budget, "_used_up", "the budget of 2 hours is spent|raise search.hours")
    conductor._active.clear()
    conductor._agenda.add(job)
    conductor._agenda._begun.add(job.trial_id)
    drive(conductor, PATHS)
    assert names(ledger)["t0000"] == [0]
    record = ledger.records("trial")[0]
    assert (record.status, record.ended) == ("complete", "paused")
    assert "budget of 2 hours" in record.decisions[0]["reason"]
    assert "budget of 2 hours" in conductor.why_complete


def test_a_raised_target_on_a_path_whose_state_was_cleaned_says_that_it_is_trained_again(tmp_path, scripted):
    scripted()
    conductor, _, ledger = sweep(tmp_path)
    drive(conductor, PATHS)
    shutil.rmtree(Path(ledger.records("trial")[1].job.folder) / "epochs")
    scripted(resumes=2)
    notes = Recorder()
    folder = Path(conductor.config.folder)
    deeper = config(tmp_path, {**OF_PATHS, "search.trials": 2, **DEEPER})
    again = Ledger(folder, deeper.name, deeper.search.objectives)
    drive(Conductor(deeper, again, Recorder(), notes), PATHS)
    said = [text for text in notes.named("note") if "state" in text]
    assert said == [
        "the training state is gone of t0001: it is trained again, from the nearest state that is shared, to the same"
        " weights on a CPU"
    ]
    assert names(again) == {"t0000": [0, 1, 2, 3, 4, 5], "t0001": [0, 1, 2, 3, 4, 5]}


# --- killed or asked for more at an awkward moment --------------------------------------------------------------------


def test_a_raised_target_is_in_the_ledger_whether_the_path_rested_or_ran(tmp_path, scripted):
    """Whoever replays or confirms a model reads from the ledger how deep its path goes."""
    scripted(rest=[("t0000", 1)])
    conductor, _, _ = sweep(tmp_path, **{"search.concurrency": 1})
    run_until_nothing(conductor)
    scripted(resumes=9)
    conductor, _, ledger = sweep(tmp_path, **DEEPER)
    drive(conductor, PATHS)
    assert [record.job.config.prune.target for record in ledger.records("trial")] == [0.95, 0.95]

    running = tmp_path / "running"
    scripted()
    sweep(running)[0].next_job()
    _, _, ledger = sweep(running, **DEEPER)
    assert ledger.records("trial")[0].job.config.prune.target == 0.95


def test_an_end_that_nobody_heard_of_is_no_end_once_the_target_is_raised(tmp_path, scripted):
    scripted(starts=1)
    conductor, _, ledger = sweep(tmp_path)
    conductor.finish = lambda trial_id, outcome: conductor._active.pop(trial_id)  # the driver is dead by then
    run_until_nothing(conductor)
    assert (Path(ledger.folder) / "trials/t0000/outcome.json").exists()
    scripted(starts=1, resumes=9)
    conductor, _, ledger = sweep(tmp_path, **DEEPER)
    drive(conductor, PATHS)
    assert len(names(ledger)["t0000"]) == 6


def test_a_further_part_that_fails_does_not_count_as_the_end_before(tmp_path, scripted):
    scripted()
    drive(sweep(tmp_path)[0], PATHS)
    scripted(resumes=1)
    conductor, _, ledger = sweep(tmp_path, **DEEPER)
    job = conductor.next_job()
    conductor.finish(job.trial_id, Outcome("lost", error="its node died", part=1))
    record = ledger.records("trial")[0]
    assert (record.status, record.ended, record.reopens) == ("lost", "", False)
    assert len(names(ledger)[job.trial_id]) == 4, "its finished models stay"


def test_the_word_of_a_killed_driver_does_not_overrule_its_successor(tmp_path, scripted, monkeypatch):
    scripted(rest=[("t0000", 1)])
    conductor, _, _ = sweep(tmp_path)
    monkeypatch.setattr(Ledger, "decide", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    conductor._paths._decided |= {"t0000@0"}
    with pytest.raises(KeyboardInterrupt):  # between its word and the ledger's line
        drive(conductor, PATHS)
    monkeypatch.undo()
    scripted()
    conductor, _, ledger = sweep(tmp_path)
    drive(conductor, PATHS)
    assert names(ledger)["t0000"] == [0, 1, 2, 3]


def test_while_a_baseline_runs_the_sweep_is_not_over(tmp_path, scripted):
    """Its end moves the scales, and Tune never asks again once it was told that there is nothing more."""
    choice = scripted(rest=[("t0000", 1)], starts=1)
    conductor, _, ledger = sweep(tmp_path, **{"search.concurrency": 2})
    path, baseline = conductor.next_job(), conductor.next_job()
    conductor.finish(path.trial_id, _run(conductor, path))
    assert [record.status for record in ledger.records("trial")] == ["paused"]
    assert conductor.has_work
    assert conductor.next_job() is None
    choice.resumes = 1
    conductor.finish(baseline.trial_id, _run(conductor, baseline))
    assert conductor.next_job().trial_id == "t0000"


def test_the_baseline_of_a_path_that_rests_is_trained_though_the_budget_is_spent(
    tmp_path, scripted, monkeypatch
):
    scripted(rest=[("t0000", 1)])
    conductor, recorder, ledger = sweep(tmp_path)
    job = conductor.next_job()
    assert job.kind == "trial"
    monkeypatch.setattr(conductor._budget, "_used_up", "the budget of 2 hours is spent|raise search.hours")
    conductor.finish(job.trial_id, _run(conductor, job))
    drive(conductor, PATHS)
    assert [record.status for record in ledger.records("baseline")] == ["complete"]
    assert conductor.complete
    assert "accuracy_drop" in recorder.finals["t0000"]


def test_a_spent_budget_holds_a_path_whose_models_wait_for_their_baseline(tmp_path, scripted, monkeypatch):
    limits = {"search.constraints": ["accuracy_drop <= 50"], "search.concurrency": 2}
    scripted(resumes=9)
    conductor, _, ledger = sweep(tmp_path, **limits)
    jobs = {job.kind: job for job in (conductor.next_job(), conductor.next_job())}
    monkeypatch.setattr(conductor._budget, "_used_up", "the budget of 2 hours is spent|raise search.hours")
    outcome = _run(conductor, jobs["trial"])
    assert (outcome.status, [snap.level for snap in outcome.snapshots]) == ("paused", [0])
    conductor.finish("t0000", outcome)
    assert not ledger.snapshots(), "it waits for the baseline"

    monkeypatch.undo()  # the driver dies before the baseline has ended, and the budget is raised
    scripted(resumes=9)
    conductor, _, ledger = sweep(tmp_path, **limits)
    baseline = conductor.next_job()
    assert baseline.kind == "baseline"
    started = conductor.next_job()
    assert started.trial_id != "t0000", "it is taken up again when its models are judged"
    conductor.finish(baseline.trial_id, _run(conductor, baseline))
    assert names(ledger)["t0000"] == [0]
    conductor.finish(started.trial_id, _run(conductor, started))
    drive(conductor, PATHS)
    assert names(ledger)["t0000"] == [0, 1, 2, 3]


def test_a_sweep_that_has_done_everything_says_nothing(tmp_path, scripted):
    scripted()
    conductor, _, _ = sweep(tmp_path)
    drive(conductor, PATHS)
    assert (conductor.complete, conductor.why_complete) == (True, "")


def test_a_path_taken_up_again_has_its_baseline(tmp_path, scripted):
    scripted()
    limits = {"search.constraints": ["accuracy_drop <= 50"]}
    drive(sweep(tmp_path, **limits)[0], PATHS)
    scripted(resumes=2)
    conductor, _, ledger = sweep(tmp_path, **limits, **DEEPER, **{"baseline.epochs": 3})
    drive(conductor, PATHS)
    assert [len(taken) for taken in names(ledger).values()] == [6, 6]
    assert conductor.complete


def test_seconds_of_paths_that_rest_are_spent(tmp_path, scripted):
    scripted(rest=[("t0000", 1)])
    conductor, _, ledger = sweep(tmp_path)
    run_until_nothing(conductor)
    records = ledger.records("trial")
    assert all(record.seconds > 0 for record in records)
    again, _, _ = sweep(tmp_path)
    spent = sum(record.seconds for record in [*records, *ledger.records("baseline")])
    assert again._budget.trial_seconds == pytest.approx(spent)


def _run(conductor: Conductor, job: Job) -> Outcome:
    extra = Extra(lambda snap: conductor.snapshot(job.trial_id, snap))
    return run_job(job, PATHS, lambda row: conductor.epoch(job.trial_id, row), extra=extra)


def test_the_first_paths_are_started_whatever_the_rule_says_of_them(tmp_path, monkeypatch):
    """So many as the sampler warms up with: what one or two settings say is not what others are."""
    heard = []
    choice = Scripted()
    choice.given = heard.append
    monkeypatch.setattr(paths, "Choice", choice)
    conductor, _, _ = sweep(tmp_path, **{"search.trials": 4})
    drive(conductor, PATHS)
    assert heard[0] == 4
    assert sorted(set(heard)) == [0, 1, 2, 3, 4]
