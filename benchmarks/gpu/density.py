"""Trials per hour with one, four and eight of them on one GPU: processes that share it as a sweep's trials do."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from typing import Any

from benchmarks.gpu.bench import Kit
from gcp_core.config import PruneConfig, TrialConfig
from gcp_core.cost.latency import threads
from gcp_core.training import run_trial

_start: Barrier | None = None


def density(kit: Kit) -> dict[str, Any]:
    """The same trial so many times at once, all from one start; each has a process, and one thread."""
    counts = (1, 2) if kit.smoke else (1, 4, 8)
    prune = PruneConfig(criterion="frs", interval=1, ratio=0.2, target=0.5, until=1.0)
    trial = kit.trial("resnet20", {"epochs": 2 if kit.smoke else 6, "eval_images": 1000}, prune)
    found = kit.parts("density", {str(count): partial(_rate, trial, count) for count in counts})
    made = found["parts"]
    alone = made[str(counts[0])]["trials_per_hour"] if made else 1.0
    return {
        "model": trial.model.name,
        "epochs": trial.train.epochs,
        **found,
        "gain": {count: round(row["trials_per_hour"] / alone, 2) for count, row in made.items()},
    }


def _rate(trial: TrialConfig, count: int) -> dict[str, Any]:
    seconds = _at_once(trial, count)
    return {"seconds": round(seconds, 1), "trials_per_hour": round(3600 * count / seconds, 1)}


def _at_once(trial: TrialConfig, count: int) -> float:
    """Seconds from the common start to the end of the last; starting processes is not timed."""
    context = get_context("spawn")
    barrier = context.Barrier(count)
    with ProcessPoolExecutor(count, mp_context=context, initializer=_wait_for, initargs=(barrier,)) as pool:
        spans = list(pool.map(_one, [trial] * count))
    return max(end for _, end in spans) - min(begin for begin, _ in spans)


def _wait_for(barrier: Barrier) -> None:
    global _start
    _start = barrier


def _one(trial: TrialConfig) -> tuple[float, float]:
    with threads(1):
        warm = dataclasses.replace(trial, train=dataclasses.replace(trial.train, epochs=1), prune=None)
        run_trial(warm, latency=False)  # context, kernels, data
        assert _start is not None
        _start.wait()
        begin = time.time()
        run_trial(trial, latency=False)
        return begin, time.time()
