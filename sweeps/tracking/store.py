"""Where MLflow keeps a sweep: a server, or a database in the sweep's folder.

The folder may be moved, and the database holds absolute places for files: it has to be told.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from sweeps.records.layout import ARTIFACTS, DATABASE

#: Where MLflow keeps places for files, and whether it has the table depends on its version. Its API can change none.
_PLACES = (
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("experiments", "artifact_location"),
)


def tracking_uri(uri: str | None, folder: Path) -> str:
    """The absolute URI: SQLite in the sweep's folder unless the config names one."""
    if uri is None:
        return f"sqlite:///{folder.absolute() / DATABASE}"
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    return uri


def is_gone(uri: str, folder: Path) -> bool:
    """Whether MLflow's database, once at ``uri``, is neither there nor in the sweep's folder: it was deleted, or stayed
    on another machine. Of a server nothing is known.
    """
    if not uri.startswith("sqlite:///"):
        return False
    file = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    return not (file.is_file() or (folder / DATABASE).is_file())


def write_new_place(folder: Path, experiment: str) -> None:
    """Let the sweep's own database name the files in ``folder``, if it names those of another folder.

    To be called by whoever runs the sweep, not by readers: a folder may be seen under other names from other machines.
    Nothing happens without a database in the folder, where that may not be written, and where somebody else chose a
    place for the files.
    """
    database = folder / DATABASE
    if not database.is_file():
        return
    here = (folder.absolute() / ARTIFACTS).as_uri()
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(database)) as db,
        db,
    ):
        _rename(db, here, experiment)


def _rename(db: sqlite3.Connection, here: str, experiment: str) -> None:
    found = db.execute("select artifact_location from experiments where name = ?", (experiment,)).fetchone()
    if found is None or found[0] == here or not _made_by_a_sweep(found[0]):
        return
    tables = {name for (name,) in db.execute("select name from sqlite_master where type = 'table'")}
    for table, column in _PLACES:
        if table in tables:
            db.execute(
                f"update {table} set {column} = ?1 || substr({column}, length(?2) + 1) "
                f"where {column} = ?2 or substr({column}, 1, length(?2) + 1) = ?2 || '/'",
                (here, found[0]),
            )


def _made_by_a_sweep(place: str | None) -> bool:
    return place is not None and place.startswith("file:") and place.endswith(f"/{ARTIFACTS}")
