"""A sweep in one process: the conductor's jobs are run by the fake runner, tracker and progress write lists."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gcp_core.schema import model_id
from sweeps.conduct.conductor import Conductor
from sweeps.config.sweep_config import SweepConfig, load_config
from sweeps.records.job import Job, Outcome, Snap
from sweeps.records.ledger import Ledger
from sweeps.storage.exchange import Exchange, trial_exchange
from sweeps.worker.trial import Extra, run_job

RUNNER = "tests.sweeps.fake_runner:run"
PATHS = "tests.sweeps.fake_paths:run"
#: On top of ``TREE``: its trials are paths of four snapshots (0, 50, 75, 87.5 % of the MACs removed).
OF_PATHS: dict[str, Any] = {
    "train.schedule": "cycles",
    "train.epochs": None,
    "prune.start": 2,
    "prune.ratio": 0.5,
    "prune.target": 0.8,
}
TREE: dict[str, Any] = {
    "name": "inline",
    "train": {"epochs": 2},
    "prune": {
        "interval": {"choice": [1, 2, 3, 4]},
        "ratio": {"low": 0.1, "high": 0.4, "step": 0.1},
        "target": {"low": 0.3, "high": 0.9, "step": 0.1},
    },
    "search": {"trials": 6},
}


def config(storage: Path, overrides: Mapping[str, Any] | None = None) -> SweepConfig:
    return load_config(copy.deepcopy(TREE), {"storage": str(storage), **(overrides or {})})


class Recorder:
    """Tracker and progress in one: remembers every call as ``(what, trial id, ...)``."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.finals: dict[str, dict[str, float]] = {}
        self.statuses: dict[str, str] = {}

    def started(self, job: Job) -> None:
        self.calls.append(("started", job.trial_id))

    def epoch(self, job: Job, row: dict[str, float]) -> None:
        self.calls.append(("epoch", job.trial_id, row["epoch"]))

    def snapshot(self, job: Job, snap: Snap) -> None:
        self.calls.append(("snapshot", model_id(job.trial_id, snap.level)))

    def dropped(self, trial_id: str, level: int, why: str) -> None:
        self.calls.append(("dropped", model_id(trial_id, level), why))

    def rested(self, job: Job) -> None:
        self.calls.append(("rested", job.trial_id))

    def finished(self, job: Job, outcome: Outcome, *progress: int) -> None:
        self.calls.append(("finished", job.trial_id))
        self.finals[job.trial_id] = dict(outcome.finals)
        self.statuses[job.trial_id] = outcome.status

    def late(self, job: Job, finals: dict[str, float], epoch: int) -> None:
        self.calls.append(("late", job.trial_id))
        self.finals.setdefault(job.trial_id, {}).update(finals)

    def front(self, hypervolume: float | None, *progress: float | None) -> None:
        self.calls.append(("front", hypervolume, *progress))

    def note(self, text: str) -> None:
        self.calls.append(("note", text))

    def named(self, what: str) -> list[str]:
        return [call[1] for call in self.calls if call[0] == what]


class Silent(Recorder):
    """A progress nobody reads."""


def new_conductor(
    checked: SweepConfig, exchange: Exchange | None = None, **more: Any
) -> tuple[Conductor, Recorder, Ledger]:
    folder = Path(checked.folder)
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(folder, checked.name, checked.search.objectives)
    recorder = Recorder()
    return Conductor(checked, ledger, recorder, Silent(), exchange=exchange, **more), recorder, ledger


def drive(conductor: Conductor, runner: str = RUNNER) -> None:
    """Run the jobs one after the other, in the order in which they were handed out."""
    running: list[Job] = []
    while conductor.has_work or running:
        job = conductor.next_job()
        if job is not None:
            running.append(job)
            continue
        if not running:
            break
        job = running.pop(0)
        with trial_exchange(Path(conductor.config.folder), conductor.exchange.url) as exchange:
            outcome = run_job(
                job,
                runner,
                lambda row, job=job: conductor.epoch(job.trial_id, row),
                exchange=exchange,
                extra=Extra(lambda snap, job=job: conductor.snapshot(job.trial_id, snap)),
            )
        conductor.finish(job.trial_id, outcome)
    conductor.conclude()
