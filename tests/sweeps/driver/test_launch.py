"""Starting, continuing and refusing a sweep; Ray is replaced by running the jobs one after the other."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import OperationalError

from gcp_core.config import TrialConfig
from gcp_core.errors import ConfigError, DataError
from gcp_core.schema import Tag
from sweeps.commands.status import sweep_status
from sweeps.conduct.conductor import Conductor
from sweeps.config.sweep_config import SweepConfig
from sweeps.driver import launch
from sweeps.driver.cluster import WorkersLost
from sweeps.driver.launch import Launch, Sweep
from sweeps.records import spool
from sweeps.records.ledger import Ledger
from sweeps.records.tenure import Displaced
from sweeps.storage.lock import run_lock
from sweeps.worker.trial import run_job
from tests.sweeps.inline import OF_PATHS, PATHS, RUNNER, config, drive

pytestmark = pytest.mark.integration

PUBLISHED: list[Path] = []


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_here(conductor: Conductor, folder: Path, runner: str) -> None:
        drive(conductor, runner)

    PUBLISHED.clear()
    monkeypatch.setattr(launch, "ray_cluster", lambda config, address: contextlib.nullcontext())
    monkeypatch.setattr(launch, "run_on_ray", run_here)
    monkeypatch.setattr(launch, "publish", PUBLISHED.append)


@pytest.fixture
def store(tmp_path: Path, empty_store: Path) -> str:
    """The URI of a prepared MLflow store outside the sweep's folder."""
    shutil.copy(empty_store, tmp_path / "store.db")
    return f"sqlite:///{tmp_path}/store.db"


def _config(tmp_path: Path, store: str, **overrides: Any) -> SweepConfig:
    return config(tmp_path / "runs", {"tracking.uri": store, **overrides})


def _run(checked: SweepConfig, **options: Any) -> Sweep:
    return launch.run(checked, launch=Launch(**{"runner": RUNNER, "check": lambda trial: None, **options}))


def test_a_sweep_ends_complete_published_and_findable(tmp_path: Path, store: str) -> None:
    sweep = _run(_config(tmp_path, store))
    assert (sweep.state, sweep.statuses, sweep.unwritten) == ("complete", {"complete": 6}, 0)
    assert sweep.feasible == 6
    entry = json.loads((tmp_path / "runs" / "inline" / "sweep.json").read_text())
    assert entry["tracking_uri"] == store
    assert (entry["id"], entry["parent_run_id"], entry["state"]) == (
        sweep.id,
        sweep.parent_run_id,
        "complete",
    )
    assert [sweep.folder] == PUBLISHED
    assert os.fspath(sweep) == str(tmp_path / "runs" / "inline")


def test_a_finished_sweep_is_returned_without_ray_and_mlflow(tmp_path: Path, store: str, monkeypatch) -> None:
    first = _run(_config(tmp_path, store))
    for name in ("run_on_ray", "ray_cluster", "open_writer"):
        monkeypatch.setattr(launch, name, lambda *args: pytest.fail("nothing is left to do"))
    assert _run(_config(tmp_path, store)) == first


def test_a_finished_sweep_whose_mlflow_database_is_gone_writes_it_again_and_trains_nothing(
    tmp_path: Path, store: str, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _run(_config(tmp_path, store))
    gone = tmp_path / "gone.db"  # not the one before: MLflow keeps a file open that was deleted
    entry = (first.folder / "sweep.json").read_text().replace(store, f"sqlite:///{gone}")
    (first.folder / "sweep.json").write_text(entry)
    open_writer, store = launch.open_writer, f"sqlite:///{gone}"

    def opened(*args: Any) -> Any:
        shutil.copy(empty_store, gone)
        return open_writer(*args)

    monkeypatch.setattr(launch, "open_writer", opened)
    monkeypatch.setattr(launch, "run_on_ray", lambda *args: pytest.fail("nothing is left to do"))
    again = _run(_config(tmp_path, store))
    assert (again.state, again.statuses, again.unwritten) == ("complete", {"complete": 6}, 0)
    assert (again.id, again.parent_run_id != first.parent_run_id) == (first.id, True)
    client = MlflowClient(store)
    parent = client.get_run(again.parent_run_id)
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`{Tag.PARENT}` = '{parent.info.run_id}'"
    )
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert len(children) == 7, "six trials and their baseline"


def test_models_on_the_way_of_paths_that_end_as_infeasible_are_counted_also_in_a_sweep_that_is_complete(
    tmp_path: Path, store: str
) -> None:
    more = {
        **OF_PATHS,
        "search.trials": 2,
        "search.constraints": ["accuracy_drop <= 6"],
        "search.min_gain": 0,
    }
    first = _run(_config(tmp_path, store, **more), runner=PATHS)
    assert (first.state, first.statuses) == ("complete", {"infeasible": 2})
    assert first.feasible == 4, "of either path, two of four"
    assert _run(_config(tmp_path, store, **more), runner=PATHS) == first


def test_more_trials_can_be_asked_for_under_the_same_parent(tmp_path: Path, store: str) -> None:
    first = _run(_config(tmp_path, store))
    second = _run(_config(tmp_path, store, **{"search.trials": 8}))
    assert (second.id, second.parent_run_id) == (first.id, first.parent_run_id)
    assert second.statuses == {"complete": 8}


def test_the_entry_names_the_cluster_on_which_the_last_driver_ran_the_sweep(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _run(_config(tmp_path, store), address="head:6379").folder
    assert json.loads((folder / "sweep.json").read_text())["address"] == "head:6379"
    _run(_config(tmp_path, store, **{"search.trials": 7}))
    assert json.loads((folder / "sweep.json").read_text())["address"] is None
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # its Ray is gone when anybody reads this
    _run(_config(tmp_path, store, **{"search.trials": 8}), address="node:6379")
    assert json.loads((folder / "sweep.json").read_text())["address"] is None


def test_new_starts_a_sweep_beside_the_old_one(tmp_path: Path, store: str) -> None:
    _run(_config(tmp_path, store, **{"search.trials": 2}))
    second = _run(_config(tmp_path, store, **{"search.trials": 2, "train.epochs": 3}), new=True)
    assert (second.name, second.statuses) == ("inline-2", {"complete": 2})


def test_first_trials_that_all_fail_alike_end_the_sweep_as_failed(tmp_path: Path, store: str) -> None:
    sweep = _run(_config(tmp_path, store, **{"model.name": "broken"}))
    assert sweep.state == "failed"
    assert sweep.message.startswith(
        "the first 3 trials all failed in the same way: ValueError: no such thing"
    )
    assert sum(sweep.statuses.values()) < 6


def test_what_the_core_refuses_leaves_nothing_behind(tmp_path: Path, store: str) -> None:
    def refuse(trial: TrialConfig) -> None:
        raise DataError("label 12 is out of range", "data.path")

    with pytest.raises(DataError, match="label 12 is out of range"):
        _run(_config(tmp_path, store), check=refuse)
    assert not (tmp_path / "runs").exists()


def test_a_store_that_cannot_be_opened_leaves_no_folder_behind(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigError, match=r"tracking\.uri"):
        _run(_config(tmp_path, f"sqlite:///{tmp_path}/file/x.db"))
    assert not (tmp_path / "runs" / "inline").exists()


def test_a_second_driver_is_refused(tmp_path: Path, store: str) -> None:
    folder = tmp_path / "runs" / "inline"
    folder.mkdir(parents=True)
    with run_lock(folder), pytest.raises(ConfigError, match="another driver is running the sweep: process"):
        _run(_config(tmp_path, store))


def test_an_error_in_the_driver_leaves_a_sweep_that_can_be_continued(
    tmp_path: Path, store: str, monkeypatch
) -> None:
    def broken(conductor: Conductor, folder: Path, runner: str) -> None:
        conductor.next_job()
        raise RuntimeError("Ray is gone")

    with monkeypatch.context() as patch:
        patch.setattr(launch, "run_on_ray", broken)
        with pytest.raises(RuntimeError, match="Ray is gone"):
            _run(_config(tmp_path, store))
    entry = json.loads((tmp_path / "runs" / "inline" / "sweep.json").read_text())
    assert entry["state"] == "failed"
    assert _run(_config(tmp_path, store)).statuses == {"complete": 6}


def test_a_sweep_goes_on_when_tune_gives_up_over_a_lost_worker(
    tmp_path: Path, store: str, monkeypatch
) -> None:
    rounds = []

    def losing_once(conductor: Conductor, folder: Path, runner: str) -> None:
        rounds.append(conductor)
        if len(rounds) == 1:
            conductor.next_job()
            raise WorkersLost(
                "1 worker(s) were killed due to the node running low on memory", conductor.active
            )
        drive(conductor, runner)

    monkeypatch.setattr(launch, "run_on_ray", losing_once)
    sweep = _run(_config(tmp_path, store))
    assert (sweep.state, sweep.statuses, len(rounds)) == ("complete", {"complete": 6}, 2)


def test_a_sweep_whose_database_stays_away_says_how_many_trials_have_ended(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception("connection refused"))

    with monkeypatch.context() as patch:

        def leaves_it(conductor: Conductor, folder: Path, runner: str) -> None:
            for job in (conductor.next_job(), conductor.next_job()):
                assert job is not None
                conductor.finish(job.trial_id, run_job(job, runner, lambda row: None))
            conductor.interrupt("the ledger's database is away")
            patch.setattr(Ledger, "records", away)

        patch.setattr(launch, "run_on_ray", leaves_it)
        sweep = _run(_config(tmp_path, store, **{"search.concurrency": 2}))
    assert (sweep.state, sweep.message) == ("interrupted", "the ledger's database is away")
    assert sweep.statuses == {"ended": 1}, "and a baseline"
    assert _run(_config(tmp_path, store)).statuses == {"complete": 6}


def test_a_trial_that_takes_its_worker_down_every_time_is_lost_and_the_others_run(
    tmp_path: Path, store: str, monkeypatch
) -> None:
    def too_large(conductor: Conductor, folder: Path, runner: str) -> None:
        while (job := conductor.next_job()) is not None:
            if job.trial_id == "t0002":
                raise WorkersLost("low on memory", conductor.active)
            conductor.finish(job.trial_id, run_job(job, runner, lambda row: None))

    monkeypatch.setattr(launch, "run_on_ray", too_large)
    sweep = _run(_config(tmp_path, store))
    assert (sweep.state, sweep.statuses) == ("complete", {"complete": 5, "lost": 1})
    (failure,) = sweep_status(sweep.folder).failures
    assert failure.trial_id == "t0002"
    assert failure.error.startswith("its process was lost 3 times: low on memory; lower train.batch_size")


def test_a_trial_that_had_ended_when_its_worker_was_lost_keeps_its_result(
    tmp_path: Path, store: str, monkeypatch
) -> None:
    def late(conductor: Conductor, folder: Path, runner: str) -> None:
        while (job := conductor.next_job()) is not None:
            outcome = run_job(job, runner, lambda row: None)
            if job.trial_id == "t0002":  # its outcome is in its folder, but Tune does not hear of it
                raise WorkersLost("low on memory", conductor.active)
            conductor.finish(job.trial_id, outcome)

    monkeypatch.setattr(launch, "run_on_ray", late)
    sweep = _run(_config(tmp_path, store, **{"resources.retries": 0}))
    assert (sweep.state, sweep.statuses) == ("complete", {"complete": 6})


def test_a_baseline_that_takes_its_worker_down_every_time_ends_the_sweep_and_the_next_run_judges(
    tmp_path: Path, store: str, monkeypatch
) -> None:
    """Every round is a new conductor: attempts at the baseline count over all of them, or they would never end."""
    rounds = []

    def too_large(conductor: Conductor, folder: Path, runner: str) -> None:
        rounds.append(conductor)
        while (job := conductor.next_job()) is not None:
            if job.kind == "baseline":
                raise WorkersLost("low on memory", conductor.active)
            conductor.finish(job.trial_id, run_job(job, runner, lambda row: None))

    drop = {"search.objectives": {"accuracy_drop": "min", "macs": "min"}, "resources.retries": 1}
    checked = _config(tmp_path, store, **drop)
    with monkeypatch.context() as patch:
        patch.setattr(launch, "run_on_ray", too_large)
        sweep = _run(checked)
    assert (sweep.state, len(rounds)) == ("interrupted", 4)  # two attempts of two rounds each
    assert sweep.message.startswith(
        "the baseline b0001 was lost (its process was lost 2 times: low on memory"
    )
    assert "accuracy_drop needs it" in sweep.message
    assert _run(checked).statuses == {"complete": 6}


def test_a_driver_that_the_database_refuses_has_touched_nothing_of_the_sweep(
    tmp_path: Path, store: str, monkeypatch
) -> None:
    """The lock comes before config, entry and MLflow's parent run: they belong to whoever holds it."""
    _run(_config(tmp_path, store, **{"search.trials": 2}))
    folder = tmp_path / "runs" / "inline"
    before = {name: (folder / name).read_bytes() for name in ("config.yaml", "sweep.json", "journal.log")}

    @contextlib.contextmanager
    def refused(*args: object):
        raise ConfigError("another driver is running this sweep", "ledger")
        yield

    monkeypatch.setattr(launch, "driver_lock", refused)
    monkeypatch.setattr(launch, "open_writer", lambda *args: pytest.fail("MLflow was asked first"))
    with pytest.raises(ConfigError, match="another driver"):
        _run(_config(tmp_path, store, **{"search.trials": 6}))
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_a_driver_that_was_taken_over_leaves_entry_and_runs_to_the_other(
    tmp_path: Path, store: str, monkeypatch
) -> None:
    written = []

    def taken_over(conductor: Conductor, folder: Path, runner: str) -> None:
        job = conductor.next_job()
        conductor._ledger.tenure.lost = True  # what its thread or the ledger's next write finds out
        (folder / "sweep.json").write_text("the other driver's")
        with pytest.raises(Displaced):
            conductor.finish(job.trial_id, run_job(job, runner, lambda row: None))
        conductor.interrupt("another driver has taken over")

    close = launch.MlflowWriter.close
    monkeypatch.setattr(
        launch.MlflowWriter, "close", lambda self, status: written.append(status) or close(self, status)
    )
    monkeypatch.setattr(launch, "run_on_ray", taken_over)
    sweep = _run(_config(tmp_path, store))
    assert (sweep.state, sweep.message) == ("interrupted", "another driver has taken over")
    assert (tmp_path / "runs" / "inline" / "sweep.json").read_text() == "the other driver's"
    assert written == [None]
    assert PUBLISHED == []


def test_rounds_of_lost_workers_count_only_as_long_as_a_trial_makes_no_progress(
    tmp_path: Path, store: str, monkeypatch
) -> None:
    rounds = []

    def preempted(conductor: Conductor, folder: Path, runner: str) -> None:
        rounds.append(conductor)
        while (job := conductor.next_job()) is not None:
            if job.trial_id == "t0001" and len(rounds) <= 5:
                spool.append(Path(job.folder), {"epoch": len(rounds)})
                raise WorkersLost("the node was taken away", conductor.active)
            conductor.finish(job.trial_id, run_job(job, runner, lambda row: None))

    monkeypatch.setattr(launch, "run_on_ray", preempted)
    sweep = _run(_config(tmp_path, store, **{"resources.retries": 1, "search.trials": 2}))
    assert (sweep.statuses, len(rounds)) == ({"complete": 2}, 6)
