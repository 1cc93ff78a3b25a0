"""From scores and a budget to a plan: exact count, floors, deterministic ties."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from gcp_core.allocators import (
    Allocator,
    Budget,
    Ranking,
    build_allocator,
    hidden_groups,
    rankings,
    removable,
)
from gcp_core.allocators.base import looks
from gcp_core.allocators.order import Scored, lowest_first
from gcp_core.criteria import GroupRanking, Judgement
from gcp_core.errors import InfeasibleTarget, PlanError, did_you_mean
from gcp_core.groups import Groups, Member
from gcp_core.plan import Plan
from gcp_core.pruning.fit import adjusted, fitted
from gcp_core.pruning.reach import reachable_share

__all__ = ["Budget", "Ranking", "hidden_groups", "reachable_share", "select_channels"]

_log = logging.getLogger(__name__)

_NORMS: dict[str, Callable[[np.ndarray], float]] = {
    "none": lambda s: 1.0,
    "unit_l2": lambda s: float(np.sqrt((s * s).sum())),
    "mean": lambda s: float(np.abs(s).mean()),
    "max": lambda s: float(np.abs(s).max()),
}


def select_channels(
    scores: Judgement, groups: Groups, budget: Budget, allocator: Allocator | None = None
) -> Plan:
    """The plan that removes the lowest-scored units: pure, exact and deterministic.

    A unit's score is the mean over its scored members (over their channels where one has several); a unit without any
    score is never picked. Ties: lowest channel first, then the group that comes last in the forward. Where hidden
    linear layers have a ranking of their own, an event that a limit cuts short takes the same share of both rankings.
    With ``round_to``, the lowest units of a group go in steps that leave a multiple, and steps are ranked by the mean
    place of their units in the ranking.

    Args:
        scores: layer -> ``(C,)``, higher = keep; layers may be missing, frozen layers are ignored. Or of a criterion
            that chooses sets group -> :class:`gcp_core.criteria.GroupRanking`: then the units that it keeps stay.
        allocator: spreads the budget over the groups; None = the one that ``budget.ranking`` names. One that would have
            to look at a model, which is not here, is stood in for by ``global``.

    Returns:
        A plan whose ``meta`` says ``asked`` and ``removed`` (units); with ``round_to`` also that; ``grow`` where groups
        shall grow after it (group name -> units; :func:`gcp_core.pruning.growth.plan_growth` makes it part of the plan).

    Raises:
        PlanError: a score is not finite, of the wrong length, or for a layer that does not exist; or an allocator's
            answer makes no sense.
        InfeasibleTarget: ``budget.limit`` is below what is left when every group is at its floor.
    """
    judged = _judged(scores, groups, budget)
    _check_limit(groups, removable(groups, budget), budget)
    return _selected(judged, groups, budget, allocator)


def _selected(judged: _Judged, groups: Groups, budget: Budget, allocator: Allocator | None) -> Plan:
    """:func:`select_channels`, also where the floors prevent the limit."""
    if allocator is None:
        allocator = build_allocator(budget.ranking.allocator, budget.ranking.allocator_options)
        allocator = build_allocator("global") if looks(allocator) else allocator
    keep = allocator.allot(judged.scores, groups, budget)
    taken: list[int] | None = None
    added: dict[str, int] = {}
    if getattr(allocator, "grows", False):
        taken, added = adjusted(keep, judged.lowest, groups, budget)
        sizes = {group.name: group.size for group in groups.groups}
        keep = {name: min(number, sizes.get(name, number)) for name, number in keep.items()}
    if taken is None:
        taken = fitted(keep, judged.lowest, groups, budget, judged.cost)
    asked = sum(asked for _, asked in rankings(groups, budget))
    removed = {group.name: judged.gone(g, taken[g]) for g, group in enumerate(groups.groups) if taken[g]}
    meta: dict[str, Any] = {"asked": asked, "removed": sum(taken)}
    if budget.hidden_count is not None:
        meta["hidden_count"] = budget.hidden_count
    if budget.round_to > 1:
        meta["round_to"] = budget.round_to
    if added:
        meta["grow"] = added
    return groups.plan(removed, meta=meta)


def select_within(
    scores: Judgement, groups: Groups, budget: Budget, allocator: Allocator | None = None
) -> Plan:
    """:func:`select_channels`; where the floors prevent ``budget.limit``, what they allow of the rest of the budget: all
    of it, whatever the allocator says, where this one event is to reach the limit.
    """
    try:
        return select_channels(scores, groups, budget, allocator)
    except InfeasibleTarget:
        if budget.whole:
            return _selected(_judged(scores, groups, budget), groups, budget, allocator)
        return select_channels(scores, groups, dataclasses.replace(budget, limit=None), allocator)


def say_if_spent(scores: Judgement, groups: Groups, budget: Budget) -> None:
    """Log it if the floors are why an event with this budget has taken nothing: for events of a trial.

    The selection itself says nothing: whoever only imagines events (a driver, a forecast) meets floors all the time.
    """
    allowed, judged = removable(groups, budget), _judged(scores, groups, budget)
    free = (any(n <= len(own) for n in allowed[g] if n) for g, own in enumerate(judged.lowest))
    if sum(asked for _, asked in rankings(groups, budget)) and not any(free):
        kept = f"min_channels={budget.min_channels}, min_share={budget.min_share}, round_to={budget.round_to}"
        _log.warning("nothing is removed: no group has a unit to spare (%s)", kept)


@dataclasses.dataclass(frozen=True)
class _Judged:
    """What a criterion says, as allocators read it, and which units go when so many do.

    Attributes:
        scores: by group ``(units,)``, NaN where there is none. Where sets are chosen the worth of the first, second, ...
            unit that is kept, made to fall.
        sets: by group the criterion's ranking; None = the lowest scores go.
    """

    groups: Groups
    budget: Budget
    scores: Mapping[str, np.ndarray]
    sets: Mapping[str, GroupRanking] | None = None

    @cached_property
    def lowest(self) -> list[list[Scored]]:
        """By group its units with a score, first to go first."""
        return [lowest_first(self.scores, self.groups, g) for g in range(len(self.groups.groups))]

    def gone(self, g: int, number: int) -> list[int]:
        """The units that go when so many of group ``g`` do."""
        if self.sets is None:
            return [unit for _, _, unit in self.lowest[g][:number]]
        group = self.groups.groups[g]
        kept = [int(unit) for unit in self.sets[group.name].keep(group.size - number)]
        if len(kept) != group.size - number or len({*kept} & {*range(group.size)}) != len(kept):
            message = f"the criterion keeps {kept} where {group.size - number} of {group.size} units stay"
            raise PlanError(message, group.name)
        return sorted({*range(group.size)} - {*kept})

    def cost(self, taken: list[int]) -> int:
        """``budget.of`` of what is left when so many units of each group go."""
        alive = np.ones(self.groups.num_units, dtype=bool)
        for g, number in enumerate(taken):
            if number:
                first = self.groups.groups[g].first_unit
                alive[[first + unit for unit in self.gone(g, number)]] = False
        return self.groups.cost_of_mask(alive)[self.budget.of == "params"]


def _judged(scores: Judgement, groups: Groups, budget: Budget) -> _Judged:
    if scores and all(hasattr(value, "keep") for value in scores.values()):
        return _judged_sets(cast("Mapping[str, GroupRanking]", scores), groups, budget)
    keys = _unit_keys(_checked(cast("Mapping[str, Tensor]", scores), groups), groups, budget)
    named = {group.name: keys[group.first_unit : group.first_unit + group.size] for group in groups.groups}
    return _Judged(groups, budget, named)


def _judged_sets(sets: Mapping[str, GroupRanking], groups: Groups, budget: Budget) -> _Judged:
    scores = {}
    cost = groups.marginal_cost(budget.of)
    for group in groups.groups:
        if group.name not in sets:
            raise PlanError("no ranking for this group", group.name)
        worth = torch.as_tensor(sets[group.name].worth).detach().to("cpu").double().numpy()
        if worth.shape != (group.size,) or not np.isfinite(worth).all():
            message = f"the worth {worth.tolist()} is not one finite number for each of {group.size} units"
            raise PlanError(message, group.name)
        size = _NORMS[budget.ranking.normalise](worth)
        # Allocators take units one by one: no unit may look better than one that goes after it.
        falling = np.minimum.accumulate(worth / size if size > 0 else worth)
        own = cost[group.first_unit : group.first_unit + group.size].mean()
        scores[group.name] = falling / _weight(own, cost, budget)
    return _Judged(groups, budget, scores, sets)


def _weight(own: np.ndarray, cost: np.ndarray, budget: Budget) -> np.ndarray:
    """What scores are divided by for their units' cost."""
    return np.maximum(own / max(cost.mean(), 1e-30), 1e-12) ** budget.ranking.cost_power


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
        keys = keys / _weight(cost, cost, budget)
    return keys


def _member_means(member: Member, values: np.ndarray) -> np.ndarray:
    """``(units,)`` mean score over the channels of each unit in one layer."""
    counts = [len(channels) for channels in member.channels]
    flat = values[[channel for channels in member.channels for channel in channels]]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.add.reduceat(flat, starts) / counts


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
