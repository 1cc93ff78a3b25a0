"""Kills in a real sweep of paths that rest: twelve paths on CIFAR-10, some of which pause and go on.

    python -m benchmarks.faults.paused_kills CONFIG.yaml --reference SWEEP --out benchmarks/results/paused_kills.json

The config asks for paths that a finished sweep, the reference, has trained to their ends without a break; its
``search.min_gain`` lets paths rest. Three kills (worker, driver, both) fall into the first part, at random numbers of
reported epochs; then it is stopped with Ctrl-C once, and what is open then is counted; then it runs to its end. In the
second part the same sweep goes on with ``search.min_gain=0``, so that everything that rests is taken up again, with one
more kill of the driver. In the end ledger, MLflow and disk are compared with each other, and the weights of every
snapshot with those of the reference.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from benchmarks import processes, record
from benchmarks.evidence.path_curves import settings_of
from benchmarks.faults import path_kills
from benchmarks.faults.driver_kills import FINISH_S, START_S, Sweep, at_work, run_to_the_end, until
from gcp_core.schema import SNAPSHOT, Tag


def digests_of(sweep: Sweep) -> dict[str, dict[int, str]]:
    """What tells a path from the others -> level -> digest of the snapshot's weights."""
    trials, _ = path_kills.records(sweep)
    taken = path_kills.taken_snapshots(sweep)
    return {
        str(settings_of(one.job.config)): {
            s.snap.level: s.snap.weights_sha256 for s in taken[one.job.trial_id]
        }
        for one in trials
    }


def expected(sweep: Sweep, reference: Sweep) -> dict[str, str]:
    """Model -> digest of its weights, for every snapshot of the reference's paths that the sweep has."""
    known, trials = digests_of(reference), path_kills.records(sweep)[0]
    return {
        f"{one.job.trial_id}@{level}": digest
        for one in trials
        for level, digest in known[str(settings_of(one.job.config))].items()
    }


def open_now(sweep: Sweep) -> dict[str, Any]:
    """What a stopped sweep has open: Optuna's RUNNING against the paths that rest, MLflow's RUNNING by kind."""
    trials, baselines = path_kills.records(sweep)
    _, runs = path_kills.in_mlflow(sweep)
    kinds = Counter(run.data.tags[Tag.KIND] for run in runs if run.info.status == "RUNNING")
    return {
        "paths": dict(Counter(one.status for one in trials)),
        "unfinished_in_ledger_that_do_not_rest": sum(
            not one.finished and one.status != "paused" for one in [*trials, *baselines]
        ),
        "running_in_mlflow": dict(kinds),
        "snapshots_in_mlflow": sum(run.data.tags[Tag.KIND] == SNAPSHOT for run in runs),
    }


def interrupt(killer: path_kills.Killer, epochs: float) -> dict[str, Any]:
    """Ctrl-C at a moment; what is open when the driver has ended."""
    driver = killer.living_driver()
    until(driver, lambda: at_work(killer.sweep, driver), START_S)
    until(driver, lambda: path_kills.reported(killer.sweep) >= epochs, FINISH_S)
    family = processes.descendants(driver.pid)
    os.kill(driver.pid, signal.SIGINT)
    killer.driver, code = None, driver.wait()
    killer.families.append(family)
    processes.end(family, patience_s=60.0)
    return {"epochs": epochs, "exit_code": code, **open_now(killer.sweep)}


def rests(sweep: Sweep) -> dict[str, int]:
    """Path -> its models, of the paths that rest or ended resting."""
    trials, _ = path_kills.records(sweep)
    taken = path_kills.taken_snapshots(sweep)
    return {one.job.trial_id: len(taken.get(one.job.trial_id, ())) for one in trials if one.ended == "paused"}


def main() -> None:
    """Kill, stop, finish; take up what rests, kill, finish; compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="the sweep; its storage must be new")
    parser.add_argument(
        "--reference", type=Path, required=True, help="folder of the sweep that ran undisturbed"
    )
    parser.add_argument("--at", type=float, nargs=2, default=(20, 150), help="kills between these epochs")
    parser.add_argument("--seed", type=int, default=0)
    record.add_out(parser)
    options = parser.parse_args()
    started = time.monotonic()
    tree = yaml.safe_load(options.config.read_text())
    storage = Path(tree["storage"])
    storage.mkdir(parents=True, exist_ok=False)
    sweep = Sweep(str(storage), tree)
    reference = Sweep.finished_one(options.reference)
    killer, rng = path_kills.Killer(sweep, options.seed), random.Random(options.seed)
    low, high = options.at
    at = sorted(rng.uniform(low, high) for _ in range(4))
    kinds = [path_kills.WORKER, path_kills.DRIVER, path_kills.ALL]
    try:
        for kind, epochs in zip(kinds, at, strict=False):
            killer.kill({"kind": kind, "epochs": round(epochs, 1), "then_s": round(rng.uniform(0, 5), 3)})
        stopped = interrupt(killer, at[3])
        path_kills.finish(killer)
        first = {"rest": rests(sweep), "epochs": path_kills.reported(sweep), **open_now(sweep)}
        killer.driver, sweep.overrides = None, ("search.min_gain=0",)
        more = first["epochs"] + rng.uniform(5, 20)
        killer.kill({"kind": path_kills.DRIVER, "epochs": round(more, 1), "then_s": 1.0})
        path_kills.finish(killer)
        run_to_the_end(sweep)
    finally:
        processes.end(processes.descendants(os.getpid()), patience_s=0.0)
    processes.end(set().union(*killer.families), patience_s=60.0)
    checks = path_kills.agreement(sweep, killer.kills, expected(sweep, reference))
    # What was being trained stays open in Optuna, as what rests does: the next driver goes on with it.
    checks["running_in_mlflow_after_ctrl_c"] = (sum(stopped["running_in_mlflow"].values()), 0)
    checks["most_paths_open_after_ctrl_c_that_do_not_rest"] = (
        stopped["unfinished_in_ledger_that_do_not_rest"],
        tree["search"]["concurrency"],
    )
    logs = sweep.logs()
    results = {
        **path_kills.judged(checks),
        "paths": len(path_kills.records(sweep)[0]),
        "stopped_with_ctrl_c": stopped,
        "first_part": first,
        "paths_taken_up_again_from_their_rest": len(first["rest"]) - len(rests(sweep)),
        "epochs_trained": sum(log.epochs_trained for log in logs.values()),
        "epochs_trained_twice": sum(sum(log.epochs_repeated) for log in logs.values()),
        "kills": [
            {**kill["planned"], "reported_epochs": kill["reported_epochs"], "snapshots": len(kill["weights"])}
            for kill in killer.kills
        ],
        "seed": options.seed,
        "seconds": round(time.monotonic() - started, 1),
    }
    record.write(options.out, results)


if __name__ == "__main__":
    main()
