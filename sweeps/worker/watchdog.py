"""Ends the process of a trial that hangs, so that Ray starts it again from its last checkpoint.

A thread writes down where every other one stands, lets that be carried to where the driver sees it, and ends the
process. Where a library holds the interpreter's lock no thread runs: then the interpreter's own timer
(``faulthandler``) does both, :data:`GRACE_S` later; the next trial on the node carries the file.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from sweeps.records.layout import HANG_FILE

GRACE_S = 30.0
#: Three years: the timers refuse some limits beyond, and nobody will see one end.
LONGEST_S = 1e8


class Watchdog:
    """Counts ``limit_s`` down from every :meth:`arm`; at zero the process ends with code 1. None = never.

    Used as a context manager around the trial; :meth:`pause` while the trial waits for somebody else.

    Args:
        last: called when the file is written, right before the end.
    """

    def __init__(self, folder: Path, limit_s: float | None, last: Callable[[], None] = lambda: None) -> None:
        self._path, self._last = folder / HANG_FILE, last
        self._limit_s = None if limit_s is None else min(limit_s, LONGEST_S)
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Watchdog:
        if self._limit_s is not None:
            self._file = self._path.open("a", encoding="utf-8")
            self.arm()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._limit_s is not None:
            self._disarm()
            self._file.close()
            if not self._path.stat().st_size:  # what an earlier attempt wrote stays
                self._path.unlink()

    def arm(self) -> None:
        """Count from the start again."""
        if self._limit_s is not None:
            self._disarm()
            faulthandler.dump_traceback_later(self._limit_s + GRACE_S, exit=True, file=self._file)
            self._timer = threading.Timer(self._limit_s, self._end)
            self._timer.daemon = True
            self._timer.start()

    def _disarm(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        print(f"Timeout ({self._limit_s:g} s)!", file=self._file, flush=True)
        faulthandler.dump_traceback(file=self._file, all_threads=True)
        try:
            self._last()
        finally:
            os._exit(1)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Do not count meanwhile; start again afterwards."""
        if self._limit_s is not None:
            self._disarm()
        try:
            yield
        finally:
            self.arm()


def hung(folder: str | Path) -> bool:
    """Whether an attempt at the trial in ``folder`` was ended because it hung."""
    path = Path(folder) / HANG_FILE
    return path.exists() and path.stat().st_size > 0
