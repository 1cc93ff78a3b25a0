"""How much hypervolume sequences of points would add to one front: asked thousands of times in a sweep of many paths."""

from __future__ import annotations

import numpy as np

from analysis.front.pareto import GROWN, nondominated, volume_added


class Front:
    """A front that is asked again and again what would join it.

    With two objectives the front is a staircase, and what a point adds is an area under it: all sequences are worked
    out at once from the integral of the staircase. With more, moocore measures every union.

    Args:
        losses: (n, m), 0 = the best anchor, 1 = the worst. Rows outside the box on the bad side count for nothing.
    """

    def __init__(self, losses: np.ndarray) -> None:
        inside = losses[(losses < 1.0).all(axis=1)]
        best = np.unique(inside[nondominated(inside)], axis=0)
        self._best = best
        if best.shape[1] == 2 and len(best):  # by the first loss, rising, so the second falls
            self._x, self._y = best[:, 0], best[:, 1]
        else:  # nothing: the staircase is the box's top
            self._x, self._y = np.ones(1), np.ones(1)
        self._knots = np.append(self._x, 1.0)
        self._areas_there = np.append(0.0, np.cumsum(self._y * np.diff(self._knots)))

    def added(self, points: np.ndarray) -> np.ndarray:
        """(cases, j) what the dominated volume grows by when the first, the first two, ... of a case's ``points``
        (cases, j, m) join the front; never less than for fewer.
        """
        if points.shape[2] != 2:
            return np.array([volume_added(self._best, case) for case in points]).reshape(points.shape[:2])
        growth = self._areas(points)
        return np.maximum.accumulate(np.where(growth > GROWN, growth, 0.0), axis=1)

    def _areas(self, points: np.ndarray) -> np.ndarray:
        """(cases, j) areas, by strips between neighbouring first losses of a case's points.

        In such a strip the lowest second loss of the points to its left, ``low``, is a constant, and the front's falls:
        the points are below the front up to where that reaches ``low``.
        """
        outside = ~(points < 1.0).all(axis=2)
        x, y = (np.where(outside, 1.0, points[:, :, k]) for k in (0, 1))
        order = np.argsort(x, axis=1, kind="stable")
        left, y = np.take_along_axis(x, order, 1), np.take_along_axis(y, order, 1)
        right = np.concatenate([left[:, 1:], np.ones((len(left), 1))], axis=1)
        # (cases, j, strips): with the first i points, what is not among them counts as the box's top.
        joined = order[:, None, :] <= np.arange(points.shape[1])[None, :, None]
        low = np.minimum.accumulate(np.where(joined, y[:, None, :], 1.0), axis=2)
        reached = self._knots[np.searchsorted(-self._y, -low)]
        start = np.broadcast_to(left[:, None, :], low.shape)
        end = np.maximum(np.minimum(right[:, None, :], reached), start)
        return (self._integral(end) - self._integral(start) - low * (end - start)).sum(axis=2)

    def _integral(self, at: np.ndarray) -> np.ndarray:
        """Of the staircase, from its first point; left of that it is the box's top, 1."""
        return np.interp(at, self._knots, self._areas_there) + np.minimum(at - self._x[0], 0.0)
