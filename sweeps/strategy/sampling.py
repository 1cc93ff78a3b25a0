"""Where to look next: Optuna's samplers, seen through a study in memory, so that no configuration is drawn twice.

The ledger holds accepted trials only. Proposals are drawn in a mirror of it: a repeat is discarded there, which costs
a draw and no training, and leaves no trace.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from sweeps.config.search import LEARNING_SAMPLERS, SearchConfig
from sweeps.config.space import Dimension, Point, Space
from sweeps.records.job import Record
from sweeps.records.ledger import encode, encode_point
from sweeps.strategy.mirror import Mirror

#: How often a repeat is drawn again at most. A sampler that learns does so ever less often the more it knows: each draw
#: costs it tens of milliseconds, and an unseen point beside its proposal serves it as well.
_REDRAWS, _REDRAWS_LEARNING = 20, 200
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


class Proposer:
    """Draws points that have not been drawn before and learns from their values.

    Args:
        space: what varies.
        search: sampler, objectives, points to try first.
        num_trials: how many trials are planned (sizes the sampler's warm-up).
        seed: of the sampler; with one trial at a time the same seed draws the same points.
        key: the identity of a point's trial; equal keys are never proposed twice. None = it cannot be run (its target
            is out of reach, it is too expensive), so it is not proposed at all.
        paths: whether the trials are paths, which are observed on their way.
    """

    def __init__(
        self,
        space: Space,
        search: SearchConfig,
        num_trials: int,
        seed: int,
        key: Callable[[Point], str | None],
        paths: bool = False,
    ) -> None:
        self.distributions = distributions(space)
        self._space = space
        self._key = key
        self._seen: set[str] = set()
        self._rng = random.Random(seed)
        self._rng_of_ties = np.random.default_rng(seed)
        self._learns = search.sampler in LEARNING_SAMPLERS
        self._grid: list[Point] = []
        self._places, self._open = np.empty(0), np.empty(0, dtype=np.int64)
        first: Iterator[Point] = (space.canonical(point) for point in search.points)
        self._first = itertools.chain(first, space.grid()) if search.sampler == "grid" else first
        self._mirror = Mirror(search, self.distributions, num_trials, seed, paths)

    @property
    def takes_observations(self) -> bool:
        """Whether the sampler learns from snapshots; the others learn from a path's one answer, if from anything."""
        return self._mirror.takes_observations

    def enter(self, record: Record) -> None:
        """Take over a trial that the ledger holds, running or not; its answer is told apart."""
        self._seen.add(record.key)
        self._enter(record.job.number, record.job.point)

    def propose(self, ledger_number: int) -> Point | None:
        """A point that is new, for the trial with this number; None when the space is used up."""
        for point in self._first:
            if self._fresh(point):
                self._enter(ledger_number, point)
                return point
        wanted: Point | None = None
        for _ in range(1 + self._redraws()):
            trial = self._ask()
            point = self._decode(trial.params)
            wanted = wanted or point
            if self._fresh(point):
                self._mirror.accept(ledger_number, trial)
                return point
            self._mirror.discard(trial)
        unseen = self._unseen(wanted)
        if unseen is not None:
            self._enter(ledger_number, unseen)
        return unseen

    def answer(
        self,
        ledger_number: int,
        values: tuple[float, ...] | None,
        violations: Mapping[str, float],
        stopped: bool = False,
    ) -> None:
        """Learn how the trial ended; None = it has no values to learn from. Earlier observations and answers stay.

        A trial that was ``stopped`` early has none either, but its point counts: TPE takes it for worse than any that
        was trained to the end, so it looks elsewhere; the other samplers only know that it was tried.
        """
        self._mirror.tell(ledger_number, values, violations, stopped)

    def observe(
        self, ledger_number: int, values: tuple[float, ...] | None, violations: Mapping[str, float]
    ) -> None:
        """Learn from a snapshot of a path: one observation more at the path's parameters."""
        if values is not None and self.takes_observations:
            self._mirror.observe(ledger_number, values, violations)

    def _ask(self) -> optuna.Trial:
        return self._mirror.ask()

    def _fresh(self, point: Point) -> bool:
        key = self._key(point)
        if key is None or key in self._seen:
            return False
        self._seen.add(key)
        return True

    def _enter(self, ledger_number: int, point: Point) -> None:
        self._mirror.enter(ledger_number, encode_point(point, self.distributions))

    def _decode(self, params: Mapping[str, object]) -> Point:
        point = {}
        for dimension in self._space.dimensions:
            value = params[dimension.path]
            if dimension.choices is not None:
                texts = [json.dumps(encode(choice)) for choice in dimension.choices]
                value = dimension.choices[texts.index(json.dumps(value))]
            point[dimension.path] = dimension.canonical(value)
        return point

    def _redraws(self) -> int:
        """A QMC sequence starts again with every driver: it has to come past what was drawn before."""
        if self._learns:
            return min(_REDRAWS, _REDRAWS_LEARNING // (1 + len(self._seen)))
        return _REDRAWS + len(self._seen)

    def _unseen(self, wanted: Point | None) -> Point | None:
        """A point beside ``wanted`` that has not been drawn, where all can be counted; else one by chance.

        Beside means: other in one dimension, if possible, and there as near as possible. Which dimension is up to chance,
        or the one with the finest steps would always be taken.
        """
        size = self._space.size()
        if size is not None and size <= _ENUMERABLE:
            if not self._grid:
                self._grid = list(self._space.grid())
                self._places = np.array([self._place(point) for point in self._grid])
                self._open = np.arange(size)
            away = self._rng_of_ties.random(len(self._open)) * 1e-9
            if wanted is not None:
                away += np.abs(self._places[self._open] - self._place(wanted)) @ self._weights()
            return self._first_fresh(self._open[np.argsort(away)])
        dimensions = self._space.dimensions
        points = ({d.path: d.draw(self._rng) for d in dimensions} for _ in range(_BLIND_DRAWS))
        return next((point for point in points if self._fresh(point)), None)

    def _weights(self) -> np.ndarray:
        """How expensive a step in each dimension is, one weight per coordinate."""
        dear = 4.0 ** self._rng_of_ties.permutation(len(self._space.dimensions))
        return np.repeat(
            dear, [len(d.choices) if d.choices is not None else 1 for d in self._space.dimensions]
        )

    def _first_fresh(self, order: np.ndarray) -> Point | None:
        """The first of these points of the grid that has not been drawn; those before it are not looked at again."""
        found = next((at for at, index in enumerate(order) if self._fresh(self._grid[index])), len(order))
        self._open = order[found + 1 :]
        return self._grid[order[found]] if found < len(order) else None

    def _place(self, point: Point) -> list[float]:
        """Coordinates in which two points of the space are at most 1 apart per dimension."""
        place: list[float] = []
        for dimension in self._space.dimensions:
            value = point[dimension.path]
            if dimension.choices is not None:
                place += [0.5 * (choice == value) for choice in dimension.choices]
            elif dimension.log:
                place.append(
                    math.log(value / dimension.low) / (math.log(dimension.high / dimension.low) or 1.0)
                )
            else:
                place.append((value - dimension.low) / ((dimension.high - dimension.low) or 1.0))
        return place
