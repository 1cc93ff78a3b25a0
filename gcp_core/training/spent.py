"""What a training has cost, in multiply-adds: comparable between trials whatever they remove, and when."""

from __future__ import annotations

from gcp_core.criteria import forwards_of
from gcp_core.training.state import State

#: A training step costs a forward pass and a backward pass of twice that.
FORWARDS_PER_STEP = 3.0


def train_cost(state: State) -> float:
    """Training multiply-adds so far, scoring included, in epochs of the unpruned model; as if trained alone.

    Epoch e counts the MACs of the model it trained, an event the images it scored times the criterion's forwards.
    """
    setup = state.setup
    macs = [row.metrics["cost/macs"] for row in state.history]
    if not setup.config.is_path:
        # A single trial reports an epoch after its event: what the next epoch trained.
        macs = [float(setup.dense_cost.macs), *macs[:-1]] if macs else []
    total = sum(macs)
    for plan in state.plans:
        criterion, scoring = setup.scorer
        share = len(scoring.images) / len(setup.train_images)
        total += forwards_of(criterion) / FORWARDS_PER_STEP * share * macs[plan.meta["epoch"] - 1]
    return total / setup.dense_cost.macs
