"""What MLflow holds of a path that rests, goes on and ends, also when it heard of it only afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gcp_core.schema import Tag
from sweeps.conduct.baselines import known_drops
from sweeps.config.sweep_config import SweepConfig
from sweeps.records import spool
from sweeps.records.job import Job, Outcome, Rest, Snap, write_rest
from sweeps.records.ledger import Ledger
from tests.sweeps.fake_paths import finals_at
from tests.sweeps.inline import OF_PATHS, config
from tests.sweeps.tracking.stored import ledger_of, open_, runs, stored

WHY = "t0000@1 promises 0.21 % of hypervolume per dense epoch, a new path 0.4"
#: Of the fake path: removed share and last epoch of its snapshots.
LEVELS = ((0.0, 2), (0.5, 3), (0.75, 4), (0.875, 5))


@pytest.fixture
def checked(tmp_path: Path) -> SweepConfig:
    return stored(config(tmp_path, {**OF_PATHS, "search.trials": 1, "prune.interval": 1}))


def begun(checked: SweepConfig) -> tuple[Ledger, Job]:
    ledger = ledger_of(checked)
    job = ledger.add("trial", checked.space.resolve({}), {}, {})
    Path(job.folder).mkdir(parents=True)
    return ledger, job


def rows(first: int, last: int) -> list[dict[str, float]]:
    return [{"epoch": e, "val/accuracy": 50.0 + e, "at": 1000 * e} for e in range(first, last + 1)]


def at(job: Job, level: int, status: str, ended: str, **more: Any) -> Outcome:
    removed, epoch = LEVELS[level]
    finals = finals_at(job.config, removed, epoch)
    return Outcome(status, finals, tuple(rows(1, epoch)), ended=ended, **more)


def found(checked: SweepConfig) -> tuple[Any, Any]:
    client, all_ = runs(checked)
    (run,) = [run for run in all_ if run.info.run_name == "t0000"]
    return client, run


def steps(client: Any, run: Any, key: str) -> list[int]:
    return sorted(point.step for point in client.get_metric_history(run.info.run_id, key))


def assert_at_its_end(checked: SweepConfig) -> None:
    client, run = found(checked)
    assert (run.info.status, run.data.tags[Tag.STATUS]) == ("FINISHED", "complete")
    assert (run.data.tags[Tag.ENDED], run.data.tags[Tag.DECISION]) == ("target", "")
    assert run.data.metrics["final/macs_removed"] == 0.875
    assert run.data.metrics["final/epochs"] == 5
    assert steps(client, run, "final/val_accuracy")[-1] == 5
    assert steps(client, run, "val/accuracy") == [1, 2, 3, 4, 5], "no epoch twice"


def test_a_path_that_rests_says_why_and_its_last_values_are_those_of_its_end(checked):
    _, job = begun(checked)
    writer = open_(checked)
    writer.started(job)
    for row in rows(1, 3):
        writer.epoch(job, row)
    writer.finished(job, at(job, 1, "paused", "paused", decision=WHY))
    assert writer.close(None) == 0
    client, run = found(checked)
    assert (run.info.status, run.data.tags[Tag.STATUS]) == ("FINISHED", "paused")
    assert (run.data.tags[Tag.ENDED], run.data.tags[Tag.DECISION]) == ("paused", WHY)
    assert (run.data.metrics["final/macs_removed"], steps(client, run, "final/macs")) == (0.5, [3])
    for row in rows(1, 3):
        spool.append(Path(job.folder), {name: value for name, value in row.items() if name != spool.AT})
    writer = open_(checked)  # the next driver
    writer.started(job)
    writer.epoch(job, rows(4, 4)[0])
    assert writer.close(None) == 0
    _, run = found(checked)
    assert (run.info.status, run.data.tags[Tag.STATUS]) == ("RUNNING", "running")
    writer = open_(checked)
    writer.finished(job, at(job, 3, "complete", "target"))
    writer.close("FINISHED")
    assert_at_its_end(checked)
    assert steps(*found(checked), "final/macs") == [3, 5]


def test_the_drivers_word_in_the_folder_says_why_where_the_outcome_does_not(checked):
    _, job = begun(checked)
    write_rest(job.folder, Rest(1, True, WHY))
    writer = open_(checked)
    writer.finished(job, at(job, 1, "paused", "paused"))
    writer.close(None)
    assert found(checked)[1].data.tags[Tag.DECISION] == WHY


def test_a_path_that_went_on_in_one_driver_is_written_to_once_per_end(checked):
    _, job = begun(checked)
    writer = open_(checked)
    writer.started(job)
    for level, (first, last) in ((0, (1, 2)), (1, (3, 3)), (2, (4, 4))):
        for row in rows(first, last):
            writer.epoch(job, row)
        writer.finished(job, at(job, level, "paused", "paused", decision=WHY))
        writer.started(job)
    writer.epoch(job, rows(5, 5)[0])
    writer.finished(job, at(job, 3, "complete", "target"))
    writer.finished(job, at(job, 3, "complete", "target"))
    assert writer.close("FINISHED") == 0
    assert_at_its_end(checked)
    assert steps(*found(checked), "final/macs") == [2, 3, 4, 5]


def test_what_happened_while_mlflow_was_away_is_written_afterwards(checked):
    """Rests, goes on and rests deeper, goes on and ends: MLflow hears of each from the ledger alone."""
    ledger, job = begun(checked)
    rest, deeper = at(job, 1, "paused", "paused"), at(job, 2, "paused", "paused")
    told = [
        lambda: ledger.pause(job, rest),
        lambda: (ledger.resume(job), ledger.pause(job, deeper)),
        lambda: (ledger.resume(job), ledger.close(job, at(job, 3, "complete", "target"), (1.0, 1.0))),
    ]
    ledger.decide(job, 1, {"action": "pause", "reason": WHY})
    for number, (happens, epochs) in enumerate(zip(told, (3, 4, 5), strict=True)):
        spool_rows(job, epochs)
        happens()
        for _ in range(2):  # the second time there is nothing to write
            writer = open_(checked)
            writer.reconcile(ledger.records("trial"), {})
            assert writer.close(None) == 0
        client, run = found(checked)
        assert run.data.metrics["final/epochs"] == epochs
        assert steps(client, run, "final/macs") == [3, 4, 5][: number + 1]
        if number < 2:
            assert (run.data.tags[Tag.STATUS], run.data.tags[Tag.DECISION]) == ("paused", WHY)
    _, run = found(checked)
    assert (run.info.status, run.data.tags[Tag.STATUS], run.data.tags[Tag.ENDED]) == (
        "FINISHED",
        "complete",
        "target",
    )


def spool_rows(job: Job, last: int) -> None:
    known = {int(row["epoch"]) for row in spool.rows(Path(job.folder))}
    for row in rows(1, last):
        if row["epoch"] not in known:
            spool.append(Path(job.folder), row)


def test_a_path_that_became_complete_while_it_rested_is_not_paused_any_more(checked):
    """At a sweep's end: nothing was trained, so neither MLflow's own state nor the values change."""
    ledger, job = begun(checked)
    rest = at(job, 1, "paused", "paused", decision=WHY)
    writer = open_(checked)
    writer.finished(job, rest)
    writer.close(None)
    ledger.pause(job, rest)
    ledger.close(job, at(job, 1, "complete", "paused"), (1.0, 1.0))
    writer = open_(checked)
    writer.reconcile(ledger.records("trial"), {})
    writer.close("FINISHED")
    client, run = found(checked)
    assert run.data.tags[Tag.STATUS] == "complete"
    assert steps(client, run, "final/macs") == [3]


@pytest.mark.parametrize("drivers", [1, 2])
def test_the_error_of_a_path_that_went_on_and_ended_well_is_gone(checked, drivers: int):
    """It broke a limit at its first end; its target was raised, and its second end keeps the limit."""
    _, job = begun(checked)
    writer = open_(checked)
    writer.finished(job, at(job, 1, "infeasible", "target", error="violates macs_removed >= 0.8"))
    if drivers == 2:
        writer.close("FINISHED")
        assert found(checked)[1].data.tags[Tag.ERROR] == "violates macs_removed >= 0.8"
        writer = open_(checked)
    writer.started(job)
    writer.finished(job, at(job, 3, "complete", "target"))
    assert writer.close("FINISHED") == 0
    assert_at_its_end(checked)
    assert found(checked)[1].data.tags[Tag.ERROR] == ""


def test_what_a_path_lost_is_renewed_when_it_has_gone_on(checked):
    ledger, job = begun(checked)
    base = ledger.add("baseline", job.config.baseline(), {}, {})
    ledger.close(base, Outcome("complete", {"val_accuracy": 95.0, "macs": 100.0}), (95.0,))
    writer = open_(checked)
    writer.finished(job, at(job, 0, "paused", "paused"))
    ledger.pause(job, at(job, 0, "paused", "paused"))
    writer.reconcile(
        ledger.records("trial"), known_drops(ledger.records("baseline"), ledger.records("trial"))
    )
    writer.close(None)
    assert found(checked)[1].data.metrics["final/accuracy_drop"] == pytest.approx(4.5)
    ledger.resume(job)
    ledger.close(job, at(job, 3, "complete", "target"), (1.0, 1.0))
    writer = open_(checked)
    writer.reconcile(
        ledger.records("trial"), known_drops(ledger.records("baseline"), ledger.records("trial"))
    )
    writer.close("FINISHED")
    last = finals_at(job.config, 0.875, 5)["val_accuracy"]
    assert found(checked)[1].data.metrics["final/accuracy_drop"] == pytest.approx(95.0 - last)


# --- weights that were dropped ------------------------------------------------------------------------------------


def taken(job: Job, level: int) -> Snap:
    """A snapshot with files of its own."""
    removed, epoch = LEVELS[level]
    place = Path(job.folder) / "snapshots" / f"{level:02d}"
    place.mkdir(parents=True)
    (place / "weights.pt").write_bytes(b"weights")
    (place / "manifest.json").write_text(json.dumps({}))
    return Snap(level, epoch, finals_at(job.config, removed, epoch), "a" * 64)


def of_snapshot(checked: SweepConfig, level: int) -> tuple[set[str], dict[str, str]]:
    """(artifacts, tags) of a snapshot's run."""
    client, run = found(checked)
    (one,) = client.search_runs([run.info.experiment_id], f"tags.`{Tag.MODEL_ID}` = 't0000@{level}'")
    return {file.path for file in client.list_artifacts(one.info.run_id, "model")}, one.data.tags


def test_mlflow_drops_its_copy_of_dropped_weights_and_says_how_to_have_them(checked):
    _, job = begun(checked)
    writer = open_(checked)
    for level in (0, 1):
        writer.snapshot(job, taken(job, level))
    writer.dropped("t0000", 1, "t0003@4 beats t0000@1")
    writer.dropped("t0000", 7, "nobody knows it")
    assert writer.close("FINISHED") == 0
    assert of_snapshot(checked, 0)[0] == {"model/weights.pt", "model/manifest.json"}
    files, tags = of_snapshot(checked, 1)
    assert files == {"model/manifest.json"}
    assert tags[Tag.DROPPED] == "t0003@4 beats t0000@1; gcp-sweep replay SWEEP t0000@1"


def test_a_drop_that_mlflow_did_not_hear_of_is_made_up_for(checked):
    from sweeps.storage.exchange import Exchange
    from sweeps.storage.weights import drop

    ledger, job = begun(checked)
    writer = open_(checked)
    snap = taken(job, 1)
    writer.snapshot(job, snap)
    writer.close(None)
    drop(Exchange(Path(checked.folder)), "t0000", 1, "beaten")
    record = ledger.records("trial")[0]
    for _ in range(2):
        writer = open_(checked)
        writer.reconcile_snapshots([(record, snap)])
        assert writer.close(None) == 0
    files, tags = of_snapshot(checked, 1)
    assert (files, tags[Tag.DROPPED].split(";")[0]) == ({"model/manifest.json"}, "beaten")


def test_a_store_that_was_away_when_weights_were_dropped_is_asked_again_before_the_driver_ends(
    checked, monkeypatch
):
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    real, asked = LocalArtifactRepository.delete_artifacts, []

    def away_once(self, artifact_path=None):
        asked.append(artifact_path)
        if len(asked) == 1:
            raise RuntimeError("503: slow down")
        real(self, artifact_path)

    monkeypatch.setattr(LocalArtifactRepository, "delete_artifacts", away_once)
    _, job = begun(checked)
    writer = open_(checked)
    for level in (0, 1):
        writer.snapshot(job, taken(job, level))
        writer.dropped("t0000", level, "beaten")
    assert writer.close("FINISHED") == 0
    assert len(asked) == 3, "the second one waits with the first"
    for level in (0, 1):
        files, tags = of_snapshot(checked, level)
        assert (files, tags[Tag.DROPPED].split(";")[0]) == ({"model/manifest.json"}, "beaten")


def test_a_store_that_removes_nothing_ends_nothing(checked, monkeypatch, caplog):
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    def refuse(self, artifact_path=None):
        raise RuntimeError("501: not implemented")

    monkeypatch.setattr(LocalArtifactRepository, "delete_artifacts", refuse)
    _, job = begun(checked)
    writer = open_(checked)
    writer.snapshot(job, taken(job, 1))
    for _ in range(3):
        writer.dropped("t0000", 1, "beaten")
    writer.finished(job, at(job, 3, "complete", "target"))
    assert writer.close("FINISHED") == 0
    files, tags = of_snapshot(checked, 1)
    assert "model/weights.pt" in files
    assert Tag.DROPPED not in tags
    assert [m for m in caplog.messages if "MLflow keeps" in m] == [
        "MLflow keeps its copies of dropped weights: 501: not implemented"
    ]
