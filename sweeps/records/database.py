"""A ledger in a database (``ledger: postgresql://...``) instead of a journal file in the sweep's folder."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gcp_core.errors import ConfigError, first_line, required
from sweeps.records.tenure import BEAT_S, Tenure

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from sqlalchemy import Connection, Engine

_log = logging.getLogger(__name__)
#: Table beside Optuna's: who held a sweep's lock last.
DRIVERS = "gcp_sweep_drivers"
#: For how long a database may be away before a driver gives up.
PATIENCE_S = 60.0
#: For how long a silent host is asked for a connection, unless the URL (``?connect_timeout=30``) or libpq's own variable
#: says it.
CONNECT_S = 15
_LIBPQ = ("psycopg", "psycopg2")
#: After about half a minute without a sign of life from the other side a connection is lost: what libpq is told, and
#: the same for the server. The system's own limits are hours, and a lost connection holds a lock until then.
_KEEPALIVES = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_PAUSE_S = 0.5


def open_storage(url: str) -> RDBStorage:
    """Optuna's tables in the database, created if they are missing.

    Raises:
        ConfigError: the driver package is missing, the database does not answer or does not let us in, or its tables are
            another version's.
    """
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    try:
        # A connection that the server has closed meanwhile (a trial may take hours) is noticed and replaced.
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True, "connect_args": _waiting(url)})
    except ImportError as exc:
        raise ConfigError(
            f"the database driver is not installed: {exc}", "ledger", "pip install 'gcp-sweep[postgresql]'"
        ) from exc
    except SQLAlchemyError as exc:
        raise ConfigError(f"the database cannot be used: {first_line(exc)}", "ledger", url) from exc
    except RuntimeError as exc:  # Optuna's own, with what to do; other people's studies may be in there
        hint = "or give this sweep a database of its own"
        raise ConfigError(f"the database cannot be used: {first_line(exc)}", "ledger", hint) from exc


def _waiting(url: str) -> dict[str, Any]:
    """Arguments of a connection: libpq itself waits for a silent host as long as the system does, minutes or hours.

    What the URL says goes before (SQLAlchemy would let these win).
    """
    from sqlalchemy.engine import make_url

    parts = make_url(url)
    if parts.get_driver_name() not in _LIBPQ:
        return {}
    wanted = dict(_KEEPALIVES)
    if "PGCONNECT_TIMEOUT" not in os.environ:
        wanted["connect_timeout"] = CONNECT_S
    return {name: value for name, value in wanted.items() if name not in parts.query}


def database_errors() -> tuple[type[Exception], ...]:
    """What is raised where a ledger's database is away, or takes no entry."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError, StorageInternalError


def database_away(exc: BaseException) -> str:
    """One of :func:`database_errors` in a sentence. Optuna's own words speak of invalid data, whatever it was."""
    said = first_line(exc.__cause__ or exc)
    return f"the ledger's database is away, or takes no entry ({said}); run again to continue"


def study_name(name: str, sweep_id: str) -> str:
    """Name and id of a sweep: a database is shared, and sweeps with equal names must not mix."""
    return f"{name} {sweep_id}"


class AdvisoryLock:
    """A sweep's lock in PostgreSQL. The server drops it with the connection, which may break unnoticed.

    So :meth:`held` asks on that very connection. Where it is gone the lock is taken again, unless somebody else has or
    had it meanwhile: every holder leaves its token in the table :data:`DRIVERS`. Where only this side has lost the
    connection (the machine slept, or has another address), the server still keeps it, and with it the lock. It is told
    to look soon whether somebody is there.
    """

    def __init__(self, engine: Engine, sweep_id: str) -> None:
        self._engine, self._sweep_id = engine, sweep_id
        self._key = int.from_bytes(hashlib.sha256(sweep_id.encode()).digest()[:8], "big", signed=True)
        self._token = uuid.uuid4().hex
        self._connection: Connection | None = None
        self._one_at_a_time = threading.Lock()

    def take(self) -> bool:
        """Whether the lock is ours now; nobody else's claim is left then."""
        if not self._lock():
            self._drop()
            return False
        self._ask(f"CREATE TABLE IF NOT EXISTS {DRIVERS} (sweep_id TEXT PRIMARY KEY, token TEXT NOT NULL)")
        self._ask(
            f"INSERT INTO {DRIVERS} VALUES (:sweep_id, :token) ON CONFLICT (sweep_id) DO UPDATE SET token = :token",
            sweep_id=self._sweep_id,
            token=self._token,
        )
        return True

    def held(self) -> bool:
        """Whether the lock has been ours all the time. Waits for a database that does not answer.

        Raises SQLAlchemyError if it stays away, or keeps the lock for a connection that this side has lost.
        """
        from sqlalchemy.exc import SQLAlchemyError

        end = time.monotonic() + PATIENCE_S
        with self._one_at_a_time:
            while True:
                try:
                    if self._connection is not None:
                        self._ask("SELECT 1")
                        return True
                    return self._take_again()
                except SQLAlchemyError:
                    self._drop()
                    if time.monotonic() > end:
                        raise
                    time.sleep(_PAUSE_S)

    def close(self) -> None:
        """Give the lock back."""
        with self._one_at_a_time:
            self._drop()

    def _take_again(self) -> bool:
        from sqlalchemy.exc import SQLAlchemyError

        locked = self._lock()
        query = f"SELECT token FROM {DRIVERS} WHERE sweep_id = :sweep_id"
        if self._ask(query, sweep_id=self._sweep_id) != self._token:
            self._drop()
            return False
        if not locked:  # by our own lost connection, or by a driver that is about to leave its token
            raise SQLAlchemyError(
                "the database still holds the lock for a connection that this driver has lost"
            )
        _log.warning(
            "the database dropped this driver's lock; it was taken again, and nobody held it in between"
        )
        return True

    def _lock(self) -> bool:
        """Whether the lock could be had; the connection stays in either case."""
        self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        # By a query: not every pooler in between lets such settings pass when the connection is made.
        wanted = ", ".join(
            f"('tcp_{name.removeprefix('tcp_')}', '{value}')" for name, value in _KEEPALIVES.items()
        )
        self._ask(
            f"SELECT set_config(name, wanted, false) FROM pg_settings JOIN (VALUES {wanted}) AS w (name, wanted) "
            "USING (name)"
        )
        return bool(self._ask("SELECT pg_try_advisory_lock(:key)", key=self._key))

    def _ask(self, query: str, **values: Any) -> Any:
        from sqlalchemy import text

        result = required(self._connection, "the connection").execute(text(query), values)
        return result.scalar() if result.returns_rows else None

    def _drop(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):
                self._connection.invalidate()  # back in the pool it would keep the lock
            with contextlib.suppress(Exception):
                self._connection.close()
            self._connection = None


@contextlib.contextmanager
def driver_lock(
    url: str | None, sweep_id: str, tenure: Tenure | None = None, beat_s: float = BEAT_S
) -> Iterator[None]:
    """Hold the sweep in the database too, because the folder's lock has no effect on a file system without locks.

    Only PostgreSQL knows such locks. ``tenure`` ends if the lock is lost to somebody else.

    Raises ConfigError if another driver holds it.
    """
    if url is None or not url.startswith("postgresql"):
        yield
        return
    storage = open_storage(url)
    lock = AdvisoryLock(storage.engine, sweep_id)
    try:
        if not lock.take():
            raise ConfigError(
                "another driver is running this sweep",
                "ledger",
                "wait for it to end, or stop it first; one whose machine is gone counts for half a minute more",
            )
        with (tenure or Tenure()).depends_on(lock.held, beat_s):
            yield
    finally:
        lock.close()
        storage.engine.dispose()
