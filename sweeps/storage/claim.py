"""Which process has a trial, where no file lock reaches: an object beside the trial's files says it."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import PurePosixPath

from sweeps.records.job import Job
from sweeps.records.layout import OWNER, trial_path
from sweeps.storage.lock import Superseded
from sweeps.storage.objects import ObjectStore

#: Two objects that were written further apart than this have different times in every store (S3 tells whole seconds).
_SAME_STAMP_S = 5.0
#: Who has a trial: the driver's number, host, process, a unique word, and which config it trains.
_WORDS = 5


class Claim:
    """A process's claim on a job: written now, and lost as soon as another process writes its own.

    Raises Superseded if a later driver's process has the job.
    """

    def __init__(self, store: ObjectStore, job: Job, generation: int) -> None:
        self.path = _path(job)
        before = _words(store, job)
        if before and int(before[0]) > generation:
            raise Superseded(f"{job.trial_id} has been taken over by a later driver")
        process = f"{os.uname().nodename} {os.getpid()} {uuid.uuid4().hex}"
        self._token = f"{generation} {process} {job.config.key()}".encode()
        store.write(self.path, self._token)
        self._at = time.monotonic()
        #: When it was written, as the store tells it; None = another one's might bear the same time.
        self._stamp: tuple[float, int] | None = None

    def check(self, store: ObjectStore) -> None:
        """Raise Superseded if another process has the job."""
        if not self._holds(store):
            raise Superseded(f"{PurePosixPath(self.path).parent} has been taken over by another process")

    def _holds(self, store: ObjectStore) -> bool:
        """Whether it is still there. What was ours some time after we wrote it, by its words, is ours for as long as
        nobody has written it since: a store that says when it was written tells that with one request instead of two.
        """
        stamp = store.stamp(self.path)
        if stamp is not None and stamp == self._stamp:
            return True
        ours = store.read(self.path) == self._token
        if ours and stamp is not None and stamp[0] > 0 and time.monotonic() - self._at > _SAME_STAMP_S:
            self._stamp = stamp
        return ours


def is_of_another_trial(store: ObjectStore, job: Job, generation: int) -> bool:
    """Whether a driver before this one had given the job's number to another config."""
    words = _words(store, job)
    return bool(words) and words[-1] != job.config.key() and int(words[0]) < generation


def _path(job: Job) -> str:
    return f"{trial_path(job.trial_id)}/{OWNER}"


def _words(store: ObjectStore, job: Job) -> list[str]:
    """Of the newest claim; none where there is none that can be read."""
    words = (store.read(_path(job)) or b"").decode().split()
    return words if len(words) == _WORDS else []
