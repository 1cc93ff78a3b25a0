"""The epochs a trial has reported, on disk in its folder, each with the time at which it was measured.

Written by the trial's process before the driver hears of the epoch, so whatever happens to the driver, to the tracking
server or to both, a later driver can write every point, at its own time. A point that is written twice is the same row,
which MLflow's store keeps once.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from gcp_core.schema import ARTIFACT_EPOCHS

SPOOL = ARTIFACT_EPOCHS
#: Key of a row's time, in milliseconds since 1970.
AT = "at"


def stamp(row: dict[str, float]) -> dict[str, float]:
    """The row with the time of now."""
    return {**row, AT: int(time.time() * 1000)}


def row_of(report: Any) -> dict[str, float]:
    """A trainer's report of an epoch (``gcp_core.records.results.EpochReport``) as a row."""
    return {"epoch": int(report.epoch), **{key: float(value) for key, value in report.metrics.items()}}


def append(folder: Path, row: dict[str, float]) -> None:
    """Add a stamped row; one that a killed process left half-written is closed first."""
    with (folder / SPOOL).open("a+b") as file:
        if file.tell() and not _ends_with_newline(file.fileno(), file.tell()):
            file.write(b"\n")
        # NaN and infinities as Python writes them: only this file's own reader reads them.
        file.write(json.dumps(row, sort_keys=True).encode() + b"\n")


def rows(folder: Path) -> tuple[dict[str, float], ...]:
    """All whole rows by epoch. An epoch that was trained again after a crash counts as first reported."""
    try:
        lines = (folder / SPOOL).read_bytes().splitlines()
    except OSError:
        return ()
    known: dict[int, dict[str, float]] = {}
    for line in lines:
        try:
            row = json.loads(line)
            known.setdefault(int(row["epoch"]), row)
        except (ValueError, KeyError, TypeError):
            continue  # half a line
    return tuple(known[epoch] for epoch in sorted(known))


def with_times(
    history: tuple[dict[str, float], ...], spooled: tuple[dict[str, float], ...]
) -> tuple[dict[str, float], ...]:
    """A trial's own history, each row with the time at which it was first reported, where that is known."""
    times = {row["epoch"]: row[AT] for row in spooled if AT in row}
    return tuple({**row, AT: times[row["epoch"]]} if row["epoch"] in times else row for row in history)


def _ends_with_newline(descriptor: int, size: int) -> bool:
    return os.pread(descriptor, 1, size - 1) == b"\n"
