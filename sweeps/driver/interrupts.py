"""Ctrl-C and SIGTERM while a sweep runs."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from sweeps.conduct.conductor import Conductor
from sweeps.driver.progress import LineProgress


@contextlib.contextmanager
def interruptible(conductor: Conductor, progress: LineProgress) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) ends the sweep cleanly, the second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        if conductor.interrupted:
            raise KeyboardInterrupt
        conductor.interrupt("interrupted")
        progress.note("stopping; press Ctrl-C again to stop at once")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
