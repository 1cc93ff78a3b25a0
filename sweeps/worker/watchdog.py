"""Ends the process of a trial that hangs, so that Ray starts it again from its last checkpoint.

The timer is the interpreter's own (``faulthandler``): it fires even where a library holds the interpreter's lock, and
writes down where every thread stood.
"""

from __future__ import annotations

import contextlib
import faulthandler
from collections.abc import Iterator
from pathlib import Path

#: In the trial's folder, only if it hung: the stack of every thread at that moment.
HANG_FILE = "hang.txt"


class Watchdog:
    """Counts ``limit_s`` down from every :meth:`arm`; at zero the process ends with code 1. None = never.

    Used as a context manager around the trial; :meth:`pause` while the trial waits for somebody else.
    """

    def __init__(self, folder: Path, limit_s: float | None) -> None:
        self._path, self._limit_s = folder / HANG_FILE, limit_s

    def __enter__(self) -> Watchdog:
        if self._limit_s is not None:
            self._file = self._path.open("a", encoding="utf-8")
            self.arm()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._limit_s is not None:
            faulthandler.cancel_dump_traceback_later()
            self._file.close()
            if not self._path.stat().st_size:  # what an earlier attempt wrote stays
                self._path.unlink()

    def arm(self) -> None:
        """Count from the start again."""
        if self._limit_s is not None:
            faulthandler.dump_traceback_later(self._limit_s, exit=True, file=self._file)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Do not count meanwhile; start again afterwards."""
        if self._limit_s is not None:
            faulthandler.cancel_dump_traceback_later()
        try:
            yield
        finally:
            self.arm()


def hung(folder: str | Path) -> bool:
    """Whether an attempt at the trial in ``folder`` was ended because it hung."""
    path = Path(folder) / HANG_FILE
    return path.exists() and path.stat().st_size > 0
