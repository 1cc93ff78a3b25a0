"""One driver per sweep, one process per trial: advisory file locks that vanish with their holder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from gcp_core.errors import ConfigError

_POLL_S = 0.1


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the sweep's folder; a second driver is refused at once with the first one's host and process id."""
    path = folder / "run.lock"
    with path.open("a+", encoding="utf-8") as file:
        if not _try_lock(file.fileno()):
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise ConfigError(
                f"the sweep is being run by {holder}", str(folder), "wait for it, or stop it first"
            )
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


@contextlib.contextmanager
def trial_lock(folder: Path, timeout_s: float = 120.0) -> Iterator[None]:
    """Hold a trial's folder; waits for a process that outlived its driver and still writes there.

    Raises TimeoutError if the other process is still there after ``timeout_s``.
    """
    with (folder / ".lock").open("a+", encoding="utf-8") as file:
        end = time.monotonic() + timeout_s
        while not _try_lock(file.fileno()):
            if time.monotonic() > end:
                raise TimeoutError(f"another process still writes to {folder} after {timeout_s:g} s")
            time.sleep(_POLL_S)
        yield


def _try_lock(descriptor: int) -> bool:
    """Whether the lock is ours now. A file system without locks counts as free: there is nobody to ask."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            return False
        if exc.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            return True
        raise
    return True
