"""Processes that a benchmark started and all that these started in turn: found in ``/proc``, ended by their ids.

Ray's processes outlive a killed driver; a benchmark that measures the next run, or leaves the machine to others, has to
know which ones are still there, and must touch no one else's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_POLL_S = 0.2


@dataclass(frozen=True)
class Process:
    """A process that can be recognised later: ids are reused, the start (clock ticks since boot) is not."""

    pid: int
    start: int


def find(pid: int) -> Process | None:
    """The process with this id, None if there is none."""
    row = _stat(pid)
    return None if row is None else Process(pid, row[1])


def descendants(pid: int) -> set[Process]:
    """Everything that was started by ``pid``, directly or not, and is still linked to it."""
    rows = {
        number: row for entry in Path("/proc").glob("[0-9]*") if (row := _stat(number := int(entry.name)))
    }
    found: set[Process] = set()
    parents = {pid}
    while parents:
        children = {number for number, (parent, _) in rows.items() if parent in parents}
        found |= {Process(number, rows[number][1]) for number in children}
        parents = children
    return found


def alive(processes: Iterable[Process]) -> set[Process]:
    """Those that still run (a zombie does not)."""
    return {process for process in processes if find(process.pid) == process}


def wait_gone(processes: Iterable[Process], timeout_s: float) -> set[Process]:
    """Wait until they are gone; those still there after ``timeout_s``."""
    end = time.monotonic() + timeout_s
    left = alive(processes)
    while left and time.monotonic() < end:
        time.sleep(_POLL_S)
        left = alive(left)
    return left


def end(processes: Iterable[Process], patience_s: float = 30.0) -> int:
    """Wait for them (and what they started) to end by themselves, then SIGTERM, then SIGKILL; how many needed it."""
    left = wait_gone(processes, patience_s)
    number = len(left)
    for kind in (signal.SIGTERM, signal.SIGKILL):
        left = left.union(*(descendants(process.pid) for process in left))
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, kind)
        left = wait_gone(left, 10.0)
    return number


def load() -> float:
    """Load average of the last minute: what else the machine did."""
    return round(os.getloadavg()[0], 2)


def _stat(pid: int) -> tuple[int, int] | None:
    """(parent's id, start in ticks) of a process that is no zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name stands in parentheses and may hold anything, so the fields are counted from the last one.
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] == "Z" else (int(fields[1]), int(fields[19]))
