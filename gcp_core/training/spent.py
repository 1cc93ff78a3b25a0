"""What a training has cost, in multiply-adds: comparable between trials whatever they remove, and when."""

from __future__ import annotations

from gcp_core.config import INTERVAL_CLOCK
from gcp_core.schedule.clocks import asked_epochs
from gcp_core.slots import forwards_of
from gcp_core.training.state import State

#: A training step costs a forward pass and a backward pass of twice that.
FORWARDS_PER_STEP = 3.0


def train_cost(state: State) -> float:
    """Training multiply-adds so far, in epochs of the unpruned model; as if trained alone. Looks are included.

    Epoch e counts the MACs of the model it trained, an event the images it looked at times the forwards of criterion,
    allocator and repair, and every time a clock was asked its forwards.
    """
    setup, prune = state.setup, state.setup.config.prune
    macs = [row.metrics["cost/macs"] for row in state.history]
    if not setup.config.is_path:
        # A single trial reports an epoch after its event: what the next epoch trained.
        macs = [float(setup.dense_cost.macs), *macs[:-1]] if macs else []
    total = sum(macs)
    if prune is not None:
        criterion, scoring = setup.scorer
        share = len(scoring.images) / len(setup.train_images)
        events = [plan.meta["epoch"] for plan in state.plans]
        forwards = sum(forwards_of(part) for part in (criterion, setup.allocator, setup.repair))
        looks = [(forwards, epoch) for epoch in events]
        if state.clock is not None and prune.clock != INTERVAL_CLOCK:
            of = [row.metrics[f"cost/{prune.of}"] for row in state.history]
            costs = [float(getattr(setup.dense_cost, prune.of)), *of[:-1]]
            asked = asked_epochs(prune, setup.config.train.num_epochs, events, costs, setup.limit)
            looks += [(forwards_of(state.clock), epoch) for epoch in asked]
        for number, epoch in looks:
            total += number / FORWARDS_PER_STEP * share * macs[epoch - 1]
    return total / setup.dense_cost.macs
