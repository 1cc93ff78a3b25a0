"""A sweep in one process with a real MLflow store in its folder: its writer, its ledger, and what the store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sweeps.config.sweep_config import SweepConfig
from sweeps.records.folder import write_config
from sweeps.records.ledger import Ledger
from sweeps.tracking.store import tracking_uri
from sweeps.tracking.writer import MlflowWriter, open_writer
from tests.prepared import with_store


def stored(checked: SweepConfig) -> SweepConfig:
    """``checked``, whose new folder holds it and an empty store."""
    write_config(with_store(Path(checked.folder)), checked)
    return checked


def open_(checked: SweepConfig) -> MlflowWriter:
    return open_writer(checked, Path(checked.folder), "0123456789ab")


def ledger_of(checked: SweepConfig) -> Ledger:
    return Ledger(Path(checked.folder), checked.name, checked.search.objectives)


def runs(checked: SweepConfig) -> tuple[Any, list[Any]]:
    """MLflow's client, and all runs of the sweep."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri(None, Path(checked.folder)))
    experiment = client.get_experiment_by_name(checked.name)
    return client, client.search_runs([experiment.experiment_id], max_results=100)
