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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis.front.pareto import rank_costs
from gcp_core.config import INTERVAL_CLOCK, TrialConfig
from gcp_core.errors import required
from gcp_core.schedule.clock import event_epochs, last_event_epoch
from sweeps.config.search import SearchConfig
from sweeps.records import spool
from sweeps.records.job import Job, Outcome, Record, Stop, read_outcome

if TYPE_CHECKING:  # it brings torch
    from sweeps.strategy.feasibility import Projection

#: Nobody is stopped before this many runs of its length (baselines included) have been trained to the end: fewer say
#: too little about how final accuracies come about.
ENOUGH_ENDED = 6
#: Of the ridge regression on standardised columns.
_RIDGE = 1.0
_COSTS = ("macs", "params")
_SHARES_REMOVED = {"macs_removed": "macs", "params_removed": "params"}


class _Table:
    """What the rule compares, of all runs that are trained equally long: a row each, in the order of their first report.

    Columns: whether it is a ``trial`` (not a baseline), whether it was ``stopped``, its ``final`` accuracy (NaN = not
    trained to the end), its cost ``now``, at its ``end`` as far as can be foreseen, and ``dense`` (MACs, params), the
    number of its baseline among ``twins``, its accuracy after every epoch up to the last rung (``so_far``), and the best
    up to each rung (``best``). A decision looks at columns, so that it costs no step of Python per trial.
    """

    def __init__(self, epochs: int, rungs: tuple[int, ...]) -> None:
        self.epochs, self.rungs = epochs, rungs
        self._twins: dict[str, int] = {}
        self._baseline_rows: list[int] = []
        shapes = {"now": 2, "end": 2, "dense": 2, "so_far": max(rungs, default=0), "best": len(rungs)}
        wide = [(name, "f8", (width,)) for name, width in shapes.items()]
        kinds = [("trial", "?"), ("stopped", "?"), ("final", "f8"), ("twin", "i8"), *wide]
        self._rows, self._used = np.zeros(64, dtype=kinds), 0

    @property
    def rows(self) -> np.ndarray:
        """(n,) a structured array, written in place."""
        return self._rows[: self._used]

    def enter(self, job: Job, projection: Projection | None) -> int:
        """A new row; its number."""
        number = self._used
        if number == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._used += 1
        row, key = self._rows[number], job.baseline_key if projection is not None else job.config.key()
        row["trial"] = projection is not None
        row["final"], row["so_far"], row["best"] = math.nan, math.nan, math.nan
        if key not in self._twins:
            self._twins[key] = len(self._baseline_rows)
            self._baseline_rows.append(-1)
        row["twin"] = self._twins[key]
        if projection is None:
            self._baseline_rows[row["twin"]] = number
        else:
            row["dense"] = [projection.dense[kind] for kind in _COSTS]
        return number

    def baselines(self, peers: np.ndarray) -> np.ndarray:
        """The row of the baseline of each row in ``peers``, -1 = it has not reported yet."""
        return np.array(self._baseline_rows, dtype=int)[self.rows["twin"][peers]]


@dataclass(slots=True)
class _Course:
    """One run: where it stands in its table, and what its cost depends on.

    A baseline has no ``projection``: it costs what it costs. ``last_event``: no event after that epoch.
    """

    table: _Table
    row: int
    of: str
    last_event: int
    projection: Projection | None
    epoch: int = 0
    ended: bool = False

    @property
    def foreseen(self) -> Projection:
        """``projection`` of a trial that prunes; ValueError for a baseline."""
        return required(self.projection, "the projection of a baseline")

    @property
    def stopped(self) -> bool:
        """Whether it will not be trained to the end."""
        return bool(self.table.rows[self.row]["stopped"])

    def now(self, kind: str) -> float:
        return float(self.table.rows[self.row]["now"][_COSTS.index(kind)])

    def take(self, row: Mapping[str, float]) -> None:
        """One epoch is over; one that was trained again counts as reported last."""
        mine, epoch, accuracy = self.table.rows[self.row], int(row["epoch"]), row["val/accuracy"]
        if math.isfinite(accuracy):
            self.epoch = max(self.epoch, epoch)
            if epoch <= len(mine["so_far"]):
                mine["so_far"][epoch - 1] = accuracy
                for i, rung in enumerate(self.table.rungs):
                    if epoch <= rung:  # right after an event the accuracy says little: the best one counts
                        mine["best"][i] = np.nanmax(mine["so_far"][:rung])
        if not self.ended:
            mine["now"] = [row[f"cost/{kind}"] for kind in _COSTS]
        self._foresee()

    def end(self, finals: Mapping[str, float]) -> None:
        """It has been trained to the end."""
        mine, self.ended = self.table.rows[self.row], True
        mine["final"], mine["now"] = finals["val_accuracy"], [finals[kind] for kind in _COSTS]
        self._foresee()

    def _foresee(self) -> None:
        mine = self.table.rows[self.row]
        mine["end"] = mine["now"]
        if not self.events_over():
            mine["end"] = np.minimum(mine["now"], [self.foreseen.final[kind] for kind in _COSTS])

    def events_over(self) -> bool:
        """Whether nothing will be removed any more."""
        if self.projection is None or self.ended:
            return True
        return self.epoch >= self.last_event or self.now(self.of) <= self.projection.limit

    def least_cost(self, kind: str) -> float:
        """What the trial will cost at least at its end."""
        return self.now(kind) if self.events_over() else self.foreseen.least[kind]


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
        self._courses: dict[str, _Course] = {}
        self._tables: dict[int, _Table] = {}
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
            outcome = read_outcome(record.job.folder) if record.finished else None
            if outcome is not None:
                self.ended(record.job, outcome)
            else:
                self.recall(record.job, spool.rows(Path(record.job.folder)))

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Record how a job ended, with its history (the only thing known in a continued sweep)."""
        if job.kind == "confirm":
            return
        self.recall(job, outcome.history)
        course = self._course(job)
        trained = outcome.status in ("complete", "infeasible")
        course.table.rows[course.row]["stopped"] = not trained
        finals = outcome.finals
        if trained and all(math.isfinite(finals.get(name, math.nan)) for name in ("val_accuracy", *_COSTS)):
            course.end(finals)

    def _course(self, job: Job) -> _Course:
        if job.trial_id not in self._courses:
            self._courses[job.trial_id] = self._new_course(job)
        return self._courses[job.trial_id]

    def _new_course(self, job: Job) -> _Course:
        epochs, prune = job.config.train.num_epochs, job.config.prune
        projection = None if job.kind == "baseline" else self._project(job.config)
        if epochs not in self._tables:
            self._tables[epochs] = _Table(epochs, rung_epochs(self._search.rungs, epochs))
        table = self._tables[epochs]
        last = 0
        if prune is not None:
            last = last_event_epoch(prune, epochs)  # a clock that looks may take its time
            if prune.clock == INTERVAL_CLOCK:
                last = max(event_epochs(prune, epochs), default=0)
        return _Course(
            table, table.enter(job, projection), "macs" if prune is None else prune.of, last, projection
        )

    # --- caps ---------------------------------------------------------------------------------------------------------

    def _out_of_reach(self, course: _Course) -> Stop | None:
        """A constraint on the cost that this trial can no longer keep."""
        dense = course.foreseen.dense
        least = {kind: course.least_cost(kind) for kind in _COSTS}
        best = {**least, **{name: 1 - least[kind] / dense[kind] for name, kind in _SHARES_REMOVED.items()}}
        if least["params"] > 0:
            best["compression"] = dense["params"] / least["params"]
        excesses = {
            limit.text: limit.excess(best, dense)
            for limit in self._search.limits()
            if limit.name in best and limit.op == ("<=" if limit.name in _COSTS else ">=")
        }
        broken = {text: excess for text, excess in excesses.items() if excess > 0}
        if not broken:
            return None
        return Stop(f"stopped after epoch {course.epoch}: can no longer keep {', '.join(broken)}", broken)

    # --- rungs --------------------------------------------------------------------------------------------------------

    def _beaten(self, course: _Course, epoch: int) -> Stop | None:
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
            return {kind: rows[when][at, i] for i, kind in enumerate(_COSTS)}

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


_Costs = Mapping[str, np.ndarray]
_Foresight = Callable[[np.ndarray, np.ndarray, _Costs, _Costs], np.ndarray]
#: Objectives that can be foreseen, (n,) from (accuracy, baseline's accuracy, final cost, unpruned cost). MACs stand in
#: for what is measured in seconds. Other objectives are left out of the comparison.
FORESEEN: dict[str, _Foresight] = {
    "val_accuracy": lambda accuracy, baseline, end, dense: accuracy,
    "accuracy_drop": lambda accuracy, baseline, end, dense: baseline - accuracy,
    "macs": lambda accuracy, baseline, end, dense: end["macs"],
    "params": lambda accuracy, baseline, end, dense: end["params"],
    "macs_removed": lambda accuracy, baseline, end, dense: 1 - end["macs"] / dense["macs"],
    "params_removed": lambda accuracy, baseline, end, dense: 1 - end["params"] / dense["params"],
    "compression": lambda accuracy, baseline, end, dense: dense["params"] / end["params"],
    "latency_ms": lambda accuracy, baseline, end, dense: end["macs"],
    "latency_share": lambda accuracy, baseline, end, dense: end["macs"] / dense["macs"],
    "device_hours": lambda accuracy, baseline, end, dense: end["macs"],
}


def rung_epochs(rungs: Sequence[float], epochs: int) -> tuple[int, ...]:
    """The epochs after which trials of this length are compared: shares of ``epochs``, rounded; never before the second.

    >>> rung_epochs((0.25, 0.5), 12)
    (3, 6)
    """
    at = {max(2, math.floor(share * epochs + 0.5)) for share in rungs}
    return tuple(sorted(epoch for epoch in at if epoch < epochs))


def expected_accuracy(facts: np.ndarray, known: np.ndarray, finals: np.ndarray) -> np.ndarray:
    """(n,) final accuracy in per cent that trials may expect, learned from those trained to the end.

    At equal epochs a small net is ahead of a large one, which overtakes it later: compared by the accuracy so far, the
    accurate end of the front would be stopped. So ``final = a + b * accuracy so far + c * log(final MACs)``, with
    ``b >= 0``, by ridge regression. Where accuracy so far says nothing, ``b`` is near 0 and spacing decides.

    Args:
        facts: (n, 2) accuracy so far, log of the final MACs.
        known: (k, 2) the same of trials that have ended.
        finals: (k,) their final accuracies.
    """
    centre, scale = known.mean(axis=0), known.std(axis=0)
    scale[scale == 0] = 1.0
    x, y = (known - centre) / scale, finals - finals.mean()
    weights = np.linalg.solve(x.T @ x + _RIDGE * np.eye(2), x.T @ y)
    if weights[0] < 0:
        weights = np.array([0.0, (x[:, 1] @ y) / (x[:, 1] @ x[:, 1] + _RIDGE)])
    away = (facts - centre) / scale
    # Not a matrix product: that rounds a row as its place among the others has it, and equals should stay equal.
    return finals.mean() + (away[:, 0] * weights[0] + away[:, 1] * weights[1])


def goes_on(values: np.ndarray, place: int, share: float, alive: np.ndarray) -> bool:
    """Whether row ``place`` is among the better ``share`` (0..1], rounded up) of ``values`` (n, m; minimised).

    Rank first (0 = not dominated), wider spacing second, earlier row third. The ends of the front always continue.
    """
    quota, own = math.ceil(share * len(values) - 1e-9), values[place]
    # Who dominates it has a lower rank, who is dominated by it a higher one: often that is enough, and cheap to count.
    equal = (values == own).all(axis=1)
    if ((values <= own).all(axis=1) & ~equal).sum() >= quota:
        return False
    if len(values) - ((values >= own).all(axis=1) & ~equal).sum() <= quota:
        return True
    ranks = rank_costs(values)
    mine = np.flatnonzero(ranks == ranks[place])  # only within its own rank the spacing matters
    room, me = spacing(values[mine], alive[mine]), int(np.searchsorted(mine, place))
    if ranks[place] == 0 and math.isinf(room[me]):
        return True
    before = int((ranks < ranks[place]).sum() + (room > room[me]).sum() + (room[:me] == room[me]).sum())
    return before < quota


def spacing(values: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """(n,) crowding distance of the rows of one rank: the gap between a row's two neighbours in every objective, as a
    share of the rank's extent, summed; infinite without a neighbour on either side. Neighbours are other rows that are
    ``alive`` ((n,) bool): where all have been stopped there is room."""
    room = np.zeros(len(values))
    for column, extent in zip(values.T, np.ptp(values, axis=0), strict=True):
        near = np.sort(column[alive])
        first, after = np.searchsorted(near, column, "left"), np.searchsorted(near, column, "right")
        equal = (
            after - first - alive > 0
        )  # another one has the very value: both neighbours are there, and no gap
        lonely = ~equal & ((first == 0) | (after == len(near)))
        room[lonely] = math.inf
        between = ~(equal | lonely)
        if extent > 0:
            room[between] += (near[after[between]] - near[first[between] - 1]) / extent
    return room
