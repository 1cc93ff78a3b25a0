"""How the driver and the trials of a sweep get at each other's files.

On a shared folder everybody sees everything, and :class:`Exchange` does nothing. With an object store as ``storage``
the driver has a working folder on its own machine and every trial a temporary one on its node; :class:`ObjectExchange`
carries files between those and the store, where the sweep is kept. The layout is the same in all three places.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from gcp_core import schema
from sweeps.records.job import Job
from sweeps.records.layout import EPOCHS, HANG_FILE, JOURNAL, NEWEST, OUTCOME_FILE, OWNER, TRIALS, trial_path
from sweeps.records.spool import SPOOL
from sweeps.storage.claim import Claim, is_of_another_trial
from sweeps.storage.journal_copy import JournalCopy, read_copy
from sweeps.storage.lock import Held
from sweeps.storage.objects import ObjectStore
from sweeps.storage.packs import pack, unpack
from sweeps.storage.presence import Fence, driver_sign, presence, refuse_second
from sweeps.storage.scratch import scratch_folder

_log = logging.getLogger(__name__)
#: These tell a reader that what lies beside them is whole, so they are carried last, in this order.
_LAST = (PurePosixPath(schema.ARTIFACT_MANIFEST).name, OUTCOME_FILE)
#: Files that are carried within so many seconds are one transfer: whose the job is, is looked at before it.
_CHECKED_S = 1.0


class Exchange:
    """A folder that everybody sees: there is nothing to carry. ``root`` is the sweep's folder."""

    url: str | None = None
    #: The number of the driver's claim (``sweeps.storage.presence``); 0 where a file lock decides.
    generation = 0

    def __init__(self, root: Path) -> None:
        self.root = root
        self._held: Held | None = None

    @property
    def superseded(self) -> bool:
        """Whether another driver has taken over, as far as this one has noticed."""
        return False

    def here(self, job: Job) -> Job:
        """The job with its folder on this machine, filled with what is known of it."""
        return job

    def claim(self, job: Job, held: Held | None = None) -> None:
        """From now on the job's files are this process's; an earlier one finds that out.

        Args:
            held: the lock of the job's folder.

        Raises Superseded if a later driver's process has them.
        """
        self._held = held

    def check_folder(self) -> None:
        """Raise Superseded if another process has the job's folder, which this one is about to write to."""
        if self._held is not None:
            self._held.check()

    def check_owner(self) -> None:
        """Raise Superseded if another process has claimed the job, or the sweep, since this one did."""
        self.check_folder()

    def present(self, end: Callable[[str], None]) -> contextlib.AbstractContextManager[None]:
        """Be the sweep's driver where no file lock reaches (``sweeps.storage.presence``); ``end`` is told why to stop."""
        return contextlib.nullcontext()

    def driver(self) -> str | None:
        """Who drives the sweep, as far as the store knows."""
        return None

    def refuse_second(self) -> None:
        """Raise ConfigError if the store knows of a driver elsewhere that may still be at work."""

    def send(self, *paths: str, without: tuple[str, ...] = ()) -> None:
        """Files or folders, relative to the sweep's folder: make the store's copy like ours.

        Args:
            without: names of files and folders that stay here.
        """

    def send_state(self, job: Job, checkpoint: str) -> None:
        """Send what another node needs to go on from a checkpoint (its name), in place of the one before."""

    def offer(self, *paths: str) -> None:
        """Send what can be done without: a store that is away is not waited for."""

    def fetch(self, path: str, without: tuple[str, ...] = ()) -> None:
        """Make our copy of a file or folder like the store's, leaving out names that are in ``without``."""

    def fetch_journal(self, file: Path) -> None:
        """Put the store's copy of the ledger's journal into another file; nothing happens if there is none."""

    def remove(self, *paths: str) -> None:
        """Remove files or folders from the store (not from here)."""

    def fetch_file(self, path: str) -> None:
        """As :meth:`fetch`, of what is a file if it is there."""

    def sizes(self, path: str) -> Mapping[str, int]:
        """Path -> bytes of what the store alone holds below ``path``."""
        return {}

    def has(self, path: str) -> bool:
        """Whether the store alone holds that file."""
        return False

    def read(self, path: str) -> bytes | None:
        """A file's bytes as the store alone has them, None if there is none."""
        return None


class ObjectExchange(Exchange):
    """Carries files between ``root`` and the objects below ``url``, both of one sweep.

    Who has claimed the sweep (a driver) or a job (its trial) stores and removes nothing after another one's claim:
    ``send``, ``offer`` and ``remove`` look first. All but ``offer`` raise Superseded then.
    """

    def __init__(self, root: Path, url: str, generation: int = 0) -> None:
        super().__init__(root)
        self.url, self.generation = url, generation
        self.store = ObjectStore(url)
        self._at_once = ObjectStore(url, patience_s=0.0)
        self._fence: Fence | None = None
        self._claim: Claim | None = None
        #: The checkpoint that this process has sent last: (the trial's folder, its name).
        self._state = ("", "")
        #: Our files that the store has as they are here: path -> which version of it.
        self._carried: dict[str, tuple[int, int, int]] = {}
        self._journal = JournalCopy(root / JOURNAL)

    def here(self, job: Job) -> Job:
        folder = trial_path(job.trial_id)
        if is_of_another_trial(self.store, job, self.generation):
            self.store.remove(folder)  # nothing of it is this one's
        self.fetch(folder)
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        newest = self.root / folder / EPOCHS / NEWEST
        if newest.exists():
            try:
                unpack(newest.read_bytes(), self.root)
            except ValueError as exc:
                _log.warning("%s: the state in the store is passed over: %s", job.trial_id, exc)
            newest.unlink()
        return dataclasses.replace(job, folder=str(self.root / folder))

    def claim(self, job: Job, held: Held | None = None) -> None:
        super().claim(job, held)
        self._claim = Claim(self.store, job, self.generation)

    def check_owner(self) -> None:
        super().check_owner()
        self._check(self.store)

    def _check(self, store: ObjectStore) -> None:
        if self._fence is not None:
            self._fence.check(store)
        if self._claim is not None:
            self._claim.check(store)

    @property
    def superseded(self) -> bool:
        return self._fence is not None and self._fence.lost

    @contextlib.contextmanager
    def present(self, end: Callable[[str], None]) -> Iterator[None]:
        with presence(self.store, self.root, end) as self._fence:
            self.generation = self._fence.claim.number
            yield

    def driver(self) -> str | None:
        sign = driver_sign(self.store)
        return str(sign) if sign is not None and sign.alive else None

    def refuse_second(self) -> None:
        refuse_second(self.store, self.root)

    def send(self, *paths: str, without: tuple[str, ...] = ()) -> None:
        files: list[str] = []
        for path in paths:
            local = self.root / path
            if local.is_dir():
                found = (file.relative_to(self.root) for file in local.rglob("*") if _travels(file))
                files += [str(file) for file in found if not set(file.parts) & set(without)]
            elif local.exists():
                files.append(path)
        if self._claim is not None:
            # Nobody else writes there: what is as it was when it was carried is not carried again.
            files = [file for file in files if self._carried.get(file) != _version(self.root / file)]
        # All in one go, because every look at whose the job is costs a request.
        self._carry(lambda file: self._send_file(file, self.store), files, self.check_owner)

    def send_state(self, job: Job, checkpoint: str) -> None:
        trial = trial_path(job.trial_id)
        if self._state == (trial, checkpoint):
            return
        self.check_owner()
        self._send_file(f"{trial}/{SPOOL}", self.store)  # by itself: a sweep's watchers read its end
        # What has not been written yet is not missed; the checkpoint is.
        beside = [f"{trial}/{name}" for name in (schema.ARTIFACT_LOG,) if (self.root / trial / name).exists()]
        state = pack(self.root, [f"{trial}/{EPOCHS}/{checkpoint}", *beside])
        self.store.write(f"{trial}/{EPOCHS}/{NEWEST}", state)
        self._state = trial, checkpoint

    def offer(self, *paths: str) -> None:
        try:
            for path in paths:
                if (self.root / path).exists():
                    self._check(self._at_once)
                    self._send_file(path, self._at_once)
        except OSError as exc:
            _log.warning("not sent: %s", exc)

    def fetch(self, path: str, without: tuple[str, ...] = ()) -> None:
        if self.store.get(path, self.root / path):
            return
        # Object names are whatever somebody wrote; none of them should lead out of the folder.
        skipped = {*without, OWNER, ".."}
        found = [file for file in self.store.sizes(path) if not set(PurePosixPath(file).parts) & skipped]
        self._carry(self._fetch_found, found)

    def fetch_journal(self, file: Path) -> None:
        content = read_copy(self.store)
        if content is not None:
            file.parent.mkdir(parents=True, exist_ok=True)  # a machine on which the sweep has never been
            file.write_bytes(content)

    def remove(self, *paths: str) -> None:
        for path in paths:
            self.check_owner()
            self.store.remove(path)

    def fetch_file(self, path: str) -> None:
        self.store.get(path, self.root / path)

    def sizes(self, path: str) -> Mapping[str, int]:
        return self.store.sizes(path)

    def has(self, path: str) -> bool:
        return self.store.stamp(path) is not None

    def read(self, path: str) -> bytes | None:
        return self.store.read(path)

    def _carry(
        self, one: Callable[[str], object], files: list[str], check: Callable[[], None] = lambda: None
    ) -> None:
        turns: list[list[str]] = [[] for _ in range(1 + len(_LAST))]
        for file in files:
            name = PurePosixPath(file).name
            turns[1 + _LAST.index(name) if name in _LAST else 0].append(file)
        checked = -math.inf
        for turn in turns:
            if turn:
                if time.monotonic() - checked > _CHECKED_S:
                    check()
                    checked = time.monotonic()
                self.store.all(one, turn)

    def _send_file(self, path: str, store: ObjectStore) -> None:
        with contextlib.suppress(FileNotFoundError):  # it has gone meanwhile
            if path == JOURNAL:
                self._journal.send(store)
                return
            version = _version(self.root / path)
            store.put(self.root / path, path)
            self._carried[path] = version

    def _fetch_found(self, path: str) -> None:
        if self.store.get(path, self.root / path):
            self._carried[path] = _version(self.root / path)


def open_exchange(root: Path, url: str | None) -> Exchange:
    """For the sweep at ``url`` (None = ``root`` is where everybody looks)."""
    return Exchange(root) if url is None else ObjectExchange(root, url)


@contextlib.contextmanager
def trial_exchange(root: Path, url: str | None, generation: int = 0) -> Iterator[Exchange]:
    """For a process that runs one trial: with an object store, in a temporary folder of its own.

    ``generation``: of the driver that has started it (:attr:`Exchange.generation`).
    """
    if url is None:
        yield Exchange(root)
        return

    def rescue(folder: Path) -> None:
        hung = [file for file in folder.glob(f"{TRIALS}/*/{HANG_FILE}") if file.stat().st_size]
        ObjectExchange(folder, url).offer(*(str(file.relative_to(folder)) for file in hung))

    with scratch_folder(url, rescue) as folder:
        yield ObjectExchange(folder, url, generation)


def _version(file: Path) -> tuple[int, int, int]:
    """Another one means that the file was written again."""
    found = file.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def _travels(file: Path) -> bool:
    """Not folders, locks and what is being written."""
    return file.is_file() and not any(part.startswith(".") for part in file.parts[-3:])
