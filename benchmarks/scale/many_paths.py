"""What a driver of paths costs: 1,000 paths of eight snapshots that train nothing, with a real ledger on disk.

Measured in the driver, without Ray and MLflow: the time to hand out a job (draw a point or choose a resting path), the
time to decide at a snapshot, and how much memory grows between path 50 and the last one. With ``search.min_gain: 0``
every path comes to its end at last, and the rule has as many resting paths to choose from as it likes.

    python -m benchmarks.scale.many_paths --out benchmarks/results/many_paths.json
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter, deque
from pathlib import Path
from typing import Any

from benchmarks import processes, record
from benchmarks.scale.many_trials import Memory, Stopwatch
from gcp_core.config import TrialConfig
from sweeps.conduct.conductor import Conductor
from sweeps.config.paths import steps_ahead
from sweeps.config.sweep_config import load_config
from sweeps.records.job import Job, Outcome, Snap, read_rest
from sweeps.records.ledger import Ledger

GOALS = {"ask_median_ms": 60.0, "growth_mib": 120.0}
DENSE = 1_000_000.0
TREE: dict[str, Any] = {
    "name": "many-paths",
    "train": {"schedule": "cycles", "lr": {"low": 0.01, "high": 0.3}},
    "prune": {
        "start": {"low": 2, "high": 12},
        "interval": {"low": 2, "high": 8},
        "ratio": 0.35,
        "target": 0.95,
    },
}


class Silent:
    """A tracker that writes nothing, or a progress that shows nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def finals(config: TrialConfig, removed: float, epoch: int, cost: float) -> dict[str, float]:
    """A model of a stub path: longer cycles are better, a tenth of the MACs is dear, and chance has its share."""
    luck = random.Random(f"{config.key()} {epoch}").gauss(0, 0.6)
    accuracy = 70 + 0.5 * config.prune.interval + 20 * config.train.lr - 12 * removed**8 + luck
    accuracy -= 10 / config.prune.start if not removed else 0.0
    return {
        "val_accuracy": accuracy, "test_accuracy": accuracy, "macs": DENSE * (1 - removed),
        "params": DENSE / 20 * (1 - removed), "macs_removed": removed, "params_removed": removed,
        "compression": 1 / (1 - removed), "epochs": float(epoch), "device_hours": epoch / 3600,
        "train_cost": cost, "target_reached": float(removed >= 0.95),
    }  # fmt: skip


class Worker:
    """Runs the conductor's jobs one cycle at a time, ``slots`` of them at once."""

    def __init__(self, conductor: Conductor, slots: int) -> None:
        self.conductor, self.slots = conductor, slots
        self.level: Counter[str] = Counter()
        self.running: deque[Job] = deque()

    def run(self) -> None:
        while self.conductor.has_work or self.running:
            job = self.conductor.next_job() if len(self.running) < self.slots else None
            if job is not None:
                self.running.append(job)
            elif self.running:
                self._one_cycle(self.running.popleft())
            else:
                break
        self.conductor.conclude()

    def _one_cycle(self, job: Job) -> None:
        name = job.trial_id
        if job.kind == "baseline":
            dense = {"val_accuracy": 76.0, "test_accuracy": 76.0, "macs": DENSE, "params": DENSE / 20}
            self.conductor.finish(name, Outcome("complete", dense))
            return
        steps = list(steps_ahead(job.config))
        level = self.level[name]
        epoch = job.config.prune.start + level * job.config.prune.interval
        cost = sum(step.cost for step in steps[: level + 1])
        snap = Snap(level, epoch, finals(job.config, steps[level].removed, epoch, cost), f"{level:064d}")
        self.conductor.epoch(name, {"epoch": epoch, "cost/macs": snap.finals["macs"]})
        self.conductor.snapshot(name, snap)
        self.level[name] += 1
        word = read_rest(job.folder)
        if level == len(steps) - 1:
            self.conductor.finish(name, Outcome("complete", snap.finals, ended="target"))
        elif word is not None and word.rest and word.level == level:
            self.conductor.finish(name, Outcome("paused", snap.finals, ended="paused"))
        else:
            self.running.append(job)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--paths", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=8)
    record.add_out(parser)
    options = parser.parse_args()
    before, memory, stopwatch = processes.load(), Memory(), Stopwatch()
    stopwatch.attach(Conductor, "next_job", keep=lambda job: job is not None)
    stopwatch.attach(Conductor, "snapshot")
    with tempfile.TemporaryDirectory() as storage:
        search = {"trials": options.paths, "concurrency": options.slots, "min_gain": 0.0}
        config = load_config({**TREE, "search": search, "storage": storage})
        Path(config.folder).mkdir(parents=True)
        ledger = Ledger(Path(config.folder), config.name, config.search.objectives)
        worker = Worker(Conductor(config, ledger, Silent(), memory), options.slots)
        worker.run()
        snapshots = sum(map(len, ledger.snapshots().values()))
        journal = (Path(config.folder) / "journal.log").stat().st_size
    times, rows = stopwatch.table(), memory.rows
    ask, growth = times["Conductor.next_job"], rows[-1]["rss_mib"] - rows[0]["rss_mib"]
    results = {
        "paths": options.paths,
        "snapshots": snapshots,
        "pauses": ask["calls"] - options.paths - 1,
        "hand out a job": ask,
        "enter a snapshot and decide": times["Conductor.snapshot"],
        "growth_mib": round(growth, 1),
        "from_path": rows[0]["trials"],
        "journal_mb": round(journal / 1e6, 1),
        "goals": GOALS,
        "met": ask["median_ms"] <= GOALS["ask_median_ms"] and growth <= GOALS["growth_mib"],
        "memory": rows,
        "load_before": before,
        "load_after": processes.load(),
    }
    record.write(options.out, results)


if __name__ == "__main__":
    main()
