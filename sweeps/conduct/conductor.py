"""What runs next, and what an answer means: the driver's state, free of Ray and of MLflow.

The conductor hands out jobs, takes back outcomes, keeps the ledger, and tells tracker and progress. An answer that
needs its baseline waits for it; other trials continue.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from gcp_core.config import TrialConfig
from sweeps.conduct.agenda import DRAWN_AT_ONCE, Agenda
from sweeps.conduct.answers import Answers
from sweeps.conduct.baselines import Baselines
from sweeps.conduct.confirming import confirm_due
from sweeps.conduct.desk import Desk
from sweeps.conduct.keep import Keeper
from sweeps.conduct.listeners import Progress, Tracker
from sweeps.conduct.paths import Paths, as_now
from sweeps.conduct.proposals import Proposals
from sweeps.conduct.snapshots import Snapshots
from sweeps.config.sweep_config import SweepConfig
from sweeps.records.job import Job, Outcome, Record, Snap, read_outcome, write_stop
from sweeps.records.layout import JOURNAL, STOP_FILE, trial_path
from sweeps.records.ledger import Ledger, SnapshotRecord
from sweeps.storage.exchange import Exchange
from sweeps.storage.place import bring_trial
from sweeps.strategy.budget import Budget
from sweeps.strategy.front import LiveFront
from sweeps.strategy.judging import baseline_needed_by
from sweeps.strategy.stopping import Rungs
from sweeps.strategy.trunk import Trunk


class Conductor:
    """Runs a sweep to its end, as long as the caller runs the jobs that it hands out.

    ``impossible`` says which trials would be refused for their target; such points are never proposed. ``trunk`` holds
    back trials that would train what a running one is training; by default no training is shared and nobody waits.
    ``rungs`` says which trials end early; by default none does. ``budget`` says when no new trial starts. ``exchange``
    carries files to and from the trials where they do not see the sweep's folder. ``attempts`` counts baselines that
    were lost, where that should be remembered longer than this conductor lives.

    Attributes:
        stop_reason: why the sweep ended before all trials had run; empty if it did not.
        failed_alike: whether it ended because the first jobs all failed with one error.
        interrupted: whether running jobs should be ended too; the ledger keeps them as running, to be continued.
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
        attempts: Counter[str] | None = None,
    ) -> None:
        self.config = config
        self.exchange = exchange or Exchange(Path(config.folder))
        self.stop_reason = ""
        self.failed_alike = False
        self.interrupted = False
        self._ledger, self._tracker, self._progress = ledger, tracker, progress
        self._active: dict[str, Job] = {}
        self._baselines = Baselines(config.resources.retries, attempts)
        self._exhausted = False
        self._confirming = config.confirm.seeds == 0
        self._trunk = trunk or Trunk(shared=False)
        self._rungs = rungs
        self._budget = budget or Budget(config.search, config.resources)
        self._front = LiveFront(config.search.objectives)
        self._agenda = Agenda(self._trunk, self._budget, self._front, self._baselines)
        trials, baselines, snapshots = ledger.records("trial"), ledger.records("baseline"), ledger.snapshots()
        self._front.recall(trials, baselines, snapshots)  # first: it is what a path is worth
        never, worth = impossible or (lambda trial: False), self._front.hypervolume_of
        self._proposals = Proposals(config, trials, snapshots, never, progress.note, worth)
        self._paths: Paths | None = None
        if config.of_paths:
            self._paths = Paths(config, ledger, self.exchange, self._front, self._no_further, progress.note)
        self._keeper = Keeper(config, self.exchange, snapshots, trials)
        desk = Desk(config, ledger, tracker, progress, self._baselines, self._front, self._proposals)
        self._snapshots = Snapshots(desk, self._paths, self._keeper, snapshots)
        self._answers = Answers(self, desk, self._snapshots, self._budget, self._trunk, rungs)
        self._take_over(trials, baselines, snapshots)

    # --- what runs next -------------------------------------------------------------------------------------------

    @property
    def concurrency(self) -> int:
        return self.config.search.concurrency

    @property
    def done(self) -> int:
        """Trials that have ended, baselines not counted."""
        return len(self._answers.ended)

    @property
    def total(self) -> int:
        """Trials of the whole sweep, baselines not counted."""
        if self.budget_spent:
            return self._entered - len(self._agenda.fresh("trial"))
        over = self._exhausted or (self._paths is not None and self.all_entered)
        return self._entered if over else max(self.config.num_trials(), self._entered)

    @property
    def confirm_seeds(self) -> int:
        """On how many fresh seeds the front is confirmed once this sweep is complete; 0 if the budget forbade it."""
        return 0 if self._confirm_withheld else self.config.confirm.seeds

    @property
    def budget_spent(self) -> str:
        """Which budget keeps trials or confirmation runs from being started, as a sentence; empty if none does."""
        planned = self.config.num_trials()
        unbegun = self._agenda.fresh("trial") or not (self._exhausted or self._entered >= planned)
        if unbegun or (self._paths is not None and self._paths.worth_resuming):
            spent = self._no_further()
            if spent:
                return spent
        if not self._confirm_withheld:
            return ""
        return self._budget.spent(self.done, planned, None, ", before the end of the confirmation")

    def _no_further(self) -> str:
        """Which budget forbids further training, as a sentence; empty = none."""
        return self._budget.spent(self.done, self.config.num_trials(), self._front)

    @property
    def _confirm_withheld(self) -> bool:
        return (not self._confirming or bool(self._agenda.fresh("confirm"))) and self._budget.used_up

    @property
    def has_work(self) -> bool:
        """Whether there is anything left to start."""
        if self.stop_reason:
            return False
        if self._startable() or not self.all_entered or self._confirm_due:
            return True
        # Tune never asks again once it was told so, and what runs may change the answer: a lost baseline is trained
        # again, and moves the scales of a sweep of paths; confirmation runs are chosen when all answers are known.
        later = self._paths is not None or not self._confirming
        return any(later or job.kind == "baseline" for job in self._active.values())

    def _startable(self) -> list[Job]:
        return self._agenda.startable(self._active.values())

    @property
    def _confirm_due(self) -> bool:
        """Whether confirmation runs will be chosen as soon as nothing else is left."""
        return not (self._confirming or self._unjudged or self._budget.used_up)

    @property
    def active(self) -> tuple[Job, ...]:
        """Jobs that were handed out and have not come back."""
        return tuple(self._active.values())

    @property
    def waiting(self) -> tuple[Job, ...]:
        """Trials that were trained, and whose answers wait for their baseline."""
        return self._baselines.waiting

    @property
    def _unjudged(self) -> tuple[Job, ...]:
        """Those, and paths (however they ended) of which a model waits."""
        return (*self.waiting, *self._snapshots.waiting)

    @property
    def missing(self) -> str:
        """Which baseline is unavailable although answers wait for it, as a sentence; empty = none."""
        needed_by = baseline_needed_by(self.config.search)
        return self._baselines.missing(needed_by, self._snapshots.waiting) if self._unjudged else ""

    @property
    def superseded(self) -> bool:
        """Whether another driver has taken over, as far as this one has noticed; it writes nothing more."""
        return self.exchange.superseded or self._ledger.tenure.lost

    @property
    def complete(self) -> bool:
        """Whether every trial of the sweep has ended."""
        return not (self.has_work or self._active or self._unjudged or self.stop_reason)

    def next_job(self) -> Job | None:
        """A job to start now; None = wait if :attr:`has_work` is true, else there is nothing more to start."""
        job = self._take() if self.has_work and len(self._active) < self.concurrency else None
        if job is None:
            return None
        Path(job.folder).mkdir(parents=True, exist_ok=True)
        self.exchange.send(JOURNAL)  # no trial is begun that a copy of the ledger does not know
        self._active[job.trial_id] = job
        self._trunk.started(job)
        self._keeper.runs(job.trial_id)
        if self._paths is not None and job.kind == "trial":
            self._paths.started(job)
        self._budget.started(job)
        self._tracker.started(job)
        self._progress.started(job)
        return job

    def epoch(self, trial_id: str, row: dict[str, float]) -> None:
        """One epoch of a running job is over; ``row`` holds ``epoch`` and the per-epoch metrics."""
        job = self._active[trial_id]
        self._trunk.epoch(job, row)
        self._budget.epoch(job)
        self._tracker.epoch(job, row)
        self._progress.epoch(job, row)
        stop = None if self._rungs is None else self._rungs.epoch(job, row)
        if stop is not None:
            write_stop(job.folder, stop)
            self.exchange.offer(f"{trial_path(job.trial_id)}/{STOP_FILE}")

    def lost(self, trial_id: str) -> None:
        """A running job's process is gone; another one will go on with it."""
        if trial_id in self._active:
            self._budget.lost(self._active[trial_id])

    def snapshot(self, trial_id: str, snap: Snap) -> None:
        """A running path has finished a model, and continues."""
        job = self._active[trial_id]
        self._snapshots.taken(job, snap)
        if self._paths is not None and job.kind == "trial":
            self._paths.decide(job, snap, self._may_start, len(self._agenda.fresh("trial")))

    def finish(self, trial_id: str, outcome: Outcome) -> None:
        """A job has ended. Its answer goes into the ledger as soon as everything it needs is known."""
        job = self._active.pop(trial_id)
        bring_trial(self.exchange, trial_path(trial_id))
        self._trunk.ended(job)
        seconds = self._budget.ended(job, outcome)
        if outcome.status == "lost":
            outcome = dataclasses.replace(outcome, seconds=seconds)  # nobody else could tell
        if outcome.status == "paused":
            self._rest(job, outcome)
        else:
            self._settle(job, outcome)
        for gone in self._keeper.settled(trial_id):
            self._tracker.dropped(gone.trial_id, gone.level, gone.why)

    def _rest(self, job: Job, outcome: Outcome) -> None:
        for snap in outcome.snapshots:  # those among them that were not heard of
            self._snapshots.taken(job, snap)
        if self._paths is not None and self._paths.rests(job, outcome):
            self._answers.rests(job, outcome)
        else:
            self._settle(job, dataclasses.replace(outcome, status="complete", ended="constraint"))

    def _settle(self, job: Job, outcome: Outcome) -> None:
        self._answers.settle(job, outcome)
        if self._paths is not None and job.kind == "trial":
            self._paths.over(job, outcome)
        elif self._paths is not None:
            self._paths.scales()

    def conclude(self) -> None:
        """The sweep is complete: paths that rest have ended."""
        if self._paths is not None and self.complete:
            for job, outcome in self._paths.concluded():
                self._answers.settle(job, outcome)

    @property
    def why_complete(self) -> str:
        """Why no further training was begun although more was requested; empty if everything was done."""
        spent = self.budget_spent
        if spent or self._paths is None:
            return spent
        if not (self._paths.resting or self._may_start):
            return ""  # all was done
        return f"no further step is worth it: {self._paths.next(self._may_start).reason}"

    def interrupt(self, reason: str) -> None:
        """Start nothing more and let whoever runs the jobs end them."""
        self.stop_reason = self.stop_reason or reason
        self.interrupted = True

    # --- what an answer may ask for (``sweeps.conduct.answers.Host``) --------------------------------------------------

    def stop(self, reason: str) -> None:
        self.stop_reason = self.stop_reason or reason

    def fail(self, reason: str) -> None:
        self.failed_alike = True
        self.interrupt(reason)

    def baseline_again(self, lost: Job) -> Job:
        again = self._new_baseline(lost.config)
        self._agenda.add(again, first=True)
        return again

    @property
    def all_entered(self) -> bool:
        if self._paths is None:
            return not self._may_start
        if any(job.kind == "trial" for job in self._active.values()):
            return False  # its next snapshot may make another path promising
        return self._paths.next(self._may_start).action == "nothing"

    @property
    def _may_start(self) -> bool:
        return not (self._exhausted or self._entered >= self.config.num_trials() or bool(self.budget_spent))

    # --- details --------------------------------------------------------------------------------------------------

    def _take(self) -> Job | None:
        """The first job that need not wait for a running one; a few are drawn for that. None = none yet: ask again."""
        for _ in range(DRAWN_AT_ONCE):
            job = self._agenda.take(self._active.values())
            if job is not None:
                return job
            paths = self._paths
            verdict = None if paths is None else paths.next(self._may_start)
            if paths is not None and verdict is not None and verdict.action == "resume":
                return self._taken_up(*paths.resume(verdict))
            begin = self._may_start if verdict is None else verdict.action == "start"
            if begin and len(self._agenda) < self.concurrency:
                self._enter_next()
            elif self._confirm_due and self.all_entered and not (self._startable() or self._active):
                self._enter_confirm_runs()
            else:
                break
        return None

    def _taken_up(self, job: Job, epoch: int) -> Job:
        self._answers.ended.discard(job.trial_id)
        self._enter_baseline(job.config)
        self._trunk.resumed(job, epoch)
        return job

    def _enter_next(self) -> None:
        """Draw a new trial into the queue, behind its baseline if that does not exist yet."""
        point = self._proposals.next(self._entered)
        if point is None:
            self._exhausted = True
            tried = "every distinct point of the space that can be run has been tried"
            self._progress.note(f"{tried} ({self._entered} trials)")
            return
        trial = self._proposals.resolve(point)
        if not trial.is_path or self.config.search.needs_baseline():
            self._enter_baseline(trial)
        job = self._ledger.add("trial", trial, point, self._proposals.distributions)
        self._answers.searched.add(job.baseline_key)
        self._entered += 1
        if self._paths is not None:
            self._paths.entered = self._entered
        self._agenda.add(job)
        self._enter_baseline(trial)  # a path's is trained when a worker is free: nothing waits for it

    def _enter_confirm_runs(self) -> None:
        """The search is over: queue the front's members on fresh seeds, those apart that an earlier driver entered."""
        self._confirming = True
        due = confirm_due(self.config, self._ledger)
        for record in due.new:
            self._enter_baseline(record.job.config)
            self._agenda.add(self._ledger.add("confirm", record.job.config, record.job.point, {}))
        for job in due.deeper:
            self._agenda.add(self._ledger.resume(job))
        if due.words:
            self._progress.note(due.words)

    def _enter_baseline(self, config: TrialConfig) -> None:
        if not self._baselines.has(config.baseline().key()):
            self._agenda.add(self._new_baseline(config))

    def _new_baseline(self, config: TrialConfig) -> Job:
        job = self._ledger.add("baseline", config.baseline(), {}, {})
        self._baselines.entered(job)
        return job

    # --- continuing -----------------------------------------------------------------------------------------------

    def _take_over(
        self, trials: list[Record], baselines: list[Record], snapshots: dict[str, list[SnapshotRecord]]
    ) -> None:
        """Continue from the ledger: what ended stays, what had ended unrecorded is recorded, the rest is queued."""
        now, confirmed = self._proposals.resolve, self._ledger.records("confirm")
        trials = [dataclasses.replace(record, job=as_now(record.job, now)) for record in trials]
        self._entered = len(trials)
        self._answers.recall(trials, baselines)
        self._budget.recall([*baselines, *trials, *confirmed])
        if self._paths is not None:
            self._paths.take_over(trials, snapshots)
        for record in baselines:
            self._take_over_baseline(record)
        self._snapshots.recall([*trials, *confirmed])
        for job in self._snapshots.waiting:
            self._enter_baseline(job.config)
        for record in [*trials, *confirmed]:
            if record.status != "running" and self._baselines.get(record.job.baseline_key) is None:
                self._baselines.lacks_drop(record.job, Outcome(record.status, record.finals))
        unfinished = [record for record in [*trials, *confirmed] if record.status == "running"]
        for record in unfinished:
            self._enter_baseline(record.job.config)
        for record in unfinished:
            if record.job.kind == "trial" and record.job.config.is_path:
                self._ledger.renew(record.job)
            self._resume(record.job)

    def _take_over_baseline(self, record: Record) -> None:
        if not record.finished:
            self._baselines.entered(record.job)
            self._resume(record.job)
        elif record.status == "complete":
            outcome = Outcome("complete", record.finals)
            self._baselines.ended(record.job, outcome)
            self._trunk.baseline(record.job, outcome)

    def _resume(self, job: Job) -> None:
        """A trial whose process had finished when the driver died is not trained again."""
        outcome = read_outcome(job.folder, job.part)
        if outcome is None:
            self._agenda.add(job)
        else:
            self._settle(job, outcome)
