"""Snapshots on their way: from the worker into ledger, tracker, front and sampler, each once, as soon as it is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gcp_core.schema import model_id
from sweeps.driver.conductor import Conductor
from sweeps.records.job import Outcome, Snap
from sweeps.records.ledger import Ledger, read_snapshots
from tests.sweeps.fake_paths import finals_at
from tests.sweeps.inline import OF_PATHS, PATHS, Recorder, Silent, config, drive, new_conductor


def paths(tmp_path: Path, **more: Any):
    return config(tmp_path, {**OF_PATHS, "search.trials": 2, "search.sampler": "tpe", **more})


def names(ledger: Ledger) -> list[str]:
    return [
        model_id(trial, record.snap.level)
        for trial, records in sorted(ledger.snapshots().items())
        for record in records
    ]


def test_every_snapshot_reaches_ledger_and_tracker_when_it_is_taken_and_once(tmp_path):
    checked = paths(tmp_path)
    conductor, recorder, ledger = new_conductor(checked)
    drive(conductor, PATHS)
    expected = [f"t000{trial}@{level}" for trial in range(2) for level in range(4)]
    assert names(ledger) == expected
    assert sorted(recorder.named("snapshot")) == expected
    first = recorder.calls.index(("snapshot", "t0000@1"))
    assert first < recorder.calls.index(("finished", "t0000")), "not at its path's end"
    (record, *_) = ledger.snapshots()["t0001"]
    job = ledger.records("trial")[1].job
    assert record.values == tuple(finals_at(job.config, 0.0, 2)[name] for name in checked.search.objectives)
    assert record.snap.weights_sha256 == f"{0:064d}"
    read = read_snapshots(Path(checked.folder), checked.name, checked.search.objectives)
    assert read == ledger.snapshots()


def test_a_baseline_is_trained_beside_the_paths_and_nothing_waits_for_it(tmp_path):
    conductor, recorder, ledger = new_conductor(paths(tmp_path))
    drive(conductor, PATHS)
    assert recorder.named("started") == ["t0000", "b0000", "t0001"]
    assert [record.status for record in ledger.records("baseline")] == ["complete"]
    assert ledger.records("baseline")[0].job.config.train.epochs == conductor.config.baseline.epochs


def test_a_snapshot_that_needs_its_baseline_waits_for_it(tmp_path):
    checked = paths(tmp_path, **{"search.constraints": ["accuracy_drop <= 6"]})
    conductor, recorder, ledger = new_conductor(checked)
    drive(conductor, PATHS)
    assert recorder.named("started") == ["b0000", "t0000", "t0001"]
    assert len(names(ledger)) == 8
    statuses = {record.snap.status for records in ledger.snapshots().values() for record in records}
    assert statuses == {"complete", "infeasible"}
    for records in ledger.snapshots().values():
        for record in records:
            # The baseline of the fake has 95 %.
            assert record.snap.finals["accuracy_drop"] == 95 - record.snap.finals["val_accuracy"]
            assert (record.snap.status == "infeasible") == (record.snap.finals["accuracy_drop"] > 6)


def test_a_path_that_fails_keeps_its_finished_snapshots(tmp_path):
    conductor, _, ledger = new_conductor(paths(tmp_path, **{"model.name": "breaks", "search.trials": 1}))
    drive(conductor, PATHS)
    assert ledger.records("trial")[0].status == "failed"
    assert names(ledger) == ["t0000@0", "t0000@1"]
    assert conductor._front.complete == 2


def test_what_the_driver_was_not_told_is_entered_when_the_path_ends_and_by_the_next_driver(tmp_path):
    """A killed driver has heard of two snapshots; the path's outcome on disk knows four."""
    checked = paths(tmp_path, **{"search.trials": 1})
    conductor, _, ledger = new_conductor(checked)
    job = conductor.next_job()
    finals = [finals_at(job.config, removed, 2 + 2 * k) for k, removed in enumerate((0.0, 0.5, 0.75, 0.875))]
    snaps = tuple(Snap(k, 2 + 2 * k, f) for k, f in enumerate(finals))
    conductor.snapshot(job.trial_id, snaps[0])
    conductor.snapshot(job.trial_id, snaps[1])
    conductor.snapshot(job.trial_id, snaps[1])
    assert names(ledger) == ["t0000@0", "t0000@1"]

    from sweeps.records.job import write_outcome

    write_outcome(job.folder, Outcome("complete", finals[-1], snapshots=snaps))
    again = Ledger(Path(checked.folder), checked.name, checked.search.objectives)
    recorder = Recorder()
    second = Conductor(checked, again, recorder, Silent())
    assert names(again) == ["t0000@0", "t0000@1", "t0000@2", "t0000@3"]
    assert recorder.named("snapshot") == ["t0000@2", "t0000@3"], "the others were told before"
    drive(second, PATHS)
    assert again.records("trial")[0].status == "complete"
    assert second._front.complete == 4


def test_the_sampler_learns_from_every_snapshot_also_after_a_restart(tmp_path):
    checked = paths(tmp_path)
    conductor, _, _ = new_conductor(checked)
    drive(conductor, PATHS)
    mirror = conductor._proposals._proposer._mirror.get_trials(deepcopy=False)
    complete = [trial for trial in mirror if trial.state.name == "COMPLETE"]
    assert len(complete) == 2 + 8, "one answer per path, and one observation per snapshot"
    second = new_conductor(checked)[0]
    again = [
        t
        for t in second._proposals._proposer._mirror.get_trials(deepcopy=False)
        if t.state.name == "COMPLETE"
    ]
    key = lambda t: (sorted(t.params.items()), t.values)  # noqa: E731
    assert sorted(map(key, again)) == sorted(map(key, complete))


def test_a_population_learns_one_answer_per_path(tmp_path):
    conductor, _, _ = new_conductor(paths(tmp_path, **{"search.sampler": "nsga2"}))
    drive(conductor, PATHS)
    mirror = conductor._proposals._proposer._mirror.get_trials(deepcopy=False)
    assert sum(trial.state.name == "COMPLETE" for trial in mirror) == 2


def test_test_accuracy_steers_nothing(tmp_path, monkeypatch):
    """Other test labels: every proposal, record and value of the front is the same."""
    import tests.sweeps.fake_paths as fake

    real = fake.finals_at

    def other_labels(config, removed, epoch):
        return {**real(config, removed, epoch), "test_accuracy": 10.0 + 50 * removed}

    found = []
    for folder, finals in (("a", real), ("b", other_labels)):
        monkeypatch.setattr(fake, "finals_at", finals)
        conductor, _, ledger = new_conductor(paths(tmp_path / folder, **{"search.trials": 6}))
        drive(conductor, PATHS)
        points = [record.job.point for record in ledger.records("trial")]
        values = [r.values for records in ledger.snapshots().values() for r in records]
        found.append((points, values, conductor._front.hypervolume()))
    assert found[0] == found[1]


def test_a_journal_of_single_trials_gets_no_study_of_snapshots(tmp_path):
    conductor, _, ledger = new_conductor(config(tmp_path, {"search.trials": 1}))
    drive(conductor)
    assert ledger.snapshots() == {}
    assert "/snapshots" not in (Path(conductor.config.folder) / "journal.log").read_text()


@pytest.mark.parametrize("values", [{"val_accuracy": float("nan")}, {"val_accuracy": float("inf")}])
def test_a_snapshot_without_a_finite_value_is_entered_and_is_not_on_the_front(tmp_path, values):
    conductor, _, ledger = new_conductor(paths(tmp_path, **{"search.trials": 1}))
    job = conductor.next_job()
    conductor.snapshot(job.trial_id, Snap(0, 2, {**finals_at(job.config, 0.0, 2), **values}))
    (record,) = ledger.snapshots()["t0000"]
    assert (record.values, record.snap.status) == (None, "failed")
    assert conductor._front.complete == 0
