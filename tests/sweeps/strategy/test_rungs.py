"""The rule of the rungs, which keeps what it knows, decides as its slow second definition does."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from gcp_core.config import TrialConfig
from sweeps.config.sweep_config import SweepConfig
from sweeps.records import spool
from sweeps.records.job import Job, Outcome
from sweeps.records.ledger import Ledger
from sweeps.strategy.feasibility import Projection
from sweeps.strategy.stopping import Rungs
from tests.oracles.sweeps.slow_rungs import SlowRungs
from tests.sweeps.inline import config

DENSE = {"macs": 4e6, "params": 5e4}
EPOCHS = 8


def project(trial: TrialConfig) -> Projection:
    """The target in MACs, and a little less of the params; at least nothing."""
    left = 1 - trial.prune.target
    return Projection(
        DENSE,
        {"macs": DENSE["macs"] * left, "params": DENSE["params"] * math.sqrt(left)},
        {"macs": 0.0, "params": 0.0},
        DENSE["macs"] * left,
    )


def jobs(checked: SweepConfig, rng: random.Random, count: int) -> list[Job]:
    """Trials of two seeds, so of two baselines, which come first; of two lengths as far as the config has them."""
    made = []
    for number in range(count):
        point = {
            "prune.interval": rng.choice([1, 2, 4]),
            "prune.ratio": 0.3,
            "prune.target": rng.choice([0.3, 0.5, 0.7, 0.9]),
            "seed": rng.choice([0, 1]),
        }
        trial = checked.space.resolve({name: point[name] for name in checked.space.first()})
        made.append(Job(f"t{number:04d}", "trial", number, trial, point, "/nowhere"))
    twins = {job.baseline_key: job.config.baseline() for job in made}
    return [
        *(
            Job(f"b{number:04d}", "baseline", number, twin, {}, "/nowhere")
            for number, twin in enumerate(twins.values())
        ),
        *made,
    ]


def row(epoch: int, accuracy: float, left: float) -> dict[str, float]:
    return {
        "epoch": epoch,
        "val/accuracy": accuracy,
        "cost/macs": DENSE["macs"] * left,
        "cost/params": DENSE["params"] * left,
    }


@pytest.mark.parametrize("seed", range(9))
def test_on_random_courses_every_decision_is_that_of_the_slow_definition(tmp_path: Path, seed: int) -> None:
    """Ten at a time, at random speed; ties, epochs that are no number, epochs trained again, every kind of end."""
    rng = random.Random(seed)
    objectives = [
        {"val_accuracy": "max", "macs": "min"},
        {"accuracy_drop": "min", "params": "min"},
        {"val_accuracy": "max", "macs_removed": "max", "params": "min"},
    ][seed % 3]
    overrides: dict[str, Any] = {
        "train.epochs": EPOCHS, "seed": {"choice": [0, 1]}, "search.objectives": objectives,
        "search.rung_share": rng.choice([0.3, 0.5, 0.8]),
    }  # fmt: skip
    checked = config(tmp_path, overrides)
    fast, slow = Rungs(checked.search, project), SlowRungs(checked.search, project)
    waiting, running, decided, stopped = jobs(checked, rng, 120), [], 0, 0
    at: dict[str, int] = {}
    rows: dict[str, list[dict[str, float]]] = {}
    steps = rng.choice([1.0, 0.01])  # whole numbers tie
    while waiting or running:
        while waiting and len(running) < 10:
            running.append(waiting.pop(0))
        job = rng.choice(running)
        epoch = at[job.trial_id] = at.get(job.trial_id, 0) + 1
        target = 0.0 if job.config.prune is None else job.config.prune.target
        accuracy = round(rng.gauss(50 + 3 * epoch - 9 * target**2, 3) / steps) * steps
        accuracy = math.nan if rng.random() < 0.03 else accuracy
        now = row(epoch, accuracy, 1 - target * min(1.0, rng.choice([epoch, epoch - 1]) / 4))
        rows.setdefault(job.trial_id, []).append(now)
        verdict = fast.epoch(job, now)
        assert verdict == slow.epoch(job, now), (job.trial_id, epoch)
        decided, stopped = decided + (epoch in (2, 4)), stopped + (verdict is not None)
        lost = rng.random() < 0.02
        if rng.random() < 0.03 and epoch > 2:
            at[job.trial_id] -= 1  # its node died: the epoch is trained again, and may come out otherwise
        elif verdict is not None or lost or epoch == EPOCHS:
            running.remove(job)
            finals = {
                "val_accuracy": 75 - 12 * target**3,
                "macs": now["cost/macs"],
                "params": now["cost/params"],
            }
            status = (
                "stopped"
                if verdict is not None
                else "lost"
                if lost
                else rng.choice(["complete", "infeasible"])
            )
            history = tuple(rows[job.trial_id]) if rng.random() < 0.5 else ()
            outcome = Outcome(status, finals if status in ("complete", "infeasible") else {}, history)
            fast.ended(job, outcome)
            slow.ended(job, outcome)
    assert decided > 100
    assert stopped > 15


def test_on_recorded_courses_every_decision_is_that_of_the_slow_definition() -> None:
    """Two of the replays of ``benchmarks/search/early_stopping.py``."""
    from benchmarks.search import early_stopping as recorded

    checked, courses = recorded.load_config(recorded.CONFIG, {"data.path": "."}), recorded.read_table()
    for seed in (0, 1):
        fast = recorded.replay(checked, courses, Rungs, seed)
        assert fast.stopped
        assert fast == recorded.replay(checked, courses, SlowRungs, seed)


def test_a_decision_costs_no_digest_of_a_config_per_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = {
        "train.epochs": EPOCHS,
        "seed": {"choice": [0, 1]},
        "search.objectives": {"val_accuracy": "max"},
    }
    checked = config(tmp_path, overrides)
    rungs, rng = Rungs(checked.search, project), random.Random(0)
    made = jobs(checked, rng, 60)
    for job in made[:-1]:
        history = tuple(row(epoch, 50.0 + rng.random(), 0.5) for epoch in range(1, EPOCHS + 1))
        finals = {"val_accuracy": 60 + rng.random(), "macs": 2e6, "params": 3e4}
        rungs.ended(job, Outcome("complete", finals, history))
    asked: list[TrialConfig] = []
    monkeypatch.setattr(TrialConfig, "to_dict", lambda config: asked.append(config) or {})
    rungs.epoch(made[-1], row(1, 40.0, 1.0))
    before = len(asked)
    assert rungs.epoch(made[-1], row(2, 20.0, 1.0)) is not None
    assert len(asked) == before


def test_a_lost_trial_is_as_little_alive_for_the_next_driver_as_for_the_one_that_lost_it(
    tmp_path: Path,
) -> None:
    checked = config(tmp_path, {"train.epochs": EPOCHS})
    Path(checked.folder).mkdir(parents=True)
    ledger = Ledger(Path(checked.folder), checked.name, checked.search.objectives)
    point = {"prune.interval": 1, "prune.ratio": 0.3, "prune.target": 0.5}
    trial = ledger.add("trial", checked.space.resolve(point), point, {})
    first = Rungs(checked.search, project)
    Path(trial.folder).mkdir(parents=True)
    for epoch in (1, 2):
        spool.append(Path(trial.folder), spool.stamp(row(epoch, 50.0, 1.0)))
        first.epoch(trial, row(epoch, 50.0, 1.0))
    lost = Outcome("lost", error="lost because its node died")
    first.ended(trial, lost)
    ledger.close(trial, lost)
    second = Rungs(checked.search, project)
    second.take_over(ledger.records("trial"))
    for rungs in (first, second):
        standing = rungs.standing(EPOCHS, 2)
        assert (standing.reading.tolist(), standing.alive.tolist()) == ([50.0], [False])
