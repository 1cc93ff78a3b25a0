"""A sweep of paths on a real Ray with real training: paths rest, go on, and go deeper later, bit by bit as if alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

import sweeps
from gcp_core.checkpoint import load_model
from gcp_core.records.checkpoint import weights_digest
from gcp_core.schema import SNAPSHOT, Tag, model_id
from gcp_core.training import run_trial
from sweeps.conduct import paths
from sweeps.config.sweep_config import load_config
from sweeps.driver.cluster import ray_cluster
from sweeps.records.job import read_outcome
from sweeps.records.ledger import Ledger
from tests.prepared import with_store
from tests.sweeps.conduct.scripted import Scripted

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

TREE = {
    "name": "rests",
    "data": {"name": "digits", "val_share": 0.25, "train_images": 300},
    "model": {"name": "vgg_tiny", "width": 0.25},
    "train": {"schedule": "cycles", "batch_size": 64},
    "prune": {"criterion": "l1", "start": 2, "interval": {"choice": [1, 2, 3]}, "ratio": 0.4, "target": 0.6},
    "search": {"trials": 3, "concurrency": 2, "sampler": "random", "keep": "all"},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The private Ray of a sweep, started once: a driver uses a connection that there is."""
    with ray_cluster(load_config({**TREE, "storage": str(tmp_path_factory.mktemp("ray"))}), None):
        yield


@pytest.fixture(autouse=True)
def store(tmp_path: Path) -> None:
    with_store(tmp_path / "rests")


def _run(storage: Path, script: Scripted, monkeypatch, **overrides):
    monkeypatch.setattr(paths, "Choice", script)
    return sweeps.run({**TREE, "storage": str(storage)}, overrides)


def _ledger(storage: Path) -> Ledger:
    config = load_config({**TREE, "storage": str(storage)})
    return Ledger(Path(config.folder), config.name, config.search.objectives)


def _in_mlflow(storage: Path) -> dict[str, tuple[str, str, dict[str, float]]]:
    """Name of a trial or snapshot -> its run's status there, our status, final values."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{storage}/rests/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("rests").experiment_id], max_results=1000)
    found = {}
    for run in runs:
        tags = run.data.tags
        if tags[Tag.KIND] in ("trial", SNAPSHOT):
            name = tags.get(Tag.MODEL_ID, tags[Tag.TRIAL_ID])
            assert name not in found, f"{name} is there twice"
            found[name] = (run.info.status, tags[Tag.STATUS], run.data.metrics)
    return found


def _check(storage: Path) -> None:
    """Ledger, MLflow and disk tell the same, and every model is that of its path trained alone."""
    ledger = _ledger(storage)
    records, snapshots = ledger.records("trial"), ledger.snapshots()
    names = {model_id(trial, taken.snap.level) for trial, known in snapshots.items() for taken in known}
    known = _in_mlflow(storage)
    assert set(known) == names | {record.job.trial_id for record in records}
    assert {status for status, _, _ in known.values()} == {"FINISHED"}
    for record in records:
        mine = snapshots[record.job.trial_id]
        alone = run_trial(record.job.config)
        assert [taken.snap.level for taken in mine] == list(range(len(mine)))
        for taken in mine:
            assert taken.snap.weights_sha256 == alone.snapshots[taken.snap.level].weights_sha256
            model = load_model(Path(record.job.folder) / f"snapshots/{taken.snap.level:02d}")
            assert weights_digest(model.state_dict()) == taken.snap.weights_sha256
        trained = read_outcome(record.job.folder)
        if trained is not None:
            assert [row["epoch"] for row in trained.history] == list(range(1, mine[-1].snap.epoch + 1))
        finals = known[record.job.trial_id][2]
        assert finals["final/macs"] == mine[-1].snap.finals["macs"], "its own finals are its last snapshot's"


def test_paths_rest_go_on_and_go_deeper_bit_by_bit_as_if_alone(tmp_path, monkeypatch):
    script = Scripted(rest=[("t0000", 1), ("t0001", 0), ("t0002", 1)], resumes=2)
    sweep = _run(tmp_path, script, monkeypatch)
    assert (sweep.state, sweep.statuses) == ("complete", {"complete": 3})
    ledger = _ledger(tmp_path)
    assert {trial.state for trial in ledger._study("trial").trials} == {TrialState.COMPLETE}, "none left open"
    assert sorted(record.ended for record in ledger.records("trial")) == ["paused", "target", "target"]
    _check(tmp_path)

    deeper = _run(tmp_path, Scripted(resumes=3), monkeypatch, **{"prune.target": 0.85})
    assert deeper.state == "complete"
    ledger = _ledger(tmp_path)
    assert [len(known) for known in ledger.snapshots().values()] == [5, 5, 5]
    assert {record.ended for record in ledger.records("trial")} == {"target"}
    _check(tmp_path)


def test_a_stopped_driver_leaves_resting_paths_open_and_no_other(tmp_path, monkeypatch):
    """0 RUNNING but for paths that rest while the sweep is unfinished, none at its end."""
    script = Scripted(rest=[("t0000", 0), ("t0001", 0), ("t0002", 0)])
    conclude = paths.Paths.concluded
    monkeypatch.setattr(paths.Paths, "concluded", lambda self: [])
    _run(tmp_path, script, monkeypatch)
    ledger = _ledger(tmp_path)
    assert [record.status for record in ledger.records("trial")] == ["paused"] * 3
    assert {status for status, _, _ in _in_mlflow(tmp_path).values()} == {"FINISHED"}
    assert {ours for name, (_, ours, _) in _in_mlflow(tmp_path).items() if "@" not in name} == {"paused"}
    monkeypatch.setattr(paths.Paths, "concluded", conclude)
    _run(tmp_path, Scripted(resumes=1), monkeypatch, **{"search.hours": 9})
    assert {record.status for record in _ledger(tmp_path).records("trial")} == {"complete"}
    _check(tmp_path)
