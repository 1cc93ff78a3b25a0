"""How paths continue: what their next models are expected to be, from how far they are and how other paths went.

Accuracies are compared at equal effort: at equal depth a path that was trained for more epochs is expected to be better,
by as many points per doubling as the data say. So a short dense phase with long cycles is not taken for a poor path
while it is behind. Of a new path nothing is known but how paths differ.

How a path differs from the typical course now says the more about later the more has been removed. The correlation is
taken for the root of the share removed: the unpruned model says nothing about the later ones, the last but one nearly
all. What is not known spreads as paths differ at that depth.

The typical course of a quantity is the mean of all paths at equal depth. Paths that did not come that far count with
what is expected of them, so that the course does not jump where poor paths were paused. Between two snapshots a path's
values are interpolated over the log of the share left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sweeps.config.paths import Step

#: Depth = -log(share left), on this grid: down to a thousandth of the dense cost.
_KNOTS = np.linspace(0.0, 7.0, 71)
_LEAST_LEFT = math.exp(-_KNOTS[-1])
_NO_DEEPER = 1e-9
#: How much the accuracies of paths differ at one depth, in points, before any has been seen; it counts as much as this
#: number of paths.
PRIOR_SPREAD, PRIOR_PATHS = 3.0, 2.0
#: Points that a doubling of the epochs brings, before the data say it; that counts as much as paths whose efforts have
#: this sum of squares (two paths, one doubling apart: 0.5).
PRIOR_SLOPE, PRIOR_EFFORT = 2.0, 0.5
#: Where no other path has been nothing is expected to change, and the spread is this many times as wide.
UNKNOWN = 2.0
#: Among more paths than this one makes no difference to the mean.
MANY = 50
#: Accuracies, and the sign of better.
ACCURACIES = {"val_accuracy": 1.0, "accuracy_drop": -1.0}
_SIZES = ("macs", "params", "latency_ms", "latency_share")
_SHARES = ("macs_removed", "params_removed")


@dataclass(frozen=True)
class Seen:
    """A snapshot: the share ``removed`` of ``prune.of``, the ``epoch`` it ends, its final values."""

    removed: float
    epoch: int
    finals: Mapping[str, float]


@dataclass(frozen=True)
class Place:
    """Where a path is: how deep, with which value, after which effort (log2 of its epochs)."""

    depth: float
    value: float
    effort: float


@dataclass(frozen=True)
class Foreseen:
    """A final value after each of j steps: (j,) what is expected, and its standard deviation."""

    mean: np.ndarray
    spread: np.ndarray


class Outlook:
    """Predicts the next models of a path from all paths of the sweep.

    Args:
        names: the final values that are asked for.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._courses = {name: Course(lasting=name not in ACCURACIES) for name in names}
        self._pace: dict[str, tuple[float, float]] = {}

    def tell(self, path: str, seen: Sequence[Seen]) -> None:
        """Set everything that is known of a path, by depth; replaces earlier values."""
        for name, course in self._courses.items():
            known = [one for one in seen if math.isfinite(_inner(name, one))]
            course.tell(path, [_place(name, one) for one in known])
        hours, cost = (seen[-1].finals.get(name, math.nan) for name in ("device_hours", "train_cost"))
        if math.isfinite(hours) and cost > 0:
            self._pace[path] = (hours, cost)

    def known(self, name: str) -> bool:
        """Whether any path has that value."""
        return self._courses[name].known

    def ahead(
        self, path: str, seen: Sequence[Seen], steps: Sequence[Step], cycle: int
    ) -> dict[str, Foreseen]:
        """What the final values are after each of ``steps``, by name; NaN where nothing is known.

        ``seen``: the path's snapshots by depth, empty = it has not begun. ``cycle``: epochs of a cycle.
        """
        return {name: self._ahead(name, path, seen, steps, cycle) for name in self._courses}

    def _ahead(
        self, name: str, path: str, seen: Sequence[Seen], steps: Sequence[Step], cycle: int
    ) -> Foreseen:
        still = np.zeros(len(steps))
        effort = self._effort(name, seen[-1] if seen else None, steps, cycle)
        if effort is not None:
            return Foreseen(effort, still)
        if name == "target_reached":
            return Foreseen((np.arange(len(steps)) == len(steps) - 1).astype(float), still)
        removed = np.array([step.removed for step in steps])
        depths = np.array([_depth(share) for share in removed])
        epochs = _epochs(seen[-1] if seen else None, steps, cycle)
        last = _place(name, seen[-1]) if seen else None
        mean, spread = self._courses[name].expect(path, last, depths, np.log2(epochs))
        if name in ACCURACIES:
            return Foreseen(mean, spread)
        return Foreseen(_outer(name, mean, 1 - removed), still)

    def _effort(self, name: str, last: Seen | None, steps: Sequence[Step], cycle: int) -> np.ndarray | None:
        """A value that grows with every step by what the step costs; None for all other values."""
        costs = np.cumsum([step.cost for step in steps])
        if name == "epochs":
            return _epochs(last, steps, cycle)
        if name == "train_cost":
            return costs + (0.0 if last is None else last.finals.get(name, math.nan))
        if name == "device_hours":
            paces = [self._pace[path] for path in sorted(self._pace)] or [(math.nan, 1.0)]
            hours, cost = np.sum(paces, axis=0)
            return costs * hours / cost + (0.0 if last is None else last.finals.get(name, math.nan))
        return None


def _epochs(last: Seen | None, steps: Sequence[Step], cycle: int) -> np.ndarray:
    """(j,) the epochs at which the steps end."""
    first = steps[0].cost if last is None else last.epoch + cycle
    return first + cycle * np.arange(len(steps), dtype=float)


class Course:
    """The typical course of one quantity over the depth, and how much paths differ from it.

    ``lasting``: of how a path differs all stays, and effort does not matter.
    """

    def __init__(self, lasting: bool) -> None:
        self._lasting = lasting
        self._rows: dict[str, np.ndarray] = {}
        self._table: np.ndarray | None = None
        self._sums: dict[bool, _Sums] = {}

    @property
    def known(self) -> bool:
        return bool(self._rows)

    def tell(self, path: str, places: Sequence[Place]) -> None:
        """All that is known of a path, by depth."""
        depths = np.array([place.depth for place in places])
        row = np.stack(
            [
                _on_knots(depths, np.array(part))
                for part in zip(*((p.value, p.effort) for p in places), strict=True)
            ]
            or [np.full(len(_KNOTS), np.nan)] * 2
        )
        if np.isnan(row).all():
            self._table = None if self._rows.pop(path, None) is not None else self._table
        elif path in self._rows:
            self._rows[path][:] = row  # a row of the table, where that has been made
        else:
            self._rows[path] = row
            self._table = None
        self._sums.clear()

    def expect(
        self, path: str, last: Place | None, depths: np.ndarray, efforts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(mean, standard deviation), each (j,), of the path's values at ``depths``; NaN where nothing is known.

        ``last``: where it is, None = it has not begun. ``efforts``: (j,) what it will have taken.
        """
        sums = self._summed(begun=last is not None)
        typical = sums.typical(self._rows.get(path))
        known = int(np.isfinite(typical).sum())
        reach = _KNOTS[max(known - 1, 0)] + _NO_DEEPER
        wide = np.full(len(depths), UNKNOWN * PRIOR_SPREAD)
        if not known or (last is not None and last.depth > reach):
            return np.full(len(depths), math.nan if last is None else last.value), wide  # as it is now
        held = np.where(np.isfinite(typical), typical, typical[known - 1])  # a NaN would spread
        slope = sums.slope
        mean, kept = np.interp(depths, _KNOTS, held) + slope * efforts, 0.0
        if last is not None:
            kept = float(self._kept(np.array(last.depth)))
            mean = mean + kept * (last.value - slope * last.effort - np.interp(last.depth, _KNOTS, held))
        there = depths <= reach
        if not there.all():  # rising, so these are the last ones
            mean[~there] = mean[there][-1] if there.any() else math.nan if last is None else last.value
        spread = np.interp(depths, _KNOTS, sums.spread) * math.sqrt(1 - kept * kept)
        return mean, np.where(there, spread, wide)

    def _summed(self, begun: bool) -> _Sums:
        """For a path that has begun what its effort explains is left out; of a new one the effort is not known."""
        slope = begun and not self._lasting
        if slope not in self._sums:
            table = self._by_name()
            self._sums[slope] = _Sums(table, self._kept(_KNOTS), _slope(table) if slope else 0.0)
        return self._sums[slope]

    def _by_name(self) -> np.ndarray:
        """(paths, 2, knots) values and efforts, in an order that does not depend on that of telling."""
        if self._table is None:
            names = sorted(self._rows)
            self._table = np.array([self._rows[name] for name in names]).reshape(-1, 2, len(_KNOTS))
            self._rows = dict(zip(names, self._table, strict=True))
        return self._table

    def _kept(self, depths: np.ndarray) -> np.ndarray:
        """The share of a difference at these depths that stays."""
        return np.ones_like(depths) if self._lasting else np.sqrt(1 - np.exp(-depths))


class _Sums:
    """What the typical course is made of, so that it can be had without any one path."""

    def __init__(self, table: np.ndarray, kept: np.ndarray, slope: float) -> None:
        self._kept, self._many = kept, len(table) > MANY
        #: Points for a doubling of the effort.
        self.slope = slope
        self._all = self._parts(table)
        self._typical = self._course(self._all)
        off = self._freed(table) - self._typical
        seen = np.isfinite(off)
        squares = np.where(seen, off, 0.0) ** 2
        prior = PRIOR_PATHS * PRIOR_SPREAD**2
        #: (knots,) standard deviation of a path from the typical course, which is not known exactly either.
        number = PRIOR_PATHS + seen.sum(axis=0)
        self.spread = np.sqrt((prior + squares.sum(axis=0)) / number * (1 + 1 / number))

    def typical(self, without: np.ndarray | None) -> np.ndarray:
        """(knots,) the typical course, without that row where that makes a difference; NaN from where it is not known."""
        if without is None or self._many:
            return self._typical
        return self._course(self._all - self._parts(without[None]))

    def _course(self, parts: np.ndarray) -> np.ndarray:
        """With d = the differences that are expected of those who did not come this far, in all, the mean over all is
        (sum of those who did + number of the others * mean + d) / number of all, so it is (their sum + d) / their number.
        """
        course, differences = np.full(len(_KNOTS), np.nan), 0.0
        for k, (total, number, last, weight) in enumerate(parts.T.tolist()):
            if number < 0.5:
                break
            course[k] = mean = (total + differences) / number
            differences += last - weight * mean
        return course

    def _freed(self, table: np.ndarray) -> np.ndarray:
        """(paths, knots) the values without what the effort explains."""
        return table[:, 0] - self.slope * table[:, 1]

    def _parts(self, table: np.ndarray) -> np.ndarray:
        """(4, knots): sum and number of the values; and of those that are a path's last one, times the share that stays,
        the same.
        """
        freed = self._freed(table)
        seen = np.isfinite(freed)
        values = np.where(seen, freed, 0.0)
        last = seen & ~np.concatenate([seen[:, 1:], np.zeros((len(table), 1), dtype=bool)], axis=1)
        weight = last * self._kept
        return np.stack([part.sum(axis=0) for part in (values, seen, weight * values, weight)])


def _slope(table: np.ndarray) -> float:
    """What a doubling of the effort goes with at equal depth, over all depths where something is removed."""
    values, efforts = table[:, 0, 1:], table[:, 1, 1:]
    seen = np.isfinite(values)
    number = seen.sum(axis=0)
    used = number > 1
    if not used.any():
        return PRIOR_SLOPE

    def centred(part: np.ndarray) -> np.ndarray:
        part = np.where(seen, part, 0.0)[:, used]
        return np.where(seen[:, used], part - part.sum(axis=0) / number[used], 0.0)

    y, x = centred(values), centred(efforts)
    weight = PRIOR_EFFORT * used.sum()
    return float(((x * y).sum() + weight * PRIOR_SLOPE) / ((x * x).sum() + weight))


def _on_knots(depths: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(knots,) a path's values, NaN beyond its last; up to the knot after that its last slope continues."""
    rising = [i for i, depth in enumerate(depths) if i == 0 or depth > depths[:i].max() + _NO_DEEPER]
    depths, values = depths[rising], values[rising]
    row = np.full(len(_KNOTS), np.nan)
    if not len(depths) or depths[0] > _KNOTS[1]:
        return row  # its dense phase is not known: there is nothing to start from
    last = min(int(np.searchsorted(_KNOTS, depths[-1] - _NO_DEEPER)), len(_KNOTS) - 1)
    row[: last + 1] = np.interp(_KNOTS[: last + 1], depths, values)
    if len(depths) > 1:
        slope = (values[-1] - values[-2]) / (depths[-1] - depths[-2])
        row[last] = values[-1] + slope * (_KNOTS[last] - depths[-1])
    return row


def _depth(removed: float) -> float:
    return -math.log(max(1 - removed, _LEAST_LEFT))


def _place(name: str, one: Seen) -> Place:
    return Place(_depth(one.removed), _inner(name, one), math.log2(max(one.epoch, 1)))


def _inner(name: str, one: Seen) -> float:
    """A final value in the form in which it changes little with the depth; NaN if it has none."""
    value, left = one.finals.get(name, math.nan), max(1 - one.removed, _LEAST_LEFT)
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
        return np.exp(inner) / np.maximum(left, _LEAST_LEFT)
    return inner
