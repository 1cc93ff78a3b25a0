"""A sweep on a cluster that does not exist (:mod:`fake_cluster`), and what its driver cost."""

from __future__ import annotations

import functools
import gc
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.scale.fake_cluster import Cluster
from benchmarks.scale.many_paths import Silent
from benchmarks.scale.many_trials import rss_mib
from gcp_core.config import TrialConfig
from sweeps.conduct.conductor import Conductor
from sweeps.config.sweep_config import load_config
from sweeps.records.ledger import Ledger
from sweeps.strategy.budget import Budget
from sweeps.strategy.feasibility import Feasibility
from sweeps.strategy.front import LiveFront
from sweeps.strategy.mirror import Mirror
from sweeps.strategy.stopping import Rungs
from sweeps.strategy.trunk import Trunk

#: Seconds of an epoch, median over the workers: a ResNet-56 on CIFAR-10 takes about as long on one GPU.
EPOCH_S = 30.0
GOALS = {"flat": 1.2, "report_median_ms": 20.0, "growth_mib": 300.0, "busy": 0.5}
SINGLE: dict[str, Any] = {
    "name": "many",
    "train": {"epochs": 20, "lr": {"choice": [round(0.02 * k, 2) for k in range(1, 17)]}},
    "prune": {
        "interval": {"choice": [1, 2, 3]},
        "ratio": {"low": 0.1, "high": 0.4, "step": 0.005},
        "target": {"low": 0.3, "high": 0.9},
    },
}
PATHS: dict[str, Any] = {
    "name": "many",
    "train": {"schedule": "cycles", "lr": {"low": 0.01, "high": 0.3}},
    "prune": {
        "start": {"low": 4, "high": 12},
        "interval": {"low": 2, "high": 8},
        "ratio": 0.35,
        "target": 0.95,
    },
}
#: What the driver's time is made of, inclusive: the parts overlap where one calls another.
PARTS: dict[str, tuple[type, str]] = {
    "Optuna: ask": (Mirror, "ask"),
    "Optuna: tell, and thinning": (Mirror, "tell"),
    "ledger: enter": (Ledger, "add"),
    "ledger: close": (Ledger, "close"),
    "ledger: snapshot": (Ledger, "add_snapshot"),
    "rungs": (Rungs, "epoch"),
    "trunk": (Trunk, "free"),
    "feasibility": (Feasibility, "impossible"),
    "projection": (Feasibility, "project"),
    "hypervolume": (LiveFront, "hypervolume"),
}


def accuracy(config: TrialConfig, removed: float) -> float:
    """Of a stub: falls with what is removed, best at a rate of 0.1, and chance has its share."""
    prune = config.prune
    rough = 0.0 if prune is None else (prune.ratio or 0.35) + 0.1 / prune.interval
    return (
        92
        - 20 * removed**4
        - rough
        - 10 * abs(config.train.lr - 0.1)
        + random.Random(config.key()).gauss(0, 0.3)
    )


class Parts:
    """CPU time of methods, in all and in the last window."""

    def __init__(self) -> None:
        self.spent = {name: [0, 0.0] for name in PARTS}
        for name, (cls, method) in PARTS.items():
            setattr(cls, method, self._timed(getattr(cls, method), self.spent[name]))

    def _timed(self, function: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[0] += 1
                spent[1] += time.thread_time() - start

        return timed


def measure(trials: int, workers: int, sampler: str, paths: bool) -> dict[str, Any]:
    """Run it; the numbers."""
    before, parts, wall = processes.load(), Parts(), time.perf_counter()
    with tempfile.TemporaryDirectory() as storage:
        search: dict[str, Any] = {"trials": trials, "concurrency": workers, "sampler": sampler}
        if paths:
            search["min_gain"] = 0.0  # all of them to their ends
        config = load_config({**(PATHS if paths else SINGLE), "search": search, "storage": storage})
        Path(config.folder).mkdir(parents=True)
        cluster = Cluster(workers, EPOCH_S, accuracy)
        watch = Windows(cluster, parts, max(1, trials // 10))
        ledger = Ledger(Path(config.folder), config.name, config.search.objectives)
        feasibility = Feasibility()
        feasibility.groups(
            config.space.resolve(config.space.first())
        )  # what torch imports for it is no trial's time
        conductor = Conductor(
            config, ledger, Silent(), Silent(), feasibility.impossible, Trunk(True, now=cluster.clock),
            None if paths else Rungs(config.search, feasibility.project),
            Budget(config.search, config.resources, now=cluster.clock),
        )  # fmt: skip
        cluster.run(conductor, watch.ended)
        records, baselines = ledger.records("trial"), len(ledger.records("baseline"))
        statuses = {s: sum(r.status == s for r in records) for s in sorted({r.status for r in records})}
        journal = (Path(config.folder) / "journal.log").stat().st_size
        snapshots = sum(map(len, ledger.snapshots().values()))
    account, rows = cluster.account, watch.rows
    reports = [1000 * s for kind in ("epoch", "snapshot") for s in account.cpu_s.get(kind, [])]
    flat = (
        rows[-2 if len(rows) > 2 else -1]["cpu_ms_per_trial"]
        / rows[1 if len(rows) > 2 else 0]["cpu_ms_per_trial"]
    )
    results: dict[str, Any] = {
        "trials": statuses,
        "baselines": baselines,
        "snapshots": snapshots,
        "workers": workers,
        "epoch_s": EPOCH_S,
        "simulated_hours": round(cluster.now_s / 3600, 1),
        "driver_cpu_s": round(account.total_s, 1),
        "driver_busy": round(account.total_s / cluster.now_s, 4),
        "driver_busy_worst_window": max(row["busy"] for row in rows),
        "cpu_ms_per_trial": round(1000 * account.total_s / trials, 2),
        "flat_last_but_one_to_second_tenth": round(flat, 3),
        "flat_last_to_first_tenth": round(rows[-1]["cpu_ms_per_trial"] / rows[0]["cpu_ms_per_trial"], 3),
        "report_median_ms": round(statistics.median(reports), 3),
        "calls_cpu_ms": {kind: _row(seconds) for kind, seconds in account.cpu_s.items()},
        "parts_cpu_s": {
            name: {"calls": n, "cpu_s": round(s, 1)} for name, (n, s) in parts.spent.items() if n
        },
        "growth_mib": round(rows[-1]["rss_mib"] - rows[0]["rss_mib"], 1),
        "journal_mb": round(journal / 1e6, 1),
        "goals": GOALS,
        "by_tenth": rows,
        "seconds": round(time.perf_counter() - wall, 1),
        "judged_by": "CPU time of the driver's thread; the machine was shared and busy, so no clock",
        "load_before": before,
        "load_after": processes.load(),
    }
    return results


def _row(seconds: list[float]) -> dict[str, float]:
    times = sorted(1000 * s for s in seconds)
    return {
        "calls": len(times),
        "median": round(statistics.median(times), 3),
        "p95": round(times[int(0.95 * (len(times) - 1))], 3),
        "worst": round(times[-1], 1),
        "total_s": round(sum(times) / 1000, 1),
    }


class Windows:
    """What every tenth of the trials cost, between the ends of its first and of its last."""

    def __init__(self, cluster: Cluster, parts: Parts, every: int) -> None:
        self._cluster, self._parts, self._every = cluster, parts, every
        self._last = (0.0, 0.0, dict.fromkeys(PARTS, 0.0))
        self.rows: list[dict[str, Any]] = []

    def ended(self, number: int) -> None:
        if number % self._every:
            return
        gc.collect()
        now, total = self._cluster.now_s, self._cluster.account.total_s
        before_s, before_total, before = self._last
        spent = {name: s for name, (_, s) in self._parts.spent.items()}
        self.rows.append(
            {
                "trials": number,
                "cpu_ms_per_trial": round(1000 * (total - before_total) / self._every, 2),
                "busy": round((total - before_total) / max(1e-9, now - before_s), 4),
                "rss_mib": rss_mib(),
                "parts_ms_per_trial": {
                    n: round(1000 * (s - before[n]) / self._every, 2) for n, s in spent.items() if s
                },
            }
        )
        self._last = (now, total, spent)
        print(self.rows[-1], flush=True)
