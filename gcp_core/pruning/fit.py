"""An allocator's answer fitted to the budget: floors, whole steps, and at most one step beyond what is asked."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence

from gcp_core.allocators import Budget, rankings, removable
from gcp_core.allocators.adjustment import cost_of_widths
from gcp_core.allocators.order import Scored, Step, shortest, steps_of, total
from gcp_core.errors import PlanError, did_you_mean
from gcp_core.groups import Groups


def fitted(
    keep: Mapping[str, int],
    lowest: Sequence[list[Scored]],
    groups: Groups,
    budget: Budget,
    cost: Callable[[list[int]], int],
) -> list[int]:
    """Units that go, by group. An answer that is exact already comes back as it is.

    Args:
        keep: an allocator's answer.
        lowest: by group the units with a score, first to go first.
        cost: ``budget.of`` of what is left when so many of each group go.

    Raises:
        PlanError: the answer names an unknown group, or a number of units that the group cannot have.
    """
    allowed = removable(groups, budget)
    taken = []
    for g, wanted in enumerate(_wanted(keep, groups)):
        most = min(wanted, len(lowest[g]))
        taken.append(max(n for n in allowed[g] if n <= most))
    for own, asked in rankings(groups, budget):
        taken = _cut_to_count(taken, own, asked, groups, allowed)
    if budget.limit is None:
        return taken
    left = cost(taken)
    if left < budget.limit:
        return _cut_to_limit(taken, groups, allowed, budget, cost)
    if budget.whole and left > budget.limit:
        return _filled(taken, lowest, groups, allowed, budget, cost)
    return taken


def adjusted(
    keep: Mapping[str, int], lowest: Sequence[list[Scored]], groups: Groups, budget: Budget
) -> tuple[list[int] | None, dict[str, int]]:
    """(units that go by group, units that come by group name) of an answer that lets groups grow.

    Floors are kept, no group gets more units than it once had, and units come back only as far as the limit allows.
    ``(None, {})`` where nothing would grow, or nothing would go.
    """
    added = {
        group.name: min(int(keep.get(group.name, group.size)), group.original_size) - group.size
        for group in groups.groups
    }
    added = {name: number for name, number in added.items() if number > 0}
    if not added or budget.limit is None:
        return None, {}
    taken = []
    for g, (group, allowed) in enumerate(zip(groups.groups, removable(groups, budget), strict=True)):
        most = min(max(0, group.size - int(keep.get(group.name, group.size))), len(lowest[g]))
        taken.append(max(n for n in allowed if n <= most))

    def widths() -> dict[str, int]:
        pairs = zip(groups.groups, taken, strict=True)
        return {group.name: group.size - gone + added.get(group.name, 0) for group, gone in pairs}

    while added and cost_of_widths(groups, widths(), budget.of) > budget.limit:
        largest = max(added, key=lambda name: added[name])
        added[largest] -= 1
        added = {name: number for name, number in added.items() if number}
    return (taken, added) if added and any(taken) else (None, {})


def _wanted(keep: Mapping[str, int], groups: Groups) -> list[int]:
    """Units that are to go, by group."""
    names = [group.name for group in groups.groups]
    for name in keep:
        if name not in names:
            raise PlanError("the allocator names a group that is not there", name, did_you_mean(name, names))
    found = []
    for group in groups.groups:
        given = keep.get(group.name, group.size)
        try:
            number = operator.index(given)
        except TypeError:
            raise PlanError(f"the allocator keeps {given!r} units, no whole number", group.name) from None
        if not 0 <= number <= group.size:
            raise PlanError(f"the allocator keeps {number} units; the group has {group.size}", group.name)
        found.append(group.size - number)
    return found


def _course(taken: Sequence[int], own: Sequence[int], allowed: list[list[int]]) -> list[Step]:
    """The steps that lead to ``taken`` in these groups: each prefix takes about the same share of what each loses."""
    course = []
    for g in own:
        ends = [n for n in allowed[g] if 0 < n <= taken[g]]
        for place, (low, high) in enumerate(zip([0, *ends], ends, strict=False)):
            course.append(((place + 1) / len(ends), g, high - low))
    return [(g, number) for _, g, number in sorted(course)]


def _last_step(taken: int, allowed: list[int]) -> int:
    """How many units the last step takes that leads to ``taken``."""
    return taken - max((n for n in allowed if n < taken), default=0)


def _cut_to_count(
    taken: list[int], own: list[int], asked: int, groups: Groups, allowed: list[list[int]]
) -> list[int]:
    """``taken``, cut down evenly where these groups could do with a step less and still lose what is asked."""
    number = sum(taken[g] for g in own)
    if any(number - _last_step(taken[g], allowed[g]) < asked for g in own if taken[g]) or not number:
        return taken
    course = _course(taken, own, allowed)
    count = shortest(len(course), lambda n: sum(units for _, units in course[:n]) >= asked)
    fewer = total(course[:count], groups)
    return [fewer[g] if g in own else n for g, n in enumerate(taken)]


def _cut_to_limit(
    taken: list[int],
    groups: Groups,
    allowed: list[list[int]],
    budget: Budget,
    cost: Callable[[list[int]], int],
) -> list[int]:
    """``taken``, cut down evenly where every group could do with a step less and the limit were still met."""
    limit, each = float(budget.limit or 0), groups.marginal_cost(budget.of)
    steps = [(g, _last_step(n, allowed[g])) for g, n in enumerate(taken) if n]
    # The dearest first: it is the likeliest to be needed, and one that is needed is enough.
    steps.sort(key=lambda step: -step[1] * each[groups.groups[step[0]].first_unit])
    for g, number in steps:
        if cost([n - number if h == g else n for h, n in enumerate(taken)]) > limit:
            return taken
    course = _course(taken, range(len(taken)), allowed)
    count = shortest(len(course), lambda n: cost(total(course[:n], groups)) <= limit)
    return total(course[:count], groups)


def _filled(
    taken: list[int],
    lowest: Sequence[list[Scored]],
    groups: Groups,
    allowed: list[list[int]],
    budget: Budget,
    cost: Callable[[list[int]], int],
) -> list[int]:
    """``taken`` and, lowest of the whole network first, as few more steps as reach the limit."""
    limit, passed, rest = float(budget.limit or 0), [0] * len(taken), []
    for g, number in steps_of(lowest, groups, list(range(len(taken))), allowed, budget):
        passed[g] += number
        if passed[g] > taken[g]:
            rest.append((g, number))

    def with_more(n: int) -> list[int]:
        return [a + b for a, b in zip(taken, total(rest[:n], groups), strict=True)]

    return with_more(shortest(len(rest), lambda n: cost(with_more(n)) <= limit))
