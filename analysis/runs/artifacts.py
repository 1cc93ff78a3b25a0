"""Where the files of a sweep and of its models lie: in the sweep's folder, those of models else in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.runs.fetch import fetch_artifact
from gcp_core.schema import snapshot_artifact

if TYPE_CHECKING:
    import pandas as pd


def sweep_of(df: pd.DataFrame, row: pd.Series | Mapping[str, Any]) -> dict[str, Any]:
    """What the table knows about the sweep of a row (``df.attrs["sweeps"]``)."""
    return next((e for e in df.attrs["sweeps"] if e.get("name") == row["sweep"]), {})


def folder_of(sweep: Mapping[str, Any]) -> Path | None:
    """The folder of one of ``df.attrs["sweeps"]``; None if it was found by name."""
    return Path(sweep["folder"]) if sweep.get("folder") else None


def config_tree(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """The merged config in the folder of one of ``df.attrs["sweeps"]``; {} where there is none."""
    import yaml

    folder = folder_of(sweep)
    file = folder / "config.yaml" if folder else None
    return (yaml.safe_load(file.read_text()) or {}) if file is not None and file.is_file() else {}


def polish_of(row: pd.Series) -> int:
    """For how many epochs a model was polished, 0 = not."""
    return 0 if row.isna().get("polish", True) else int(row["polish"])


def artifact_of(df: pd.DataFrame, row: pd.Series, name: str) -> Path | None:
    """The file of one artifact (``model/weights.pt``) of the model in a row of ``df``; None if it is nowhere.

    In the folder a snapshot has files of its own below its path's; in MLflow it has them in its own run. The run is asked
    for them without a look for its sweep: a page asks for hundreds of files.
    """
    entry = sweep_of(df, row)
    own = local_artifact(df, row, name)
    if own is not None or not entry.get("tracking_uri"):
        return own
    return fetch_artifact(entry["tracking_uri"], folder_of(entry), row["run_id"], name)


def local_artifact(df: pd.DataFrame, row: pd.Series, name: str) -> Path | None:
    """The same, in the sweep's folder only."""
    folder = folder_of(sweep_of(df, row))
    if folder is None:
        return None
    inside = name if row.isna()["level"] else snapshot_artifact(int(row["level"]), name, polish_of(row))
    own = folder / "trials" / str(row["trial"]) / inside
    return own if own.is_file() else None
