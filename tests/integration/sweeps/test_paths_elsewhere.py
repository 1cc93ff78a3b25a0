"""Paths rest in an object store, with the ledger in PostgreSQL, and go on from another machine (real servers)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

import sweeps
from gcp_core.schema import SNAPSHOT, Tag, model_id
from gcp_core.training import run_trial
from sweeps.conduct import paths
from sweeps.config.sweep_config import load_config
from sweeps.driver.cluster import ray_cluster
from sweeps.records.folder import read_entry
from sweeps.records.layout import EPOCHS, NEWEST, STAGES
from sweeps.records.ledger import Ledger
from sweeps.storage.objects import ObjectStore
from tests.postgresql import Server
from tests.sweeps.conduct.scripted import Scripted

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'gcp-sweep[postgresql]'")
pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def _tree(storage: str, ledger: str, tracking: Path) -> dict:
    return {
        "name": "elsewhere",
        "data": {"name": "digits", "val_share": 0.25, "train_images": 300},
        "model": {"name": "vgg_tiny", "width": 0.25},
        "train": {"schedule": "cycles", "batch_size": 64},
        "prune": {
            "criterion": "l1",
            "start": 2,
            "interval": {"choice": [1, 2]},
            "ratio": 0.4,
            "target": 0.6,
        },
        "search": {"trials": 2, "concurrency": 2, "sampler": "random", "keep": "all"},
        "storage": storage,
        "ledger": ledger,
        "tracking": {"uri": f"sqlite:///{tracking}"},
    }


@pytest.fixture
def ray(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One private Ray for both drivers, which use a connection that there is: no path is kept in it."""
    monkeypatch.setenv("GCP_CACHE_DIR", str(tmp_path / "cache"))
    with ray_cluster(load_config(_tree(s3, str(tmp_path / "ledger"), tmp_path / "tracking.db")), None):
        yield


@pytest.mark.usefixtures("ray")
def test_resting_paths_go_on_from_another_machine_bit_by_bit(
    s3: str,
    postgresql: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tree = _tree(s3, postgresql.url, tmp_path / "tracking.db")
    checked = load_config(tree)
    store = ObjectStore(checked.store)
    with monkeypatch.context() as stopped:  # the driver ends while both paths rest
        stopped.setattr(paths, "Choice", Scripted(rest=[("t0000", 0), ("t0001", 1)]))
        stopped.setattr(paths.Paths, "concluded", lambda self: [])
        sweeps.run(tree)
    ledger = _ledger(tree)
    assert [record.status for record in ledger.records("trial")] == ["paused"] * 2
    states = {trial.state for trial in ledger._study("trial").trials}
    assert states == {TrialState.RUNNING}, "open while they rest"
    resting = {path.split("/")[1] for path in store.sizes() if f"/{EPOCHS}/" in path}
    assert resting == {"t0000", "t0001"}, "each has the state from which it goes on"

    shutil.rmtree(checked.folder)  # nothing of the first machine is left
    monkeypatch.setattr(paths, "Choice", Scripted(resumes=2))
    again = sweeps.run(tree, {"search.hours": 9})
    assert (again.state, again.statuses) == ("complete", {"complete": 2})
    ledger = _ledger(tree)
    assert {trial.state for trial in ledger._study("trial").trials} == {TrialState.COMPLETE}
    assert not [path for path in store.sizes() if path.startswith(STAGES)]
    kept = [path.split("/")[1] for path in store.sizes() if path.endswith(f"/{EPOCHS}/{NEWEST}")]
    assert sorted(kept) == ["t0000", "t0001"], "one state each, should their target be raised"
    snapshots, models = ledger.snapshots(), set()
    for record in ledger.records("trial"):
        alone = run_trial(record.job.config)
        mine = snapshots[record.job.trial_id]
        assert [taken.snap.weights_sha256 for taken in mine] == [s.weights_sha256 for s in alone.snapshots]
        for taken in mine:
            models.add(model_id(record.job.trial_id, taken.snap.level))
            where = f"trials/{record.job.trial_id}/snapshots/{taken.snap.level:02d}/weights.pt"
            assert store.sizes()[where] > 0
    assert models == _in_mlflow(tmp_path / "tracking.db")


def _ledger(tree: dict) -> Ledger:
    checked = load_config(tree)
    folder = Path(checked.folder)
    entry = read_entry(folder)
    return Ledger(folder, checked.name, checked.search.objectives, url=checked.ledger, sweep_id=entry.id)


def _in_mlflow(tracking: Path) -> set[str]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tracking}")
    runs = client.search_runs([client.get_experiment_by_name("elsewhere").experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    names = [run.data.tags[Tag.MODEL_ID] for run in runs if run.data.tags[Tag.KIND] == SNAPSHOT]
    assert len(names) == len(set(names))
    return set(names)
