"""What the driver itself costs: 1,000 trials that train nothing, on two cores, with real Ray, ledger and MLflow.

Measured in the driver: the time to hand out a job (draw a point, look for repeats, enter it into the ledger), the parts
of that time, and how much memory grows between trial 50 and the last one.

    python -m benchmarks.scale.many_trials --out benchmarks/results/many_trials.json

With ``--workers`` neither Ray nor MLflow runs: that many workers report on a simulated clock, and what is measured is the
CPU time of the driver's thread with everything on (TPE, rungs, trunk, baselines; with ``--paths`` paths and snapshots),
by tenths of the trials, by kind of call and by part. *Busy* is CPU seconds of the driver per simulated second.

    python -m benchmarks.scale.many_trials --workers 100 --trials 10000 --out ...
    python -m benchmarks.scale.many_trials --workers 1000 --trials 3000 --out ...
    python -m benchmarks.scale.many_trials --workers 1000 --trials 2000 --paths --out ...
"""

from __future__ import annotations

import argparse
import functools
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import processes, record
from benchmarks.patient_ray import private_ray
from tests.sweeps.fake_runner import Report, Result

#: A trial of this length is what the time to hand out a job is compared with.
TRIAL_S = 10.0
FROM_TRIAL = 50
GOALS = {"ask_share": 0.01, "growth_mib": 100.0}
_DENSE = 1_000_000.0
TREE: dict[str, Any] = {
    "name": "many",
    "train": {"epochs": 3},
    "prune": {
        "interval": {"choice": [1, 2]},
        "ratio": {"low": 0.1, "high": 0.4, "step": 0.005},
        "target": {"low": 0.3, "high": 0.9, "step": 0.005},
    },
}


def stub(config: Any, *, report: Callable[[Report], Any] | None = None, checkpoint_dir: Any = None) -> Result:
    """A trial that trains nothing: accuracy falls with the third power of what is removed."""
    prune = config.prune
    removed = 0.0 if prune is None else prune.target
    accuracy = 95.0 - 20 * removed**3 - (0.0 if prune is None else prune.ratio + 0.1 / prune.interval)
    history = []
    for epoch in range(1, config.train.epochs + 1):
        left = 1 - removed * epoch / config.train.epochs
        metrics = {
            "train/loss": 1 / epoch,
            "val/loss": 1.1 / epoch,
            "val/accuracy": accuracy * epoch / config.train.epochs,
            "cost/macs": _DENSE * left,
            "cost/params": _DENSE / 20 * left,
            "prune/channels_left": 100 * left,
            "time/epoch_s": 0.0,
        }
        history.append(Report(epoch, metrics))
        if report is not None:
            report(history[-1])
    finals = {
        "val_accuracy": accuracy,
        "test_accuracy": accuracy - 0.5,
        "macs": _DENSE * (1 - removed),
        "params": _DENSE / 20 * (1 - removed),
        "macs_removed": removed,
        "params_removed": removed,
        "compression": 1 / (1 - removed),
        "latency_ms": 1 - removed / 2,
        "epochs": float(config.train.epochs),
        "device_hours": 0.0,
        "target_reached": 1.0,
    }
    return Result("complete", finals, tuple(history))


class Stopwatch:
    """Times calls of methods, by the clock and by the thread's CPU time, without changing what they do."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[tuple[float, float]]] = {}

    def attach(self, cls: type, name: str, keep: Callable[[Any], bool] = lambda result: True) -> None:
        """Time every call of ``cls.name`` whose result is worth keeping."""
        original = getattr(cls, name)
        kept = self.seconds.setdefault(f"{cls.__name__}.{name}", [])

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start, cpu = time.perf_counter(), time.thread_time()
            result = original(*args, **kwargs)
            if keep(result):
                kept.append((time.perf_counter() - start, time.thread_time() - cpu))
            return result

        setattr(cls, name, timed)

    def table(self) -> dict[str, dict[str, float]]:
        """Milliseconds per call: median (clock and CPU), 95th percentile, median of the last tenth; total seconds."""
        return {name: _row(seconds) for name, seconds in self.seconds.items() if seconds}


def _row(seconds: list[tuple[float, float]]) -> dict[str, float]:
    clock, cpu = ([entry[i] for entry in seconds] for i in (0, 1))
    last = clock[-max(1, len(clock) // 10) :]
    return {
        "calls": len(clock),
        "median_ms": round(1000 * statistics.median(clock), 2),
        "median_cpu_ms": round(1000 * statistics.median(cpu), 2),
        "p95_ms": round(1000 * sorted(clock)[int(0.95 * (len(clock) - 1))], 2),
        "last_tenth_median_ms": round(1000 * statistics.median(last), 2),
        "total_s": round(sum(clock), 2),
        "total_cpu_s": round(sum(cpu), 2),
    }


class Memory:
    """A progress that notes the driver's memory as trials end."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._start = time.perf_counter()

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing to close."""

    def started(self, job: Any) -> None:
        """Starts are not shown."""

    def epoch(self, job: Any, row: dict[str, float]) -> None:
        """Neither is an epoch."""

    def finished(self, job: Any, outcome: Any, done: int, total: int) -> None:
        if done % FROM_TRIAL == 0 and done and (not self.rows or self.rows[-1]["trials"] != done):
            gc.collect()  # what could be freed at any time is no growth
            seconds = time.perf_counter() - self._start
            self.rows.append({"trials": done, "rss_mib": rss_mib(), "seconds": round(seconds, 1)})
            print(self.rows[-1], flush=True)

    def front(self, hypervolume: float | None, left_s: float | None, stand_in: str) -> None:
        """Nor is the front."""

    def snapshot(self, job: Any, snap: Any) -> None:
        """Nor a path's model."""

    def rested(self, job: Any) -> None:
        """Nor that it rests."""

    def note(self, text: str) -> None:
        print(text, flush=True)


def rss_mib() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def watch() -> Stopwatch:
    """Time what the driver does for a trial."""
    from sweeps.conduct.conductor import Conductor
    from sweeps.records.ledger import Ledger
    from sweeps.strategy.sampling import Proposer

    watch = Stopwatch()
    watch.attach(Conductor, "next_job", keep=lambda job: job is not None)
    watch.attach(Proposer, "propose")
    watch.attach(Proposer, "_ask")
    watch.attach(Ledger, "add")
    watch.attach(Ledger, "close")
    watch.attach(Conductor, "finish")
    watch.attach(Conductor, "epoch")
    return watch


def main() -> None:
    """Run the sweep of stubs and print what it cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--workers", type=int, help="that many, which do not exist: no Ray, no MLflow")
    parser.add_argument("--paths", action="store_true", help="with --workers: the trials are paths")
    record.add_out(parser)
    options = parser.parse_args()
    if options.workers is not None:
        from benchmarks.scale.fake_sweep import measure

        record.write(options.out, measure(options.trials, options.workers, options.sampler, options.paths))
        return
    from sweeps.driver.launch import Launch, run

    stopwatch, memory, before = watch(), Memory(), processes.load()
    search = {"trials": options.trials, "concurrency": 2, "sampler": options.sampler}
    with tempfile.TemporaryDirectory() as storage, private_ray({**TREE, "storage": storage}):
        launch = Launch(
            runner="benchmarks.scale.many_trials:stub", check=lambda config: None, progress=memory
        )
        start = time.perf_counter()
        sweep = run({**TREE, "search": search, "storage": storage}, launch=launch)
        seconds = time.perf_counter() - start
    times = stopwatch.table()
    asked = times["Conductor.next_job"]["median_ms"] / 1000
    growth = memory.rows[-1]["rss_mib"] - memory.rows[0]["rss_mib"]
    results = {
        "trials": sweep.statuses,
        "seconds": round(seconds, 1),
        "seconds_per_trial": round(seconds / options.trials, 3),
        "ask_median_s": asked,
        "ask_share_of_a_10_s_trial": asked / TRIAL_S,
        "growth_mib": growth,
        "from_trial": memory.rows[0]["trials"],
        "to_trial": memory.rows[-1]["trials"],
        "goals": GOALS,
        "met": asked / TRIAL_S < GOALS["ask_share"] and growth <= GOALS["growth_mib"],
        "times": times,
        "memory": memory.rows,
        "load_before": before,
        "load_after": processes.load(),
    }
    record.write(options.out, results)


if __name__ == "__main__":
    main()
