"""The typical course of a final value over the depth, from all paths of a sweep, and how much paths differ from it.

The typical course is the mean of all paths at equal depth. Paths that did not come that far count with what is expected
of them, so that the course does not jump where poor paths were paused. Between two snapshots a path's values are
interpolated over the log of the share left.

How a path differs from the typical course now says the more about later the more has been removed. The correlation is
taken for the root of the share removed: the unpruned model says nothing about the later ones, the last but one nearly
all. What is not known spreads as paths differ at that depth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

#: Depth = -log(share left), on this grid: down to a thousandth of the dense cost.
KNOTS = np.linspace(0.0, 7.0, 71)
LEAST_LEFT = math.exp(-KNOTS[-1])
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


@dataclass(frozen=True)
class Place:
    """Where a path is: how deep, with which value, after which effort (log2 of its epochs)."""

    depth: float
    value: float
    effort: float


class Places(NamedTuple):
    """Where p paths are, as :class:`Place`: each (p,)."""

    depth: np.ndarray
    value: np.ndarray
    effort: np.ndarray

    @classmethod
    def of(cls, places: Sequence[Place]) -> Places:
        """The same, as columns."""
        return cls(*np.array([(one.depth, one.value, one.effort) for one in places]).reshape(-1, 3).T)


class Course:
    """The typical course of one quantity over the depth, and how much paths differ from it.

    ``lasting``: of how a path differs all stays, and effort does not matter.
    """

    def __init__(self, lasting: bool) -> None:
        self._lasting = lasting
        self._rows: dict[str, Table] = {}
        self._table: Table | None = None
        self._sums: dict[bool, Sums] = {}

    @property
    def known(self) -> bool:
        """Whether any path has that value."""
        return bool(self._rows)

    def tell(self, path: str, places: Sequence[Place]) -> None:
        """All that is known of a path, by depth."""
        at = Places.of(places)
        row = np.stack([on_knots(at.depth, part) for part in (at.value, at.effort)])
        new = Table.of(row[None])
        if np.isnan(row).all():
            self._table = None if self._rows.pop(path, None) is not None else self._table
        elif path in self._rows:
            for part, line in zip(self._rows[path], new, strict=True):
                part[:] = line  # rows of the table, where that has been made
        else:
            self._rows[path], self._table = new, None
        self._sums.clear()

    def expect(
        self, paths: Sequence[str], last: Places | None, depths: np.ndarray, efforts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(mean, standard deviation), each (p, j), of the paths' values at ``depths``; NaN where nothing is known.

        Args:
            paths: p names.
            last: where they are, None = none has begun.
            depths: (p, j), rising. ``efforts``: (p, j) what it will have taken.
        """
        sums = self.summed(begun=last is not None)
        if sums.many or len(paths) == 1:
            without = None if sums.many else self._rows.get(paths[0])
            return self._foresee(sums, sums.typical(without), last, depths, efforts)
        found = [
            self._foresee(
                sums,
                sums.typical(self._rows.get(path)),
                None if last is None else Places(*(part[i : i + 1] for part in last)),
                depths[i : i + 1],
                efforts[i : i + 1],
            )
            for i, path in enumerate(paths)
        ]
        mean, spread = (np.concatenate(part) for part in zip(*found, strict=True))
        return mean, spread

    def _foresee(
        self, sums: Sums, typical: np.ndarray, last: Places | None, depths: np.ndarray, efforts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`expect` of paths that have one ``typical`` course (knots,)."""
        rows = len(depths)
        now = np.full(rows, math.nan) if last is None else last.value
        wide = np.full(depths.shape, UNKNOWN * PRIOR_SPREAD)
        known = int(np.isfinite(typical).sum())
        if not known:
            return np.broadcast_to(now[:, None], depths.shape).copy(), wide  # as it is now
        reach = KNOTS[known - 1] + _NO_DEEPER
        held = np.where(np.isfinite(typical), typical, typical[known - 1])  # a NaN would spread
        mean, kept, there = (
            np.interp(depths, KNOTS, held) + sums.slope * efforts,
            np.zeros(rows),
            depths <= reach,
        )
        if last is not None:
            kept = self._kept(last.depth)
            off = last.value - sums.slope * last.effort - np.interp(last.depth, KNOTS, held)
            mean = mean + (kept * off)[:, None]
            there &= (last.depth <= reach)[:, None]
        # Rising, so these are the last ones: as at the last one that is known, or as it is now.
        if not there.all():
            number = there.sum(axis=1)
            final = np.where(number > 0, mean[np.arange(rows), np.maximum(number - 1, 0)], now)
            mean = np.where(there, mean, final[:, None])
        spread = np.interp(depths, KNOTS, sums.spread) * np.sqrt(1 - kept * kept)[:, None]
        return mean, np.where(there, spread, wide)

    def summed(self, begun: bool) -> Sums:
        """For a path that has begun what its effort explains is left out; of a new one the effort is not known."""
        uses_effort = begun and not self._lasting
        if uses_effort not in self._sums:
            table = self._by_name()
            slope = slope_of(table) if uses_effort else 0.0
            self._sums[uses_effort] = Sums(table, self._kept(KNOTS), slope)
        return self._sums[uses_effort]

    def _by_name(self) -> Table:
        """All that is known, in the order of names: what is expected must not depend on the order of telling."""
        if self._table is None:
            names = sorted(self._rows)
            rows = [self._rows[name] for name in names] or [Table.of(np.empty((0, 2, len(KNOTS))))]
            self._table = table = Table(*(np.concatenate(part) for part in zip(*rows, strict=True)))
            self._rows = {name: Table(*(part[i : i + 1] for part in table)) for i, name in enumerate(names)}
        return self._table

    def _kept(self, depths: np.ndarray) -> np.ndarray:
        """The share of a difference at these depths that stays."""
        return np.ones_like(depths) if self._lasting else np.sqrt(1 - np.exp(-depths))


class Table(NamedTuple):
    """Paths on the knots, each (paths, knots): ``values`` and ``efforts``, 0 where a path has not been ``seen``.

    A path is seen from the first knot up to its last one, without gaps.
    """

    values: np.ndarray
    efforts: np.ndarray
    seen: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> Table:
        """From (paths, 2, knots): values and efforts, NaN beyond a path's last knot."""
        values, efforts = rows[:, 0], rows[:, 1]
        seen = np.isfinite(values)
        return cls(np.where(seen, values, 0.0), np.where(seen, efforts, 0.0), seen)


class Sums:
    """What the typical course is made of, so that it can be had without any one path.

    Attributes:
        slope: points for a doubling of the effort.
        spread: (knots,) standard deviation of a path from the typical course, which is not known exactly either.
        many: one path makes no difference to the typical course.
    """

    def __init__(self, table: Table, kept: np.ndarray, slope: float) -> None:
        self._kept, self.slope = kept, slope
        self.many = len(table.values) > MANY
        self._all = self._parts(table)
        self._typical = self._course(self._all)
        off = table.values - slope * table.efforts
        off -= np.where(np.isfinite(self._typical), self._typical, 0.0)
        off *= table.seen
        prior = PRIOR_PATHS * PRIOR_SPREAD**2
        number = PRIOR_PATHS + self._all[1]
        self.spread = np.sqrt((prior + np.einsum("pk,pk->k", off, off)) / number * (1 + 1 / number))

    def typical(self, without: Table | None) -> np.ndarray:
        """(knots,) the typical course, without that row where that makes a difference; NaN from where it is not known."""
        if without is None or self.many:
            return self._typical
        return self._course(self._all - self._parts(without))

    def _course(self, parts: np.ndarray) -> np.ndarray:
        """With d = the differences that are expected of those who did not come this far, in all, the mean over all is
        (sum of those who did + number of the others * mean + d) / number of all, so it is (their sum + d) / their number.
        """
        course, differences = np.full(len(KNOTS), np.nan), 0.0
        for k, (total, number, last, weight) in enumerate(parts.T.tolist()):
            if number < 0.5:
                break
            course[k] = mean = (total + differences) / number
            differences += last - weight * mean
        return course

    def _parts(self, table: Table) -> np.ndarray:
        """(4, knots): sum and number of the values without what the effort explains; and of those that are a path's last
        one, times the share that stays, the same.
        """
        number = table.seen.sum(axis=0)
        total = table.values.sum(axis=0) - self.slope * table.efforts.sum(axis=0)
        rows, last = np.arange(len(table.seen)), table.seen.sum(axis=1) - 1
        weight = self._kept[last]
        freed = table.values[rows, last] - self.slope * table.efforts[rows, last]
        ends = (np.bincount(last, part, minlength=len(KNOTS)) for part in (weight * freed, weight))
        return np.stack([total, number, *ends])


def slope_of(table: Table) -> float:
    """What a doubling of the effort goes with at equal depth, over all depths where something is removed."""
    number = table.seen[:, 1:].sum(axis=0)
    used = number > 1
    if not used.any():
        return PRIOR_SLOPE
    number = np.where(used, number, 1)

    def centred(part: np.ndarray) -> np.ndarray:
        return (part[:, 1:] - part[:, 1:].sum(axis=0) / number) * (table.seen[:, 1:] & used)

    y, x = centred(table.values), centred(table.efforts)
    weight = PRIOR_EFFORT * used.sum()
    together, own = np.einsum("pk,pk->", x, y), np.einsum("pk,pk->", x, x)
    return float((together + weight * PRIOR_SLOPE) / (own + weight))


def on_knots(depths: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(knots,) a path's values, NaN beyond its last; up to the knot after that its last slope continues."""
    rising = [i for i, depth in enumerate(depths) if i == 0 or depth > depths[:i].max() + _NO_DEEPER]
    depths, values = depths[rising], values[rising]
    row = np.full(len(KNOTS), np.nan)
    if not len(depths) or depths[0] > KNOTS[1]:
        return row  # its dense phase is not known: there is nothing to start from
    last = min(int(np.searchsorted(KNOTS, depths[-1] - _NO_DEEPER)), len(KNOTS) - 1)
    row[: last + 1] = np.interp(KNOTS[: last + 1], depths, values)
    if len(depths) > 1:
        slope = (values[-1] - values[-2]) / (depths[-1] - depths[-2])
        row[last] = values[-1] + slope * (KNOTS[last] - depths[-1])
    return row
