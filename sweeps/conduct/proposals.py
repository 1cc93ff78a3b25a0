"""Which trial is drawn next, and what the sampler is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from optuna.distributions import BaseDistribution

from gcp_core.config import TrialConfig
from gcp_core.errors import ConfigError
from sweeps.config.equal_cost import too_dear
from sweeps.config.paths import is_of_paths
from sweeps.config.space import Point
from sweeps.config.sweep_config import SweepConfig
from sweeps.records.job import Job, Outcome, Record
from sweeps.records.ledger import SnapshotRecord
from sweeps.strategy.judging import shares_of_limits
from sweeps.strategy.sampling import Proposer
from sweeps.strategy.twins import Twins

#: Final values of models -> the hypervolume they dominate, None where there is no scale (``LiveFront.hypervolume_of``).
Worth = Callable[[Sequence[Mapping[str, float]]], float | None]


class Proposals:
    """The sampler of one driver, on top of what the ledger knows.

    A sampler that takes observations (tpe, gp) learns from every snapshot of a path as it is judged, and nothing more at
    its end. NSGA-II gets one value per path, told when it pauses or ends, whichever comes first: the hypervolume of its
    snapshots that keep the constraints, in the scale of that moment. Without a scale (objectives such as compression)
    the best value of the first objective stands in. The other samplers learn nothing.

    Args:
        trials: those of earlier drivers. The sampler is seeded by their number, or it would draw again what it drew.
        snapshots: theirs.
        impossible: which trials are not worth proposing. Points that the user gave are run all the same.
        note: called with a sentence that the user may want to read.
        worth: what a set of models is worth.
    """

    def __init__(
        self,
        config: SweepConfig,
        trials: list[Record],
        snapshots: Mapping[str, list[SnapshotRecord]],
        impossible: Callable[[TrialConfig], bool],
        note: Callable[[str], None],
        worth: Worth,
    ) -> None:
        self._config, self._impossible, self._note, self._worth = config, impossible, note, worth
        self._twins = Twins()
        self._refused = False
        self._given = [config.space.canonical(point) for point in config.search.points]
        self._population = is_of_paths(config.tree) and config.search.sampler == "nsga2"
        self._kept: dict[int, list[tuple[float, ...]]] = {}
        seed = config.space.base["seed"] + len(trials)
        self._proposer = Proposer(
            config.space, config.search, config.num_trials(), seed, self._key, is_of_paths(config.tree)
        )
        for record in trials:
            self._take_over(record, snapshots.get(record.job.trial_id, ()))

    def _take_over(self, record: Record, snapshots: Sequence[SnapshotRecord]) -> None:
        job, twin = record.job, ""
        if record.status in ("complete", "infeasible"):
            twin = self._twins.ended(job.trial_id, job.config, record.finals, record.weights_sha256)
        self._proposer.enter(record)
        for known in snapshots:
            self.observe(job, known.snap.finals, known.values, known.violations)
        if record.finished:
            values = None if twin else record.values
            self._answer(job, record.status, values, self._shares(record.violations, record.finals))
        elif record.status == "paused":
            self.paused(job)

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
        """A trial has ended; return whether its model is new. A model that an earlier trial has is reported once only."""
        twin = ""
        if outcome.status in ("complete", "infeasible"):
            twin = self._twins.ended(job.trial_id, job.config, outcome.finals, outcome.weights_sha256)
        if twin:
            self._note(f"{job.trial_id} ends as the model of {twin}")
        shares = self._shares(violations, outcome.finals)
        self._answer(job, outcome.status, None if twin else values, shares)
        return not twin

    def _shares(self, violations: Mapping[str, float], finals: Mapping[str, float]) -> dict[str, float]:
        return shares_of_limits(self._config.search.limits(), violations, finals)

    def _answer(
        self,
        job: Job,
        status: str,
        values: tuple[float, ...] | None,
        violations: Mapping[str, float],
    ) -> None:
        if self._population:
            value = self._value_of(job.number)
            values, violations = None if value is None else (value,), {}
        self._proposer.answer(job.number, values, violations, status == "stopped")

    def observe(
        self,
        job: Job,
        finals: Mapping[str, float],
        values: tuple[float, ...] | None,
        violations: Mapping[str, float],
    ) -> None:
        """A path has finished a model; ``values`` are its objectives, None = not all of them are finite."""
        if self._population and values is not None:
            kept = self._kept.setdefault(job.number, [])
            if all(excess <= 0 for excess in violations.values()):
                kept.append(values)
        self._proposer.observe(job.number, values, self._shares(violations, finals))

    def paused(self, job: Job) -> None:
        """A path is paused, perhaps for good: what waits for an answer to it gets one. May be said again."""
        if self._population and job.number in self._kept:
            self._answer(job, "paused", None, {})

    def _value_of(self, number: int) -> float | None:
        """The value of a path for a population-based sampler, higher is better; None = it has left no model."""
        if number not in self._kept:
            return None
        objectives = self._config.search.objectives
        worth = self._worth([dict(zip(objectives, values, strict=True)) for values in self._kept[number]])
        if worth is not None or not self._kept[number]:
            return worth
        sign = 1.0 if next(iter(objectives.values())) == "max" else -1.0
        return max(sign * values[0] for values in self._kept[number])

    def _key(self, point: Point) -> str | None:
        try:
            trial = self.resolve(point)
        except ConfigError as exc:
            # Each value is allowed, but not all of them together; no corner of the space has shown it.
            if not self._refused:
                self._note(f"points like {point} are not proposed: {exc}")
            self._refused = True
            return None
        every_cell = self._config.search.sampler == "grid"
        repeats = not every_cell and self._twins.would_repeat(trial)
        if point not in self._given and (self._impossible(trial) or repeats):
            return None
        if too_dear(trial, self._config.search.max_path_cost):
            return None
        return trial.key()
