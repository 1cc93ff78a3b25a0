"""Snapshots on their way: from the worker into ledger, tracker, front and sampler, each once, as soon as it is known."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from gcp_core.schema import model_id
from sweeps.conduct.conductor import Conductor
from sweeps.conduct.proposals import Proposals
from sweeps.records.job import Job, Outcome, Snap
from sweeps.records.ledger import Ledger, read_snapshots
from sweeps.strategy.front import LiveFront
from sweeps.worker.trial import run_job
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
    checked = paths(tmp_path, **{"search.constraints": ["accuracy_drop <= 6"], "search.min_gain": 0})
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


#: Nothing breaks it, and everything has to wait for its baseline.
DROP = {"search.constraints": ["accuracy_drop <= 50"], "search.trials": 1, "search.concurrency": 2}


def _told(conductor: Conductor, job: Job, levels: int) -> list[str]:
    for k, removed in enumerate((0.0, 0.5, 0.75, 0.875)[:levels]):
        conductor.snapshot(job.trial_id, Snap(k, 2 + 2 * k, finals_at(job.config, removed, 2 + 2 * k)))
    return [f"{job.trial_id}@{k}" for k in range(levels)]


@pytest.mark.parametrize("baseline", ["b0000 was running", "b0000 had failed"])
@pytest.mark.parametrize("status", ["failed", "lost"])
def test_models_that_wait_for_their_baseline_outlive_their_path_and_the_driver(tmp_path, status, baseline):
    checked = paths(tmp_path, **DROP)
    conductor, _, ledger = new_conductor(checked)
    twin, job = conductor.next_job(), conductor.next_job()
    expected = _told(conductor, job, 4)
    conductor.finish(job.trial_id, Outcome(status, error="the path is gone"))
    assert (ledger.records("trial")[0].status, names(ledger)) == (status, [])
    if baseline == "b0000 had failed":
        conductor.finish(twin.trial_id, Outcome("failed", error="ValueError: no such thing"))
        assert conductor.stop_reason.endswith("1 trial waits for it: run again to continue")

    again, recorder, ledger = new_conductor(checked)
    drive(again, PATHS)
    assert recorder.named("started") == ["b0000" if baseline == "b0000 was running" else "b0001"]
    assert (names(ledger), recorder.named("snapshot")) == (expected, expected)
    drops = [known.snap.finals["accuracy_drop"] for known in ledger.snapshots()["t0000"]]
    assert drops == [95 - known.values[0] for known in ledger.snapshots()["t0000"]], (
        "the fake's baseline has 95 %"
    )
    assert again.complete

    third, recorder, _ = new_conductor(checked)
    assert (recorder.named("snapshot"), third.has_work, third.complete) == ([], False, True)


def test_models_that_waited_when_the_driver_was_killed_are_not_lost_when_their_path_fails_in_the_next(
    tmp_path,
):
    """It goes on behind its last model, so it tells of the ones before it no second time."""
    checked = paths(tmp_path, **DROP)
    conductor, _, _ = new_conductor(checked)
    conductor.next_job()
    expected = _told(conductor, conductor.next_job(), 3)
    again, _, ledger = new_conductor(checked)
    twin, job = again.next_job(), again.next_job()
    again.finish(job.trial_id, Outcome("failed", error="no such thing"))
    again.finish(twin.trial_id, run_job(twin, PATHS, lambda row: None))
    assert names(ledger) == expected


def test_a_sweep_is_not_complete_while_a_failed_paths_models_wait_for_a_baseline_that_is_gone(tmp_path):
    """Two seeds; the first one's baseline cannot be had, the second one's trial ends well."""
    more = {"seed": {"choice": [0, 1]}, "prune.interval": 2, "prune.target": 0.8, "search.trials": 2}
    checked = paths(tmp_path, **DROP | more | {"resources.retries": 0, "search.min_gain": 0})
    conductor, _, ledger = new_conductor(checked)
    twin, job = conductor.next_job(), conductor.next_job()
    expected = _told(conductor, job, 2)
    conductor.finish(job.trial_id, Outcome("failed", error="no such thing"))
    conductor.finish(twin.trial_id, Outcome("failed", error="ValueError: another"))
    drive(conductor, PATHS)
    assert [record.status for record in ledger.records("trial")] == ["failed", "complete"]
    assert not conductor.complete
    assert conductor.missing == (
        "the baseline b0000 failed (ValueError: another), and accuracy_drop <= 50 needs it; 1 trial waits for it:"
        " run again to continue"
    )
    again, recorder, ledger = new_conductor(checked)
    drive(again, PATHS)
    assert recorder.named("started") == ["b0002"]
    assert names(ledger)[:2] == expected
    assert again.complete


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


def seen_by_the_sampler(conductor: Conductor) -> list[tuple[Any, ...]]:
    """(parameters, values) of what is complete in the mirror, in a fixed order."""
    mirror = conductor._proposals._proposer._mirror.trials()
    return sorted((sorted(t.params.items()), t.values) for t in mirror if t.state.name == "COMPLETE")


def test_the_sampler_learns_from_every_snapshot_once_also_after_a_restart(tmp_path):
    checked = paths(tmp_path)
    conductor, _, ledger = new_conductor(checked)
    drive(conductor, PATHS)
    expected = sorted(
        (sorted(record.job.point.items()), list(known.values))
        for record in ledger.records("trial")
        for known in ledger.snapshots()[record.job.trial_id]
    )
    assert len(expected) == 8
    assert seen_by_the_sampler(conductor) == expected
    assert seen_by_the_sampler(new_conductor(checked)[0]) == expected


def test_the_sampler_learns_from_a_path_on_its_way_and_nothing_at_its_end(tmp_path):
    conductor, _, _ = new_conductor(paths(tmp_path, **{"search.trials": 1}))
    job = conductor.next_job()
    seen = []
    for k, removed in enumerate((0.0, 0.5, 0.75)):
        conductor.snapshot(job.trial_id, Snap(k, 2 + 2 * k, finals_at(job.config, removed, 2 + 2 * k)))
        seen.append(len(seen_by_the_sampler(conductor)))
    assert seen == [1, 2, 3]
    mirror = conductor._proposals._proposer._mirror.trials()
    assert [t.state.name for t in mirror] == ["COMPLETE"] * 3, (
        "the path's own trial has its first snapshot's values"
    )
    conductor.finish(job.trial_id, Outcome("failed", error="no such thing"))
    assert len(seen_by_the_sampler(conductor)) == 3


@pytest.mark.parametrize(("status", "state"), [("failed", "FAIL"), ("stopped", "PRUNED")])
def test_a_path_without_a_snapshot_ends_as_a_single_trial_does(tmp_path, status, state):
    conductor, _, _ = new_conductor(paths(tmp_path, **{"search.trials": 1}))
    conductor.finish(conductor.next_job().trial_id, Outcome(status))
    assert [t.state.name for t in conductor._proposals._proposer._mirror.trials()] == [state]


def test_a_population_learns_the_hypervolume_of_each_path(tmp_path):
    checked = paths(tmp_path, **{"search.sampler": "nsga2"})
    conductor, _, ledger = new_conductor(checked)
    drive(conductor, PATHS)
    snapshots, objectives = ledger.snapshots(), list(checked.search.objectives)
    worth = [
        conductor._front.hypervolume_of(
            [dict(zip(objectives, known.values, strict=True)) for known in snapshots[record.job.trial_id]]
        )
        for record in ledger.records("trial")
    ]
    first, second = (trial.values for trial in conductor._proposals._proposer._mirror.trials())
    assert second == [pytest.approx(worth[1])]
    assert first[0] > worth[0] > 0, "its own snapshot 0 was the scale when it ended; the baseline is better"
    assert conductor._proposals._proposer._mirror._study.directions[0].name == "MAXIMIZE"
    again = new_conductor(checked)[0]._proposals._proposer._mirror.trials()
    assert [trial.values for trial in again] == [[pytest.approx(value)] for value in worth]


def test_a_population_learns_when_a_path_is_paused_and_no_second_time(tmp_path):
    conductor, _, _ = new_conductor(paths(tmp_path, **{"search.trials": 1, "search.sampler": "nsga2"}))
    job = conductor.next_job()
    trials = conductor._proposals._proposer._mirror.trials
    conductor._proposals.paused(job)
    assert trials()[0].state.name == "RUNNING", "there is nothing to say yet"
    for k, removed in enumerate((0.0, 0.5)):
        conductor.snapshot(job.trial_id, Snap(k, 2 + 2 * k, finals_at(job.config, removed, 2 + 2 * k)))
    conductor._proposals.paused(job)
    conductor._proposals.paused(job)
    (told,) = trials()
    # Accuracy at half of the MACs is that of the unpruned net less 20 / 64, on a scale of ten points: 1 * 0 + .96875 * .5
    assert told.values == [pytest.approx(0.5 * (1 - 20 * 0.5**6 / 10))]
    snap = Snap(2, 6, finals_at(job.config, 0.75, 6))
    conductor.snapshot(job.trial_id, snap)
    conductor.finish(job.trial_id, Outcome("complete", snap.finals))
    assert [t.values for t in trials()] == [told.values]


@pytest.mark.parametrize(("limit", "levels"), [(300_000, 2), (1000, 0)])
def test_what_breaks_a_constraint_adds_nothing_to_what_a_population_learns(tmp_path, limit, levels):
    more = {"search.constraints": [f"macs <= {limit}"], "search.trials": 1, "search.sampler": "nsga2"}
    conductor, _, ledger = new_conductor(paths(tmp_path, **more))
    drive(conductor, PATHS)
    kept = [known.snap.finals for known in ledger.snapshots()["t0000"] if known.snap.status == "complete"]
    assert len(kept) == levels
    front = LiveFront({"val_accuracy": "max", "macs": "min"})
    front.recall(ledger.records("trial"), [], ledger.snapshots())  # the scale when the path ended
    (told,) = conductor._proposals._proposer._mirror.trials()
    assert told.values == [pytest.approx(front.hypervolume_of(kept))]
    assert (told.values[0] > 0) == bool(levels)


def test_a_driver_that_takes_over_tells_a_population_what_paused_paths_are_worth(tmp_path):
    checked = paths(tmp_path, **{"search.sampler": "nsga2"})
    conductor, _, ledger = new_conductor(checked)
    drive(conductor, PATHS)
    records = [
        dataclasses.replace(record, status="paused", values=None) for record in ledger.records("trial")
    ]
    worth = conductor._front.hypervolume_of
    proposals = Proposals(checked, records, ledger.snapshots(), lambda trial: False, print, worth)
    assert [trial.state.name for trial in proposals._proposer._mirror.trials()] == ["COMPLETE", "COMPLETE"]


def test_limits_in_several_units_weigh_alike_for_the_sampler(tmp_path):
    """The net has 1,000,000 MACs: as they are, they would decide alone which of two models that break both is worse."""
    limits = {"macs <= 100000": 1e5, "val_accuracy >= 99.9": 99.9}
    more = {"search.constraints": list(limits), "search.trials": 1, "search.sampler": "tpe"}
    checked = paths(tmp_path, **more)
    conductor, _, ledger = new_conductor(checked)
    drive(conductor, PATHS)
    raw = [known.violations for known in ledger.snapshots()["t0000"]]
    assert raw[0]["macs <= 100000"] == 900_000, "the ledger has the value's unit"
    for driver in (conductor, new_conductor(checked)[0]):
        told = [trial.constraints for trial in driver._proposals._proposer._mirror.trials()]
        assert told == [
            {text: pytest.approx(excess / limits[text]) for text, excess in seen.items()} for seen in raw
        ]


def test_without_a_scale_a_population_learns_the_best_value_of_the_first_objective(tmp_path):
    objectives = {"search.objectives": {"macs": "min", "compression": "max"}}
    conductor, _, _ = new_conductor(
        paths(tmp_path, **objectives, **{"search.trials": 1, "search.sampler": "nsga2"})
    )
    drive(conductor, PATHS)
    # 1,000,000 MACs, an eighth of them left; less is better
    assert [t.values for t in conductor._proposals._proposer._mirror.trials()] == [[-125_000.0]]


@pytest.mark.parametrize("sampler", ["random", "qmc", "grid"])
def test_samplers_that_learn_nothing_run_paths(tmp_path, sampler):
    conductor, _, ledger = new_conductor(paths(tmp_path, **{"search.sampler": sampler}))
    drive(conductor, PATHS)
    assert len(names(ledger)) == 8
    assert len(conductor._proposals._proposer._mirror.trials()) == 2


def test_test_accuracy_steers_nothing(tmp_path, monkeypatch):
    """Other test labels: every proposal, record and value of the front is the same."""
    import tests.sweeps.fake_paths as fake

    real = fake.finals_at

    def other_labels(config, removed, epoch):
        return {**real(config, removed, epoch), "test_accuracy": 10.0 + 50 * removed}

    found, unlike = [], []
    for folder, finals in (("a", real), ("b", other_labels)):
        monkeypatch.setattr(fake, "finals_at", finals)
        conductor, _, ledger = new_conductor(paths(tmp_path / folder, **{"search.trials": 6}))
        drive(conductor, PATHS)
        points = [record.job.point for record in ledger.records("trial")]
        values = [r.values for records in ledger.snapshots().values() for r in records]
        found.append((points, values, conductor._front.hypervolume()))
        unlike.append([r.snap.finals["test_accuracy"] for rs in ledger.snapshots().values() for r in rs])
    assert all(a != b for a, b in zip(*unlike, strict=True)), "or the rest would say nothing"
    assert len(found[0][1]) >= 4
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
