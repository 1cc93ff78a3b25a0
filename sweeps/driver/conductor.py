"""What runs next, and what an answer means: the driver's state, free of Ray and of MLflow.

The conductor hands out jobs, takes back outcomes, keeps the ledger, and tells tracker and progress. An answer that
needs its baseline waits for it; other trials go on.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gcp_core.config import TrialConfig
from sweeps.config.space import Point
from sweeps.config.sweep_config import SweepConfig
from sweeps.records import spool
from sweeps.records.job import Job, Outcome, Record, read_outcome, read_stop, write_stop
from sweeps.records.layout import JOURNAL, STOP_FILE, trial_path
from sweeps.records.ledger import Ledger
from sweeps.storage.exchange import Exchange
from sweeps.storage.place import bring_trial
from sweeps.strategy.budget import Budget
from sweeps.strategy.confirm import confirm_runs
from sweeps.strategy.front import LiveFront
from sweeps.strategy.judging import accuracy_drop, baseline_values, judge, with_finals
from sweeps.strategy.sampling import Proposer
from sweeps.strategy.stopping import Rungs
from sweeps.strategy.trunk import Trunk

#: This many first jobs with the same error end the sweep.
ALIKE = 3


class Tracker(Protocol):
    """Who writes down what happens (``sweeps.tracking.writer`` writes it to MLflow)."""

    def started(self, job: Job) -> None: ...

    def epoch(self, job: Job, row: dict[str, float]) -> None: ...

    def finished(self, job: Job, outcome: Outcome) -> None: ...

    def late(self, job: Job, finals: dict[str, float], epoch: int) -> None:
        """Final values that became known after the job had finished."""

    def front(self, hypervolume: float, complete: int) -> None:
        """The hypervolume of the front of the trials that are complete so far."""


class Progress(Protocol):
    """Who tells the user (``sweeps.driver.progress``)."""

    def started(self, job: Job) -> None: ...

    def epoch(self, job: Job, row: dict[str, float]) -> None: ...

    def front(self, hypervolume: float | None, left_s: float | None) -> None:
        """How far the sweep is, as far as that is known; comes before :meth:`finished`."""

    def finished(self, job: Job, outcome: Outcome, done: int, total: int) -> None: ...

    def note(self, text: str) -> None: ...


class Conductor:
    """Runs a sweep to its end as long as somebody runs the jobs it hands out.

    ``impossible`` says which trials would be refused for their target; such points are never proposed. ``trunk`` holds
    back trials that would train what a running one is training; by default no training is shared and nobody waits.
    ``rungs`` says which trials end early; by default none does. ``budget`` says when no new trial starts. ``exchange``
    carries files to and from the trials where they do not see the sweep's folder.

    Attributes:
        stop_reason: why the sweep ended before all trials had run; empty if it did not.
        failed_alike: whether it ended because the first jobs all failed with one error.
        interrupted: whether running jobs shall be ended too; the ledger keeps them as running, to be continued.
    """

    def __init__(
        self,
        config: SweepConfig,
        ledger: Ledger,
        tracker: Tracker,
        progress: Progress,
        impossible: Callable[[TrialConfig], bool] | None = None,
        trunk: Trunk | None = None,
        rungs: Rungs | None = None,
        budget: Budget | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        self.config = config
        self.exchange = exchange or Exchange(Path(config.folder))
        self.stop_reason = ""
        self.failed_alike = False
        self.interrupted = False
        self._ledger, self._tracker, self._progress = ledger, tracker, progress
        self._queue: deque[Job] = deque()
        self._active: dict[str, Job] = {}
        self._waiting: dict[str, list[tuple[Job, Outcome]]] = {}
        self._baselines: dict[str, Outcome] = {}
        self._baseline_jobs: dict[str, Job] = {}
        self._ended: list[Outcome] = []
        self._without_drop: dict[str, list[tuple[Job, Outcome]]] = {}
        self._exhausted = False
        self._confirming = config.confirm.seeds == 0
        self._impossible = impossible or (lambda trial: False)
        self._trunk = trunk or Trunk(shared=False)
        self._rungs = rungs
        self._budget = budget or Budget(config.search, config.resources)
        self._front = LiveFront(config.search.objectives)
        self._take_over()

    # --- what runs next -------------------------------------------------------------------------------------------

    @property
    def concurrency(self) -> int:
        return self.config.search.concurrency

    @property
    def done(self) -> int:
        """Trials that have ended, baselines not counted."""
        return self._done

    @property
    def total(self) -> int:
        """Trials of the whole sweep, baselines not counted."""
        ended = self._exhausted or self.budget_spent
        return self._entered if ended else max(self.config.num_trials(), self._entered)

    @property
    def budget_spent(self) -> str:
        """Which budget keeps trials from being started, as a sentence; empty if none does."""
        planned = self.config.num_trials()
        if self._exhausted or self._entered >= planned:
            return ""
        return self._budget.spent(self._done, planned, self._front)

    @property
    def has_work(self) -> bool:
        """Whether there is anything left to start."""
        return not self.stop_reason and (bool(self._queue) or not self._all_entered() or not self._confirming)

    @property
    def active(self) -> tuple[Job, ...]:
        """Jobs that were handed out and have not come back."""
        return tuple(self._active.values())

    @property
    def complete(self) -> bool:
        """Whether every trial of the sweep has ended."""
        return not self.has_work and not self._active and not self._waiting and not self.stop_reason

    def next_job(self) -> Job | None:
        """A job to start now; None = wait if :attr:`has_work` is true, else there is nothing more to start."""
        if not self.has_work or len(self._active) >= self.concurrency:
            return None
        job = self._take()
        if job is None:
            return None
        Path(job.folder).mkdir(parents=True, exist_ok=True)
        self.exchange.send(JOURNAL)  # no trial is begun that a copy of the ledger does not know
        self._active[job.trial_id] = job
        self._trunk.started(job)
        self._budget.started(job)
        self._tracker.started(job)
        self._progress.started(job)
        return job

    def epoch(self, trial_id: str, row: dict[str, float]) -> None:
        """One epoch of a running job is over; ``row`` holds ``epoch`` and the per-epoch metrics."""
        job = self._active[trial_id]
        self._trunk.epoch(job, row)
        self._budget.tick()
        self._tracker.epoch(job, row)
        self._progress.epoch(job, row)
        stop = None if self._rungs is None else self._rungs.epoch(job, row)
        if stop is not None:
            write_stop(job.folder, stop)
            self.exchange.offer(f"{trial_path(job.trial_id)}/{STOP_FILE}")

    def finish(self, trial_id: str, outcome: Outcome) -> None:
        """A job has ended. Its answer goes into the ledger as soon as everything it needs is known."""
        job = self._active.pop(trial_id)
        bring_trial(self.exchange, trial_path(trial_id))
        self._trunk.ended(job)
        self._budget.ended(job, outcome)
        self._settle(job, outcome)

    def interrupt(self, reason: str) -> None:
        """Start nothing more and let whoever runs the jobs end them."""
        self.stop_reason = self.stop_reason or reason
        self.interrupted = True

    def _take(self) -> Job | None:
        """The first job that need not wait for a running one; new trials are drawn as long as few are held back."""
        while True:
            position = self._trunk.free(self._queue)
            if position is not None:
                job = self._queue[position]
                del self._queue[position]
                return job
            if not self._all_entered() and len(self._queue) < self.concurrency:
                self._enter_next()
            elif not (self._confirming or self._queue or self._active) and self._all_entered():
                self._enter_confirm_runs()
            else:
                return None

    def _enter_next(self) -> None:
        """Draw a new trial into the queue, behind its baseline if that does not exist yet."""
        point = self._proposer.propose(self._entered)
        if point is None:
            self._exhausted = True
            self._progress.note(
                f"every distinct point of the space that can be run has been tried ({self._entered} trials)"
            )
            return
        self._enter_baseline(self._resolve(point))
        job = self._ledger.add("trial", self._resolve(point), point, self._proposer.distributions)
        self._searched.add(job.baseline_key)
        self._entered += 1
        self._queue.append(job)

    def _enter_confirm_runs(self) -> None:
        """The search is over: queue the front's members on fresh seeds, those apart that an earlier driver entered."""
        self._confirming = True
        known = {record.key for record in self._ledger.records("confirm")}
        runs = confirm_runs(
            self._ledger.records("trial"), self.config.search.objectives, self.config.confirm.seeds
        )
        new = [record for record in runs if record.key not in known]
        for record in new:
            self._enter_baseline(record.job.config)
            self._queue.append(self._ledger.add("confirm", record.job.config, record.job.point, {}))
        if new:
            seeds = sorted({record.job.config.seed for record in runs})
            members = len(runs) // len(seeds)
            self._progress.note(f"search over; confirming {members} trials of the front on the seeds {seeds}")

    def _enter_baseline(self, config: TrialConfig) -> None:
        baseline = config.baseline()
        if baseline.key() not in self._baseline_jobs:
            job = self._ledger.add("baseline", baseline, {}, {})
            self._baseline_jobs[baseline.key()] = job
            self._queue.append(job)

    def _resolve(self, point: Point) -> TrialConfig:
        return self.config.space.resolve(point, self.config.resources.cpus)

    def _key(self, point: Point) -> str | None:
        trial = self._resolve(point)
        return None if self._impossible(trial) else trial.key()

    def _all_entered(self) -> bool:
        return self._exhausted or self._entered >= self.config.num_trials() or bool(self.budget_spent)

    # --- what an answer means -------------------------------------------------------------------------------------

    def _settle(self, job: Job, outcome: Outcome) -> None:
        if self._rungs is not None:
            self._rungs.ended(job, outcome)
        if job.kind == "baseline":
            self._close_baseline(job, outcome)
        elif self.config.search.needs_baseline() and job.baseline_key not in self._baselines:
            self._waiting.setdefault(job.baseline_key, []).append((job, outcome))
        else:
            self._close_trial(job, outcome)

    def _close_baseline(self, job: Job, outcome: Outcome) -> None:
        if outcome.status == "complete":
            outcome = with_finals(outcome, accuracy_drop=0.0)
        key = job.config.key()
        self._baselines[key] = outcome
        self._trunk.baseline(job, outcome)
        self._weigh_baseline(job, outcome)
        self._ledger.close(job, outcome, baseline_values(outcome))
        self._announce(job, outcome)
        for waiting, answer in self._waiting.pop(key, []):
            self._close_trial(waiting, answer)
        for earlier, answer in self._without_drop.pop(key, []):
            drop = accuracy_drop(answer, outcome)
            if drop is not None:
                self._tracker.late(earlier, {"accuracy_drop": drop}, answer.last_epoch)

    def _close_trial(self, job: Job, outcome: Outcome) -> None:
        baseline = self._baselines.get(job.baseline_key)
        drop = None if baseline is None else accuracy_drop(outcome, baseline)
        if drop is not None:
            outcome = with_finals(outcome, accuracy_drop=drop)
        outcome, values, violations = judge(self.config, outcome, baseline)
        stop = read_stop(job.folder) if outcome.status == "stopped" else None
        violations = violations if stop is None else stop.violations
        self._ledger.close(job, outcome, values, violations)
        if job.kind == "trial":
            self._proposer.answer(job.number, values, violations, outcome.status == "stopped")
            self._done += 1
            self._front.trial(outcome.finals if values is not None and outcome.status == "complete" else None)
        if baseline is None:
            self._without_drop.setdefault(job.baseline_key, []).append((job, outcome))
        self._announce(job, outcome)

    def _weigh_baseline(self, job: Job, outcome: Outcome) -> None:
        """Baselines of confirmation seeds come after the search and do not move its scales."""
        if outcome.status == "complete" and job.config.key() in self._searched:
            self._front.baseline(outcome.finals, job.folder)

    def _announce(self, job: Job, outcome: Outcome) -> None:
        self._tracker.finished(job, outcome)
        hypervolume = self._front.hypervolume()
        if hypervolume is not None and job.kind != "confirm":
            self._tracker.front(hypervolume, self._front.complete)
        self._progress.front(hypervolume, self._budget.left_s(self._done, self.total))
        self._progress.finished(job, outcome, self._done, self.total)
        self._ended.append(outcome)
        if len(self._ended) == min(ALIKE, self.total + 1):
            self._stop_if_alike()

    def _stop_if_alike(self) -> None:
        """A mistake that hits every trial is worth three trials, not all of them."""
        broken = all(answer.status in ("failed", "lost") for answer in self._ended)
        if broken and len({_shape(answer.error) for answer in self._ended}) == 1:
            self.failed_alike = True
            self.interrupt(f"the first {len(self._ended)} trials all failed alike: {self._ended[0].error}")

    # --- continuing -----------------------------------------------------------------------------------------------

    def _take_over(self) -> None:
        """Go on from the ledger: what ended stays, what had ended unrecorded is recorded, the rest is queued."""
        trials, baselines = self._ledger.records("trial"), self._ledger.records("baseline")
        self._entered = len(trials)
        self._done = sum(record.finished for record in trials)
        self._searched = {record.job.baseline_key for record in trials}
        seed = self.config.space.base["seed"] + len(trials)
        self._proposer = Proposer(
            self.config.space,
            self.config.search,
            self.config.num_trials(),
            seed,
            self._key,
        )
        self._proposer.replay(trials)
        self._recall([*baselines, *trials])
        self._budget.recall([*baselines, *trials])
        self._front.recall(trials, baselines)
        for record in baselines:
            self._take_over_baseline(record)
        unfinished = [record for record in [*trials, *self._ledger.records("confirm")] if not record.finished]
        for record in unfinished:
            self._enter_baseline(record.job.config)
        for record in unfinished:
            self._resume(record.job)

    def _recall(self, records: list[Record]) -> None:
        """What later trials are compared with: the courses of those before them, from their folders."""
        for record in records if self._rungs is not None else ():
            outcome = read_outcome(record.job.folder) if record.finished else None
            if outcome is not None:
                self._rungs.ended(record.job, outcome)
            else:
                self._rungs.recall(record.job, spool.rows(Path(record.job.folder)))

    def _take_over_baseline(self, record: Record) -> None:
        if not record.finished:
            self._baseline_jobs[record.key] = record.job
            self._resume(record.job)
        elif record.status == "complete":
            self._baseline_jobs[record.key] = record.job
            self._baselines[record.key] = Outcome("complete", record.finals)
            self._trunk.baseline(record.job, self._baselines[record.key])

    def _resume(self, job: Job) -> None:
        """A trial whose process had finished when the driver died is not trained again."""
        outcome = read_outcome(job.folder)
        if outcome is None:
            self._queue.append(job)
        else:
            self._settle(job, outcome)


def _shape(error: str) -> str:
    """An error without what differs from trial to trial: ids, numbers, paths' digits."""
    return re.sub(r"[0-9a-f]{8,}|\d+(\.\d+)?", "#", error)
