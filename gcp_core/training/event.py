"""One event: score, select, remove."""

from __future__ import annotations

import torch

from gcp_core.criteria import is_comparable
from gcp_core.plan import Plan
from gcp_core.pruning.selection import select_within
from gcp_core.schedule.clock import last_event_epoch
from gcp_core.seeds import generator
from gcp_core.training.setup import budget_for
from gcp_core.training.state import State


def prune_event(state: State, epoch: int) -> Plan | None:
    """Remove what is due at the end of ``epoch``; None if the target is met or the floors leave nothing to take."""
    setup, prune = state.setup, state.setup.config.prune
    if getattr(state.cost, prune.of) <= setup.limit:
        return None
    with torch.autocast(setup.device.type, enabled=False):
        rng = generator(setup.config.seed, "event", epoch)
        scores = setup.criterion.score(state.model, state.groups, setup.scoring, rng)
    last = epoch + prune.interval > last_event_epoch(prune, setup.config.train.epochs)
    budget = budget_for(prune, setup.limit, is_comparable(setup.criterion), last)
    plan = select_within(scores, state.groups, budget)
    if plan.num_units == 0:
        return None
    plan = plan.with_meta(epoch=epoch, criterion=prune.criterion)
    state.cut(plan)
    return plan
