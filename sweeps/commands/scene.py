"""What one look at a running sweep shows: progress, front so far, who runs what, what is paused and why, failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from gcp_core.schema import ARTIFACT_MANIFEST, Direction, snapshot_artifact
from sweeps.commands.status import BAD, Resting, resting
from sweeps.config.sweep_config import SweepConfig
from sweeps.records.folder import Entry
from sweeps.records.job import Record
from sweeps.records.layout import trial_path
from sweeps.records.ledger import SnapshotRecord
from sweeps.storage.following import Following, Sighting
from sweeps.strategy.front import LiveFront

#: A trial whose files do not change for so long is said to be silent; they change every few seconds.
SILENT_S = 60.0


@dataclass(frozen=True)
class Member:
    """A model on the front so far."""

    model: str
    finals: dict[str, float]


@dataclass(frozen=True)
class Scene:
    """One look.

    Attributes:
        entry: the sweep's, or None as long as it has not begun; then nothing else is known.
        records: of the ledger; trials, baselines and confirm runs.
        snapshots: of the ledger's paths, by trial.
        sightings: trial -> what its files tell, of those that the ledger says are running.
        hypervolume: share of the box that the front dominates, None = not known yet.
        stand_in: the snapshot that stands for the baseline in it; empty = a baseline does.
        left_s: about how long the sweep will take, None = not known.
        kept: interrupted trial -> the epoch after which it continues (0: it starts again), None = not known.
        lost: the driver that died, such as ``process 7``; empty = somebody may be at work.
        again: the command that continues it after that; empty = not known.
    """

    place: str
    entry: Entry | None
    records: tuple[Record, ...] = ()
    snapshots: Mapping[str, list[SnapshotRecord]] = field(default_factory=dict)
    sightings: Mapping[str, Sighting] = field(default_factory=dict)
    objectives: Mapping[str, Direction] = field(default_factory=dict)
    front: tuple[Member, ...] = ()
    hypervolume: float | None = None
    stand_in: str = ""
    planned: int = 0
    left_s: float | None = None
    kept: Mapping[str, int | None] = field(default_factory=dict)
    lost: str = ""
    again: str = ""

    @property
    def state(self) -> str:
        """The state of the sweep and its reason. A sweep whose driver died is still recorded as running."""
        if self.lost:
            return f"interrupted: the driver, {self.lost}, died"
        if self.entry is None:
            return "has not begun; waiting for its driver"
        return self.entry.state + (f" ({self.entry.message})" if self.entry.message else "")

    @property
    def over(self) -> bool:
        """Whether the sweep has ended, well or not."""
        return self.entry is not None and self.entry.state != "running"

    @property
    def trials(self) -> list[Record]:
        return [record for record in self.records if record.job.kind == "trial"]

    @property
    def done(self) -> int:
        """Trials that have ended."""
        return sum(record.finished for record in self.trials)

    @property
    def running(self) -> list[Record]:
        """What is being trained, and what only waits for its baseline."""
        return [r for r in self._open if self.sightings[r.job.trial_id].begun]

    @property
    def queued(self) -> list[Record]:
        """Entered, and taken up by nobody yet: trials, baselines and confirm runs."""
        return [r for r in self._open if not self.sightings[r.job.trial_id].begun]

    @property
    def _open(self) -> list[Record]:
        return [record for record in self.records if record.job.trial_id in self.sightings]

    @property
    def statuses(self) -> dict[str, int]:
        """How many trials ended how, or rest."""
        return dict(Counter(record.status for record in self.trials if record.status != "running"))

    @property
    def paused(self) -> list[Resting]:
        return resting(self.trials, self.snapshots)

    @property
    def best(self) -> Member | None:
        """The most accurate pruned model so far; None = there is none, or accuracy is no value of it."""
        known = [m for m in self.front if "val_accuracy" in m.finals and m.finals.get("macs_removed") != 0]
        return max(known, key=lambda m: m.finals["val_accuracy"], default=None)

    @property
    def unpruned(self) -> Member | None:
        """What the best model is compared with: its baseline, or the snapshot that stands for one; None = neither yet."""
        if self.stand_in:
            trial = self.stand_in.partition("@")[0]
            taken = {one.snap.name(trial): one.snap.finals for one in self.snapshots.get(trial, ())}
            return Member(self.stand_in, taken[self.stand_in]) if self.stand_in in taken else None
        return self.unpruned_of("" if self.best is None else self.best.model)

    def unpruned_of(self, model: str) -> Member | None:
        """The baseline that a model is compared with ("": any), if it has ended."""
        trial = model.partition("@")[0]
        keys = {r.job.baseline_key for r in self.trials if not trial or r.job.trial_id == trial}
        for record in self.records:
            known = record.job.kind == "baseline" and record.status == "complete" and record.key in keys
            if known and "val_accuracy" in record.finals:
                return Member(record.job.trial_id, record.finals)
        return None

    @property
    def failures(self) -> list[Record]:
        """What has no place on the front, the last one first."""
        bad = [record for record in self.records if record.status in BAD]
        return sorted(bad, key=lambda record: -record.ended_ms)


def look(following: Following) -> Scene:
    """The sweep as it is now.

    Raises:
        ConfigError: it has gone.
        OSError: its folder, store or database does not answer.
    """
    entry = following.entry()
    if entry is None:
        following.check()
        return Scene(following.place, None, lost=following.lost_driver())
    config = following.config()
    ledger = following.ledger(entry, config)
    trials, baselines = ledger.records("trial"), ledger.records("baseline")
    records = (*baselines, *trials, *ledger.records("confirm"))
    snapshots = ledger.snapshots()
    running = entry.state == "running"
    lost = following.lost_driver() if running else ""
    front = LiveFront(config.search.objectives)
    _bring_manifests(following, baselines, snapshots)
    front.recall(trials, baselines, snapshots)
    done = sum(record.finished for record in trials)
    planned = max(config.num_trials(), len(trials)) if running else len(trials)
    return Scene(
        place=following.place,
        entry=entry,
        records=records,
        snapshots=snapshots,
        sightings={
            record.job.trial_id: following.sighting(record.job.trial_id, record.job.part)
            for record in records
            if record.status == "running" and running
        },
        objectives=config.search.objectives,
        front=_front(trials, snapshots, config.search.objectives),
        hypervolume=front.hypervolume(),
        stand_in=front.stand_in,
        planned=planned,
        left_s=_left_s(config, entry, trials, planned - done) if running and not lost else None,
        kept={r.job.trial_id: following.kept_epoch(r.job.trial_id) for r in records if r.status == "running"}
        if lost
        else {},
        lost=lost,
        again=following.continued_by(config, entry.address) if lost else "",
    )


def _bring_manifests(
    following: Following, baselines: list[Record], snapshots: Mapping[str, list[SnapshotRecord]]
) -> None:
    """How many classes there are to guess among stands in the manifests that the front's scale is read from."""
    for record in baselines:
        if record.status == "complete":
            following.seen(f"{trial_path(record.job.trial_id)}/{ARTIFACT_MANIFEST}")
    if not any(record.status == "complete" for record in baselines):
        for trial in snapshots:
            following.seen(f"{trial_path(trial)}/{snapshot_artifact(0, ARTIFACT_MANIFEST)}")


def _front(
    trials: list[Record], snapshots: Mapping[str, list[SnapshotRecord]], objectives: Mapping[str, Direction]
) -> tuple[Member, ...]:
    """The front as ``gcp-analyze front`` shows it, without near-ties; the most accurate first."""
    import pandas as pd

    from analysis.front.pareto import distinct

    standing: list[Member] = []
    for record in trials:
        name = record.job.trial_id
        taken = snapshots.get(name, [])
        standing += [
            Member(one.snap.name(name), one.snap.finals)
            for one in taken
            if one.snap.status == "complete" and one.values is not None
        ]
        if not taken and record.status == "complete" and record.values is not None:
            standing.append(Member(name, record.finals))
    if not standing:
        return ()
    table = pd.DataFrame([{"model": m.model, **m.finals} for m in standing])
    first = next(iter(objectives))
    rows = distinct(table, objectives).sort_values(first, ascending=objectives[first] == "min", kind="stable")
    return tuple(standing[index] for index in rows.index)


def _left_s(config: SweepConfig, entry: Entry, trials: list[Record], left: int) -> float | None:
    """At the pace so far: of all drivers, or of the trials where no driver has told its time yet."""
    ended = [record.seconds for record in trials if record.finished]
    if not ended or left <= 0:
        return None
    at_a_time = min(config.search.concurrency, left)
    pace = entry.seconds / len(ended) or sum(ended) / len(ended) / at_a_time
    seconds = left * pace
    if config.search.hours is not None:
        seconds = min(seconds, max(0.0, 3600 * config.search.hours - entry.seconds))
    return seconds
