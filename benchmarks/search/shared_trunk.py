"""Shared training in a real sweep: epochs really trained against the ideal prefix tree and against no sharing.

The reference grid of twelve trials (interval 1 or 2, ratio 0.15 or 0.3, target 0.3, 0.5 or 0.7; first event after epoch 4
of 12) on the digits, two at a time, with its baseline. Every final weight is compared with the trial run on its own.
Once more, the process that trains the trunk is killed on the way.

    python -m benchmarks.search.shared_trunk --out benchmarks/results/shared_trunk.json
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import processes, record, trial_logs
from benchmarks.patient_ray import private_ray
from tests.oracles.sweeps.prefix_tree import ideal_epochs

EPOCHS, CONCURRENCY, GOAL = 12, 2, 1.05
OBJECTIVES = {"val_accuracy": "max", "macs": "min"}
TREE: dict[str, Any] = {
    "name": "trunk",
    "data": {"name": "digits", "val_share": 0.25},
    "model": {"name": "vgg_tiny", "width": 0.5},
    "train": {"epochs": EPOCHS, "batch_size": 64},
    "prune": {
        "start": 4,
        "interval": {"choice": [1, 2]},
        "ratio": {"choice": [0.15, 0.3]},
        "target": {"choice": [0.3, 0.5, 0.7]},
        "until": 1.0,
    },
    "search": {"sampler": "grid", "trials": None, "concurrency": CONCURRENCY, "stopping": "none"},
}


class Killer(threading.Thread):
    """Kills the process that trains the baseline, the trunk's first owner, after its second epoch."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._owner = folder / "trials" / "b0000"
        self.killed: int | None = None
        self.after_epoch = 0

    def run(self) -> None:
        while self.killed is None:
            attempts = trial_logs.read(self._owner).attempts
            if attempts and len(attempts[-1].trained) >= 2:
                # Only a process of this benchmark: the log names it, the family tree confirms it.
                if attempts[-1].pid in {process.pid for process in processes.descendants(os.getpid())}:
                    os.kill(attempts[-1].pid, signal.SIGKILL)
                    self.killed, self.after_epoch = attempts[-1].pid, len(attempts[-1].trained)
                return
            time.sleep(0.005)


@contextlib.contextmanager
def _killing(folder: Path, wanted: bool) -> Iterator[Killer | None]:
    killer = Killer(folder) if wanted else None
    if killer is not None:
        killer.start()
    yield killer


def sweep(storage: str, *, share: bool, kill: bool = False) -> dict[str, Any]:
    """Run the grid; epochs trained, hashes and configurations by trial."""
    from sweeps.driver.launch import run
    from sweeps.records.ledger import read_records

    tree = {**TREE, "storage": storage, "search": {**TREE["search"], "share": share}}
    start = time.perf_counter()
    with _killing(Path(storage) / TREE["name"], kill) as killer:
        done = run(tree)
    wall = time.perf_counter() - start
    trials, baselines = read_records(done.folder, done.name, OBJECTIVES)
    records = [*baselines, *trials]
    logs = {item.job.trial_id: trial_logs.read(Path(item.job.folder)) for item in records}
    result = {
        "statuses": done.statuses,
        "wall_s": round(wall, 1),
        "epochs_trained": sum(log.epochs_trained for log in logs.values()),
        "by_trial": {name: log.epochs_trained for name, log in logs.items()},
        "attempts": sum(len(log.attempts) for log in logs.values()),
        "configs": {item.job.trial_id: item.job.config for item in records},
        "hashes": {item.job.trial_id: _hash(item.job.folder) for item in records},
    }
    if killer is not None:
        result |= {"killed": killer.killed is not None, "killed_after_epoch": killer.after_epoch}
    return result


def _hash(folder: str) -> str:
    from sweeps.records.job import read_outcome

    outcome = read_outcome(folder)
    return "" if outcome is None else outcome.weights_sha256


def alone(configs: dict[str, Any]) -> dict[str, Any]:
    """Every trial on its own, in this process."""
    from gcp_core.training import run_trial

    return {name: run_trial(config) for name, config in configs.items()}


def compare(result: dict[str, Any], own: dict[str, Any], ideal: int) -> dict[str, Any]:
    """The run without what cannot be written down, with its ratios."""
    unequal = [name for name, sha in result["hashes"].items() if sha != own[name].weights_sha256]
    kept = {name: value for name, value in result.items() if name not in ("configs", "hashes")}
    unshared = EPOCHS * len(own)
    return kept | {
        "to_ideal": round(result["epochs_trained"] / ideal, 4),
        "fewer_than_unshared": round(unshared / result["epochs_trained"], 3),
        "hashes_unequal_to_unshared": unequal,
    }


def main() -> None:
    """Shared, shared with a killed owner, unshared; then every trial on its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--skip-unshared-sweep", action="store_true", help="leaves out its wall time")
    record.add_out(parser)
    options = parser.parse_args()
    before = processes.load()
    with tempfile.TemporaryDirectory() as storage, private_ray({**TREE, "storage": storage}):
        runs = {"shared": sweep(f"{storage}/shared", share=True)}
        runs["owner_killed"] = sweep(f"{storage}/killed", share=True, kill=True)
        if not options.skip_unshared_sweep:
            runs["unshared"] = sweep(f"{storage}/unshared", share=False)
        own = alone(runs["shared"]["configs"])
    ideal = ideal_epochs(own.values(), EPOCHS)
    results = {name: compare(result, own, ideal) for name, result in runs.items()}
    shared, killed = results["shared"], results["owner_killed"]
    summary = {
        "trials": len(own) - 1,
        "baselines": 1,
        "ideal_epochs": ideal,
        "unshared_epochs": EPOCHS * len(own),
        "distinct_final_models": len({result.weights_sha256 for result in own.values()}),
        "goal": GOAL,
        "met": shared["to_ideal"] <= GOAL
        and killed["killed"]
        and all(run["statuses"] == {"complete": len(own) - 1} for run in (shared, killed))
        and not any(run["hashes_unequal_to_unshared"] for run in results.values()),
    }
    record.write(
        options.out, summary | {"runs": results, "load_before": before, "load_after": processes.load()}
    )


if __name__ == "__main__":
    main()
