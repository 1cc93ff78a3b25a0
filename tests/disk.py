"""No test waits for the disk: nobody cuts the power, and what a killed process has written is there all the same.

A wait takes 5 ms, a commit to SQLite 12 ms, and tests of the ledger or of MLflow make dozens each. Whether the disk is
asked to keep a file is tested all the same: such tests look at who calls ``os.fsync`` (``gcp_core/power_cut.py``).
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import sqlite3.dbapi2
from typing import Any


def not_waited_for() -> None:
    """From here on neither this process nor a copy of it waits until the disk has what was written."""
    connect = sqlite3.connect

    @functools.wraps(connect)
    def quick(*args: Any, **options: Any) -> sqlite3.Connection:
        made = connect(*args, **options)
        # Whether the file is a database, and free, is found out by whoever asks it something.
        with contextlib.suppress(sqlite3.Error):
            made.execute("PRAGMA synchronous = OFF").close()
        return made

    sqlite3.connect = sqlite3.dbapi2.connect = quick  # SQLAlchemy takes the second one
    os.fsync = _taken


def _taken(file: Any) -> None:
    """``os.fsync`` without the wait: what is no open file is refused as ever."""
    os.fstat(file if isinstance(file, int) else file.fileno())
