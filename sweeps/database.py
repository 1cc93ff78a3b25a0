"""A ledger in a database (``ledger: postgresql://...``) instead of a journal file in the sweep's folder."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gcp_core.errors import ConfigError

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

_HINT = "null (a journal in the sweep's folder) or postgresql://USER@HOST/DATABASE"


def is_url(ledger: str) -> bool:
    """Whether ``ledger`` names a database rather than a folder."""
    return "://" in ledger


def check_url(url: str) -> str:
    """``url``, if it names a database and carries no secret; the config it stands in is copied to many places.

    Raises ConfigError otherwise.
    """
    parts = urlsplit(url)
    if not url or parts.scheme.split("+")[0] not in ("postgresql", "sqlite"):
        raise ConfigError(f"{url!r} is not a database's address", "ledger", _HINT)
    if parts.password is not None:
        raise ConfigError(
            "holds a password, which would be copied to the sweep's folder and to MLflow",
            "ledger",
            "leave it out; PostgreSQL finds it in ~/.pgpass or PGPASSWORD",
        )
    return url


def open_storage(url: str) -> RDBStorage:
    """Optuna's tables there, made where they are missing.

    Raises:
        ConfigError: the driver package is missing, the database does not answer or does not let us in.
    """
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    try:
        # A connection that the server has closed meanwhile (a trial may take hours) is noticed and replaced.
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except ImportError as exc:
        raise ConfigError(
            f"the driver is missing: {exc}", "ledger", "pip install 'gcp-sweep[postgresql]'"
        ) from exc
    except SQLAlchemyError as exc:
        reason = str(exc).strip().splitlines()[0]
        raise ConfigError(f"the database cannot be used: {reason}", "ledger", url) from exc


def study_name(folder: Path, name: str) -> str:
    """Name and id of the sweep in ``folder``: a database is shared, and sweeps of equal names must not meet.

    Raises ConfigError if the folder holds no sweep.
    """
    from sweeps.folder import read_entry  # which needs the config, which needs check_url

    entry = read_entry(folder)
    if entry is None:
        raise ConfigError("the folder holds no sweep", str(folder), "a sweep's folder is STORAGE/NAME")
    return f"{name} {entry.id}"


@contextlib.contextmanager
def driver_lock(url: str | None, sweep_id: str) -> Iterator[None]:
    """Hold the sweep in the database too: the folder's lock means nothing where a file system has no locks.

    Only PostgreSQL knows such locks; it drops one with the connection of whoever held it.

    Raises ConfigError if another driver holds it.
    """
    if url is None or not url.startswith("postgresql"):
        yield
        return
    from sqlalchemy import text

    key = int.from_bytes(hashlib.sha256(sweep_id.encode()).digest()[:8], "big", signed=True)
    storage = open_storage(url)
    with storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": key}).scalar():
            raise ConfigError("another driver runs this sweep", "ledger", "wait for it, or stop it first")
        yield
    storage.engine.dispose()
