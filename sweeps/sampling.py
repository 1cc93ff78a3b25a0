"""Where to look next: Optuna's samplers, seen through a study in memory, so that no configuration is drawn twice.

The ledger holds accepted trials only. Proposals are drawn in a mirror of it: a repeat is discarded there, which costs
a draw and no training, and leaves no trace.
"""

from __future__ import annotations

import itertools
import json
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from gcp_core.errors import ConfigError
from sweeps.config import SearchConfig
from sweeps.ledger import Record, encode, encode_point, quiet_optuna
from sweeps.space import Dimension, Point, Space

_REDRAWS = 20
_ENUMERABLE = 100_000
_BLIND_DRAWS = 1000


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space in Optuna's terms."""
    return {dimension.path: _distribution(dimension) for dimension in space.dimensions}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choices is not None:
        return CategoricalDistribution([encode(choice) for choice in dimension.choices])
    if dimension.integer:
        low, high = int(dimension.low), int(dimension.high)
        return IntDistribution(low, high, log=dimension.log, step=int(dimension.step or 1))
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def build_sampler(name: str, num_trials: int, seed: int) -> BaseSampler:
    """The Optuna sampler for a name in ``sweeps.config.SAMPLERS`` (``grid`` draws at random once the grid is done)."""
    warm_up = max(4, min(10, num_trials // 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            return TPESampler(multivariate=True, constant_liar=True, n_startup_trials=warm_up, seed=seed)
        if name == "nsga2":
            return NSGAIISampler(population_size=max(4, min(50, num_trials // 4)), seed=seed)
        if name == "gp":
            return GPSampler(n_startup_trials=warm_up, seed=seed)
        if name == "qmc":
            return QMCSampler(qmc_type="sobol", scramble=True, seed=seed)
        if name in ("random", "grid"):
            return RandomSampler(seed=seed)
    raise ConfigError(f"{name!r} is unknown", "search.sampler")


class Proposer:
    """Draws points that have not been drawn before and learns from their values.

    Args:
        space: what varies.
        search: sampler, objectives, points to try first.
        num_trials: how many trials are planned (sizes the sampler's warm-up).
        seed: of the sampler; with one trial at a time the same seed draws the same points.
        key: the identity of a point's trial; equal keys are never proposed twice. None = it cannot be run (its target
            is out of reach), so it is not proposed at all.
    """

    def __init__(
        self,
        space: Space,
        search: SearchConfig,
        num_trials: int,
        seed: int,
        key: Callable[[Point], str | None],
    ) -> None:
        self.distributions = distributions(space)
        self._space = space
        self._key = key
        self._seen: set[str] = set()
        self._numbers: dict[int, int] = {}
        self._rng = random.Random(seed)
        first: Iterator[Point] = (space.canonical(point) for point in search.points)
        self._first = itertools.chain(first, space.grid()) if search.sampler == "grid" else first
        with quiet_optuna():
            self._mirror = optuna.create_study(
                directions=["maximize" if d == "max" else "minimize" for d in search.objectives.values()],
                sampler=build_sampler(search.sampler, num_trials, seed),
            )

    def replay(self, records: Iterable[Record]) -> None:
        """Take over what the ledger already holds, running trials included."""
        for record in records:
            self._seen.add(record.key)
            number = self._enter(record.job.point)
            self._numbers[record.job.number] = number
            if record.finished:
                self.answer(record.job.number, record.values, record.violations, record.status == "stopped")

    def propose(self, ledger_number: int) -> Point | None:
        """A point that is new, for the trial with this number; None when the space is used up."""
        for point in self._first:
            if self._fresh(point):
                self._numbers[ledger_number] = self._enter(point)
                return point
        for _ in range(_REDRAWS + len(self._seen)):
            trial = self._ask()
            point = self._decode(trial.params)
            if self._fresh(point):
                self._numbers[ledger_number] = trial.number
                return point
            with quiet_optuna():
                self._mirror.tell(trial, state=TrialState.FAIL)
        unseen = self._unseen()
        if unseen is not None:
            self._numbers[ledger_number] = self._enter(unseen)
        return unseen

    def answer(
        self,
        ledger_number: int,
        values: tuple[float, ...] | None,
        violations: Mapping[str, float],
        stopped: bool = False,
    ) -> None:
        """Learn how the trial ended; None = it has no values to learn from.

        A trial that was ``stopped`` early has none either, but its point counts: TPE takes it for worse than any that
        was trained to the end, so it looks elsewhere; the other samplers only know that it was tried.
        """
        number = self._numbers[ledger_number]
        trial = optuna.trial.Trial(self._mirror, self._mirror.get_trials(deepcopy=False)[number]._trial_id)
        for name, excess in violations.items():
            trial.set_constraint(name, excess)
        with quiet_optuna():
            if values is None:
                self._mirror.tell(number, state=TrialState.PRUNED if stopped else TrialState.FAIL)
            else:
                self._mirror.tell(number, values=list(values))

    def _ask(self) -> optuna.Trial:
        with quiet_optuna(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._mirror.ask(self.distributions)

    def _fresh(self, point: Point) -> bool:
        key = self._key(point)
        if key is None or key in self._seen:
            return False
        self._seen.add(key)
        return True

    def _enter(self, point: Point) -> int:
        number = len(self._mirror.get_trials(deepcopy=False))
        self._mirror.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=encode_point(point, self.distributions),
                distributions=self.distributions,
            )
        )
        return number

    def _decode(self, params: Mapping[str, object]) -> Point:
        point = {}
        for dimension in self._space.dimensions:
            value = params[dimension.path]
            if dimension.choices is not None:
                texts = [json.dumps(encode(choice)) for choice in dimension.choices]
                value = dimension.choices[texts.index(json.dumps(value))]
            point[dimension.path] = dimension.canonical(value)
        return point

    def _unseen(self) -> Point | None:
        """A point no sampler has come across: by enumeration where that is possible, else by chance."""
        size = self._space.size()
        points: Iterable[Point]
        if size is not None and size <= _ENUMERABLE:
            points = list(self._space.grid())
            self._rng.shuffle(points)
        else:
            dimensions = self._space.dimensions
            points = ({d.path: d.draw(self._rng) for d in dimensions} for _ in range(_BLIND_DRAWS))
        return next((point for point in points if self._fresh(point)), None)
