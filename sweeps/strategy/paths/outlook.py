"""How paths continue: what their next models are expected to be, from how far they are and how other paths went.

Accuracies are compared at equal effort: at equal depth a path that was trained for more epochs is expected to be better,
by as many points per doubling as the data say. So a short dense phase with long cycles is not taken for a poor path
while it is behind. Of a new path nothing is known but how paths differ. How a quantity goes with the depth is
:mod:`sweeps.strategy.paths.course`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from gcp_core.schema import LATENCIES
from sweeps.config.paths import Step
from sweeps.strategy.paths.course import LEAST_LEFT, Course, Place, Places

#: Accuracies, and the sign of better.
ACCURACIES = {"val_accuracy": 1.0, "accuracy_drop": -1.0}
_SIZES = ("macs", "params", *LATENCIES)
_SHARES = ("macs_removed", "params_removed")


@dataclass(frozen=True)
class Seen:
    """A snapshot: the share ``removed`` of ``prune.of``, the ``epoch`` it ends, its final values."""

    removed: float
    epoch: int
    finals: Mapping[str, float]


@dataclass(frozen=True)
class Foreseen:
    """A final value after each of j steps: (j,) what is expected, and its standard deviation."""

    mean: np.ndarray
    spread: np.ndarray


@dataclass(frozen=True)
class Ask:
    """What is asked about a path; may be asked again and again.

    Attributes:
        path: its name. ``seen``: its snapshots by depth, empty = it has not begun.
        steps: what it still does. ``cycle``: epochs of a cycle.
    """

    path: str
    seen: Sequence[Seen]
    steps: Sequence[Step]
    cycle: int
    _places: dict[str, Place] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def last(self) -> Seen | None:
        """Its deepest snapshot."""
        return self.seen[-1] if self.seen else None

    def place(self, name: str) -> Place:
        """Where it is, of a final value; it must have begun."""
        if name not in self._places:
            self._places[name] = place_of(name, self.seen[-1])
        return self._places[name]

    def final(self, name: str) -> float:
        """What it has of a value that adds up."""
        return 0.0 if self.last is None else self.last.finals.get(name, math.nan)

    @cached_property
    def columns(self) -> np.ndarray:
        """(4, j) after each step: share removed, depth, epoch, cost of all steps up to there."""
        removed = [step.removed for step in self.steps]
        first = self.steps[0].cost if self.last is None else self.last.epoch + self.cycle
        epochs = first + self.cycle * np.arange(len(self.steps), dtype=float)
        costs = np.cumsum([step.cost for step in self.steps])
        return np.stack([np.array(removed), np.array([_depth(one) for one in removed]), epochs, costs])


class _Batch(NamedTuple):
    """The next j steps of p paths that have all begun, or none: each (p, j), as :attr:`Ask.columns`."""

    asks: Sequence[Ask]
    removed: np.ndarray
    depths: np.ndarray
    epochs: np.ndarray
    costs: np.ndarray

    @classmethod
    def of(cls, asks: Sequence[Ask], number: int) -> _Batch:
        removed, depths, epochs, costs = np.array([ask.columns[:, :number] for ask in asks]).transpose(
            1, 0, 2
        )
        return cls(asks, removed, depths, epochs, costs)


class Outlook:
    """Predicts the next models of a path from all paths of the sweep.

    Args:
        names: the final values that are asked for.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._courses = {name: Course(lasting=name not in ACCURACIES) for name in names}
        self._paces: dict[str, tuple[float, float]] = {}

    def tell(self, path: str, seen: Sequence[Seen]) -> None:
        """Set everything that is known of a path, by depth; replaces earlier values."""
        for name, course in self._courses.items():
            places = [place_of(name, one) for one in seen]
            course.tell(path, [one for one in places if math.isfinite(one.value)])
        hours, cost = (seen[-1].finals.get(name, math.nan) for name in ("device_hours", "train_cost"))
        if math.isfinite(hours) and cost > 0:
            self._paces[path] = (hours, cost)

    def known(self, name: str) -> bool:
        """Whether any path has that value."""
        return self._courses[name].known

    def ahead(self, ask: Ask) -> dict[str, Foreseen]:
        """What the final values are after each of the path's steps, by name; NaN where nothing is known."""
        batch = _Batch.of([ask], len(ask.steps))
        return {name: Foreseen(*(part[0] for part in self._ahead(name, batch))) for name in self._courses}

    def next(self, asks: Sequence[Ask]) -> dict[str, np.ndarray]:
        """(p,) what is expected of the final values after the next step of each path, by name; each has one."""
        found = {name: np.empty(len(asks)) for name in self._courses}
        for begun in (True, False):
            rows = [i for i, ask in enumerate(asks) if (ask.last is not None) == begun]
            if rows:
                batch = _Batch.of([asks[i] for i in rows], 1)
                for name, values in found.items():
                    values[rows] = self._ahead(name, batch)[0][:, 0]
        return found

    def _ahead(self, name: str, batch: _Batch) -> tuple[np.ndarray, np.ndarray]:
        """(mean, standard deviation) of a final value, each (p, j)."""
        still = np.zeros(batch.removed.shape)
        if name == "target_reached":
            ends = np.array([len(ask.steps) for ask in batch.asks])[:, None]
            return (np.arange(1, len(still[0]) + 1) == ends).astype(float), still
        if name == "epochs":
            return batch.epochs, still
        if name in ("train_cost", "device_hours"):
            so_far = np.array([ask.final(name) for ask in batch.asks])[:, None]
            return so_far + batch.costs * (self._pace() if name == "device_hours" else 1.0), still
        begun = batch.asks[0].last is not None
        last = Places.of([ask.place(name) for ask in batch.asks]) if begun else None
        names = [ask.path for ask in batch.asks]
        mean, spread = self._courses[name].expect(names, last, batch.depths, np.log2(batch.epochs))
        return (mean, spread) if name in ACCURACIES else (_outer(name, mean, 1 - batch.removed), still)

    def _pace(self) -> float:
        """Device hours for a cost of 1, over all paths; NaN where no path says."""
        hours, cost = np.sum([self._paces[path] for path in sorted(self._paces)] or [(math.nan, 1.0)], axis=0)
        return float(hours / cost)


def _depth(removed: float) -> float:
    return -math.log(max(1 - removed, LEAST_LEFT))


def place_of(name: str, one: Seen) -> Place:
    """Where a path is with that snapshot."""
    return Place(_depth(one.removed), _inner(name, one), math.log2(max(one.epoch, 1)))


def _inner(name: str, one: Seen) -> float:
    """A final value in the form in which it changes little with the depth; NaN if it has none."""
    value, left = one.finals.get(name, math.nan), max(1 - one.removed, LEAST_LEFT)
    if name in _SIZES:
        return math.log(value / left) if value > 0 else math.nan
    if name in _SHARES:
        return math.log((1 - value) / left) if value < 1 else math.nan
    if name == "compression":
        return math.log(value * left) if value > 0 else math.nan
    return value


def _outer(name: str, inner: np.ndarray, left: np.ndarray) -> np.ndarray:
    """The other way round, at the shares ``left``."""
    if name in _SIZES:
        return np.exp(inner) * left
    if name in _SHARES:
        return 1 - np.exp(inner) * left
    if name == "compression":
        return np.exp(inner) / np.maximum(left, LEAST_LEFT)
    return inner
