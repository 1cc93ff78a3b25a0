"""A sweep of paths that were really trained, to be polished."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from sweeps.cli import main
from sweeps.conduct.conductor import Conductor
from sweeps.config.sweep_config import load_config
from sweeps.records.folder import Entry, read_config, write_config, write_entry
from sweeps.records.ledger import Ledger, SnapshotRecord
from sweeps.tracking.store import tracking_uri
from sweeps.tracking.writer import open_writer
from sweeps.worker.trial import DEFAULT_RUNNER
from tests.sweeps.inline import Silent, drive

SCHEMA = Path(__file__).parents[4] / "docs" / "schemas" / "sweep" / "polish.json"

#: Two paths of three snapshots: dense epochs 1 and 2, cycles 3 4 and 5 6; 0, 30 and 51 % of the MACs removed.
TREE: dict[str, Any] = {
    "name": "paths",
    "data": {"name": "digits", "train_images": 96, "val_share": 0.25},
    "model": {"name": "vgg_tiny", "width": 0.125},
    "train": {"schedule": "cycles", "batch_size": 32},
    "prune": {
        "criterion": {"choice": ["l1", "random"]}, "start": 2, "interval": 2, "ratio": 0.3, "target": 0.5,
        "min_channels": 1, "min_share": 0.03,
    },
    "baseline": {"epochs": 4},
    "search": {"sampler": "grid", "trials": None, "keep": "all", "min_gain": 0.0},
}  # fmt: skip


def made(storage: Path, store: Path, state: str = "complete", **overrides: Any) -> Path:
    """A sweep of paths that were really trained, as its driver leaves it."""
    checked = load_config(TREE, {"storage": str(storage), **overrides})
    folder = Path(checked.folder)
    folder.mkdir(parents=True)
    shutil.copy(store, folder / "mlflow.db")
    write_config(folder, checked)
    writer = open_writer(checked, folder, "0123456789ab")
    ledger = Ledger(folder, checked.name, checked.search.objectives)
    drive(Conductor(checked, ledger, writer, Silent()), DEFAULT_RUNNER)
    assert writer.close("FINISHED" if state == "complete" else "KILLED") == 0
    run = writer.run
    entry = Entry("0123456789ab", checked.name, run.uri, run.experiment, run.run_id, checked.digest(), state)
    write_entry(folder, entry)
    return folder


def call(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


def entered(folder: Path) -> dict[str, SnapshotRecord]:
    config = read_config(folder)
    ledger = Ledger(folder, config.name, config.search.objectives)
    studies = (ledger.snapshots(), ledger.polished())
    return {
        known.snap.name(trial): known for taken in studies for trial, all_ in taken.items() for known in all_
    }


def runs(folder: Path) -> tuple[Any, dict[str, Any]]:
    """MLflow's client and the runs of the sweep by name."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri(None, folder))
    experiment = client.get_experiment_by_name("paths")
    found = client.search_runs([experiment.experiment_id], max_results=100)
    assert len({run.info.run_name for run in found}) == len(found), "nothing is there twice"
    return client, {run.info.run_name: run for run in found}


def weights(folder: Path, name: str, trial: str = "t0000") -> Path:
    return folder / "trials" / trial / "snapshots" / name / "weights.pt"
