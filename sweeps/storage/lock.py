"""One driver per sweep, one process per trial: advisory file locks that vanish with their holder.

filelock locks the descriptor; the file is ours, because it says who holds it and when it last gave a heartbeat. A
whole ``FileLock`` (soft, or with a lifetime) knows neither which node may be asked nor the clock of the file server.

Whoever wants the driver to end leaves a file in the sweep's folder; the driver looks for it, on whichever machine it is.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

from filelock import lock_descriptor

from gcp_core.errors import ConfigError
from sweeps.records.disk import write_whole
from sweeps.records.tenure import BEAT_S as DRIVER_BEAT_S
from sweeps.records.tenure import Tenure
from sweeps.storage.folder_sign import folder_sign, sign_of

_log = logging.getLogger(__name__)
_POLL_S, _POLL_UNKNOWN_S = 0.1, 0.5
#: A trial's process says so often that it lives.
BEAT_S = 5.0
#: After so long without a heartbeat it counts as gone, unless Ray knows better.
SILENT_S = 180.0
#: For so long a trial waits for its folder: whoever holds it has ended, or is silent, by then.
WAIT_S = 240.0
#: What a file system without locks answers.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
RUN_LOCK = "run.lock"
#: In a trial's folder; its time is that of the last heartbeat.
TRIAL_LOCK = ".lock"
#: Its presence asks the driver to end cleanly.
STOP_REQUEST = "stop.request"


@contextlib.contextmanager
def run_lock(folder: Path, tenure: Tenure | None = None) -> Iterator[None]:
    """Hold the sweep's folder; a second driver is refused at once with the first one's host and process id.

    On a file system without locks a heartbeat stands in for one (``sweeps.storage.folder_sign``); ``tenure`` ends if
    another driver takes over there.
    """
    with _open(folder, "a+") as file:
        if not _try_lock(file.fileno()):
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise ConfigError(
                f"another driver is running the sweep: {holder}",
                str(folder),
                "wait for it to end, or stop it first",
            )
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        with _sign_instead(folder, file.fileno(), tenure or Tenure()):
            withdraw_stop(folder)  # of an earlier driver that was killed
            try:
                yield
            finally:
                withdraw_stop(folder)


def _open(folder: Path, mode: str) -> TextIO:
    try:
        return cast(TextIO, (folder / RUN_LOCK).open(mode, encoding="utf-8"))
    except OSError as exc:
        if not (isinstance(exc, PermissionError) or exc.errno == errno.EROFS):
            raise
        raise ConfigError(
            f"{RUN_LOCK} cannot be written: {exc.strerror}",
            str(folder),
            "who is to run, stop, clean or polish a sweep must be allowed to write in its folder",
        ) from exc


def _sign_instead(folder: Path, descriptor: int, tenure: Tenure) -> contextlib.AbstractContextManager[None]:
    if _knows_locks(descriptor):
        return contextlib.nullcontext()
    _log.warning(
        "the file system of %s has no locks: a heartbeat every %.0f s replaces them; mount it with locks if"
        " you can, because they also keep two processes of one trial apart",
        folder,
        DRIVER_BEAT_S,
    )
    return folder_sign(folder, tenure)


def driver_of(folder: Path) -> str | None:
    """Who runs the sweep in ``folder`` (``process 123 on host``), None if nobody does."""
    try:
        with _open(folder, "r+") as file:
            if not _try_lock(file.fileno()):
                return file.read().strip() or "another process"
            sign = None if _knows_locks(file.fileno()) else sign_of(folder)
            return str(sign) if sign is not None and (sign.alive or sign.process == os.getpid()) else None
    except FileNotFoundError:
        return None


def request_stop(folder: Path, reason: str = "stopped with gcp-sweep stop") -> None:
    """Ask the driver of the sweep in ``folder`` to end as after Ctrl-C."""
    write_whole(folder / STOP_REQUEST, reason)


def stop_requested(folder: Path) -> str:
    """Why the driver has been asked to end, empty if nobody has asked."""
    try:
        return (folder / STOP_REQUEST).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def withdraw_stop(folder: Path) -> None:
    """Forget the request."""
    (folder / STOP_REQUEST).unlink(missing_ok=True)


def wait_until_gone(driver: Callable[[], str | None], timeout_s: float, poll_s: float = _POLL_S) -> bool:
    """Whether ``driver`` names nobody any more before ``timeout_s`` were over."""
    end = time.monotonic() + timeout_s
    while driver() is not None:
        if time.monotonic() > end:
            return False
        time.sleep(poll_s)
    return True


class Superseded(OSError):
    """Somebody else has the right to write now; the process that meets this ends and writes nothing more."""


@dataclass(frozen=True)
class Holder:
    """Who holds a trial's lock.

    Attributes:
        name: of the Ray node and its cluster, for instance; empty = nobody can ask about it.
        gone: whether the holder of that name can no longer write, so that its lock is no obstacle; None = nobody here
            knows (a node of another cluster): its lock is one as long as it sends heartbeats.
    """

    name: str = ""
    gone: Callable[[str], bool | None] = lambda name: None


class Held:
    """A lock that is held, as far as one knows: on a shared file system another machine may have broken it."""

    def __init__(self, path: Path, file: TextIO, name: str) -> None:
        self._path, self._file = path, file
        # The first line is asked about (``Holder``), the second is nobody else's, the third is for people.
        self._text = f"{name}\n{uuid.uuid4().hex}\n{socket.gethostname()}"
        file.seek(0)
        file.truncate()
        file.write(self._text)
        file.flush()
        os.fsync(file.fileno())  # other nodes should see it

    def check(self) -> None:
        """Raise Superseded if another process has taken the folder."""
        if not _is_at(self._path, self._file.fileno()) or self._path.read_text("utf-8") != self._text:
            raise Superseded(f"{self._path.parent} has been taken over by another process")

    def beat(self, over: threading.Event, lost: Callable[[], None]) -> None:
        """Send heartbeats until ``over``; the lock's file carries their time."""
        while not over.wait(BEAT_S):
            try:
                self.check()
                os.utime(self._file.fileno())
            except (Superseded, FileNotFoundError):
                lost()
                return
            except OSError as exc:
                _log.warning("the heartbeat failed: %s", exc)


@contextlib.contextmanager
def trial_lock(
    folder: Path,
    timeout_s: float = WAIT_S,
    holder: Holder | None = None,
    lost: Callable[[], None] = lambda: None,
) -> Iterator[Held]:
    """Hold a trial's folder; waits for a process that outlived its driver and still writes there.

    A machine that dies silently keeps its locks until the file server notices, which takes minutes. So whoever
    holds the lock leaves a name and, every :data:`BEAT_S`, a heartbeat in it. Those who wait ask about the name; of
    one that nobody knows, the signs count: without one for :data:`SILENT_S` the lock is broken.

    Args:
        lost: called, from another thread, when somebody else has broken the lock.

    Raises TimeoutError if the other process is still there after ``timeout_s``.
    """
    path, holder = folder / TRIAL_LOCK, holder or Holder()
    end = time.monotonic() + timeout_s
    while True:
        with path.open("a+", encoding="utf-8") as file:
            if _try_lock(file.fileno()) and _is_at(path, file.fileno()):
                held, over = Held(path, file, holder.name), threading.Event()
                thread = threading.Thread(target=held.beat, args=(over, lost), name="trial-lock", daemon=True)
                thread.start()
                try:
                    yield held
                finally:
                    over.set()
                    thread.join()
                return
            file.seek(0)
            other = file.read().partition("\n")[0].strip()
        gone = holder.gone(other) if other else None
        if gone or (gone is None and _silent_s(path) > SILENT_S):
            _log.warning("broke the lock of %s: %s is gone", folder, other or "whoever held it")
            path.unlink(missing_ok=True)  # the lock goes with its file; the next round makes a new one
        elif time.monotonic() > end:
            raise TimeoutError(f"another process is still writing to {folder} after {timeout_s:g} s")
        else:
            time.sleep(_POLL_S if gone is not None else _POLL_UNKNOWN_S)


def _silent_s(path: Path) -> float:
    """Seconds since the last heartbeat in a lock, by the clock of whoever keeps the files."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".now-") as probe:
            return os.stat(probe.name).st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the locked file is still the one at that path; another process may have replaced it meanwhile."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _try_lock(descriptor: int) -> bool:
    """Whether the lock is ours now. A file system without locks counts as free: there is nobody to ask."""
    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError as exc:
        if exc.errno in _NO_LOCKS:
            return True
        raise


def _knows_locks(descriptor: int) -> bool:
    """Whether the file system of a file that is locked by us, if it can be locked at all, knows locks."""
    try:
        lock_descriptor(descriptor, blocking=False)
    except OSError as exc:
        return exc.errno not in _NO_LOCKS
    return True
