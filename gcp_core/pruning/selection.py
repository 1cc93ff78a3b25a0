"""From scores and a budget to a plan: exact count, floors, deterministic ties."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from torch import Tensor

from gcp_core.errors import InfeasibleTarget, PlanError, did_you_mean
from gcp_core.groups import Groups, Member
from gcp_core.plan import Plan
from gcp_core.pruning.budget import Budget, Ranking, hidden_groups, rankings, removable
from gcp_core.pruning.reach import reachable_share

__all__ = ["Budget", "Ranking", "hidden_groups", "reachable_share", "select_channels"]

_log = logging.getLogger(__name__)

_NORMS: dict[str, Callable[[np.ndarray], float]] = {
    "none": lambda s: 1.0,
    "unit_l2": lambda s: float(np.sqrt((s * s).sum())),
    "mean": lambda s: float(np.abs(s).mean()),
    "max": lambda s: float(np.abs(s).max()),
}


def select_channels(scores: Mapping[str, Tensor], groups: Groups, budget: Budget) -> Plan:
    """The plan that removes the lowest-scored units: pure, exact and deterministic.

    A unit's score is the mean over its scored members (over their channels where one has several); a unit without any
    score is never picked. Ties: lowest channel first, then the group that comes last in the forward. Where hidden
    linear layers have a ranking of their own, an event that a limit cuts short takes the same share of both rankings.
    With ``round_to``, the lowest units of a group go in steps that leave a multiple, and steps are ranked by the mean
    place of their units in the ranking.

    Args:
        scores: layer -> ``(C,)``, higher = keep. Layers may be missing; frozen layers are ignored.

    Returns:
        A plan whose ``meta`` says ``asked`` and ``removed`` (units); with ``round_to`` also that.

    Raises:
        PlanError: a score is not finite, of the wrong length, or for a layer that does not exist.
        InfeasibleTarget: ``budget.limit`` is below what is left when every group is at its floor.
    """
    keys = _unit_keys(_checked(scores, groups), groups, budget)
    parts = rankings(groups, budget)
    allowed = removable(groups, budget)
    queues = [
        _Queue(_whole_steps(_removal_order(keys, groups, own, budget), allowed), asked)
        for own, asked in parts
    ]
    _check_limit(groups, allowed, budget)
    turns = _turns(queues)
    picked = _pick(queues, turns)
    if budget.limit is not None and _cost(groups, picked, budget) < budget.limit:
        picked = _trim(queues, turns, groups, budget)
    if not picked and any(asked for _, asked in parts) and not any(queue.steps for queue in queues):
        kept = f"min_channels={budget.min_channels}, min_share={budget.min_share}, round_to={budget.round_to}"
        _log.warning("nothing is removed: no group has a unit to spare (%s)", kept)
    removed: dict[str, list[int]] = {}
    for group, unit in ((groups.groups[g], u) for g, u in picked):
        removed.setdefault(group.name, []).append(unit)
    meta = {"asked": sum(asked for _, asked in parts), "removed": len(picked)}
    if budget.hidden_count is not None:
        meta["hidden_count"] = budget.hidden_count
    if budget.round_to > 1:
        meta["round_to"] = budget.round_to
    return groups.plan(removed, meta=meta)


def select_within(scores: Mapping[str, Tensor], groups: Groups, budget: Budget) -> Plan:
    """:func:`select_channels`; where the floors prevent ``budget.limit``, what they allow of the rest of the budget."""
    try:
        return select_channels(scores, groups, budget)
    except InfeasibleTarget:
        return select_channels(scores, groups, dataclasses.replace(budget, limit=None))


def _checked(scores: Mapping[str, Tensor], groups: Groups) -> dict[str, np.ndarray]:
    layers = groups.layout.layers
    arrays = {}
    for layer, given in scores.items():
        if layer not in layers:
            raise PlanError("scores for a layer the model does not have", layer, did_you_mean(layer, layers))
        values = (
            given.detach().to("cpu").double().numpy()
            if isinstance(given, Tensor)
            else np.asarray(given, float)
        )
        if values.shape != (len(layers[layer]),):
            raise PlanError(
                f"scores of shape {values.shape}, but the layer has {len(layers[layer])} channels", layer
            )
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise PlanError(
                f"the score of channel {bad[0]} is {values[bad[0]]}", layer, "scores must be finite"
            )
        arrays[layer] = values
    return arrays


def _unit_keys(scores: dict[str, np.ndarray], groups: Groups, budget: Budget) -> np.ndarray:
    """``(num_units,)`` score of each unit; NaN where there is none."""
    normed = {}
    for layer, values in scores.items():
        size = _NORMS[budget.ranking.normalise](values) if len(values) else 1.0
        normed[layer] = values / size if size > 0 else values
    keys = np.full(groups.num_units, np.nan)
    for group in groups.groups:
        parts = [_member_means(m, normed[m.layer]) for m in group.members if m.scored and m.layer in normed]
        if parts:
            keys[group.first_unit : group.first_unit + group.size] = sum(parts) / len(parts)
    if budget.ranking.cost_power:
        cost = groups.marginal_cost(budget.of)
        keys = keys / np.maximum(cost / max(cost.mean(), 1e-30), 1e-12) ** budget.ranking.cost_power
    return keys


def _member_means(member: Member, values: np.ndarray) -> np.ndarray:
    """``(units,)`` mean score over the channels of each unit in one layer."""
    counts = [len(channels) for channels in member.channels]
    flat = values[[channel for channels in member.channels for channel in channels]]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.add.reduceat(flat, starts) / counts


def _removal_order(
    keys: np.ndarray, groups: Groups, competing: list[int], budget: Budget
) -> list[tuple[int, int]]:
    """(group index, unit) of all units that may go, first to go first. Each prefix keeps every floor."""
    order: list[tuple[float, float, int, int, int]] = []
    for g in competing:
        group = groups.groups[g]
        first = group.first_channels()
        own = keys[group.first_unit : group.first_unit + group.size].tolist()
        ranked = sorted((key, first[unit], unit) for unit, key in enumerate(own) if not math.isnan(key))
        for rank, (key, channel, unit) in enumerate(ranked[: max(0, group.size - budget.floor(group))]):
            # Uniform: the unit that takes a group to the lowest share removed goes first.
            lead = (rank + 1) / group.size if budget.ranking.allocator == "uniform" else 0.0
            order.append((lead, key, channel, -g, unit))
    return [(-minus_g, unit) for _, _, _, minus_g, unit in sorted(order)]


class _Queue(NamedTuple):
    """One ranking: steps of (group index, unit), first to go first, and how many units are asked for."""

    steps: list[list[tuple[int, int]]]
    asked: int

    def number(self) -> int:
        """Steps that come nearest to what is asked for: at least one, the fewer of two that are as near."""
        if self.asked < 1 or not self.steps:
            return 0
        totals = np.cumsum([len(step) for step in self.steps])
        return 1 + int(np.argmin(np.abs(totals - self.asked)))


def _whole_steps(order: list[tuple[int, int]], allowed: list[list[int]]) -> list[list[tuple[int, int]]]:
    """``order`` in the steps that ``allowed`` (numbers of units, by group) leaves; single units where all may go."""
    places: dict[int, list[int]] = {}
    for place, (g, _) in enumerate(order):
        places.setdefault(g, []).append(place)
    steps = []
    for g, own in places.items():
        for low, high in pairwise(n for n in allowed[g] if n <= len(own)):
            steps.append((sum(own[low:high]) / (high - low), [order[place] for place in own[low:high]]))
    return [step for _, step in sorted(steps)]


def _turns(queues: list[_Queue]) -> np.ndarray:
    """Which queue the first, second, ... step comes from: every prefix takes about the same share of each."""
    counts = [queue.number() for queue in queues]
    shares = [((rank + 1) / n, q) for q, n in enumerate(counts) for rank in range(n)]
    return np.array([q for _, q in sorted(shares)], dtype=np.int64)


def _pick(queues: list[_Queue], turns: np.ndarray) -> list[tuple[int, int]]:
    """As many steps of each queue as it has turns."""
    counts = np.bincount(turns, minlength=len(queues)).tolist()
    return [
        unit
        for queue, count in zip(queues, counts, strict=True)
        for step in queue.steps[:count]
        for unit in step
    ]


def _trim(queues: list[_Queue], turns: np.ndarray, groups: Groups, budget: Budget) -> list[tuple[int, int]]:
    """The shortest pick whose cost is at or below the limit (the cost falls with every step)."""
    low, high = 0, len(turns)
    while low < high:
        middle = (low + high) // 2
        if _cost(groups, _pick(queues, turns[:middle]), budget) <= float(budget.limit or 0):
            high = middle
        else:
            low = middle + 1
    return _pick(queues, turns[:low])


def _cost(groups: Groups, picked: list[tuple[int, int]], budget: Budget) -> int:
    alive = np.ones(groups.num_units, dtype=bool)
    alive[[groups.groups[g].first_unit + unit for g, unit in picked]] = False
    return groups.cost_of_mask(alive)[budget.of == "params"]


def _check_limit(groups: Groups, allowed: list[list[int]], budget: Budget) -> None:
    if budget.limit is None:
        return
    alive = np.ones(groups.num_units, dtype=bool)
    for group, numbers in zip(groups.groups, allowed, strict=True):
        alive[group.first_unit : group.first_unit + numbers[-1]] = False
    least = groups.cost_of_mask(alive)[budget.of == "params"]
    if budget.limit < least:
        hint = "raise the limit, or lower min_channels and min_share"
        hint += ", or round_to" if budget.round_to > 1 else ""
        raise InfeasibleTarget(
            f"{budget.limit:.0f} {budget.of} cannot be reached: {least} are left at the floors",
            "budget.limit",
            hint,
        )
