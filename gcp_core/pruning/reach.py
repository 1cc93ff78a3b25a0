"""How far a schedule can get at most: played with the costliest units first, without any scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gcp_core.allocators import Budget, rankings, removable
from gcp_core.groups import Groups
from gcp_core.plan import Plan


def reachable_share(groups: Groups, budgets: Sequence[Budget]) -> float:
    """Largest share (0..1) of ``budgets[0].of`` that these events remove if the costliest units always go first."""
    if not budgets:
        return 0.0
    of = budgets[0].of
    index = ("macs", "params").index(of)
    dense = groups.cost()[index]
    now = groups
    for budget in budgets:
        now = now.after(_costliest(now, budget, of))
    return 1.0 - now.cost()[index] / dense if dense else 0.0


def _costliest(groups: Groups, budget: Budget, of: str) -> Plan:
    """The plan of one event that always takes the unit (or whole step) with the largest marginal cost next."""
    slopes = _Slopes(groups, of)
    allowed = removable(groups, budget)
    room = np.array([numbers[-1] for numbers in allowed], dtype=int)
    taken = np.zeros(len(room), dtype=int)
    parts = rankings(groups, budget)
    part_of = np.zeros(len(room), dtype=int)
    for part, (own, _) in enumerate(parts):
        part_of[own] = part
    left = np.array([asked for _, asked in parts])
    while (free := (taken < room) & (left[part_of] > 0)).any():
        g = int(np.argmax(np.where(free, slopes.per_unit(), -1.0)))
        step = next(n for n in allowed[g] if n > taken[g]) - taken[g]
        taken[g] += step
        left[part_of[g]] -= step
        slopes.remove(g, step)
    return groups.plan(
        {group.name: range(int(n)) for group, n in zip(groups.groups, taken, strict=True) if n}
    )


class _Slopes:
    """Cost saved by the next unit of each group, from products of living channel counts."""

    def __init__(self, groups: Groups, of: str) -> None:
        self._group_of = np.full(groups.num_units + 1, -1)
        for g, group in enumerate(groups.groups):
            self._group_of[group.first_unit : group.first_unit + group.size] = g
        self._sizes = np.array([group.size for group in groups.groups], dtype=float)
        self._factor: list[float] = []
        self._left: list[np.ndarray] = []
        self._right: list[np.ndarray] = []
        if of == "macs":
            for term in groups.layout.terms:
                self._add(float(term.factor), term.outs, term.ins)
        else:
            self._add_params(groups)
        self.factor = np.array(self._factor)
        self.left, self.right = np.array(self._left), np.array(self._right)
        # Last column: channels that never go.
        self.alive = np.append(self._sizes, 1.0)

    def _add_params(self, groups: Groups) -> None:
        axes: dict[str, dict[int, np.ndarray]] = {}
        for axis in groups.layout.axes:
            axes.setdefault(axis.tensor, {})[axis.dim] = axis.units
        for tensor, dims in axes.items():
            shape = groups.layout.param_shapes.get(tensor)
            if shape is not None:
                rest = float(np.prod([size for d, size in enumerate(shape) if d not in dims]))
                one = np.array([-1])
                self._add(rest, *[*dims.values(), one][:2])

    def _add(self, factor: float, left: np.ndarray, right: np.ndarray) -> None:
        self._factor.append(factor)
        self._left.append(self._per_unit(left))
        self._right.append(self._per_unit(right))

    def _per_unit(self, units: np.ndarray) -> np.ndarray:
        """``(groups + 1,)`` channels per unit of each group; the last entry counts those that never go."""
        counts = np.bincount(self._group_of[units] + 1, minlength=len(self._sizes) + 1).astype(float)
        return np.append(counts[1:] / self._sizes, counts[0])

    def per_unit(self) -> np.ndarray:
        """``(groups,)`` cost that one unit of each group takes along now."""
        left, right = self.left @ self.alive, self.right @ self.alive
        return ((self.factor * right) @ self.left + (self.factor * left) @ self.right)[:-1]

    def remove(self, g: int, number: int) -> None:
        """``number`` units of group ``g`` are gone."""
        self.alive[g] -= number
