"""The ledger's journal file: incomplete lines of a full disk or a killed writer are taken back or cut off."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

from gcp_core.errors import CheckpointError
from sweeps.records.layout import JOURNAL

_log = logging.getLogger(__name__)


class WholeLines(JournalFileBackend):
    """Takes back a line that a full disk cut short: a line appended behind it would break the journal.

    Lines that belong together are written (and waited for) together, see :meth:`together`.
    """

    def __init__(self, file_path: str) -> None:
        super().__init__(file_path)
        self._held: list[dict[str, Any]] | None = None

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is written meanwhile is appended at the end, in its order and in one write; nobody reads it before."""
        if self._held is not None:
            yield
            return
        self._held = []
        try:
            yield
        finally:
            held, self._held = self._held, None
            if held:
                self.append_logs(held)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._held is not None:
            self._held.extend(logs)
            return
        size = os.path.getsize(self._file_path)
        try:
            super().append_logs(logs)
        except OSError:
            os.truncate(self._file_path, size)
            raise


def repair_journal(folder: Path) -> list[str]:
    """Repair what a killed writer leaves behind; call it only while holding the run lock. Returns what was done.

    A stale lock would stall the first write; a torn last line would make every later load fail.
    """
    path = folder / JOURNAL
    done = []
    for stale in folder.glob(f"{JOURNAL}.lock*"):
        stale.unlink(missing_ok=True)
        done.append(f"removed the stale lock {stale.name}")
    if not path.exists():
        return done
    whole = path.read_bytes()
    kept = whole[: whole.rfind(b"\n") + 1]
    if len(kept) < len(whole):
        with path.open("r+b") as file:
            file.truncate(len(kept))
            os.fsync(file.fileno())
        done.append(f"cut a torn last line ({len(whole) - len(kept)} bytes) off {JOURNAL}")
    for number, line in enumerate(kept.splitlines(), start=1):
        try:
            json.loads(line)
        except ValueError as exc:
            raise CheckpointError(
                f"line {number} is not JSON", str(path), "restore the file from a backup"
            ) from exc
    for step in done:
        _log.warning("%s: %s", folder, step)
    return done
