"""What those who keep the books of one driver work with, and what they ask of it alike."""

from __future__ import annotations

from dataclasses import dataclass

from sweeps.conduct.baselines import Baselines
from sweeps.conduct.listeners import Progress, Tracker
from sweeps.conduct.proposals import Proposals
from sweeps.config.sweep_config import SweepConfig
from sweeps.records.job import Job, Outcome
from sweeps.records.ledger import Ledger
from sweeps.strategy.front import LiveFront
from sweeps.strategy.judging import dense_costs, waits_for_baseline


@dataclass(frozen=True)
class Desk:
    """The sweep's config, where answers are entered, and whom they are told to."""

    config: SweepConfig
    ledger: Ledger
    tracker: Tracker
    progress: Progress
    baselines: Baselines
    front: LiveFront
    proposals: Proposals

    def waits(self, job: Job, outcome: Outcome) -> bool:
        """Whether an answer, of a trial or of one of its models, cannot be judged before its baseline has ended."""
        if self.baselines.get(job.baseline_key) is not None:
            return False
        return bool(waits_for_baseline(self.config.search, outcome, dense_costs(job.folder, outcome.finals)))
