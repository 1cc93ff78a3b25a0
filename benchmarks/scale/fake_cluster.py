"""A cluster that does not exist: any number of workers on a simulated clock, and the real driver above them.

Everything of the driver but Ray and MLflow is the real thing: the searcher that Tune would ask, the conductor, sampler,
rungs, trunk, ledger on disk. A worker reports an epoch when the simulated clock says so, as JSON, as the real ones do;
it trains nothing and writes no checkpoint. So the CPU time of this process is the driver's, apart from the little that
the workers take to make up their reports, which is kept apart.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gcp_core.config import TrialConfig
from sweeps.conduct.conductor import Conductor
from sweeps.config.paths import steps_ahead
from sweeps.driver.searcher import ConductorSearcher
from sweeps.records.job import Job, Outcome, Snap, read_rest, read_stop
from sweeps.records.studies import quiet_optuna
from sweeps.worker.trial import PAYLOAD

DENSE = {"macs": 12_000_000.0, "params": 290_000.0}


@dataclass
class Account:
    """What the driver's thread was busy with.

    Attributes:
        cpu_s: kind of call -> CPU seconds of every call, in their order.
        ended: at the end of every trial: (simulated seconds, the driver's CPU seconds until then).
    """

    cpu_s: dict[str, list[float]] = field(default_factory=dict)
    total_s: float = 0.0
    ended: list[tuple[float, float]] = field(default_factory=list)

    def call(self, kind: str, function: Callable[..., Any], *args: Any) -> Any:
        start = time.thread_time()
        try:
            return function(*args)
        finally:
            spent = time.thread_time() - start
            self.cpu_s.setdefault(kind, []).append(spent)
            self.total_s += spent


@dataclass
class _Running:
    job: Job
    tune_id: str
    epoch_s: float
    rows: list[dict[str, float]] = field(default_factory=list)
    snaps: list[Snap] = field(default_factory=list)
    level: int = 0
    epoch: int = 0


class Cluster:
    """``workers`` of them, one trial each. ``epoch_s``: seconds of an epoch, median over the workers.

    Attributes:
        now_s: the simulated clock; hand :meth:`clock` to whatever of the driver asks for the time.
    """

    def __init__(self, workers: int, epoch_s: float, finals: Callable[[TrialConfig, float], float]) -> None:
        self.workers, self.epoch_s, self.accuracy = workers, epoch_s, finals
        self.now_s = 0.0
        self.account = Account()
        self._rng = random.Random(0)
        self._events: list[tuple[float, int, _Running]] = []
        self._tie = itertools.count()
        self._paths: dict[str, tuple[int, int, list[Snap]]] = {}

    def clock(self) -> float:
        return self.now_s

    def run(self, conductor: Conductor, seen: Callable[[int], None] = lambda ended: None) -> None:
        """Until the sweep has ended; ``seen`` is told how many trials have."""
        with quiet_optuna():
            self._run(conductor, seen)

    def _run(self, conductor: Conductor, seen: Callable[[int], None]) -> None:
        searcher = ConductorSearcher(conductor, "nobody:runs")
        free, over = self.workers, False
        while True:
            while free and not over:
                tune_id = f"{next(self._tie):08x}"
                answer = self.account.call("suggest", searcher.suggest, tune_id)
                over = answer == ConductorSearcher.FINISHED
                if over or answer is None:
                    break
                free -= 1
                self._start(tune_id, Job.from_json(answer["job"]))
            if not self._events:
                break
            self.now_s, _, running = heapq.heappop(self._events)
            if self._end_of_epoch(searcher, running):
                free += 1
                if running.job.kind == "trial":
                    self.account.ended.append((self.now_s, self.account.total_s))
                    seen(len(self.account.ended))
            else:
                self._push(running)
        conductor.conclude()

    def _start(self, tune_id: str, job: Job) -> None:
        running = _Running(job, tune_id, self.epoch_s * self._rng.lognormvariate(0, 0.3))
        if job.trial_id in self._paths:
            running.level, running.epoch, running.snaps = self._paths.pop(job.trial_id)
        self._push(running)

    def _push(self, running: _Running) -> None:
        epochs = self._cycle(running) if running.job.config.is_path else 1
        seconds = epochs * running.epoch_s * self._rng.uniform(0.95, 1.05)
        heapq.heappush(self._events, (self.now_s + seconds, next(self._tie), running))

    def _cycle(self, running: _Running) -> int:
        prune = running.job.config.pruning
        return prune.dense_epochs if running.level == 0 else prune.interval

    # --- what a worker reports ----------------------------------------------------------------------------------------

    def _end_of_epoch(self, searcher: ConductorSearcher, running: _Running) -> bool:
        """Report; whether the worker is free again."""
        if running.job.config.is_path:
            return self._end_of_cycle(searcher, running)
        job, config = running.job, running.job.config
        running.epoch += 1
        removed = 0.0 if config.prune is None else config.pruning.target or 0.0
        share = running.epoch / config.train.num_epochs
        left = 1 - removed * min(1.0, share / 0.75)
        accuracy = self.accuracy(config, removed)
        so_far = accuracy * (1 - 0.6 * math.exp(-4 * share)) + random.Random(f"{job.trial_id} {share}").gauss(
            0, 0.4
        )
        row = _row(running.epoch, so_far, left)
        running.rows.append(row)
        self._say("epoch", searcher, running, {"epoch": row})
        if job.kind == "trial" and read_stop(job.folder) is not None:
            self._over(searcher, running, Outcome("stopped", {}, tuple(running.rows), "stopped", 1.0))
            return True
        if running.epoch < config.train.num_epochs:
            return False
        finals = _finals(accuracy, removed, running.epoch)
        self._over(
            searcher, running, Outcome("complete", finals, tuple(running.rows), "", 1.0, _weights(job, 0))
        )
        return True

    def _end_of_cycle(self, searcher: ConductorSearcher, running: _Running) -> bool:
        """A path's cycle at once: its epochs' reports, then the snapshot's."""
        job, steps = running.job, list(steps_ahead(running.job.config))
        removed = steps[running.level].removed
        accuracy = self.accuracy(job.config, removed)
        for _ in range(self._cycle(running)):
            running.epoch += 1
            row = _row(running.epoch, accuracy - 2.0, 1 - removed)
            running.rows.append(row)
            self._say("epoch", searcher, running, {"epoch": row})
        cost = sum(step.cost for step in steps[: running.level + 1])
        finals = {**_finals(accuracy, removed, running.epoch), "train_cost": cost}
        snap = Snap(running.level, running.epoch, finals, _weights(job, running.level))
        running.snaps.append(snap)
        self._say("snapshot", searcher, running, {"snapshot": snap.to_dict()})
        word = read_rest(job.folder)
        rests = word is not None and word.rest and word.level == running.level
        running.level += 1
        deepest = running.level == len(steps)
        if not (rests or deepest):
            return False
        how = ("complete", "target") if deepest else ("paused", "paused")
        if not deepest:
            self._paths[job.trial_id] = (running.level, running.epoch, list(running.snaps))
        outcome = Outcome(
            how[0], finals, tuple(running.rows), "", 1.0, snap.weights_sha256,
            snapshots=tuple(running.snaps), ended=how[1], part=job.part,
        )  # fmt: skip
        self._over(searcher, running, outcome)
        return True

    def _say(
        self, kind: str, searcher: ConductorSearcher, running: _Running, content: dict[str, Any]
    ) -> None:
        result = {PAYLOAD: json.dumps(content)}
        self.account.call(kind, searcher.on_trial_result, running.tune_id, result)

    def _over(self, searcher: ConductorSearcher, running: _Running, outcome: Outcome) -> None:
        result = {PAYLOAD: json.dumps({"outcome": outcome.to_json()})}
        self.account.call("end", searcher.on_trial_complete, running.tune_id, result)


def _row(epoch: int, accuracy: float, left: float) -> dict[str, float]:
    return {
        "epoch": epoch,
        "train/loss": 1 / epoch,
        "val/loss": 1.1 / epoch,
        "val/accuracy": accuracy,
        "cost/macs": DENSE["macs"] * left,
        "cost/params": DENSE["params"] * left,
        "prune/channels_left": 100 * left,
        "time/epoch_s": 30.0,
        "at": 1_700_000_000_000 + epoch,
    }  # fmt: skip


def _finals(accuracy: float, removed: float, epochs: int) -> dict[str, float]:
    return {
        "val_accuracy": accuracy,
        "test_accuracy": accuracy - 0.5,
        "macs": DENSE["macs"] * (1 - removed),
        "params": DENSE["params"] * (1 - removed),
        "macs_removed": removed,
        "params_removed": removed,
        "compression": 1 / (1 - removed),
        "latency_ms": 1 - removed / 2,
        "epochs": float(epochs),
        "device_hours": epochs / 3600,
        "target_reached": 1.0,
    }


def _weights(job: Job, level: int) -> str:
    return f"{job.config.key()}{level:052x}"
