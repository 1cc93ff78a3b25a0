"""A sweep that somebody else writes, looked at again and again, from any machine that sees its folder or store.

Nothing of it is touched: no lock is tried, no file written, no study created. A look costs what is new. The ledger's
journal only grows, so its new lines are appended to a copy of one's own, which Optuna reads on from where it was; of a
running trial the last lines of one small file are read.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gcp_core.errors import ConfigError
from sweeps.config.places import as_typed, check_store_url, is_object_store
from sweeps.config.sweep_config import SweepConfig
from sweeps.records.folder import Entry, read_config, read_entry
from sweeps.records.layout import CONFIG, ENTRY, EPOCHS, JOURNAL, OUTCOME_FILE, OWNER, trial_path
from sweeps.records.ledger import Ledger
from sweeps.records.spool import SPOOL
from sweeps.storage.folder_sign import process_runs
from sweeps.storage.journal_copy import copy_stamp, read_copy
from sweeps.storage.lock import RUN_LOCK, TRIAL_LOCK
from sweeps.storage.objects import ObjectStore, store_errors
from sweeps.storage.presence import DRIVER

#: So many bytes at the end of a trial's epochs hold the last one.
_LAST = 8192
#: So much of what was read before is compared, to notice that a file is another one.
_SEAM = 512

Stamp = tuple[float, int]


class Source(Protocol):
    """Files by their path in the sweep's folder."""

    def stamp(self, path: str) -> Stamp | None:
        """(when written, bytes), None if there is no such file."""

    def read(self, path: str, start: int = 0) -> bytes | None:
        """A file's bytes from ``start`` on (below 0: from its end), None if there is none."""


class FolderSource:
    """A folder of this machine, or one that it shares."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def stamp(self, path: str) -> Stamp | None:
        try:
            found = (self.folder / path).stat()
        except FileNotFoundError:
            return None
        return found.st_mtime, found.st_size

    def read(self, path: str, start: int = 0) -> bytes | None:
        try:
            with (self.folder / path).open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end + start) if start < 0 else start)
                return file.read()
        except FileNotFoundError:
            return None


class StoreSource:
    """The objects of a sweep. A failed request is not repeated, because the caller looks again anyway."""

    def __init__(self, url: str) -> None:
        self.store = ObjectStore(url, patience_s=0.0)

    def stamp(self, path: str) -> Stamp | None:
        return copy_stamp(self.store) if path == JOURNAL else self.store.stamp(path)

    def read(self, path: str, start: int = 0) -> bytes | None:
        found = read_copy(self.store) if path == JOURNAL else self.store.read(path)
        return None if found is None else found[start:]


@dataclass(frozen=True)
class Sighting:
    """What a running trial's files tell.

    Attributes:
        row: its last epoch as reported; empty = none yet.
        host: where it runs; empty = not known.
        begun: whether a process has taken it up.
        ended: whether its process has left how it ended, which the ledger does not have yet.
        silent_s: for how long its files have not changed, as far as one has looked.
    """

    row: dict[str, float]
    host: str = ""
    begun: bool = False
    ended: bool = False
    silent_s: float = 0.0


class Following:
    """Looks at one sweep; a context manager, because of its copy of the journal.

    Args:
        sweep: its folder, or ``STORAGE/NAME`` in an object store.
        now: a clock in seconds.

    Raises:
        ConfigError: there is no sweep, not even one that is about to begin, or the store cannot be used.
    """

    def __init__(self, sweep: str | os.PathLike[str], now: Callable[[], float] = time.monotonic) -> None:
        self.place = os.fspath(sweep)
        self._now = now
        self._own: Source
        if is_object_store(self.place):
            with store_errors():
                self._own = StoreSource(check_store_url(self.place))
        else:
            self._own = FolderSource(Path(self.place))
        self._trials: Source | None = None
        self._temporary = tempfile.TemporaryDirectory(prefix="gcp-watch-")
        self._root = Path(self._temporary.name)
        self._texts: dict[str, tuple[Stamp, bytes]] = {}
        self._changed: dict[str, tuple[object, float]] = {}
        self._offset, self._seam, self._copies = 0, b"", 0
        self._ledger: Ledger | None = None
        try:
            with store_errors():
                self.check()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Following:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the copy."""
        self._temporary.cleanup()

    @property
    def remote(self) -> bool:
        """Whether a look costs requests to an object store."""
        return isinstance(self._own, StoreSource) or isinstance(self._trials, StoreSource)

    def check(self) -> None:
        """Raise ConfigError if there is no sweep (any more)."""
        if isinstance(self._own, FolderSource) and not self._own.folder.is_dir():
            raise ConfigError("there is no such folder", self.place, "a sweep's folder is STORAGE/NAME")
        if not any(self._own.stamp(name) for name in (ENTRY, CONFIG, RUN_LOCK, DRIVER)):
            raise ConfigError("there is no sweep", self.place, "a sweep's place is STORAGE/NAME")

    # --- what is known of the whole sweep -------------------------------------------------------------------------

    def entry(self) -> Entry | None:
        """The sweep's entry; None = it has not begun."""
        return read_entry(self._root) if self._copy_of(ENTRY) and self._copy_of(CONFIG) else None

    def config(self) -> SweepConfig:
        """The config that it runs with."""
        return read_config(self._root)

    def ledger(self, entry: Entry, config: SweepConfig) -> Ledger:
        """The ledger as it is now; for reading only."""
        objectives = config.search.objectives
        if config.database is not None:
            if self._ledger is None:
                self._ledger = Ledger(
                    self._root,
                    config.name,
                    objectives,
                    url=config.database,
                    sweep_id=entry.id,
                    reading=True,
                )
            return self._ledger
        self._read_on()
        self._journal.touch()
        if self._ledger is None:
            self._ledger = Ledger(self._root, config.name, objectives, journal=self._journal, reading=True)
        return self._ledger

    def lost_driver(self) -> str:
        """The driver that has died, such as ``process 7``; empty = somebody may run the sweep."""
        held = self._text(RUN_LOCK).decode(errors="replace").split()
        here = len(held) == 4 and held[1].isdigit() and held[3] == socket.gethostname()
        if here and not process_runs(int(held[1])):
            return f"process {held[1]}"
        return ""

    def continued_by(self, config: SweepConfig, address: str | None = None) -> str:
        """The command that continues the sweep, typed where one looks from; empty = not known.

        The config beside the ledger names its storage as it was written, which may be seen from another folder.

        Args:
            address: of the Ray cluster on which it ran, None = it had a private Ray.
        """
        if not isinstance(self._own, FolderSource):
            return ""
        folder = self._own.folder.resolve()
        words = ["gcp-sweep", "run", as_typed(folder / CONFIG)]
        if Path(config.folder).resolve() != folder:
            if config.store is not None or folder.name != config.name:
                return ""  # a copy, or another machine's: running that would begin something else
            words.append(f"storage={folder.parent}")
        if address is not None:
            words += ["--address", address]
        return shlex.join(words)

    def seen(self, path: str) -> None:
        """Have a small file of a trial (a manifest) beside the copy of the journal, where the ledger's jobs look."""
        copy = self._root / path
        if not copy.exists():
            found = self._of_trials().read(path)
            if found is not None:
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(found)

    # --- what is known of a trial ---------------------------------------------------------------------------------

    def sighting(self, trial_id: str, part: int = 0) -> Sighting:
        """What the files of a trial tell that the ledger says is running, with ``part`` of a path."""
        source, folder = self._of_trials(), trial_path(trial_id)
        spool, lock, owner = (source.stamp(f"{folder}/{name}") for name in (SPOOL, TRIAL_LOCK, OWNER))
        host = ""
        if owner is not None:
            words = self._text(f"{folder}/{OWNER}", source).split()
            host = words[1].decode(errors="replace") if len(words) > 1 else ""
        elif lock is not None:
            lines = self._text(f"{folder}/{TRIAL_LOCK}", source).decode(errors="replace").split("\n")
            host = lines[2] if len(lines) > 2 else ""
        return Sighting(
            row=self._last_row(f"{folder}/{SPOOL}", source) if spool is not None else {},
            host=host,
            begun=(spool or lock or owner) is not None,
            ended=self._has_ended(f"{folder}/{OUTCOME_FILE}", part, source),
            silent_s=self._unchanged_s(trial_id, (spool, lock, owner)),
        )

    def kept_epoch(self, trial_id: str) -> int | None:
        """The epoch after which an interrupted trial will continue, 0 = it has none; None = its files are in a store.

        That may be the one before its last report: an epoch is reported first, then kept.
        """
        source = self._of_trials()
        if not isinstance(source, FolderSource):
            return None
        found = (source.folder / trial_path(trial_id) / EPOCHS).glob("epoch_*")
        return max(
            (int(n) for n in (one.name.removeprefix("epoch_") for one in found) if n.isdigit()), default=0
        )

    def _last_row(self, path: str, source: Source) -> dict[str, float]:
        for line in reversed(self._text(path, source, start=-_LAST).splitlines()):
            try:
                row = json.loads(line)
            except ValueError:
                continue  # cut at its beginning, or half-written
            if isinstance(row, dict) and "epoch" in row:
                return row
        return {}

    def _has_ended(self, path: str, part: int, source: Source) -> bool:
        """Whether the outcome is there; that of an earlier part of a path stays until there is another."""
        if source.stamp(path) is None:
            return False
        try:
            return not part or json.loads(self._text(path, source)).get("part", 0) >= part
        except ValueError:
            return False  # half-written

    # --- details --------------------------------------------------------------------------------------------------

    def _of_trials(self) -> Source:
        if self._trials is None:
            self._copy_of(CONFIG)
            store = self.config().store
            there = self._own if store is None or isinstance(self._own, StoreSource) else StoreSource(store)
            self._trials = there
        return self._trials

    def _copy_of(self, name: str) -> bool:
        """Have the file in our own folder as it is now; whether there is one."""
        content = self._text(name)
        if content:
            (self._root / name).write_bytes(content)
        return bool(content)

    def _text(self, path: str, source: Source | None = None, start: int = 0) -> bytes:
        """The file's bytes, read again only if it is another one; b"" if there is none."""
        source = source or self._own
        stamp = source.stamp(path)
        if stamp is None:
            return b""
        known = self._texts.get(path)
        if known is None or known[0] != stamp:
            known = self._texts[path] = (stamp, source.read(path, start) or b"")
        return known[1]

    def _unchanged_s(self, what: str, stamps: object) -> float:
        before, since = self._changed.get(what, (None, 0.0))
        if before != stamps:
            since = self._now()
            self._changed[what] = (stamps, since)
        return self._now() - since

    @property
    def _journal(self) -> Path:
        return self._root / f"{self._copies}-{JOURNAL}"

    def _read_on(self) -> None:
        """Append the journal's new whole lines to our copy; start again if it is another journal."""
        stamp = self._own.stamp(JOURNAL)
        if stamp is None or (self._journal.exists() and self._texts.get(JOURNAL, (None,))[0] == stamp):
            return
        start = self._offset - len(self._seam)
        new = self._own.read(JOURNAL, start) or b""
        if not new.startswith(self._seam):
            self._copies, self._offset, self._seam, self._ledger = self._copies + 1, 0, b"", None
            new = self._own.read(JOURNAL) or b""
        whole = new[: new.rfind(b"\n") + 1]
        with self._journal.open("ab") as copy:
            copy.write(whole[len(self._seam) :])
        self._offset += max(0, len(whole) - len(self._seam))
        self._seam = whole[-_SEAM:]
        self._texts[JOURNAL] = (stamp, b"")
