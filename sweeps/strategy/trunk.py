"""Which trials wait for which: epochs that a running trial is already computing are not computed a second time.

Trials with the same model, data, training and seed train alike until their first event, and trials with the same pruning
rule train alike until their events differ (``gcp_core.records.stages`` shares that training). If a running trial is
already computing the shared epochs, the new one waits. That costs nothing, because it then starts where the other one is.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gcp_core.config import PruneConfig, TrialConfig, digest
from gcp_core.errors import required
from gcp_core.schedule.clock import event_epochs
from sweeps.records.job import Job, Outcome

#: A trial that has not reported for this many of its slowest epochs no longer holds back others ...
PATIENCE_EPOCHS = 10.0
#: ... nor does one that has not reported for this long, if its epochs are short or their time is not known.
PATIENCE_S = 300.0


@dataclass(frozen=True)
class _Shape:
    """All that decides how long two jobs train alike.

    Attributes:
        stem: names the training before any event.
        rule: names everything that decides what an event removes, without when events are and when they end.
        events: the epochs that end in one, each with the share that it finishes at (``prune.finish``; 0 = what the rule
            says). ``dense``: the last epoch that one job shares with a path.
    """

    stem: str
    rule: str
    events: tuple[tuple[int, float], ...]
    epochs: int
    path: bool
    dense: int


def _shape(trial: TrialConfig) -> _Shape:
    stem, prune = digest(trial.dense_phase().to_dict()), trial.prune
    if prune is None:
        return _Shape(stem, "", (), trial.train.num_epochs, False, trial.train.num_epochs)
    if trial.is_path:
        return _Shape(stem, "", (), 0, True, prune.dense_epochs)
    # Its events do not tell a trial from a path's cycles, so it shares nothing with one.
    plain = dataclasses.replace(
        prune, start=None, interval=1, until=1.0, target=None, finish=False, method=None
    )
    epochs = trial.train.num_epochs
    return _Shape(stem, digest(dataclasses.asdict(plain)), _events(prune, epochs), epochs, False, 0)


def _events(prune: PruneConfig, epochs: int) -> tuple[tuple[int, float], ...]:
    """See :class:`_Shape`: which event is the last one, and where it ends, tells finishing trials apart there."""
    events = [(epoch, 0.0) for epoch in event_epochs(prune, epochs)]
    if prune.finish and events:
        events[-1] = (events[-1][0], required(prune.target, "prune.target"))
    return tuple(events)


def shared_epochs(one: TrialConfig, other: TrialConfig) -> int:
    """Epochs that two trials certainly or possibly train alike: up to the first event that one has and the other has
    not, or has by another rule. Where a target is met sooner, they part sooner.

    Paths of equal start share the dense phase; so does an unpruned trial of as many epochs. Events part them."""
    return _alike(_shape(one), _shape(other))


def _alike(one: _Shape, other: _Shape) -> int:
    if one.stem != other.stem:
        return 0
    if one.path or other.path:
        return min(one.dense, other.dense)
    if one.rule != other.rule:
        return min((epoch for epoch, _ in (*one.events[:1], *other.events[:1])), default=one.epochs)
    for mine, theirs in itertools.zip_longest(one.events, other.events, fillvalue=(one.epochs + 1, 0.0)):
        if mine != theirs:
            return min(mine[0], theirs[0])
    return one.epochs


@dataclass
class _Running:
    """What is known of a job under way: its last epoch, the share of MACs (or params) it has removed, and when it had
    removed what its target asks for (None = it has not)."""

    job: Job
    last_sign: float
    epoch: int = 0
    slowest_s: float = 0.0
    removed: float = 0.0
    met: int | None = None

    def silent(self, now: float) -> bool:
        """Whether it hangs, or its node does: whoever waits for it trains on his own."""
        return now - self.last_sign > max(PATIENCE_S, PATIENCE_EPOCHS * self.slowest_s)


class Trunk:
    """Tracks which trial is training what.

    A queued job that a running one holds back is not looked at again until that one has reported, ended or been silent
    for too long. Only jobs of one stem (:class:`_Shape`) are compared at all.

    Args:
        shared: whether trials pass training on at all; if not, nobody waits.
        now: seconds of a clock that never goes back.
    """

    def __init__(self, shared: bool = True, now: Callable[[], float] = time.monotonic) -> None:
        self._shared, self._now = shared, now
        self._running: dict[str, _Running] = {}
        self._dense: dict[str, dict[str, float]] = {}
        self._behind: dict[str, int] = {}
        self._stems: dict[str, dict[str, _Running]] = {}
        self._shapes: dict[str, _Shape] = {}
        #: Queued jobs that wait; running job -> those of them that it holds back.
        self._waiting: set[str] = set()
        self._held: dict[str, set[str]] = {}

    def baseline(self, job: Job, outcome: Outcome) -> None:
        """What the unpruned model costs: tells which share a pruned one has lost."""
        costs: dict[str, float] = {
            name: outcome.finals[name] for name in ("macs", "params") if name in outcome.finals
        }
        self._dense[job.baseline_key] = costs

    def started(self, job: Job) -> None:
        running = _Running(job, self._now(), self._behind.pop(job.trial_id, 0))
        self._running[job.trial_id] = running
        if self._shared:
            self._stems.setdefault(self._shape(job).stem, {})[job.trial_id] = running

    def resumed(self, job: Job, epoch: int) -> None:
        """A job continues after ``epoch``; other trials need not wait for the epochs before that."""
        self._behind[job.trial_id] = epoch

    def epoch(self, job: Job, row: dict[str, float]) -> None:
        running = self._running[job.trial_id]
        now = self._now()
        self._let_go(job.trial_id)
        if running.epoch:  # the first one also waits for the process and its data
            running.slowest_s = max(running.slowest_s, now - running.last_sign)
        running.epoch, running.last_sign = int(row["epoch"]), now
        if job.kind == "baseline":
            self._dense[job.baseline_key] = {
                name: row.get(f"cost/{name}", 0.0) for name in ("macs", "params")
            }
        else:
            self._note_cost(running, row)

    def _note_cost(self, running: _Running, row: dict[str, float]) -> None:
        prune = running.job.config.pruning
        dense = self._dense.get(running.job.baseline_key, {}).get(prune.of)
        if not dense:
            return  # the baseline has not told yet; until it does, nothing is known to have parted
        running.removed = 1 - row.get(f"cost/{prune.of}", dense) / dense
        if running.met is None and _meets(running.removed, prune.target):
            running.met = running.epoch

    def ended(self, job: Job) -> None:
        running = self._running.pop(job.trial_id, None)
        if running is not None and self._shared:
            self._let_go(job.trial_id)
            stem = self._shapes.pop(job.trial_id).stem
            del self._stems[stem][job.trial_id]
            if not self._stems[stem]:
                del self._stems[stem]

    def free(self, queue: Iterable[Job]) -> int | None:
        """Position of the first job in ``queue`` that need not wait for another trial; None if there is none."""
        now = self._now()
        for name in [name for name in self._held if self._running[name].silent(now)]:
            self._let_go(name)
        for position, job in enumerate(queue):
            if job.trial_id not in self._waiting and not (self._shared and self._held_back(job, now)):
                return position
        return None

    def _held_back(self, job: Job, now: float) -> bool:
        shape = self._shape(job)
        for name, running in self._stems.get(shape.stem, {}).items():
            if not running.silent(now) and _holds_back(running, _alike(self._shape(running.job), shape), job):
                self._waiting.add(job.trial_id)
                self._held.setdefault(name, set()).add(job.trial_id)
                return True
        return False

    def _let_go(self, name: str) -> None:
        """Whoever this job held back is looked at again."""
        self._waiting -= self._held.pop(name, set())

    def _shape(self, job: Job) -> _Shape:
        if job.trial_id not in self._shapes:
            self._shapes[job.trial_id] = _shape(job.config)
        return self._shapes[job.trial_id]


def _holds_back(running: _Running, shared: int, job: Job) -> bool:
    """Whether a running job is computing what ``job`` would; ``shared``: epochs that they train alike."""
    one, other = running.job.config.prune, job.config.prune
    if one is not None and other is not None and not job.config.is_path:
        if one.target == other.target and running.met is not None and running.met < shared:
            # Both met it by the same events: no event is left to tell them apart.
            shared = job.config.train.num_epochs
        elif one.target != other.target and _meets(running.removed, _smaller(one.target, other.target)):
            return False  # the event that met the smaller target was trimmed in one of them only
    return running.epoch < shared


def _meets(removed: float, target: float | None) -> bool:
    return target is not None and removed >= target - 1e-9


def _smaller(one: float | None, other: float | None) -> float | None:
    return min((target for target in (one, other) if target is not None), default=None)
