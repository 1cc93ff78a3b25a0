"""What takes long to prepare is made once for all workers of a test run."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

#: Names the folder of the run; ``conftest.py`` makes and removes it.
PLACE = "GCP_TESTS_PREPARED"


def once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder ``name`` as ``make`` has filled it; not to be changed.

    The first worker that asks makes it, the others wait for it. What failed is tried again, in an empty folder.
    """
    place = Path(os.environ[PLACE])
    done = place / f"{name}.done"
    with (place / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            number = len(list(place.glob(f"{name}-*")))
            folder = place / f"{name}-{number}"
            folder.mkdir()
            make(folder)
            done.write_text(folder.name)
    return place / done.read_text()


def empty_store() -> Path:
    """An MLflow SQLite store with nothing in it: creating the schema takes seconds, a copy does not."""

    def make(folder: Path) -> None:
        from mlflow.tracking import MlflowClient

        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()

    return once("empty-store", make) / "mlflow.db"


def with_store(sweep: Path) -> Path:
    """The new folder of a sweep that is to be run, with an empty store in it."""
    sweep.mkdir(parents=True)
    shutil.copy(empty_store(), sweep / "mlflow.db")
    return sweep
