"""Jobs that are entered in the ledger and not started, and which of them may start now."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path

from gcp_core.schema import Kind
from sweeps.conduct.baselines import Baselines
from sweeps.records import spool
from sweeps.records.job import Job
from sweeps.strategy.budget import Budget
from sweeps.strategy.front import LiveFront
from sweeps.strategy.trunk import Trunk

#: So many trials are drawn for one worker that asks, if all of them have to wait for others. A thousand workers would
#: have a thousand drawn at once, and wait for it (11 s); so the other reports get their turn in between.
DRAWN_AT_ONCE = 64


class Agenda:
    """In the order of their entry. ``trunk`` holds jobs back for a while, ``budget`` withholds them for good."""

    def __init__(self, trunk: Trunk, budget: Budget, front: LiveFront, baselines: Baselines) -> None:
        self._trunk, self._budget, self._front, self._baselines = trunk, budget, front, baselines
        self._jobs: deque[Job] = deque()
        self._begun: set[str] = set()

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def add(self, job: Job, first: bool = False) -> None:
        """Enter a job; one of which an earlier driver has trained epochs counts as begun."""
        if spool.rows(Path(job.folder)):
            self._begun.add(job.trial_id)
        if first:
            self._jobs.appendleft(job)
        else:
            self._jobs.append(job)

    def fresh(self, kind: Kind) -> list[Job]:
        """Jobs of a kind of which no epoch has been trained."""
        return [job for job in self._jobs if job.kind == kind and job.trial_id not in self._begun]

    def startable(self, active: Collection[Job]) -> list[Job]:
        """Jobs that may start now. Once a budget is spent, only begun jobs and the baselines that they need are left.

        ``active``: jobs that run.
        """
        spent: dict[Kind, bool] = {
            "trial": bool(self._budget.spent(0, 0, self._front)),
            "confirm": self._budget.used_up,
        }
        withheld = {job.trial_id for kind in spent if spent[kind] for job in self.fresh(kind)}
        going = [job for job in self._jobs if job.trial_id not in withheld]
        if not spent["trial"]:
            return going
        needed = {job.baseline_key for job in (*active, *going) if job.kind != "baseline"}
        return [
            job
            for job in going
            if job.kind != "baseline"
            or job.trial_id in self._begun
            or job.baseline_key in needed
            or self._baselines.wanted(job.baseline_key)
        ]

    def take(self, active: Collection[Job]) -> Job | None:
        """Remove and return the first job that may start and need not wait for a running one."""
        startable = self.startable(active)
        position = self._trunk.free(startable)
        if position is None:
            return None
        self._jobs.remove(startable[position])
        return startable[position]
