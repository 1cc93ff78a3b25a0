"""The files of runs, beside the database or fetched from where MLflow keeps them; and what a manifest says of a task."""

from __future__ import annotations

import atexit
import functools
import json
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.errors import Unreachable
from analysis.runs.store import SQLITE, SweepRef, download
from gcp_core.schema import ARTIFACT_MANIFEST, LOCAL_ARTIFACTS, SNAPSHOTS

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
#: (tracking address, run, name) -> what this process has fetched. Files of a finished model never change.
_fetched: dict[tuple[str, str, str], Path] = {}


@dataclass(frozen=True)
class Task:
    """What a sweep's models are asked, as far as it was recorded."""

    num_classes: int | None = None
    val_images: int | None = None


def task_of(ref: SweepRef, records: pd.DataFrame) -> Task:
    """The sweep's task, from the first manifest found in its folder or in MLflow.

    Args:
        records: of models, as only these have a manifest.
    """
    if ref.folder is not None:
        for pattern in (f"*/{ARTIFACT_MANIFEST}", f"*/{SNAPSHOTS}/*/{Path(ARTIFACT_MANIFEST).name}"):
            for manifest in sorted((ref.folder / "trials").glob(pattern)):
                return _task_in(manifest)
    finished = records[records["mlflow_status"] == "FINISHED"]
    for run_id in finished["run_id"].head(3):
        try:
            file = fetch_artifact(ref.tracking_uri, ref.folder, run_id, ARTIFACT_MANIFEST)
        except Unreachable as exc:  # a table needs no files
            log.warning("%s: its classes and validation images are not known: %s", ref.name, exc)
            return Task()
        if file is not None:
            return _task_in(file)
    return Task()


def _task_in(manifest: Path) -> Task:
    try:
        found = json.loads(manifest.read_text())
    except (json.JSONDecodeError, OSError):
        return Task()

    def number(name: str, least: int) -> int | None:
        value = found.get(name)
        return value if isinstance(value, int) and value >= least else None

    return Task(number("num_classes", 2), number("val_images", 1))


def fetch_artifact(tracking_uri: str, folder: Path | None, run_id: str, name: str) -> Path | None:
    """One artifact of a run as a file, None if there is none. What lies elsewhere is fetched once, into a folder that is
    removed when this process ends.

    Args:
        folder: the sweep's, None if it was found by name.

    Raises:
        Unreachable: MLflow, or the store behind it, does not answer or refuses; nothing is known of the file then.
    """
    for own in own_artifacts(tracking_uri, folder, run_id):
        if (own / name).is_file():
            return own / name
    key = (tracking_uri, run_id, name)
    if key not in _fetched or not _fetched[key].is_file():
        found = download(*key, _room() / run_id)
        if found is None:
            return None
        _fetched[key] = found
    return _fetched[key]


@functools.cache
def _room() -> Path:
    """The folder of this process for what it fetches."""
    room = Path(tempfile.mkdtemp(prefix="gcp-analyze-"))
    atexit.register(shutil.rmtree, room, ignore_errors=True)
    return room


def own_artifacts(tracking_uri: str, folder: Path | None, run_id: str) -> list[Path]:
    """Folders where a run's files may lie without MLflow being asked: in the sweep's folder, beside the database.

    MLflow records absolute places, which are wrong after a folder was moved; these are right.
    """
    beside = [folder] if folder is not None else []
    if tracking_uri.startswith(SQLITE):
        beside.append(Path(tracking_uri.removeprefix(SQLITE)).parent)
    return [place / LOCAL_ARTIFACTS / run_id / "artifacts" for place in dict.fromkeys(beside)]
