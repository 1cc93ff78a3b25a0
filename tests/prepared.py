"""What takes long to prepare is made once for all workers of a test run."""

from __future__ import annotations

import contextlib
import fcntl
import functools
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

    newest_schema_known()
    return once("empty-store", make) / "mlflow.db"


@functools.cache
def newest_schema_known() -> None:
    """Let MLflow find out once in this process which schema is its newest.

    It runs all of its migrations for that, 68 files, and would do so again for every store that it opens.
    """
    from mlflow.store.db import utils

    with contextlib.suppress(AttributeError):  # another version of MLflow: it takes its time
        utils._get_latest_schema_revision = functools.cache(utils._get_latest_schema_revision)
        utils._get_latest_schema_revision()  # copies of this process know it, too


def with_store(sweep: Path) -> Path:
    """The new folder of a sweep that is to be run, with an empty store in it."""
    sweep.mkdir(parents=True)
    shutil.copy(empty_store(), sweep / "mlflow.db")
    return sweep
