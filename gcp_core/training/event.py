"""One event: score, select, remove; a path selects by levels and shares the rest."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gcp_core.criteria import is_comparable
from gcp_core.plan import Plan
from gcp_core.pruning.selection import select_within
from gcp_core.schedule.clock import last_event_epoch
from gcp_core.seeds import generator
from gcp_core.training.setup import budget_for
from gcp_core.training.state import State


def prune_event(state: State, epoch: int) -> Plan | None:
    """Remove what is due at the end of ``epoch``; None if the target is met or the floors leave nothing to take."""
    setup, prune = state.setup, state.setup.config.pruning
    if getattr(state.cost, prune.of) <= setup.limit:
        return None
    scores = event_scores(state, epoch)
    last = epoch + prune.interval > last_event_epoch(prune, setup.config.train.num_epochs)
    budget = budget_for(prune, setup.limit, is_comparable(setup.scorer[0]), last)
    plan = select_within(scores, state.living, budget)
    return carry_out(state, plan, epoch) if plan.num_units else None


def event_scores(state: State, epoch: int) -> Mapping[str, Tensor]:
    """What the criterion says of the model at the end of ``epoch``, in float32: scores of every group's units."""
    setup, (criterion, scoring) = state.setup, state.setup.scorer
    with torch.autocast(setup.device.type, enabled=False):
        rng = generator(setup.config.seed, "event", epoch)
        return criterion.score(state.model, state.living, scoring, rng)


def carry_out(state: State, plan: Plan, epoch: int) -> Plan:
    """Cut what ``plan`` says; the plan as it is kept, with the epoch and the criterion it is from."""
    plan = plan.with_meta(epoch=epoch, criterion=state.setup.config.pruning.criterion)
    state.cut(plan)
    return plan
