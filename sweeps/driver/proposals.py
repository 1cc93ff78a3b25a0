"""Which trial is drawn next, and what the sampler is told: points of the space, as trials that are worth training."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from optuna.distributions import BaseDistribution

from gcp_core.config import TrialConfig
from sweeps.config.space import Point
from sweeps.config.sweep_config import SweepConfig
from sweeps.records.job import Job, Outcome, Record
from sweeps.records.ledger import SnapshotRecord
from sweeps.strategy.sampling import Proposer
from sweeps.strategy.twins import Twins


class Proposals:
    """The sampler of one driver, on top of what the ledger knows.

    Args:
        trials: those of earlier drivers. The sampler is seeded by their number, or it would draw again what it drew.
        snapshots: theirs.
        impossible: which trials are not worth proposing. Points that the user gave are run all the same.
        note: is told in a sentence what the user may want to know.
    """

    def __init__(
        self,
        config: SweepConfig,
        trials: list[Record],
        snapshots: Mapping[str, list[SnapshotRecord]],
        impossible: Callable[[TrialConfig], bool],
        note: Callable[[str], None],
    ) -> None:
        self._config, self._impossible, self._note = config, impossible, note
        self._twins = Twins()
        self._given = [config.space.canonical(point) for point in config.search.points]
        seed = config.space.base["seed"] + len(trials)
        self._proposer = Proposer(config.space, config.search, config.num_trials(), seed, self._key)
        for record in trials:
            if record.status in ("complete", "infeasible"):
                self._twins.ended(
                    record.job.trial_id, record.job.config, record.finals, record.weights_sha256
                )
        self._proposer.replay(trials)
        for record in trials:
            for known in snapshots.get(record.job.trial_id, ()):
                self._proposer.observe(record.job.point, known.values, known.violations)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The space in Optuna's terms."""
        return self._proposer.distributions

    def next(self, number: int) -> Point | None:
        """A point that is new, for the trial with this number; None when there is none left."""
        return self._proposer.propose(number)

    def resolve(self, point: Point) -> TrialConfig:
        """The trial at a point."""
        return self._config.space.resolve(point, self._config.resources.cpus)

    def answer(
        self, job: Job, outcome: Outcome, values: tuple[float, ...] | None, violations: Mapping[str, float]
    ) -> bool:
        """A trial has ended. Whether its model is a new one; an earlier trial's is told to nobody a second time."""
        twin = ""
        if outcome.status in ("complete", "infeasible"):
            twin = self._twins.ended(job.trial_id, job.config, outcome.finals, outcome.weights_sha256)
        if twin:
            self._note(f"{job.trial_id} ends as the model of {twin}")
        told = None if twin else values
        self._proposer.answer(job.number, told, violations, outcome.status == "stopped")
        return not twin

    def observe(
        self, point: Point, values: tuple[float, ...] | None, violations: Mapping[str, float]
    ) -> None:
        """A path at ``point`` has finished a model."""
        self._proposer.observe(point, values, violations)

    def _key(self, point: Point) -> str | None:
        trial = self.resolve(point)
        every_cell = self._config.search.sampler == "grid"
        repeats = not every_cell and self._twins.would_repeat(trial)
        if point not in self._given and (self._impossible(trial) or repeats):
            return None
        return trial.key()
