"""Ten SIGKILLs at random moments of a sweep of paths, of its driver, its workers, or of all at once: what became of the
snapshots?

Four paths of seven snapshots each on the digits, two at a time: real training, real Ray, MLflow on SQLite. A dead driver
is followed by ``gcp-sweep run`` at once, while its Ray may still be training; a dead worker leaves a living driver, which
has to go on by itself. In the end ledger, MLflow and disk are compared with each other, and every snapshot's weights
with those of the same path trained alone and undisturbed in this process.

    python -m benchmarks.faults.path_kills --out benchmarks/results/path_kills.json
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import processes, record
from benchmarks.faults.driver_kills import (
    FINISH_S,
    MOST_GIVE_UPS,
    START_S,
    Sweep,
    at_work,
    run_to_the_end,
    until,
)
from tests.oracles.sweeps.prefix_tree import ideal_path_epochs

NAME = "killed-paths"
LEVELS = [0.3, 0.5, 0.65, 0.8, 0.9, 0.95]
STARTS, INTERVALS = [4, 6], [4, 6]
#: What dies: the driver alone, one process that trains, or both with everything that the driver started.
DRIVER, WORKER, ALL = "driver", "worker", "all"


def config(storage: str) -> dict[str, Any]:
    """Four paths that differ in start and interval."""
    return {
        "name": NAME,
        "data": {"name": "digits", "val_share": 0.25},
        "model": {"name": "vgg_tiny", "width": 1.0},
        "train": {"schedule": "cycles", "batch_size": 32},
        "prune": {
            "start": {"choice": STARTS},
            "interval": {"choice": INTERVALS},
            "levels": LEVELS,
            "min_channels": 2,
            "min_share": 0.03,
        },
        # Every path runs to its end, and all weights stay to be compared.
        "search": {"sampler": "grid", "trials": None, "concurrency": 2, "min_gain": 0, "keep": "all"},
        "storage": storage,
    }


def paths_epochs() -> int:
    """Epochs that the paths report in all."""
    return sum(start + len(LEVELS) * interval for start in STARTS for interval in INTERVALS)


def moments(kills: int, seed: int) -> list[dict[str, Any]]:
    """Who dies when: after a number of reported epochs and then some; one driver in its first seconds."""
    rng = random.Random(seed)
    kinds = [(DRIVER, WORKER, WORKER, DRIVER, ALL)[k % 5] for k in range(kills)]
    rng.shuffle(kinds)
    at = sorted(rng.uniform(0, 0.9 * paths_epochs()) for _ in kinds)
    planned: list[dict[str, Any]] = [
        {"kind": kind, "epochs": round(epochs, 1), "then_s": round(rng.uniform(0, 0.5), 3)}
        for kind, epochs in zip(kinds, at, strict=True)
    ]
    early = rng.choice([k for k, kind in enumerate(kinds) if kind == DRIVER])
    planned[early] = {"kind": DRIVER, "start_up_s": round(rng.uniform(0.5, 8.0), 3)}
    return planned


def reported(sweep: Sweep) -> int:
    """Epochs that the paths have reported so far, each counted once."""
    from sweeps.records import spool

    return sum(len(spool.rows(folder)) for folder in sweep.folder.glob("trials/t*"))


def snapshots_on_disk(sweep: Sweep) -> dict[str, str]:
    """``t0007@3`` -> SHA-256 of its weights file."""
    found = {}
    for file in sorted(sweep.folder.glob("trials/t*/snapshots/[0-9]*/weights.pt")):
        with contextlib.suppress(FileNotFoundError):  # just being replaced by an equal one
            name = f"{file.parents[2].name}@{int(file.parent.name)}"
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


class Killer:
    """Starts drivers and kills at the moments, one after the other."""

    def __init__(self, sweep: Sweep, seed: int) -> None:
        self.sweep = sweep
        self.rng = random.Random(seed + 1)
        self.driver: subprocess.Popen[bytes] | None = None
        self.kills: list[dict[str, Any]] = []
        self.families: list[set[processes.Process]] = []
        self.gave_up = 0

    def kill(self, moment: dict[str, Any]) -> None:
        """Wait for the moment with a driver at work, and kill."""
        while True:
            driver = self.living_driver()
            started = time.monotonic()
            if "start_up_s" in moment:
                time.sleep(moment["start_up_s"])
            else:
                until(driver, functools.partial(at_work, self.sweep, driver), START_S)
                until(driver, lambda: reported(self.sweep) >= moment["epochs"], FINISH_S)
                time.sleep(moment["then_s"])
            victims = self._victims(moment["kind"], driver)
            if driver.poll() is None and victims:
                break
            if driver.poll() is None:  # between two trials
                continue
            self.gave_up += 1
            if driver.returncode == 0 or self.gave_up > MOST_GIVE_UPS:
                said = self.sweep.log.read_text()[-3000:]
                raise RuntimeError(f"the driver ended with {driver.returncode} before {moment}:\n{said}")
        known = {"reported_epochs": reported(self.sweep), "weights": snapshots_on_disk(self.sweep)}
        family = processes.descendants(driver.pid)
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if moment["kind"] != WORKER:
            driver.wait()
            self.driver = None
            self.families.append(family)
        one = {"planned": moment, **known, "processes": len(victims)}
        one["after_s"] = round(time.monotonic() - started, 2)
        self.kills.append(one)
        print({**one, "weights": len(known["weights"])}, flush=True)

    def living_driver(self) -> subprocess.Popen[bytes]:
        """The driver, started anew if it is dead."""
        if self.driver is None or self.driver.poll() is not None:
            if len(self.families) > 1:  # one dead driver's Ray beside the live one is the case in question
                processes.end(self.families[-2], patience_s=60.0)
            self.driver = self.sweep.start()
        return self.driver

    def _victims(self, kind: str, driver: subprocess.Popen[bytes]) -> list[int]:
        family = {process.pid for process in processes.descendants(driver.pid)}
        if kind == DRIVER:
            return [driver.pid]
        if kind == ALL:
            return [driver.pid, *family]
        logs = self.sweep.logs()
        working = {
            log.attempts[-1].pid: name
            for name, log in logs.items()
            if name.startswith("t") and log.attempts and not log.attempts[-1].ended
        }
        return [self.rng.choice(sorted(working.keys() & family))] if working.keys() & family else []


def finish(killer: Killer) -> set[processes.Process]:
    """Let the sweep come to its end, with one driver more if the last one was killed."""
    family: set[processes.Process] = set()
    if killer.driver is not None:
        while killer.driver.poll() is None:
            family |= processes.descendants(killer.driver.pid)
            time.sleep(0.5)
    return family | run_to_the_end(killer.sweep)


def alone(sweep: Sweep) -> dict[str, Any]:
    """Every path on its own, undisturbed, nothing shared."""
    from gcp_core.training import run_trial

    trials, _ = records(sweep)
    return {one.job.trial_id: run_trial(one.job.config) for one in trials}


def records(sweep: Sweep) -> tuple[list[Any], list[Any]]:
    """Paths and baselines as the ledger has them."""
    from sweeps.config.sweep_config import load_config
    from sweeps.records.ledger import read_records

    objectives = load_config(sweep.path).search.objectives
    trials, baselines = read_records(sweep.folder, sweep.folder.name, objectives)
    return trials, baselines


def taken_snapshots(sweep: Sweep) -> dict[str, Any]:
    """Path -> its snapshots as the ledger has them, by level."""
    from sweeps.config.sweep_config import load_config
    from sweeps.records.ledger import read_snapshots

    return read_snapshots(sweep.folder, sweep.folder.name, load_config(sweep.path).search.objectives)


def in_ledger(sweep: Sweep) -> list[tuple[str, str, dict[str, float]]]:
    """(model, digest of its weights, finals) of every snapshot."""
    from gcp_core.schema import model_id

    return [
        (model_id(trial, one.snap.level), one.snap.weights_sha256, dict(one.snap.finals))
        for trial, known in taken_snapshots(sweep).items()
        for one in known
    ]


def digests_on_disk(sweep: Sweep) -> dict[str, str]:
    """The same digests, computed from the weights that lie there."""
    from gcp_core.records.checkpoint import read_manifest, read_state, weights_digest

    found = {}
    for file in sweep.folder.glob("trials/t*/snapshots/[0-9]*/weights.pt"):
        state = read_state(file.parent, read_manifest(file.parent))
        found[f"{file.parents[2].name}@{int(file.parent.name)}"] = weights_digest(state)
    return found


def in_mlflow(sweep: Sweep) -> tuple[Any, list[Any]]:
    """A client and all runs of the sweep."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{sweep.folder}/mlflow.db")
    experiment = client.get_experiment_by_name(sweep.folder.name)
    return client, client.search_runs([experiment.experiment_id], max_results=1000)


Checks = dict[str, tuple[int, int]]


def agreement(sweep: Sweep, kills: list[dict[str, Any]], true: dict[str, str]) -> Checks:
    """Ledger, MLflow and disk against each other and against the digests as they should be: found, expected.

    ``true``: model -> digest of its weights, of every snapshot that the sweep should have.
    """
    from gcp_core.schema import SNAPSHOT, Tag

    trials, baselines = records(sweep)
    ledger, disk = in_ledger(sweep), digests_on_disk(sweep)
    client, runs = in_mlflow(sweep)
    by_kind = Counter(run.data.tags[Tag.KIND] for run in runs)
    snapshots = [run for run in runs if run.data.tags[Tag.KIND] == SNAPSHOT]
    names = Counter(run.data.tags[Tag.MODEL_ID] for run in snapshots)
    finals = {name: values for name, _, values in ledger}
    logged = {run.data.tags[Tag.MODEL_ID]: run.data.metrics for run in snapshots}
    keys = ("val_accuracy", "test_accuracy", "macs", "params", "train_cost")
    points = {
        run.data.tags[Tag.TRIAL_ID]: [
            m.step for m in client.get_metric_history(run.info.run_id, "val/accuracy")
        ]
        for run in runs
        if run.data.tags[Tag.KIND] == "trial"
    }
    epochs: dict[str, int] = {}
    for trial, known in taken_snapshots(sweep).items():
        epochs[trial] = max(one.snap.epoch for one in known)
    at_end = snapshots_on_disk(sweep)
    changed = {n for kill in kills for n, sha in kill["weights"].items() if at_end.get(n) != sha}
    return {
        "ledger_snapshots": (len(ledger), len(true)),
        "mlflow_snapshots": (len(snapshots), len(true)),
        "disk_snapshots": (len(disk), len(true)),
        "names_that_differ_between_ledger_mlflow_and_disk": (
            len((set(finals) ^ set(names)) | (set(finals) ^ set(disk)) | (set(finals) ^ set(true))),
            0,
        ),
        "ledger_duplicates": (len(ledger) - len(finals), 0),
        "mlflow_duplicates": (sum(names.values()) - len(names), 0),
        "finals_that_differ_between_ledger_and_mlflow": (
            sum(finals[n][k] != logged.get(n, {}).get(f"final/{k}") for n in finals for k in keys),
            0,
        ),
        "paths_whose_curve_in_mlflow_is_not_every_epoch_once": (
            sum(sorted(points.get(t, [])) != list(range(1, last + 1)) for t, last in epochs.items()),
            0,
        ),
        "paths_in_mlflow": (by_kind["trial"], len(trials)),
        "unfinished_in_ledger": (sum(not one.finished for one in [*trials, *baselines]), 0),
        "running_in_mlflow": (sum(run.info.status == "RUNNING" for run in runs), 0),
        "weights_in_ledger_unequal_to_alone": (sum(sha != true.get(n) for n, sha, _ in ledger), 0),
        "weights_on_disk_unequal_to_alone": (sum(sha != true.get(n) for n, sha in disk.items()), 0),
        "snapshots_changed_after_a_kill": (len(changed), 0),
        "snapshots_retrained": (sum(len(log.snapshots_retrained) for log in sweep.logs().values()), 0),
        "most_epochs_lost_by_a_path_at_a_kill": (
            max((max(log.epochs_repeated, default=0) for log in sweep.logs().values()), default=0),
            1,
        ),
    }


def judged(checks: Checks) -> dict[str, Any]:
    """The checks as they go into a record, and whether all are met."""
    return {
        "checks": {name: {"value": value, "expected": want} for name, (value, want) in checks.items()},
        "met": all(
            value <= want if name.startswith("most") else value == want
            for name, (value, want) in checks.items()
        ),
    }


def verdict(sweep: Sweep, kills: list[dict[str, Any]], own: dict[str, Any]) -> dict[str, Any]:
    """What was lost, doubled, retrained, changed: all of it must be as ``expected``."""
    true = {f"{t}@{s.level}": s.weights_sha256 for t, result in own.items() for s in result.snapshots}
    trials, _ = records(sweep)
    checks = {
        "snapshots_expected": (len(true), len(STARTS) * len(INTERVALS) * (len(LEVELS) + 1)),
        "paths_in_ledger": (len(trials), len(own)),
        **agreement(sweep, kills, true),
    }
    logs = sweep.logs()
    taken = sum(len(attempt.snapshots) for log in logs.values() for attempt in log.attempts)
    by_paths = sum(log.epochs_trained for name, log in logs.items() if name.startswith("t"))
    return {
        **judged(checks),
        "epochs_trained": sum(log.epochs_trained for log in logs.values()),
        "epochs_trained_by_paths": by_paths,
        "ideal_epochs": ideal_path_epochs([(one.job.config, own[one.job.trial_id]) for one in trials]),
        "epochs_trained_twice": sum(sum(log.epochs_repeated) for log in logs.values()),
        "epochs_of_all_paths": paths_epochs(),
        "snapshots_measured_again_after_a_kill": taken - len(true),
        "attempts": sum(len(log.attempts) for log in logs.values()),
        "repeated": {n: log.epochs_repeated for n, log in logs.items() if any(log.epochs_repeated)},
    }


def main() -> None:
    """Kill, go on, kill, ..., let it finish, run once more, and look."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="an empty folder for the sweep; default: a temporary one")
    record.add_out(parser)
    options = parser.parse_args()
    before, started = processes.load(), time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        storage = (options.keep or Path(temporary)).absolute()
        storage.mkdir(parents=True, exist_ok=True)
        sweep = Sweep(str(storage), config(str(storage)))
        killer = Killer(sweep, options.seed)
        try:
            for moment in moments(options.kills, options.seed):
                killer.kill(moment)
            family = finish(killer)
            done = sum(log.epochs_trained for log in sweep.logs().values())
            family |= run_to_the_end(sweep)
        finally:
            processes.end(processes.descendants(os.getpid()), patience_s=0.0)
        leftovers = processes.end(family.union(*killer.families), patience_s=60.0)
        results = verdict(sweep, killer.kills, alone(sweep))
    results["epochs_trained_by_a_run_of_the_finished_sweep"] = results["epochs_trained"] - done
    results["met"] = results["met"] and results["epochs_trained"] == done
    results["kills"] = [
        {**kill["planned"], "reported_epochs": kill["reported_epochs"], "snapshots": len(kill["weights"])}
        | {"processes": kill["processes"], "after_s": kill["after_s"]}
        for kill in killer.kills
    ]
    results["kills_of"] = dict(Counter(kill["planned"]["kind"] for kill in killer.kills))
    results |= {"drivers_that_gave_up": killer.gave_up, "processes_that_needed_a_signal": leftovers}
    results |= {"seed": options.seed, "seconds": round(time.monotonic() - started, 1)}
    record.write(options.out, results | {"load_before": before, "load_after": processes.load()})


if __name__ == "__main__":
    main()
