"""What MLflow holds of a path's snapshots: one run each below the path's, with finals, parameters and the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from gcp_core.schema import SNAPSHOT, Tag
from sweeps.conduct.conductor import Conductor
from sweeps.config.sweep_config import SweepConfig
from sweeps.records.ledger import Ledger
from sweeps.tracking.writer import MlflowWriter
from tests.sweeps.inline import OF_PATHS, PATHS, Silent, config, drive
from tests.sweeps.tracking.stored import ledger_of, open_, runs, stored


@pytest.fixture
def checked(tmp_path: Path) -> SweepConfig:
    return stored(config(tmp_path, {**OF_PATHS, "search.trials": 1}))


def reconcile(writer: MlflowWriter, ledger: Ledger) -> None:
    snapshots = ledger.snapshots()
    writer.reconcile_snapshots(
        (record, known.snap)
        for record in ledger.records("trial")
        for known in snapshots.get(record.job.trial_id, ())
    )


def test_a_snapshot_is_a_run_below_its_path(checked):
    writer = open_(checked)
    ledger = ledger_of(checked)
    drive(Conductor(checked, ledger, writer, Silent()), PATHS)
    assert writer.close("FINISHED") == 0
    client, found = runs(checked)
    by_name = {run.info.run_name: run for run in found}
    assert set(by_name) == {"inline", "b0000", "t0000", "t0000@0", "t0000@1", "t0000@2", "t0000@3"}
    path, third = by_name["t0000"], by_name["t0000@2"]
    assert third.info.status == "FINISHED"
    tags = third.data.tags
    assert tags[Tag.PARENT] == path.info.run_id
    assert (tags[Tag.KIND], tags[Tag.MODEL_ID], tags[Tag.TRIAL_ID]) == (SNAPSHOT, "t0000@2", "t0000")
    assert (tags[Tag.LEVEL], tags[Tag.STATUS], tags[Tag.SWEEP_ID]) == ("2", "complete", "0123456789ab")
    assert third.data.metrics["final/macs_removed"] == 0.75
    assert third.data.metrics["final/train_cost"] == third.data.metrics["final/epochs"]
    assert len(third.data.metrics) <= 24
    lost = by_name["b0000"].data.metrics["final/val_accuracy"] - third.data.metrics["final/val_accuracy"]
    assert third.data.metrics["final/accuracy_drop"] == pytest.approx(lost)
    assert third.data.params == path.data.params
    assert {file.path for file in client.list_artifacts(third.info.run_id, "model")} == {
        "model/manifest.json",
        "model/weights.pt",
    }
    assert path.data.metrics["final/macs_removed"] == 0.875, (
        "a path's own values are those of its last snapshot"
    )


def test_what_an_earlier_driver_did_not_write_is_written_and_nothing_twice(checked):
    class Deaf(Silent):
        def snapshot(self, job, snap):
            if snap.level == 0:
                writer.snapshot(job, snap)

    writer = open_(checked)
    ledger = ledger_of(checked)
    drive(Conductor(checked, ledger, Deaf(), Silent()), PATHS)
    writer.close("KILLED")
    for _ in range(2):
        second = open_(checked)
        reconcile(second, ledger)
        assert second.close("FINISHED") == 0
    _, found = runs(checked)
    names = sorted(run.data.tags[Tag.MODEL_ID] for run in found if run.data.tags[Tag.KIND] == SNAPSHOT)
    assert names == ["t0000@0", "t0000@1", "t0000@2", "t0000@3"]
    assert all(run.info.status == "FINISHED" for run in found if run.data.tags[Tag.KIND] == SNAPSHOT)


def test_mlflow_is_asked_once_which_snapshots_it_has_however_many_are_written(checked, monkeypatch):
    writer = open_(checked)
    real, asked = writer._client.search_runs, []

    def search(experiments, query, *args, **kwargs):
        asked.append(query)
        return real(experiments, query, *args, **kwargs)

    monkeypatch.setattr(writer._client, "search_runs", search)
    ledger = ledger_of(checked)
    drive(Conductor(checked, ledger, writer, Silent()), PATHS)
    reconcile(writer, ledger)
    assert writer.close("FINISHED") == 0
    assert len([run for run in runs(checked)[1] if run.data.tags[Tag.KIND] == SNAPSHOT]) == 4
    assert len([query for query in asked if f"= '{SNAPSHOT}'" in query]) == 1


def test_a_driver_that_continues_does_not_end_when_mlflow_fails_to_say_what_it_has(checked, monkeypatch):
    ledger = ledger_of(checked)
    drive(Conductor(checked, ledger, Silent(), Silent()), PATHS)
    writer = open_(checked)
    real, failures = writer._client.search_runs, iter([True] * 3)

    def flaky(*args, **kwargs):
        if next(failures, False):
            raise ConnectionError("502 Bad Gateway")
        return real(*args, **kwargs)

    monkeypatch.setattr(writer._client, "search_runs", flaky)
    reconcile(writer, ledger)
    assert writer.close("FINISHED") == 0
    assert next(failures, None) is None
    assert len([run for run in runs(checked)[1] if run.data.tags[Tag.KIND] == SNAPSHOT]) == 4


@pytest.mark.parametrize("killed", [False, True])
def test_a_request_that_fails_right_after_a_creation_leaves_no_snapshot_without_parameters(
    checked, monkeypatch, killed
):
    writer = open_(checked)
    real, failed = writer._client.log_batch, []

    def fail(run_id, metrics=(), params=(), tags=()):
        if params and run_id not in failed:
            failed.append(run_id)
            if not killed:
                raise ConnectionError("away")
            params = ()  # the driver is killed instead, and the next one continues the rest
        real(run_id, metrics=metrics, params=params, tags=tags)

    monkeypatch.setattr(writer._client, "log_batch", fail)
    ledger = ledger_of(checked)
    drive(Conductor(checked, ledger, writer, Silent()), PATHS)
    assert writer.close("FINISHED") == 0
    if killed:
        writer = open_(checked)
        writer.reconcile([*ledger.records("baseline"), *ledger.records("trial")], {})
        reconcile(writer, ledger)
        assert writer.close("FINISHED") == 0
    by_name = {run.info.run_name: run.data.params for run in runs(checked)[1]}
    assert len(failed) == 6
    assert [by_name[f"t0000@{level}"] == by_name["t0000"] for level in range(4)] == [True] * 4
    assert by_name["t0000"]["prune.ratio"] == "0.5"
    assert by_name["b0000"]


def test_a_creation_whose_answer_is_lost_leaves_one_run(checked, monkeypatch):
    writer = open_(checked)
    real, lost = writer._client.create_run, []

    def create(*args, **kwargs):
        made = real(*args, **kwargs)
        if "@1" in kwargs.get("run_name", "") and not lost:
            lost.append(made)
            raise ConnectionError("the answer was lost")
        return made

    monkeypatch.setattr(writer._client, "create_run", create)
    ledger = ledger_of(checked)
    drive(Conductor(checked, ledger, writer, Silent()), PATHS)
    assert writer.close("FINISHED") == 0
    assert lost
    _, found = runs(checked)
    assert len([run for run in found if run.data.tags.get(Tag.MODEL_ID) == "t0000@1"]) == 1


def test_a_snapshot_that_the_server_made_after_all_is_removed_again(checked, monkeypatch):
    writer = open_(checked)
    real, late = writer._client.create_run, []

    def slow(*args, **kwargs):
        """The first creation of the last snapshot is carried out only after the second one."""
        if kwargs.get("run_name") != "t0000@3":
            return real(*args, **kwargs)
        if not late:
            late.append((args, kwargs))
            raise ConnectionError("no answer")
        answer = real(*args, **kwargs)
        real(*late[0][0], **late[0][1])
        return answer

    monkeypatch.setattr(writer._client, "create_run", slow)
    ledger = ledger_of(checked)
    drive(Conductor(checked, ledger, writer, Silent()), PATHS)
    assert writer.close("FINISHED") == 0
    assert late
    (left,) = [run for run in runs(checked)[1] if run.data.tags.get(Tag.MODEL_ID) == "t0000@3"]
    assert left.info.status == "FINISHED"
