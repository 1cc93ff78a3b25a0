"""The files of a chosen model, from the sweep's folder, from MLflow or from an export; changed ones are refused."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.errors import VerificationError
from analysis.runs.artifacts import artifact_of, sweep_of
from gcp_core.errors import ConfigError
from gcp_core.schema import ARTIFACT_MANIFEST, ARTIFACT_WEIGHTS

if TYPE_CHECKING:
    import pandas as pd

_WEIGHTS, _MANIFEST = Path(ARTIFACT_WEIGHTS).name, Path(ARTIFACT_MANIFEST).name


@dataclass(frozen=True)
class Files:
    """A model's folder (``weights.pt``, ``manifest.json``), its manifest, and its baseline's folder if known."""

    name: str
    model: Path
    manifest: dict[str, Any]
    baseline: Path | None = None


def collect(df: pd.DataFrame, row: pd.Series, work: Path) -> dict[str, Any]:
    """Copy weights and manifest of a row into ``work``; the manifest.

    Raises:
        ConfigError: its files are nowhere.
        VerificationError: the weights are not those of the manifest.
    """
    model = str(row["model"])
    work.mkdir(parents=True, exist_ok=True)
    for name in (ARTIFACT_WEIGHTS, ARTIFACT_MANIFEST):
        source = artifact_of(df, row, name)
        if source is None:
            entry = sweep_of(df, row)
            sweep = shlex.quote(str(entry.get("folder") or row["sweep"]))
            raise ConfigError(
                "its files are neither in the sweep's folder nor in MLflow",
                f"{model}: {name}",
                f"if they were dropped, `gcp-sweep replay {sweep} {model}` trains them again and puts them back",
            )
        shutil.copyfile(source, work / Path(name).name)
    return checked_manifest(work, model)


def checked_manifest(folder: Path, model: str) -> dict[str, Any]:
    """The manifest in ``folder``; raises VerificationError if it is damaged or the weights are not those it names."""
    hint = "nothing was exported or measured"
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        found = hashlib.sha256((folder / _WEIGHTS).read_bytes()).hexdigest()
    except (OSError, ValueError) as exc:
        raise VerificationError(f"the manifest is damaged: {exc}", model, hint) from exc
    if not isinstance(manifest, dict):
        raise VerificationError("the manifest is damaged: not an object", model, hint)
    if found != manifest.get("sha256"):
        named = str(manifest.get("sha256"))[:12]
        raise VerificationError(
            f"the weights were changed: SHA-256 {found[:12]}..., in the manifest {named}...", model, hint
        )
    return manifest


def is_export(folder: Path) -> bool:
    """Whether ``folder`` holds a model itself, as ``export`` writes it, and not a sweep."""
    return (folder / _MANIFEST).is_file() and (folder / _WEIGHTS).is_file()


def from_export(folder: Path) -> Files:
    """The model in a folder that ``export`` wrote."""
    return Files(folder.resolve().name, folder, checked_manifest(folder, str(folder)))


def from_sweep(df: pd.DataFrame, row: pd.Series, work: Path) -> Files:
    """The model of a row and, where its files are still there, its baseline, copied below ``work``."""
    manifest = collect(df, row, work / "model")
    baselines = df[(df["kind"] == "baseline") & (df["trial"] == row.get("baseline_trial"))]
    baselines = baselines[baselines["sweep"] == row["sweep"]]
    baseline = None
    if len(baselines) and not _gone(df, baselines.iloc[-1]):
        baseline = work / "baseline"
        collect(df, baselines.iloc[-1], baseline)
    return Files(str(row["model"]), work / "model", manifest, baseline)


def _gone(df: pd.DataFrame, row: pd.Series) -> bool:
    return any(artifact_of(df, row, name) is None for name in (ARTIFACT_WEIGHTS, ARTIFACT_MANIFEST))
