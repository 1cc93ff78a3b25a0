"""What a penalty is."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from gcp_core.plan import Plan


class Penalty(Protocol):
    """Adds a term to the loss of every training step.

    It sees the model and never how it is pruned: trials that differ in their pruning train alike until their first event.
    Chance comes from torch's global generator, which is seeded anew for every epoch.

    May also have, all or none of the first two:
        state_dict, load_state_dict: what it has learned or counted, a flat mapping from names to tensors and plain
            numbers. It travels with the weights: into checkpoints, and into the training that trials share. Tensors
            come back on the device that is trained on.
        after_step: called as ``after_step(model)`` after every step of the optimiser, under ``torch.no_grad``.
    """

    def term(self, model: nn.Module, images: Tensor, labels: Tensor, outputs: Any) -> Tensor:
        """A scalar that is added to the loss of this batch; its gradient reaches the model's parameters.

        Args:
            images: ``(B, C, H, W)``, normalised.
            outputs: what the model made of them (networks with auxiliary heads give several).
        """
        ...

    def on_plan(self, plan: Plan) -> None:
        """Told about every cut, after model and optimiser were cut: what it keeps by channel loses the same indices."""
        ...
