"""Handle the end of a job: tell the ledger, the sampler, the front, the tracker and the progress display."""

from __future__ import annotations

from typing import Protocol

from sweeps.conduct.alike import FirstEnds
from sweeps.conduct.baselines import as_baseline
from sweeps.conduct.desk import Desk
from sweeps.conduct.snapshots import Snapshots
from sweeps.records.job import Job, Outcome, Record, read_stop
from sweeps.strategy.budget import Budget
from sweeps.strategy.judging import (
    accuracy_drop,
    baseline_needed_by,
    baseline_values,
    dense_costs,
    judge,
    with_finals,
)
from sweeps.strategy.stopping import Rungs
from sweeps.strategy.trunk import Trunk


class Host(Protocol):
    """Who hands out jobs (the conductor)."""

    @property
    def total(self) -> int:
        """Trials of the whole sweep, baselines not counted."""

    @property
    def all_entered(self) -> bool:
        """Whether no further trial will be drawn, as far as is known now."""

    def baseline_again(self, lost: Job) -> Job:
        """Enter a baseline that was lost once more, first in the queue."""

    def stop(self, reason: str) -> None:
        """Start nothing more; running jobs are finished."""

    def fail(self, reason: str) -> None:
        """Start nothing more, end what runs: every trial fails alike."""


class Answers:
    """The bookkeeping of one driver.

    Attributes:
        ended: trials that have ended, baselines and confirm runs not counted.
        searched: baselines that the search's trials are compared with, by key.
    """

    def __init__(
        self,
        host: Host,
        desk: Desk,
        snapshots: Snapshots,
        budget: Budget,
        trunk: Trunk,
        rungs: Rungs | None,
    ) -> None:
        self._host, self._desk, self._config, self._ledger = host, desk, desk.config, desk.ledger
        self._tracker, self._progress = desk.tracker, desk.progress
        self._proposals, self._baselines, self._snapshots = desk.proposals, desk.baselines, snapshots
        self._front, self._budget, self._trunk, self._rungs = desk.front, budget, trunk, rungs
        self._first_ends = FirstEnds()
        self.ended: set[str] = set()
        self.searched: set[str] = set()

    def recall(self, trials: list[Record], baselines: list[Record]) -> None:
        """What the ledger knows, before anything is settled; the front knows it already."""
        self.ended = {record.job.trial_id for record in trials if record.finished}
        self.searched = {record.job.baseline_key for record in trials}
        if self._rungs is not None:
            self._rungs.take_over([*baselines, *trials])

    def settle(self, job: Job, outcome: Outcome) -> None:
        """A job has ended. Its answer goes into the ledger as soon as everything it needs is known."""
        if self._rungs is not None:
            self._rungs.ended(job, outcome)
        for snap in outcome.snapshots:  # those among them that were not heard of
            self._snapshots.taken(job, snap)
        if job.kind == "baseline":
            self._close_baseline(job, outcome)
        elif self._desk.waits(job, outcome):
            self._baselines.wait(job, outcome)
        else:
            self._close_trial(job, outcome)

    def _close_baseline(self, job: Job, outcome: Outcome) -> None:
        outcome = as_baseline(outcome)
        if outcome.status == "complete":
            outcome = with_finals(outcome, accuracy_drop=0.0)
            self._trunk.baseline(job, outcome)
            # Those of confirmation seeds do not move the search's scales.
            if job.config.key() in self.searched:
                self._front.baseline(outcome.finals, job.folder)
        self._ledger.close(job, outcome, baseline_values(outcome))
        again = self._host.baseline_again(job) if self._baselines.ended(job, outcome) else None
        self._announce(job, outcome)
        if again is not None:
            self._progress.note(f"{job.trial_id} will be trained again as {again.trial_id}")
        self._stop_without_baselines()
        if outcome.status != "complete":
            return
        self._snapshots.baseline_ended(job.baseline_key)
        for waiting, answer in self._baselines.release(job.baseline_key):
            self._close_trial(waiting, answer)
        for earlier, answer in self._baselines.late(job.baseline_key):
            drop = accuracy_drop(answer, outcome)
            if drop is not None:
                self._tracker.late(earlier, {"accuracy_drop": drop}, answer.last_epoch)

    def _stop_without_baselines(self) -> None:
        """Start nothing more if no trial can be judged any more; running trials are finished."""
        search = self._config.search
        others = any(not d.path.startswith("prune.") for d in self._config.space.dimensions)
        if not search.needs_baseline() or (others and not self._host.all_entered):
            return
        if all(map(self._baselines.is_gone, self.searched)):
            self._host.stop(self._baselines.missing(baseline_needed_by(search), self._snapshots.waiting))

    def rests(self, job: Job, outcome: Outcome) -> None:
        """A path has come to rest. It may go on, and is told of as it is now."""
        self._first_ends.rested()
        self._front.path_left(job.trial_id)
        self._proposals.paused(job)
        self._tracker.finished(job, self.with_drop(job, outcome))
        self._progress.rested(job)

    def with_drop(self, job: Job, outcome: Outcome) -> Outcome:
        """The outcome with its loss in accuracy, which may become known only when its baseline ends."""
        baseline = self._baselines.get(job.baseline_key)
        if baseline is None:
            self._baselines.lacks_drop(job, outcome)
            return outcome
        drop = accuracy_drop(outcome, baseline)
        return outcome if drop is None else with_finals(outcome, accuracy_drop=drop)

    def _close_trial(self, job: Job, outcome: Outcome) -> None:
        baseline = self._baselines.get(job.baseline_key)
        outcome = self.with_drop(job, outcome)
        outcome, values, violations = judge(
            self._config, outcome, baseline, dense_costs(job.folder, outcome.finals)
        )
        stop = read_stop(job.folder) if outcome.status == "stopped" else None
        violations = violations if stop is None else stop.violations
        self._ledger.close(job, outcome, values, violations)
        if job.kind == "trial":
            new = self._proposals.answer(job, outcome, values, violations)
            self.ended.add(job.trial_id)
            if job.config.is_path:  # its snapshots are on the front
                self._front.path_left(job.trial_id)
            else:
                # A model that exists has no place of its own, and a plateau has to see that nothing was added.
                standing = new and values is not None and outcome.status == "complete"
                self._front.trial(outcome.finals if standing else None)
        self._announce(job, outcome)

    def _announce(self, job: Job, outcome: Outcome) -> None:
        self._tracker.finished(job, outcome)
        hypervolume = self._front.hypervolume()
        if hypervolume is not None and job.kind != "confirm":
            self._tracker.front(hypervolume, self._front.complete, self._front.stand_in)
        done, total = len(self.ended), self._host.total
        self._progress.front(hypervolume, self._budget.left_s(done, total), self._front.stand_in)
        self._progress.finished(job, outcome, done, total)
        alike = self._first_ends.add(job, outcome, total)
        if alike:
            self._host.fail(alike)
