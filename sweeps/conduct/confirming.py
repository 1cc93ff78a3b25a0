"""Which runs it takes to train the chosen models on fresh seeds, in addition to those that exist."""

from __future__ import annotations

from dataclasses import dataclass

from sweeps.config.sweep_config import SweepConfig
from sweeps.records.job import Job, Record
from sweeps.records.ledger import Ledger
from sweeps.strategy.confirm import confirm_runs, taken_further


@dataclass(frozen=True)
class Due:
    """Runs to be entered, paths of an earlier confirmation that go deeper now, and a line for the user (or none)."""

    new: list[Record]
    deeper: list[Job]
    words: str


def confirm_due(config: SweepConfig, ledger: Ledger) -> Due:
    """The front's members on ``confirm.seeds`` fresh seeds, those apart that an earlier driver entered."""
    before = ledger.records("confirm")
    known = {record.key for record in before}
    objectives, seeds = config.search.objectives, config.confirm.seeds
    of_space = (seed for one in config.space.dimensions if one.path == "seed" for seed in one.extremes())
    runs = confirm_runs(
        ledger.records("trial"), objectives, seeds, ledger.snapshots(), max(of_space, default=0)
    )
    new, deeper = [run for run in runs if run.key not in known], taken_further(runs, before)
    words = ""
    if new:
        on = sorted({run.job.config.seed for run in runs})
        what = "paths" if config.of_paths else "trials"
        words = f"search over; confirming {len(runs) // len(on)} {what} of the front on the seeds {on}"
    elif deeper:
        words = f"search over; {len(deeper)} confirmed paths continue to where the front is now"
    return Due(new, deeper, words)
