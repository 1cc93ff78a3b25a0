"""What the next event of a path takes, and when a path is over: pure, shared by training and forecast."""

from __future__ import annotations

import dataclasses

from gcp_core.allocators import Allocator
from gcp_core.config import PruneConfig, TrainConfig
from gcp_core.criteria import Judgement
from gcp_core.groups import Groups
from gcp_core.plan import Plan
from gcp_core.pruning.selection import select_within
from gcp_core.schedule.clock import last_epoch
from gcp_core.training.setup import budget_for, cost_left

#: Shares this close are the same share.
_CLOSE = 1e-9


def level_plan(
    scores: Judgement,
    groups: Groups,
    prune: PruneConfig,
    dense: float,
    comparable: bool = True,
    allocator: Allocator | None = None,
) -> Plan | None:
    """The plan of a path's next event; None if there is no next level, or the floors leave nothing to take.

    The event takes the fewest lowest-ranked units that bring the cost down to the next level; where the floors prevent
    that level, it takes what they allow. ``meta["level"]`` is the share aimed at, None with ``ratio_of: units``.

    Args:
        scores: as for :func:`gcp_core.pruning.selection.select_channels`.
        groups: of the model as it is now.
        allocator: as there.
        dense: cost (``prune.of``) of the unpruned model.
    """
    level = None
    budget = budget_for(prune, None, comparable)
    if prune.ratio_of != "units":
        level = prune.next_level(1 - cost_of(groups, prune) / dense)
        if level is None:
            return None
        budget = dataclasses.replace(budget, limit=cost_left(level, dense))
    plan = select_within(scores, groups, budget, allocator)
    return plan.with_meta(level=level) if plan.num_units else None


def why_over(
    train: TrainConfig, prune: PruneConfig, removed: float, epoch: int, last_plan: Plan | None
) -> str:
    """Why a path ends with the phase that ended with ``epoch`` and share ``removed``; "" = it goes on.

    One of :data:`gcp_core.records.results.ENDS` but "stopped". A path also ends where :func:`level_plan` has nothing.
    """
    depth, last = prune.depth(), last_epoch(train, prune)
    if depth is not None and removed >= depth - _CLOSE:
        return "target"
    aimed = None if last_plan is None else last_plan.meta.get("level")
    if aimed is not None and removed < aimed - _CLOSE:
        return "floors"
    return "cap" if last is not None and epoch + prune.interval > last else ""


def cost_of(groups: Groups, prune: PruneConfig) -> float:
    """MACs or params of a model, whichever its pruning is about."""
    return float(groups.cost()[prune.of == "params"])
