"""The rule of ``sweeps.strategy.stopping`` a second time, trial by trial: nothing is kept that can be worked out again.

Every decision looks at the whole course of every peer and of every baseline, fits the regression anew, and measures the
spacing of all rows of all ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from analysis.front.pareto import rank_costs
from gcp_core.config import INTERVAL_CLOCK, TrialConfig
from gcp_core.errors import required
from gcp_core.schedule.clock import event_epochs, last_event_epoch
from sweeps.config.search import SearchConfig
from sweeps.records.job import Job, Outcome, Stop
from sweeps.strategy.feasibility import Projection
from sweeps.strategy.stopping.courses import rung_epochs

ENOUGH_ENDED = 6
_COSTS = ("macs", "params")


@dataclass
class _Course:
    """What is known of one trial: its accuracy after each epoch in per cent, its cost now, and how it ended.

    A baseline has no ``projection``: it costs what it costs. ``stopped``: it will not be trained to the end.
    """

    job: Job
    projection: Projection | None
    accuracy: dict[int, float] = field(default_factory=dict)
    now: dict[str, float] = field(default_factory=dict)
    final_accuracy: float | None = None
    stopped: bool = False

    @property
    def epoch(self) -> int:
        return max(self.accuracy, default=0)

    @property
    def epochs(self) -> int:
        return self.job.config.train.num_epochs

    @property
    def foreseen(self) -> Projection:
        """``projection`` of a trial that prunes; ValueError for a baseline."""
        return required(self.projection, "the projection of a baseline")

    def reading(self, epoch: int) -> float:
        """The best accuracy up to an epoch: right after an event it says little about the trial."""
        return max(value for at, value in self.accuracy.items() if at <= epoch)

    def events_over(self) -> bool:
        """Whether nothing will be removed any more."""
        prune = self.job.config.prune
        if prune is None or self.final_accuracy is not None:
            return True
        last = last_event_epoch(prune, self.epochs)  # a clock that looks may take its time
        if prune.clock == INTERVAL_CLOCK:
            last = max(event_epochs(prune, self.epochs), default=0)
        return self.epoch >= last or self.now[prune.of] <= self.foreseen.limit

    def final_cost(self, kind: str) -> float:
        """MACs or params at the end, as far as can be foreseen."""
        return self.now[kind] if self.events_over() else min(self.now[kind], self.foreseen.final[kind])


class SlowRungs:
    """As ``Rungs``, without the caps.

    Args:
        search: objectives, constraints, rungs, and the share that continues.
        project: what a trial will cost in the end.
    """

    def __init__(self, search: SearchConfig, project: Callable[[TrialConfig], Projection]) -> None:
        self._search, self._project = search, project
        self._courses: dict[str, _Course] = {}
        self._baselines: dict[str, _Course] = {}
        self.objectives = {
            name: direction for name, direction in search.objectives.items() if name in FORESEEN
        }

    def epoch(self, job: Job, row: Mapping[str, float]) -> Stop | None:
        """Record one epoch of a running job; a :class:`Stop` if it should end now. Only trials are ever stopped."""
        if job.kind == "confirm":
            return None
        course = self._course(job)
        _take(course, row)
        if job.kind != "trial" or course.stopped or course.epoch >= course.epochs:
            return None
        stop = self._beaten(course, int(row["epoch"]))
        course.stopped = stop is not None
        return stop

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Record how a job ended, with its history (the only thing known in a continued sweep)."""
        if job.kind == "confirm":
            return
        course = self._course(job)
        for row in outcome.history:
            _take(course, row)
        course.stopped = outcome.status not in ("complete", "infeasible")
        finals = outcome.finals
        needed = ("val_accuracy", *_COSTS)
        if not course.stopped and all(math.isfinite(finals.get(name, math.nan)) for name in needed):
            course.final_accuracy = finals["val_accuracy"]
            course.now = {kind: finals[kind] for kind in _COSTS}

    def _course(self, job: Job) -> _Course:
        if job.trial_id not in self._courses:
            course = _Course(job, None if job.kind == "baseline" else self._project(job.config))
            self._courses[job.trial_id] = course
            if job.kind == "baseline":
                self._baselines[job.config.key()] = course
        return self._courses[job.trial_id]

    def _beaten(self, course: _Course, epoch: int) -> Stop | None:
        """Whether the better share of all trials at this rung is better than this one."""
        search = self._search
        if epoch not in rung_epochs(search.rungs, course.epochs) or not self.objectives:
            return None
        if epoch not in course.accuracy:  # it was no number
            return None
        known = self.known(course.epochs, epoch)
        if len(known) < ENOUGH_ENDED:
            return None
        peers = self.peers(course.epochs, epoch)
        values = self.outlook(peers, known, epoch)
        usable = np.isfinite(values).all(axis=1)
        me = next(i for i, peer in enumerate(peers) if peer is course)
        alive = np.array([not peer.stopped for peer in peers])
        if not usable[me] or goes_on(
            values[usable], int(usable[:me].sum()), search.rung_share, alive[usable]
        ):
            return None
        return Stop(f"stopped after epoch {epoch}: not among the better {search.rung_share:.0%} there")

    def peers(self, epochs: int, epoch: int) -> list[_Course]:
        """Trials that have come as far, out of those trained equally long, in the order of their first report."""
        return [
            course
            for course in self._courses.values()
            if course.job.kind == "trial" and course.epochs == epochs and epoch in course.accuracy
        ]

    def known(self, epochs: int, epoch: int) -> list[_Course]:
        """Runs of this length that were trained to the end, baselines included."""
        return [
            course
            for course in self._courses.values()
            if course.final_accuracy is not None and course.epochs == epochs and epoch in course.accuracy
        ]

    def outlook(self, peers: Sequence[_Course], known: Sequence[_Course], epoch: int) -> np.ndarray:
        """(n, m): what each trial is expected to end with, every objective to be minimised; NaN = not known."""
        lacking = [b for b in map(self._baseline, peers) if b is not None and epoch in b.accuracy]
        courses = [*peers, *lacking]
        accuracy = expected_accuracy(_facts(courses, epoch), _facts(known, epoch), _finals(known))
        of_baseline = dict(zip(map(id, lacking), accuracy[len(peers) :], strict=True))
        rows = []
        for course, value in zip(peers, accuracy[: len(peers)], strict=True):
            end = {kind: course.final_cost(kind) for kind in _COSTS}
            baseline = of_baseline.get(id(self._baseline(course)), math.nan)
            foreseen = {
                name: FORESEEN[name](value, baseline, end, course.foreseen.dense) for name in self.objectives
            }
            rows.append([-foreseen[n] if d == "max" else foreseen[n] for n, d in self.objectives.items()])
        return np.array(rows)

    def _baseline(self, course: _Course) -> _Course | None:
        return self._baselines.get(course.job.baseline_key)


FORESEEN: dict[str, Callable[..., float]] = {
    "val_accuracy": lambda accuracy, baseline, end, dense: accuracy,
    "accuracy_drop": lambda accuracy, baseline, end, dense: baseline - accuracy,
    "macs": lambda accuracy, baseline, end, dense: end["macs"],
    "params": lambda accuracy, baseline, end, dense: end["params"],
    "macs_removed": lambda accuracy, baseline, end, dense: 1 - end["macs"] / dense["macs"],
}


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
    weights = np.linalg.solve(x.T @ x + np.eye(2), x.T @ y)
    if weights[0] < 0:
        weights = np.array([0.0, (x[:, 1] @ y) / (x[:, 1] @ x[:, 1] + 1.0)])
    away = (facts - centre) / scale
    return finals.mean() + (away[:, 0] * weights[0] + away[:, 1] * weights[1])


def goes_on(values: np.ndarray, place: int, share: float, alive: np.ndarray) -> bool:
    """Whether row ``place`` is among the better ``share`` (0..1], rounded up) of ``values`` (n, m; minimised).

    Rank first (0 = not dominated), wider spacing second, earlier row third. The ends of the front always continue.
    """
    ranks = rank_costs(values)
    room = spacing(values, ranks, alive)
    if ranks[place] == 0 and math.isinf(room[place]):
        return True
    order = np.lexsort((np.arange(len(values)), -room, ranks))
    return int(np.flatnonzero(order == place)[0]) < math.ceil(share * len(values) - 1e-9)


def spacing(values: np.ndarray, ranks: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """(n,) crowding distance: the gap between a row's two neighbours in every objective, as a share of its rank's
    extent, summed; infinite without a neighbour on either side. Neighbours are other rows of its rank that are
    ``alive`` ((n,) bool): where all have been stopped there is room."""
    room = np.zeros(len(values))
    for i, value in enumerate(values):
        peers = ranks == ranks[i]
        others = peers & alive
        others[i] = False
        near = values[others]
        for d, extent in enumerate(np.ptp(values[peers], axis=0)):
            below, above = near[near[:, d] <= value[d], d], near[near[:, d] >= value[d], d]
            if not (len(below) and len(above)):
                room[i] = math.inf
            elif extent > 0:
                room[i] += (above.min() - below.max()) / extent
    return room


def _take(course: _Course, row: Mapping[str, float]) -> None:
    if math.isfinite(row["val/accuracy"]):
        course.accuracy[int(row["epoch"])] = row["val/accuracy"]
    if course.final_accuracy is None:
        course.now = {kind: row[f"cost/{kind}"] for kind in _COSTS}


def _facts(courses: Sequence[_Course], epoch: int) -> np.ndarray:
    rows = [(course.reading(epoch), math.log(max(1.0, course.final_cost("macs")))) for course in courses]
    return np.array(rows, dtype=float).reshape(-1, 2)


def _finals(courses: Sequence[_Course]) -> np.ndarray:
    return np.array([course.final_accuracy for course in courses], dtype=float)
