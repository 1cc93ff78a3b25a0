"""A sweep's snapshots: each is judged, recorded and reported to the sampler once, when all it needs is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sweeps.conduct.desk import Desk
from sweeps.conduct.keep import Keeper
from sweeps.conduct.paths import Paths
from sweeps.records.job import Job, Outcome, Record, Snap
from sweeps.records.ledger import SnapshotRecord
from sweeps.strategy.judging import judge_snapshot


class Snapshots:
    """The account of one driver, on top of what the ledger knows.

    A snapshot that needs its baseline waits for it. Until then it is a note in its path's ledger entry, however the path
    ends meanwhile; the next driver takes it from there.

    Args:
        known: trial id -> the snapshots that the ledger holds.
    """

    def __init__(
        self, desk: Desk, paths: Paths | None, keeper: Keeper, known: Mapping[str, list[SnapshotRecord]]
    ) -> None:
        self._desk, self._ledger, self._front = desk, desk.ledger, desk.front
        self._paths, self._keeper = paths, keeper
        self._waiting: dict[str, list[tuple[Job, Snap]]] = {}
        self._known = {one.snap.name(trial) for trial, taken in known.items() for one in taken}

    @property
    def waiting(self) -> tuple[Job, ...]:
        """Paths of which a model waits for their baseline, each once."""
        return tuple({job.trial_id: job for waiting in self._waiting.values() for job, _ in waiting}.values())

    def recall(self, records: Iterable[Record]) -> None:
        """Take what waited for its baseline when the driver died."""
        for record in records:
            for snap in record.unjudged:
                self._take(record.job, snap)

    def taken(self, job: Job, snap: Snap) -> None:
        """A path has finished a model; calling this again changes nothing."""
        if self._take(job, snap):
            self._ledger.note_unjudged(job, snap)  # its path may fail, and nobody would tell of it again

    def _take(self, job: Job, snap: Snap) -> bool:
        """Judge it, or let it wait if it was not known before; return whether it waits since now."""
        name = snap.name(job.trial_id)
        if name in self._known:
            return False
        self._known.add(name)
        if self._desk.waits(job, Outcome("complete", snap.finals)):
            self._waiting.setdefault(job.baseline_key, []).append((job, snap))
            return True
        self._enter(job, snap)
        return False

    def baseline_ended(self, key: str) -> None:
        """A baseline is complete: what waited for it is judged."""
        for job, snap in self._waiting.pop(key, []):
            self._enter(job, snap)

    def _enter(self, job: Job, snap: Snap) -> None:
        baseline = self._desk.baselines.get(job.baseline_key)
        snap, values, violations = judge_snapshot(self._desk.config, job, snap, baseline)
        self._ledger.add_snapshot(job, snap, values, violations)
        self._desk.tracker.snapshot(job, snap)
        if job.kind == "trial":
            if snap.level == 0:
                self._front.unpruned(job, snap.finals)
            self._desk.proposals.observe(job, snap.finals, values, violations)
            self._front.model(snap.finals if values is not None and snap.status == "complete" else None)
            if self._paths is not None:
                self._paths.judged(job, snap, violations)
            self._keeper.snapshot(job.trial_id, SnapshotRecord(job.trial_id, snap, values, violations))
        self._desk.progress.snapshot(job, snap)
