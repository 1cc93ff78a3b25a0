"""What MLflow holds after the writer is closed; a real SQLite store, made once and copied."""

from __future__ import annotations

import math
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from gcp_core.errors import ConfigError
from gcp_core.schema import FRONT_HYPERVOLUME, PER_EPOCH, Tag
from sweeps.conduct.baselines import known_drops
from sweeps.conduct.conductor import Conductor
from sweeps.config.reading import flatten
from sweeps.config.sweep_config import SweepConfig
from sweeps.records.folder import write_config
from sweeps.records.job import Outcome
from sweeps.records.ledger import Ledger
from sweeps.tracking.children import as_param
from sweeps.tracking.store import tracking_uri
from sweeps.tracking.writer import MlflowWriter, git_sha, open_writer
from tests.sweeps.inline import Silent, config, drive
from tests.sweeps.tracking.stored import ledger_of, open_, runs, stored


@pytest.fixture
def checked(tmp_path: Path) -> SweepConfig:
    return stored(config(tmp_path, {"search.trials": 3}))


def _sweep(checked: SweepConfig, writer: MlflowWriter) -> Ledger:
    ledger = ledger_of(checked)
    drive(Conductor(checked, ledger, writer, Silent()))
    return ledger


def _runs(checked: SweepConfig) -> tuple[Any, dict[str, Any]]:
    client, all_ = runs(checked)
    return client, {run.info.run_name: run for run in all_}


def test_one_parent_one_baseline_and_every_trial_with_finals_params_and_artifacts(
    checked: SweepConfig,
) -> None:
    writer = open_(checked)
    ledger = _sweep(checked, writer)
    assert writer.close("FINISHED") == 0
    client, runs = _runs(checked)
    assert set(runs) == {"inline", "b0000", "t0000", "t0001", "t0002"}
    parent = runs.pop("inline")
    assert parent.data.tags[Tag.KIND] == "sweep"
    assert parent.data.params["prune.ratio.high"] == "0.4"
    for name, run in runs.items():
        assert run.info.status == "FINISHED"
        assert run.data.tags[Tag.PARENT] == parent.info.run_id
        assert run.data.tags[Tag.STATUS] == "complete"
        assert run.data.tags[Tag.KIND] == ("baseline" if name == "b0000" else "trial")
        assert {artifact.path for artifact in client.list_artifacts(run.info.run_id)} == {
            "config.yaml",
            "trial.log",
        }
        assert len(run.data.metrics) <= 20
        for key in PER_EPOCH:
            assert [metric.step for metric in client.get_metric_history(run.info.run_id, key)] == [1, 2]
    for record in ledger.records("trial"):
        run = runs[record.job.trial_id]
        assert run.data.metrics["final/macs"] == record.finals["macs"]
        assert run.data.metrics["final/accuracy_drop"] == pytest.approx(95.0 - record.finals["val_accuracy"])
        (final,) = client.get_metric_history(run.info.run_id, "final/val_accuracy")
        assert final.step == 2
        assert run.data.params["prune.interval"] == str(record.job.point["prune.interval"])
        assert run.data.tags[Tag.CONFIG_ID] == record.job.config.config_id()


def test_the_parent_has_the_hypervolume_after_every_trial(checked: SweepConfig) -> None:
    writer = open_(checked)
    _sweep(checked, writer)
    writer.close("FINISHED")
    client, runs = _runs(checked)
    course = client.get_metric_history(runs["inline"].info.run_id, FRONT_HYPERVOLUME)
    assert [metric.step for metric in course] == [0, 1, 2, 3]
    values = [metric.value for metric in course]
    assert values[0] == 0.0 < values[1]
    assert values == sorted(values), "another trial never makes a front worse"
    assert FRONT_HYPERVOLUME not in runs["t0000"].data.metrics


def test_the_parent_says_what_stands_for_the_baseline_until_one_ends(checked: SweepConfig) -> None:
    writer = open_(checked)
    seen, client = [], writer._client
    real = client.set_tag
    client.set_tag = lambda run, name, value: (seen.append((name, value)), real(run, name, value))
    for stand_in in ("t0000@0", "t0000@0", "t0001@0", "", ""):
        writer.front(0.5, 1, stand_in)
    writer.close("FINISHED")
    assert [value for name, value in seen if name == Tag.ANCHORS] == [
        "t0000@0 until a baseline ends",
        "t0001@0 until a baseline ends",
        "baseline",
    ]
    _, runs = _runs(checked)
    assert runs["inline"].data.tags[Tag.ANCHORS] == "baseline"


def test_every_run_says_what_it_ran_with(checked: SweepConfig) -> None:
    writer = open_(checked)
    ledger = _sweep(checked, writer)
    writer.close("FINISHED")
    _, runs = _runs(checked)
    tags, known = runs["t0001"].data.tags, ledger.records("trial")[1].provenance
    assert tags[Tag.WEIGHTS] == "0" * 64
    assert tags[Tag.VERSIONS].split()[:2] == [f"python={known['python']}", f"torch={known['torch']}"]
    assert (tags[Tag.DEVICE], tags[Tag.THREADS]) == (known["device"], "1")
    assert Tag.DATA_DIGEST not in tags, "the fake runner has no data"
    assert runs["inline"].data.tags[Tag.VERSIONS] == tags[Tag.VERSIONS]


def test_the_front_is_shown_by_the_writers_thread_not_more_often_than_asked(checked: SweepConfig) -> None:
    writer = open_(checked)
    shown, threads = threading.Event(), []

    def show() -> None:
        threads.append(threading.current_thread().name)
        shown.set()

    writer.show_with(show, every_s=0.0)
    _sweep(checked, writer)
    assert shown.wait(60)
    writer._show_after = math.inf
    before = len(threads)
    writer.front(0.5, 4)
    writer.close("FINISHED")
    assert set(threads) == {"mlflow-writer"}
    assert len(threads) == before


def test_a_failed_trial_is_failed_with_its_error_and_its_traceback(tmp_path: Path) -> None:
    checked = stored(config(tmp_path, {"search.trials": 1, "model.name": "broken"}))
    writer = open_(checked)
    _sweep(checked, writer)
    writer.close("FAILED")
    client, runs = _runs(checked)
    run = runs["t0000"]
    assert (run.info.status, run.data.tags[Tag.STATUS]) == ("FAILED", "failed")
    assert run.data.tags[Tag.ERROR].startswith("ValueError: no such thing at target")
    assert "traceback.txt" in {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert runs["inline"].info.status == "FAILED"


def test_what_a_dead_driver_did_not_write_is_written_from_ledger_and_folders(checked: SweepConfig) -> None:
    class Forgetful(Silent):
        """A writer that dies with the first epoch of the first trial."""

    ledger = ledger_of(checked)
    drive(Conductor(checked, ledger, Forgetful(), Silent()))
    trials, baselines = ledger.records("trial"), ledger.records("baseline")
    first = open_(checked)
    first.started(trials[0].job)  # one run exists, and would stay RUNNING for ever
    first.epoch(trials[0].job, {"epoch": 1.0, "val/accuracy": 50.0})
    first.close("KILLED")
    second = open_(checked)
    second.reconcile([*baselines, *trials], known_drops(baselines, trials))
    assert second.close("FINISHED") == 0
    client, runs = _runs(checked)
    assert set(runs) == {"inline", "b0000", "t0000", "t0001", "t0002"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for record in trials:
        run = runs[record.job.trial_id]
        assert run.data.metrics["final/accuracy_drop"] == pytest.approx(95.0 - record.finals["val_accuracy"])
        assert [m.step for m in client.get_metric_history(run.info.run_id, "val/accuracy")] == [1, 2]


def test_writing_everything_a_second_time_changes_nothing(checked: SweepConfig) -> None:
    writer = open_(checked)
    ledger = _sweep(checked, writer)
    writer.close("FINISHED")
    before = {name: (run.info.end_time, dict(run.data.metrics)) for name, run in _runs(checked)[1].items()}
    again = open_(checked)
    trials, baselines = ledger.records("trial"), ledger.records("baseline")
    again.reconcile([*baselines, *trials], known_drops(baselines, trials))
    again.close("FINISHED")
    after = {name: (run.info.end_time, dict(run.data.metrics)) for name, run in _runs(checked)[1].items()}
    before.pop("inline"), after.pop("inline")
    assert after == before


def test_an_interrupted_trial_is_killed_and_running_again_when_it_goes_on(checked: SweepConfig) -> None:
    ledger = ledger_of(checked)
    writer = open_(checked)
    job = Conductor(checked, ledger, writer, Silent()).next_job()
    writer.interrupted(job)
    writer.close("KILLED")
    _, runs = _runs(checked)
    assert (runs["b0000"].info.status, runs["b0000"].data.tags[Tag.STATUS]) == ("KILLED", "running")
    writer = open_(checked)
    writer.started(job)
    writer.finished(job, Outcome("complete", {"val_accuracy": 95.0}))
    writer.close("FINISHED")
    _, runs = _runs(checked)
    assert set(runs) == {"inline", "b0000"}
    assert runs["b0000"].info.status == "FINISHED"


def test_nothing_is_lost_while_mlflow_is_away_for_a_while(checked: SweepConfig, monkeypatch) -> None:
    writer = open_(checked)
    real, failures = writer._client.log_batch, iter([True] * 3)

    def flaky(*args: Any, **kwargs: Any) -> None:
        if next(failures, False):
            raise ConnectionError("away")
        real(*args, **kwargs)

    monkeypatch.setattr(writer._client, "log_batch", flaky)
    monkeypatch.setattr("sweeps.tracking.writer._PAUSE_S", 0.01)
    ledger = _sweep(checked, writer)
    assert writer.close("FINISHED") == 0
    _, runs = _runs(checked)
    assert len(runs) == 5
    assert all("final/macs" in run.data.metrics for name, run in runs.items() if name != "inline")
    expected = {
        record.job.trial_id: {
            path: as_param(value) for path, value in flatten(record.job.config.to_dict()).items()
        }
        for kind in ("baseline", "trial")
        for record in ledger.records(kind)
    }
    assert {name: run.data.params for name, run in runs.items() if name != "inline"} == expected


def test_a_server_that_is_gone_for_good_is_counted_and_ends_nothing(
    checked: SweepConfig, monkeypatch
) -> None:
    writer = open_(checked)

    def gone(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("gone")

    for name in ("log_batch", "create_run", "search_runs", "set_terminated"):
        monkeypatch.setattr(writer._client, name, gone)
    ledger = _sweep(checked, writer)
    assert writer.close("FINISHED", timeout_s=0.5) > 0
    assert [record.status for record in ledger.records("trial")] == ["complete"] * 3


def test_a_store_that_cannot_be_opened_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    checked = config(tmp_path, {"tracking.uri": f"sqlite:///{tmp_path}/file/mlflow.db"})
    Path(checked.folder).mkdir()
    write_config(Path(checked.folder), checked)
    with pytest.raises(ConfigError, match=r"tracking\.uri: MLflow cannot be opened|MLflow cannot be used"):
        open_(checked)


def test_an_experiment_that_another_driver_makes_at_the_same_moment_is_used(
    checked: SweepConfig, monkeypatch
) -> None:
    from mlflow.tracking import MlflowClient

    folder, real, asked = Path(checked.folder), MlflowClient.get_experiment_by_name, []
    client, files = MlflowClient(tracking_uri(None, folder)), (folder / "files").as_uri()
    other = client.create_experiment(checked.name, artifact_location=files)

    def not_yet(client: MlflowClient, name: str) -> Any:
        asked.append(name)
        return real(client, name) if len(asked) > 1 else None

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", not_yet)
    writer = open_writer(checked, folder, "0123456789ab")
    assert writer.close("FINISHED") == 0
    assert writer.run.experiment_id == other
    assert asked == [checked.name] * 2


def test_the_default_store_is_an_absolute_path_in_the_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking_uri(None, Path("runs/x")) == f"sqlite:///{tmp_path}/runs/x/mlflow.db"
    assert tracking_uri("sqlite:///my.db", Path("runs/x")) == f"sqlite:///{tmp_path}/my.db"
    assert tracking_uri("http://host:5000", Path("runs/x")) == "http://host:5000"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "null"), (0.1, "0.1"), (True, "true"), ("frs", "frs"), ([], "[]")]
)
def test_params_are_text_or_json(value: object, text: str) -> None:
    assert as_param(value) == text


def test_outside_a_repository_the_commit_is_unknown(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert git_sha() == "unknown"


def test_files_of_a_database_without_a_server_stay_in_the_sweeps_folder(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    shutil.copy(empty_store, tmp_path / "team.db")
    checked = config(tmp_path, {"search.trials": 1, "tracking.uri": f"sqlite:///{tmp_path}/team.db"})
    Path(checked.folder).mkdir(parents=True)
    write_config(Path(checked.folder), checked)
    writer = open_(checked)
    _sweep(checked, writer)
    writer.close("FINISHED")
    assert list(elsewhere.iterdir()) == []
    assert list(tmp_path.glob("inline/mlartifacts/*/artifacts/config.yaml"))


def test_a_driver_that_another_one_has_followed_leaves_the_parent_run_to_it(checked: SweepConfig) -> None:
    first, second = open_(checked), open_(checked)
    assert first.run.run_id == second.run.run_id
    second.close("FINISHED")
    assert first.close(None) == 0
    _client, runs = _runs(checked)
    assert runs["inline"].info.status == "FINISHED"
