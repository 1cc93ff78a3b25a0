"""A ledger in a database (``ledger: postgresql://...``) instead of a journal file in the sweep's folder."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gcp_core.errors import ConfigError

if TYPE_CHECKING:
    from optuna.storages import RDBStorage


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


def study_name(name: str, sweep_id: str) -> str:
    """Name and id of a sweep: a database is shared, and sweeps of equal names must not meet."""
    return f"{name} {sweep_id}"


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
