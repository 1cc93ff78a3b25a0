"""Put a chosen model into MLflow's registry, with signature, input example, requirements, lineage and an
alias.

Trials keep weights and plans only; a LoggedModel is made for chosen ones. The alias names the operating point
(``macs-50``: half of the baseline's MACs), so that a deployment asks for a point, not for a version number.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis.export import Exported
from analysis.load import client_for
from gcp_core.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Registered:
    """Name, version and alias in the registry; ``uri`` loads it (``models:/name@alias``)."""

    name: str
    version: str
    alias: str
    uri: str


def alias_for(row: pd.Series) -> str:
    """``macs-44``: the share of the baseline's MACs that is left, in whole per cent.

    Raises:
        ConfigError: the trial has no baseline to take a share of.
    """
    kept = row["macs_kept"]
    if not np.isfinite(kept):
        raise ConfigError("has no baseline to name its operating point by", str(row["trial"]), "give --alias")
    return f"macs-{round(100 * kept)}"


def register(
    df: pd.DataFrame, row: pd.Series, exported: Exported, *, name: str | None = None, alias: str | None = None
) -> Registered:
    """Log the proven model in ``exported`` to its trial's run and register it.

    Args:
        exported: what :func:`analysis.export.export` returned for this row; its sample becomes the input
        example. name: of the registered model (default: the sweep's name).

    Raises:
        ConfigError: the table is not in MLflow, or the registry refuses.
    """
    from mlflow.exceptions import MlflowException

    entry = next((e for e in df.attrs["sweeps"] if e.get("name") == row["sweep"]), {})
    if not entry.get("tracking_uri") or not row["run_id"]:
        raise ConfigError("is not in MLflow, so it cannot be registered there", str(row["trial"]))
    name, alias = name or str(row["sweep"]), alias or alias_for(row)
    client = client_for(entry["tracking_uri"])
    try:
        with _store(entry["tracking_uri"]):
            model_uri = _log(row, exported, name)
        try:
            client.create_registered_model(name)
        except MlflowException as exc:
            if exc.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        tags = {"trial": str(row["trial"]), "sweep": str(row["sweep"]), "weights_sha256": exported.sha256}
        version = client.create_model_version(
            name, model_uri, run_id=row["run_id"], tags=tags, description=_description(exported)
        ).version
        client.set_registered_model_alias(name, alias, version)
    except MlflowException as exc:
        raise ConfigError(f"MLflow refuses: {str(exc).splitlines()[0]}", name) from exc
    return Registered(name, str(version), alias, f"models:/{name}@{alias}")


@contextmanager
def _store(uri: str) -> Iterator[None]:
    """MLflow's ``log_model`` only knows a store for the whole process; give the old one back afterwards."""
    import mlflow

    before = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR")
    mlflow.set_tracking_uri(uri)
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before[0])
        if before[1] is None:
            del os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"]
        else:
            os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = before[1]


def _log(row: pd.Series, exported: Exported, name: str) -> str:
    import mlflow
    from mlflow.models import infer_signature

    from gcp_core.checkpoint import load_model

    sample = np.load(exported.folder / "sample.npz")
    requirements = [f"torch=={importlib.metadata.version('torch').split('+')[0]}", "numpy"]
    with mlflow.start_run(run_id=row["run_id"]):
        info = mlflow.pytorch.log_model(
            load_model(exported.folder),
            name=name,
            signature=infer_signature(sample["inputs"], sample["logits"]),
            input_example=sample["inputs"],
            # Without them MLflow starts a process to guess, which takes many seconds.
            pip_requirements=requirements,
            tags={"trial": str(row["trial"]), "weights_sha256": exported.sha256},
        )
    return info.model_uri


def _description(exported: Exported) -> str:
    return (Path(exported.folder) / "MODEL_CARD.md").read_text(encoding="utf-8")[:4000]
