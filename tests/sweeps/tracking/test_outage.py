"""MLflow away, answers lost, drivers killed meanwhile: every point once, at its own time. A real SQLite store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gcp_core.errors import ConfigError
from sweeps.conduct.conductor import Conductor
from sweeps.config.reading import flatten
from sweeps.config.sweep_config import SweepConfig
from sweeps.records import spool
from sweeps.records.job import Job, Outcome
from sweeps.records.ledger import Ledger
from sweeps.tracking import writer as writer_
from sweeps.tracking.writer import MlflowWriter
from tests.sweeps.inline import Silent, config
from tests.sweeps.tracking.stored import ledger_of, open_, runs, stored


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepConfig:
    monkeypatch.setattr(writer_, "_PAUSE_S", 0.01)  # what is tried again need not wait long for it
    return stored(config(tmp_path, {"search.trials": 3}))


def _jobs(checked: SweepConfig, number: int) -> tuple[Ledger, list[Job]]:
    """The first jobs of the sweep: a baseline and its trials."""
    ledger = ledger_of(checked)
    conductor = Conductor(checked, ledger, Silent(), Silent())
    conductor.config.search.__dict__["concurrency"] = number
    return ledger, [conductor.next_job() for _ in range(number)]


def _row(job: Job, epoch: int) -> dict[str, float]:
    """An epoch that ended ``epoch`` seconds after 1970, as the trial's process leaves it in the trial's folder."""
    row = {"epoch": epoch, "val/accuracy": 10.0 * epoch, "train/loss": 1.0 / epoch, spool.AT: 1000 * epoch}
    spool.append(Path(job.folder), row)
    return row


def _points(checked: SweepConfig) -> dict[str, dict[str, list[tuple[int, int]]]]:
    """(step, time) of every point of every metric of every child, by trial and metric."""
    client, all_ = runs(checked)
    found: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for run in all_:
        assert run.info.run_name not in found, f"{run.info.run_name} is there twice"
        found[run.info.run_name] = {
            key: [(point.step, point.timestamp) for point in client.get_metric_history(run.info.run_id, key)]
            for key in run.data.metrics
        }
    return found


def test_epochs_that_a_killed_driver_could_not_write_are_written_when_the_trial_goes_on(
    checked: SweepConfig,
) -> None:
    _, (job,) = _jobs(checked, 1)
    first = open_(checked)
    first.started(job)
    first.epoch(job, _row(job, 1))
    first.close("KILLED")
    _row(job, 2), _row(job, 3)  # MLflow is away, then the driver is killed
    second = open_(checked)
    second.started(job)
    second.epoch(job, _row(job, 4))
    second.finished(job, Outcome("complete", {"val_accuracy": 40.0}, spool.rows(Path(job.folder))))
    assert second.close("FINISHED") == 0
    expected = [(epoch, 1000 * epoch) for epoch in (1, 2, 3, 4)]
    points = _points(checked)["b0000"]
    assert points["val/accuracy"] == points["train/loss"] == expected


def test_a_trial_that_was_lost_while_mlflow_was_away_keeps_its_epochs_and_its_times(
    checked: SweepConfig,
) -> None:
    ledger, (job,) = _jobs(checked, 1)
    _row(job, 1), _row(job, 2)
    ledger.close(job, Outcome("lost", error="its node was lost"))
    (record,) = ledger.records("baseline")
    writer = open_(checked)
    writer.reconcile([record], {})
    assert writer.close("FINISHED") == 0
    assert _points(checked)["b0000"]["val/accuracy"] == [(1, 1000), (2, 2000)]
    run = writer._client.search_runs([writer.run.experiment_id], "attributes.run_name = 'b0000'")[0]
    assert (run.info.start_time, run.info.end_time) == (record.started_ms, record.ended_ms)
    assert run.info.status == "FAILED"


def _params(writer: MlflowWriter, name: str) -> int:
    """How many parameters a run has."""
    (run,) = writer._client.search_runs(
        [writer.run.experiment_id], f"attributes.run_name = '{name}'", max_results=2
    )
    return len(run.data.params)


def _answer_lost(real: Callable[..., Any]) -> Callable[..., Any]:
    """Does it, but whoever asked hears nothing of it the first two times."""
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        answer = real(*args, **kwargs)
        if calls <= 2:
            raise ConnectionError("no answer")
        return answer

    return call


def test_what_was_written_without_an_answer_is_not_there_twice(checked: SweepConfig, monkeypatch) -> None:
    _, jobs = _jobs(checked, 2)
    writer = open_(checked)
    for name in ("create_run", "log_batch", "set_terminated", "log_artifact"):
        monkeypatch.setattr(writer._client, name, _answer_lost(getattr(writer._client, name)))
    for job in jobs:
        writer.started(job)
        for epoch in (1, 2, 3):
            writer.epoch(job, _row(job, epoch))
        writer.finished(job, Outcome("complete", {"val_accuracy": 30.0}, spool.rows(Path(job.folder))))
    assert writer.close("FINISHED") == 0
    points = _points(checked)
    assert set(points) == {"inline", "b0000", "t0000"}
    for name, job in zip(("b0000", "t0000"), jobs, strict=True):
        assert points[name]["val/accuracy"] == [(1, 1000), (2, 2000), (3, 3000)]
        assert len(points[name]["final/val_accuracy"]) == 1
        assert _params(writer, name) == len(flatten(job.config.to_dict()))


def test_a_run_that_the_server_made_after_all_is_removed_again(checked: SweepConfig, monkeypatch) -> None:
    _, (job,) = _jobs(checked, 1)
    writer = open_(checked)
    real, late = writer._client.create_run, []

    def slow(*args: Any, **kwargs: Any) -> Any:
        """The first creation is carried out only after the second one."""
        if not late:
            late.append((args, kwargs))
            raise ConnectionError("no answer")
        answer = real(*args, **kwargs)
        real(*late[0][0], **late[0][1])
        return answer

    monkeypatch.setattr(writer._client, "create_run", slow)
    writer.started(job)
    writer.finished(job, Outcome("failed", error="ValueError: no"))
    assert writer.close("FINISHED") == 0
    assert set(_points(checked)) == {"inline", "b0000"}
    run = writer._client.search_runs([writer.run.experiment_id], "attributes.run_name = 'b0000'")[0]
    assert run.data.tags["status"] == "failed"


def test_what_mlflow_refuses_is_counted_and_holds_up_nothing_else(checked: SweepConfig, monkeypatch) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

    _, (baseline, trial) = _jobs(checked, 2)
    writer = open_(checked)
    real = writer._client.log_batch

    def refuse(run_id: str, metrics: Any = (), **more: Any) -> None:
        if run_id == writer._children["b0000"].run_id and metrics:
            raise MlflowException("too long", INVALID_PARAMETER_VALUE)
        real(run_id, metrics=metrics, **more)

    monkeypatch.setattr(writer._client, "log_batch", refuse)
    writer.started(baseline)
    writer.started(trial)
    writer.epoch(baseline, _row(baseline, 1))
    writer.epoch(trial, _row(trial, 1))
    assert writer.close("FINISHED") == 1
    points = _points(checked)
    assert points["b0000"] == {}
    assert points["t0000"]["val/accuracy"] == [(1, 1000)]


def test_what_a_slow_server_has_not_taken_when_the_driver_ends_is_counted_and_not_begun(
    checked: SweepConfig, monkeypatch
) -> None:
    _, jobs = _jobs(checked, 2)
    writer = open_(checked)
    at_work, answer, real = threading.Event(), threading.Event(), writer._client.create_run

    def slow(*args: Any, **kwargs: Any) -> Any:
        at_work.set()
        answer.wait()
        return real(*args, **kwargs)

    monkeypatch.setattr(writer._client, "create_run", slow)
    monkeypatch.setattr(writer_, "_GRACE_S", 0.0)
    for job in jobs:
        writer.started(job)
    assert at_work.wait(60)
    try:
        left = writer.close("FINISHED", timeout_s=0.01)
    finally:
        answer.set()
    assert left == 4, "two trials that start, a look for doubles, the end of the sweep's run"
    writer._thread.join(60)
    assert not writer._thread.is_alive()
    assert set(_points(checked)) == {"inline", "b0000"}, "the entry that it was at, and no other"
    assert writer._client.get_run(writer.run.run_id).info.status == "RUNNING"


@pytest.mark.parametrize("status", ["running", "complete"])
def test_a_run_that_an_earlier_driver_left_without_parameters_gets_them(
    checked: SweepConfig, monkeypatch, status: str
) -> None:
    ledger, (job,) = _jobs(checked, 1)
    first = open_(checked)
    real, outcome = first._client.log_batch, Outcome("complete", {"val_accuracy": 40.0})

    def bare(run_id: str, metrics: Any = (), tags: Any = (), params: Any = ()) -> None:
        real(run_id, metrics=metrics, tags=tags)  # it is killed before it sends parameters

    monkeypatch.setattr(first._client, "log_batch", bare)
    first.started(job)
    if status == "complete":
        first.finished(job, outcome)
        ledger.close(job, outcome)
    first.close("KILLED")
    assert _params(first, "b0000") == 0
    second = open_(checked)
    second.reconcile(ledger.records("baseline"), {})
    if status == "running":
        second.started(job)
    assert second.close("FINISHED") == 0
    assert _params(second, "b0000") == len(flatten(job.config.to_dict()))


def test_a_sweep_s_own_run_that_was_left_without_parameters_gets_them(
    checked: SweepConfig, monkeypatch
) -> None:
    from mlflow.tracking import MlflowClient

    def gone(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", gone)
        with pytest.raises(ConfigError, match="gone"):
            open_(checked)
    writer = open_(checked)
    writer.close("FINISHED")
    assert _params(writer, "inline") == len(flatten(checked.tree))
