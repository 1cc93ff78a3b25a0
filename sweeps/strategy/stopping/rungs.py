"""Early stopping for several objectives: which trials are worth their remaining epochs.

At a rung (an epoch; a quarter and a half of the training, unless the config says otherwise) a trial is compared with all
others at the same epoch of a training of the same length, whether those have ended since or not. What is compared is
where they will end, not where they are: the *projected final* cost (a trial that prunes late does not cost more than one
that prunes early) and the final accuracy that the accuracy so far suggests. The better share continues, by non-dominated
sorting with crowding distance (Deb et al. 2002) to the trials that continued; no trial waits for another.

Besides, a trial stops as soon as its final cost is certain to break a hard constraint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gcp_core.config import INTERVAL_CLOCK, TrialConfig
from gcp_core.schedule.clock import event_epochs, last_event_epoch
from sweeps.config.search import SearchConfig
from sweeps.records import spool
from sweeps.records.job import Job, Outcome, Record, Stop, read_outcome
from sweeps.strategy.stopping.courses import COSTS, Course, Table, rung_epochs
from sweeps.strategy.stopping.foresight import FORESEEN, expected_accuracy
from sweeps.strategy.stopping.ranking import goes_on

if TYPE_CHECKING:  # it brings torch
    from sweeps.strategy.feasibility import Projection

#: Nobody is stopped before this many runs of its length (baselines included) have been trained to the end: fewer say
#: too little about how final accuracies come about.
ENOUGH_ENDED = 6
_SHARES_REMOVED = {"macs_removed": "macs", "params_removed": "params"}


@dataclass(frozen=True)
class Standing:
    """The trials that have come to a rung, a row each in the order of their first report.

    Attributes:
        epoch: of the rung.
        rows: (n,) which rows of the table they are.
        accuracy: (n,) in per cent at the rung itself; ``reading``: the best up to there.
        now, end, dense: cost -> (n,) as it is, as it will be as far as can be foreseen, of the unpruned model.
        alive: (n,) those that were not stopped.
        baseline: (n, 2) facts of each one's baseline (:func:`expected_accuracy`), NaN = not known.
        known: (k, 2) facts of the runs that were trained to the end, baselines included; ``finals``: (k,) their ends.
    """

    epoch: int
    rows: np.ndarray
    accuracy: np.ndarray
    reading: np.ndarray
    now: dict[str, np.ndarray]
    end: dict[str, np.ndarray]
    dense: dict[str, np.ndarray]
    alive: np.ndarray
    baseline: np.ndarray
    known: np.ndarray
    finals: np.ndarray


class Rungs:
    """The rule, and what it knows of all trials of a sweep.

    Args:
        search: objectives, constraints, rungs, and the share that continues.
        project: what a trial will cost in the end.
    """

    def __init__(self, search: SearchConfig, project: Callable[[TrialConfig], Projection]) -> None:
        self._search, self._project = search, project
        self._courses: dict[str, Course] = {}
        self._tables: dict[int, Table] = {}
        self.objectives = {
            name: direction for name, direction in search.objectives.items() if name in FORESEEN
        }

    def epoch(self, job: Job, row: Mapping[str, float]) -> Stop | None:
        """Record one epoch of a running job; a :class:`Stop` if it should end now. Only trials are ever stopped."""
        if job.kind == "confirm":
            return None
        course = self._course(job)
        course.take(row)
        if job.kind != "trial" or course.stopped or course.epoch >= course.table.epochs:
            return None
        stop = self._out_of_reach(course) or self._beaten(course, int(row["epoch"]))
        course.table.rows[course.row]["stopped"] = stop is not None
        return stop

    def recall(self, job: Job, rows: Iterable[Mapping[str, float]]) -> None:
        """Record epochs that an earlier driver has handled."""
        for row in rows:
            self._course(job).take(row)

    def take_over(self, records: Iterable[Record]) -> None:
        """What later trials are compared with: the courses of those under earlier drivers, from their folders."""
        for record in records:
            folder = Path(record.job.folder)
            if not record.finished:
                self.recall(record.job, spool.rows(folder))
                continue
            # A lost process leaves no outcome, and its trial is as little alive as for the driver that lost it.
            outcome = read_outcome(folder) or Outcome(record.status, record.finals, spool.rows(folder))
            self.ended(record.job, outcome)

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Record how a job ended, with its history (the only thing known in a continued sweep)."""
        if job.kind == "confirm":
            return
        self.recall(job, outcome.history)
        course = self._course(job)
        trained = outcome.status in ("complete", "infeasible")
        course.table.rows[course.row]["stopped"] = not trained
        finals = outcome.finals
        if trained and all(math.isfinite(finals.get(name, math.nan)) for name in ("val_accuracy", *COSTS)):
            course.end(finals)

    def _course(self, job: Job) -> Course:
        if job.trial_id not in self._courses:
            self._courses[job.trial_id] = self._new_course(job)
        return self._courses[job.trial_id]

    def _new_course(self, job: Job) -> Course:
        epochs, prune = job.config.train.num_epochs, job.config.prune
        projection = None if job.kind == "baseline" else self._project(job.config)
        if epochs not in self._tables:
            self._tables[epochs] = Table(epochs, rung_epochs(self._search.rungs, epochs))
        table = self._tables[epochs]
        last = 0
        if prune is not None:
            last = last_event_epoch(prune, epochs)  # a clock that looks may take its time
            if prune.clock == INTERVAL_CLOCK:
                last = max(event_epochs(prune, epochs), default=0)
        return Course(
            table, table.enter(job, projection), "macs" if prune is None else prune.of, last, projection
        )

    # --- caps ---------------------------------------------------------------------------------------------------------

    def _out_of_reach(self, course: Course) -> Stop | None:
        """A constraint on the cost that this trial can no longer keep."""
        dense = course.foreseen.dense
        least = {kind: course.least_cost(kind) for kind in COSTS}
        best = {**least, **{name: 1 - least[kind] / dense[kind] for name, kind in _SHARES_REMOVED.items()}}
        if least["params"] > 0:
            best["compression"] = dense["params"] / least["params"]
        excesses = {
            limit.text: limit.excess(best, dense)
            for limit in self._search.limits()
            if limit.name in best and limit.op == ("<=" if limit.name in COSTS else ">=")
        }
        broken = {text: excess for text, excess in excesses.items() if excess > 0}
        if not broken:
            return None
        return Stop(f"stopped after epoch {course.epoch}: can no longer keep {', '.join(broken)}", broken)

    # --- rungs --------------------------------------------------------------------------------------------------------

    def _beaten(self, course: Course, epoch: int) -> Stop | None:
        """Whether the better share of all trials at this rung is better than this one."""
        if epoch not in course.table.rungs or not self.objectives:
            return None
        if math.isnan(course.table.rows[course.row]["so_far"][epoch - 1]):  # it was no number
            return None
        standing = self.standing(course.table.epochs, epoch)
        if len(standing.finals) < ENOUGH_ENDED:
            return None
        values = self.outlook(standing)
        usable = np.isfinite(values).all(axis=1)
        me = int(np.searchsorted(standing.rows, course.row))
        share = self._search.rung_share
        if not usable[me] or goes_on(values[usable], int(usable[:me].sum()), share, standing.alive[usable]):
            return None
        return Stop(f"stopped after epoch {epoch}: not among the better {share:.0%} there")

    def standing(self, epochs: int, epoch: int) -> Standing:
        """Trials that have come as far, out of those trained equally long, and who of them was trained to the end."""
        table = self._tables[epochs]
        rows, rung = table.rows, table.rungs.index(epoch)
        there = ~np.isnan(rows["so_far"][:, epoch - 1])
        # As in the runs that they stand for, at the log of the MACs that they end with.
        facts = np.column_stack([rows["best"][:, rung], np.log(np.maximum(1.0, rows["end"][:, 0]))])
        at, known = np.flatnonzero(there & rows["trial"]), there & ~np.isnan(rows["final"])
        twins = table.baselines(at)
        lacking = (twins < 0) | ~there[twins]

        def costs(when: str) -> dict[str, np.ndarray]:
            return {kind: rows[when][at, i] for i, kind in enumerate(COSTS)}

        return Standing(
            epoch,
            at,
            rows["so_far"][at, epoch - 1],
            rows["best"][at, rung],
            costs("now"),
            costs("end"),
            costs("dense"),
            alive=~rows["stopped"][at],
            baseline=np.where(lacking[:, None], math.nan, facts[twins]),
            known=facts[known],
            finals=rows["final"][known],
        )

    def outlook(self, at: Standing) -> np.ndarray:
        """(n, m): what each trial is expected to end with, every objective to be minimised; NaN = not known."""
        facts = np.column_stack([at.reading, np.log(np.maximum(1.0, at.end["macs"]))])
        accuracy = expected_accuracy(facts, at.known, at.finals)
        baseline = expected_accuracy(at.baseline, at.known, at.finals)
        foreseen = {name: FORESEEN[name](accuracy, baseline, at.end, at.dense) for name in self.objectives}
        return np.column_stack(
            [-foreseen[n] if d == "max" else foreseen[n] for n, d in self.objectives.items()]
        )
