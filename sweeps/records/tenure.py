"""Whether this process still drives the sweep: looked at before everything that it writes into the ledger."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from gcp_core.errors import first_line

_log = logging.getLogger(__name__)
#: How often a driver looks whether it still is one, besides.
BEAT_S = 20.0


class Displaced(OSError):
    """Another driver has taken over; the process that meets this ends and writes nothing more."""


class Tenure:
    """The right to write, as long as every ``check`` that was added says so. Once lost it stays so.

    Attributes:
        lost: whether another driver has taken over, as far as this one has noticed.
    """

    def __init__(self) -> None:
        self.lost = False
        self._checks: list[Callable[[], bool]] = []

    def check(self) -> None:
        """Raise Displaced if another driver has taken over, now or at any time before."""
        self.lost = self.lost or not all(held() for held in self._checks)
        if self.lost:
            raise Displaced("another driver has taken over")

    @contextlib.contextmanager
    def depends_on(self, held: Callable[[], bool], beat_s: float = BEAT_S) -> Iterator[None]:
        """Meanwhile the right to write needs ``held()`` too; it is also asked every ``beat_s`` seconds, by a thread."""
        over = threading.Event()

        def beat() -> None:
            while not (self.lost or over.wait(beat_s)):
                try:
                    self.lost = self.lost or not held()
                except Exception as exc:  # whatever a database or a disk raises: it may be back soon
                    _log.warning("cannot tell whether this driver still holds the sweep: %s", first_line(exc))

        self._checks.append(held)
        thread = threading.Thread(target=beat, name="driver-tenure", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(beat_s)
            self._checks.remove(held)
