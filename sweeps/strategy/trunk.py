"""Which trials wait for which: epochs that a running trial is already computing are not computed a second time.

Trials with the same model, data, training and seed train alike until their first event, and trials with the same pruning
rule train alike until their events differ (``gcp_core.records.stages`` shares that training). If a running trial is
already computing the shared epochs, the new one waits. That costs nothing, because it then starts where the other one is.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gcp_core.config import PruneConfig, TrialConfig
from gcp_core.schedule.clock import event_epochs
from sweeps.records.job import Job, Outcome

#: A trial that has not reported for this many of its slowest epochs no longer holds back others ...
PATIENCE_EPOCHS = 10.0
#: ... nor does one that has not reported for this long, if its epochs are short or their time is not known.
PATIENCE_S = 300.0


def shared_epochs(one: TrialConfig, other: TrialConfig) -> int:
    """Epochs that two trials certainly or possibly train alike: up to the first event that one has and the other has
    not, or has by another rule. Where a target is met sooner, they part sooner."""
    if one.is_path or other.is_path:
        return _shared_by_paths(one, other)
    if one.baseline() != other.baseline():
        return 0
    epochs = one.train.num_epochs
    same_rule = _rule(one.prune) == _rule(other.prune)
    events, others = _events(one), _events(other)
    for epoch in sorted(events | others):
        if epoch not in events or epoch not in others or not same_rule:
            return epoch
    return epochs


def _shared_by_paths(one: TrialConfig, other: TrialConfig) -> int:
    """Paths of equal start share the dense phase; so does an unpruned trial of as many epochs. Events part them."""
    if one.dense_phase() != other.dense_phase():
        return 0
    return min(
        t.pruning.dense_epochs if t.is_path else t.train.num_epochs if t.prune is None else 0
        for t in (one, other)
    )


def _rule(prune: PruneConfig | None) -> PruneConfig | None:
    """Everything that decides what an event removes, without when events are and when they end."""
    if prune is None:
        return None
    return dataclasses.replace(prune, start=None, interval=1, until=1.0, target=None, method=None)


def _events(trial: TrialConfig) -> frozenset[int]:
    return (
        frozenset() if trial.prune is None else frozenset(event_epochs(trial.prune, trial.train.num_epochs))
    )


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


class Trunk:
    """Tracks which trial is training what.

    Args:
        shared: whether trials pass training on at all; if not, nobody waits.
        now: seconds of a clock that never goes back.
    """

    def __init__(self, shared: bool = True, now: Callable[[], float] = time.monotonic) -> None:
        self._shared, self._now = shared, now
        self._running: dict[str, _Running] = {}
        self._dense: dict[str, dict[str, float]] = {}
        self._behind: dict[str, int] = {}

    def baseline(self, job: Job, outcome: Outcome) -> None:
        """What the unpruned model costs: tells which share a pruned one has lost."""
        costs: dict[str, float] = {
            name: outcome.finals[name] for name in ("macs", "params") if name in outcome.finals
        }
        self._dense[job.baseline_key] = costs

    def started(self, job: Job) -> None:
        self._running[job.trial_id] = _Running(job, self._now(), self._behind.pop(job.trial_id, 0))

    def resumed(self, job: Job, epoch: int) -> None:
        """A job continues after ``epoch``; other trials need not wait for the epochs before that."""
        self._behind[job.trial_id] = epoch

    def epoch(self, job: Job, row: dict[str, float]) -> None:
        running = self._running[job.trial_id]
        now = self._now()
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
        self._running.pop(job.trial_id, None)

    def free(self, queue: Iterable[Job]) -> int | None:
        """Position of the first job in ``queue`` that need not wait for another trial; None if there is none."""
        for position, job in enumerate(queue):
            if not any(self._holds_back(running, job) for running in self._running.values()):
                return position
        return None

    def _holds_back(self, running: _Running, job: Job) -> bool:
        if not self._shared:
            return False
        if self._now() - running.last_sign > max(PATIENCE_S, PATIENCE_EPOCHS * running.slowest_s):
            return False  # it hangs, or its node does: whoever waits for it trains on his own
        shared = shared_epochs(running.job.config, job.config)
        one, other = running.job.config.prune, job.config.prune
        if one is not None and other is not None:
            if (
                not job.config.is_path
                and one.target == other.target
                and running.met is not None
                and running.met < shared
            ):
                # Both met it by the same events: no event is left to tell them apart.
                shared = job.config.train.num_epochs
            elif (
                not job.config.is_path
                and one.target != other.target
                and _meets(running.removed, _smaller(one.target, other.target))
            ):
                return False  # the event that met the smaller target was trimmed in one of them only
        return running.epoch < shared


def _meets(removed: float, target: float | None) -> bool:
    return target is not None and removed >= target - 1e-9


def _smaller(one: float | None, other: float | None) -> float | None:
    return min((target for target in (one, other) if target is not None), default=None)
