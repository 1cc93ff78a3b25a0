"""A rule for paths that does as a test says, and sweeps under it."""

from __future__ import annotations

from pathlib import Path

from sweeps.conduct.conductor import Conductor
from sweeps.records.ledger import Ledger
from sweeps.strategy.paths.choice import Verdict
from tests.sweeps.inline import OF_PATHS, PATHS, config, drive, new_conductor


class Scripted:
    """Rests where ``rest`` says, ends where ``end`` says; resumes resting paths in order, ``resumes`` times."""

    def __init__(self, rest=(), end=(), resumes=0, starts=99) -> None:
        self.rest, self.end, self.resumes, self.starts = set(rest), set(end), resumes, starts
        self.levels: dict[str, int] = {}
        self.resting: list[str] = []
        self.started_: list[str] = []
        self.scaled = 0

    def __call__(self, *_: object) -> Scripted:
        return self

    def scale(self, *_: object) -> None:
        self.scaled += 1

    def started(self, trial_id: str, config: object) -> None:
        self.started_.append(trial_id)
        self.resumes -= trial_id in self.resting
        self.resting = [name for name in self.resting if name != trial_id]

    def snapshot(self, trial_id: str, level: int, *_: object) -> None:
        self.levels[trial_id] = max(level, self.levels.get(trial_id, 0))

    def paused(self, trial_id: str) -> None:
        self.resting.append(trial_id)

    def ended(self, trial_id: str) -> None:
        """Nothing to note."""

    def given(self, number: int) -> None:
        """Nothing to note."""

    def goes_on(self, trial_id: str, may_start: bool, waiting: int = 0) -> Verdict:
        at = (trial_id, self.levels[trial_id])
        action = "pause" if at in self.rest else "end" if at in self.end else "go_on"
        return Verdict(action, trial_id, reason=f"{action} {trial_id}")

    def next(self, may_start: bool) -> Verdict:
        if may_start and self.starts > len(set(self.started_)):
            return Verdict("start")
        if self.resting and self.resumes > 0:
            return Verdict("resume", self.resting[0], reason="it is worth it")
        return Verdict("nothing", reason="nothing is worth it")


def sweep(tmp_path: Path, **more):
    return new_conductor(config(tmp_path, {**OF_PATHS, "search.trials": 2, **more}))


def statuses(ledger: Ledger) -> list[str]:
    return [record.status for record in ledger.records("trial")]


def names(ledger: Ledger) -> dict[str, list[int]]:
    return {trial: [one.snap.level for one in taken] for trial, taken in ledger.snapshots().items()}


def run_until_nothing(conductor: Conductor) -> None:
    """As a driver that is killed before it can conclude."""
    conductor.conclude = lambda: None
    drive(conductor, PATHS)
    del conductor.conclude
