"""From one order in which units would go to how many of each group stay: exact counts, whole steps, limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from gcp_core.allocators.base import Scores
from gcp_core.allocators.budget import Budget, rankings, removable
from gcp_core.groups import Groups

#: (group index, number of units that go together).
Step = tuple[int, int]


def by_order(
    scores: Scores, groups: Groups, budget: Budget, lead: Callable[[float], float]
) -> dict[str, int]:
    """Units that stay by group, when units go in the order of (``lead``, score) until the budget is met.

    Ties: lowest channel first, then the group that comes last in the forward. Where hidden linear layers have a ranking
    of their own, an event that a limit cuts short takes the same share of both rankings. With ``round_to``, the lowest
    units of a group go in steps that leave a multiple, and steps are ranked by the mean place of their units.

    Args:
        lead: of the share (0..1) of its group that is gone with a unit.
    """
    allowed = removable(groups, budget)
    lowest = [lowest_first(scores, groups, g) for g in range(len(groups.groups))]
    units = [[unit for _, _, unit in own] for own in lowest]
    queues = [
        _Queue(steps_of(lowest, groups, own, allowed, budget, lead), asked)
        for own, asked in rankings(groups, budget)
    ]
    turns = _turns(queues)
    taken = _taken(queues, turns, groups)
    if budget.limit is not None and cost_without(groups, units, taken, budget) < budget.limit:
        limit = float(budget.limit)
        # The fewest turns that take the cost down to the limit: it falls with every step.
        number = shortest(
            len(turns),
            lambda n: cost_without(groups, units, _taken(queues, turns[:n], groups), budget) <= limit,
        )
        taken = _taken(queues, turns[:number], groups)
    return {group.name: group.size - n for group, n in zip(groups.groups, taken, strict=True)}


#: (score, first channel, unit).
Scored = tuple[float, int, int]


def lowest_first(scores: Scores, groups: Groups, g: int) -> list[Scored]:
    """The units of group ``g`` that have a score, first to go first."""
    group = groups.groups[g]
    first = group.first_channels()
    own = scores[group.name].tolist()
    return sorted((key, first[unit], unit) for unit, key in enumerate(own) if not math.isnan(key))


def steps_of(
    lowest: Sequence[list[Scored]],
    groups: Groups,
    competing: list[int],
    allowed: list[list[int]],
    budget: Budget,
    lead: Callable[[float], float] = lambda share: 0.0,
) -> list[Step]:
    """All steps of one ranking, first to go first. Each prefix keeps every floor.

    Args:
        lowest: by group its :func:`lowest_first`.
        competing: indices of the groups in it.
        allowed: by group the numbers of units that may go (:func:`gcp_core.allocators.removable`).
    """
    order: list[tuple[float, float, int, int]] = []
    for g in competing:
        group = groups.groups[g]
        ranked = lowest[g][: max(0, group.size - budget.floor(group))]
        order += [
            (lead((rank + 1) / group.size), key, channel, -g) for rank, (key, channel, _) in enumerate(ranked)
        ]
    places: dict[int, list[int]] = {}
    for place, (*_, minus_g) in enumerate(sorted(order)):
        places.setdefault(-minus_g, []).append(place)
    steps = []
    for g, own in places.items():
        for low, high in pairwise(n for n in allowed[g] if n <= len(own)):
            steps.append((sum(own[low:high]) / (high - low), (g, high - low)))
    return [step for _, step in sorted(steps)]


def cost_without(groups: Groups, units: Sequence[Sequence[int]], taken: Sequence[int], budget: Budget) -> int:
    """``budget.of`` of the model without the first so many ``units`` of each group."""
    alive = np.ones(groups.num_units, dtype=bool)
    for group, own, number in zip(groups.groups, units, taken, strict=True):
        alive[[group.first_unit + unit for unit in own[:number]]] = False
    return groups.cost_of_mask(alive)[budget.of == "params"]


def shortest(number: int, enough: Callable[[int], bool]) -> int:
    """The least n <= ``number`` with ``enough(n)``, which never turns false again; ``number`` where there is none."""
    low, high = 0, number
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return low


def total(steps: list[Step], groups: Groups) -> list[int]:
    """Units that these steps take of each group."""
    taken = [0] * len(groups.groups)
    for g, number in steps:
        taken[g] += number
    return taken


class _Queue(NamedTuple):
    """One ranking: its steps, first to go first, and how many units are asked for."""

    steps: list[Step]
    asked: int

    def number(self) -> int:
        """Steps that come nearest to what is asked for: at least one, the fewer of two that are as near."""
        if self.asked < 1 or not self.steps:
            return 0
        totals = np.cumsum([number for _, number in self.steps])
        return 1 + int(np.argmin(np.abs(totals - self.asked)))


def _turns(queues: list[_Queue]) -> np.ndarray:
    """Which queue the first, second, ... step comes from: every prefix takes about the same share of each."""
    counts = [queue.number() for queue in queues]
    shares = [((rank + 1) / n, q) for q, n in enumerate(counts) for rank in range(n)]
    return np.array([q for _, q in sorted(shares)], dtype=np.int64)


def _taken(queues: list[_Queue], turns: np.ndarray, groups: Groups) -> list[int]:
    """As many steps of each queue as it has turns."""
    counts = np.bincount(turns, minlength=len(queues)).tolist()
    return total([step for queue, n in zip(queues, counts, strict=True) for step in queue.steps[:n]], groups)
