"""A sweep's own MLflow database knows the place of its files as absolute paths; after a move they are mended."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

log = logging.getLogger(__name__)

#: Folder beside the database in which a sweep without a server keeps its artifacts.
ARTIFACTS = "mlartifacts"
#: Where MLflow's tables hold places of files.
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)


def come_home(folder: Path) -> int:
    """Let ``folder/mlflow.db`` name the files beside it, wherever the folder was before; returns the places changed.

    Otherwise a folder that was moved would lose its models, and one that was copied would write into the original. Only
    places inside a folder ``mlartifacts`` change; a database that cannot be written stays as it is, with a warning.
    """
    database, own = folder / "mlflow.db", (folder / ARTIFACTS).as_uri()
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=10)) as store, store:
            strangers = {
                (table, column, place): own + place[at + len(ARTIFACTS) + 1 :]
                for table, column in _PLACES
                for (place,) in _distinct(store, table, column)
                if (at := _inside(place)) >= 0 and not _same(place, at, own)
            }
            for (table, column, place), mended in strangers.items():
                store.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (mended, place))
            return len(strangers)
    except sqlite3.Error as exc:
        log.warning("%s still names the files of another folder: %s", database, exc)
        return 0


def _distinct(store: sqlite3.Connection, table: str, column: str) -> list[tuple[str]]:
    if not store.execute("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", (table, column)).fetchone():
        return []  # an older MLflow
    query = f"SELECT DISTINCT {column} FROM {table} WHERE {column} LIKE ?"
    return store.execute(query, (f"%/{ARTIFACTS}%",)).fetchall()


def _inside(place: str) -> int:
    """Where ``/mlartifacts`` stands in a place on a disk; -1 for any other place."""
    if not place.startswith(("/", "file:/")):
        return -1
    at = place.rfind(f"/{ARTIFACTS}")
    rest = place[at + len(ARTIFACTS) + 1 :] if at >= 0 else "x"
    return at if rest == "" or rest.startswith("/") else -1


def _same(place: str, at: int, own: str) -> bool:
    head = place[: at + len(ARTIFACTS) + 1]
    return unquote(head.removeprefix("file://")) == unquote(own.removeprefix("file://"))
