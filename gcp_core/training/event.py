"""One event: score, select, remove; a path selects by levels and shares the rest."""

from __future__ import annotations

import dataclasses

import torch

from gcp_core.allocators import Allocator, Budget, rankings
from gcp_core.allocators.adjustment import cost_of_widths
from gcp_core.allocators.base import Looking, looks
from gcp_core.criteria import Judgement, is_comparable
from gcp_core.errors import required
from gcp_core.groups import Groups
from gcp_core.plan import Plan
from gcp_core.pruning.growth import plan_growth
from gcp_core.pruning.selection import say_if_spent, select_within
from gcp_core.schedule.clock import last_event_epoch
from gcp_core.seeds import derive_seed, generator
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
    if getattr(setup.allocator, "grows", False):
        budget = growing_budget(budget, state.living)
    allocator = event_allocator(state, epoch)
    plan = select_within(scores, state.living, budget, allocator)
    if plan.num_units:
        return carry_out(state, plan, epoch, allocator)
    say_if_spent(scores, state.living, budget)
    state.in_vain.append({"epoch": epoch, **_looked(state, allocator)})
    return None


def growing_budget(budget: Budget, groups: Groups) -> Budget:
    """What an event of a single trial may take where layers may grow: it is to reach a cost, whatever goes and comes.

    The cost is what would be left if every group lost the share of units that is asked for, but not less than the limit.
    """
    if budget.whole:
        return budget
    share = 1 - sum(asked for _, asked in rankings(groups, budget)) / max(1, groups.num_units)
    widths = {group.name: max(share, 0.0) * group.size for group in groups.groups}
    limit = max(cost_of_widths(groups, widths, budget.of), float(budget.limit or 0))
    return dataclasses.replace(budget, count=None, ratio=1.0, hidden_count=None, limit=limit, whole=True)


def event_scores(state: State, epoch: int) -> Judgement:
    """What the criterion says of the model at the end of ``epoch``, in float32."""
    setup, (criterion, scoring) = state.setup, state.setup.scorer
    # A recorded step has memory that the pass may need; after the event it is another step anyway.
    state.steps.drop()
    with torch.autocast(setup.device.type, enabled=False):
        rng = generator(setup.config.seed, "event", epoch)
        model = state.model if criterion.reads_gates else state.plain()
        return criterion.judge(model, state.living, scoring, rng)


def event_allocator(state: State, epoch: int) -> Allocator:
    """What spreads the event at the end of ``epoch`` over the groups; one that has to look has looked."""
    setup, (_, scoring) = state.setup, state.setup.scorer
    allocator = required(setup.allocator, "allocator")
    if not looks(allocator) or not isinstance(allocator, Looking):
        return allocator
    with torch.autocast(setup.device.type, enabled=False):
        rng = generator(setup.config.seed, "allocator", epoch)
        return allocator.look(state.plain(), state.living, scoring, rng)


def carry_out(state: State, plan: Plan, epoch: int, allocator: Allocator | None = None) -> Plan:
    """Repair what stays and cut what ``plan`` says; the plan as it is kept, with the epoch and what it is from.

    Args:
        allocator: the one that has spread the event.
    """
    setup, prune = state.setup, state.setup.config.pruning
    plan = plan.with_meta(epoch=epoch, criterion=prune.criterion)
    if plan.meta.get("grow"):
        seed = derive_seed(setup.config.seed, "growth", epoch)
        growth = plan_growth(state.living.after(plan), plan.meta["grow"], seed=seed)
        plan = dataclasses.replace(plan, growth=growth)
    plan = plan.with_meta(**_looked(state, allocator))
    state.lift(epoch)
    if setup.repair is not None:
        plan = plan.with_meta(repair=prune.repair)
        _repair(state, plan, epoch)
    state.cut(plan)
    if setup.rewrite is not None:
        # Known only now: what the modules cost in the network that is left.
        macs = setup.rewrite.macs(state.model, setup.config.train.batch_size)
        plan = state.plans[-1] = plan.with_meta(rewrite_macs=macs)
    return plan


def _looked(state: State, allocator: Allocator | None) -> dict[str, float]:
    """What the look of the event's allocator has cost, where that is known only once it has looked."""
    if allocator is None or allocator is state.setup.allocator or not hasattr(allocator, "forwards"):
        return {}
    return {"looked": float(allocator.forwards)}


def _repair(state: State, plan: Plan, epoch: int) -> None:
    setup, (_, scoring) = state.setup, state.setup.scorer
    # Nothing but what the key of shared training names: equal cuts by another criterion are repaired alike.
    cut = dataclasses.replace(plan, meta={"epoch": epoch}, growth=None)
    with torch.autocast(setup.device.type, enabled=False):
        rng = generator(setup.config.seed, "repair", epoch)
        required(setup.repair, "repair").patch(state.model, state.living, cut, scoring, rng)
