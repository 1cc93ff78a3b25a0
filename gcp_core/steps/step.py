"""One training step: forward, loss, backward, optimiser; nothing in it waits for the device or copies to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gcp_core.config import TrainConfig
from gcp_core.penalties import Penalty
from gcp_core.steps.rates import Rates

#: Weight of the auxiliary heads' losses (GoogLeNet and Inception return several outputs in training mode).
AUXILIARY_WEIGHT = 0.3


class Step:
    """What happens to a network with each batch.

    Args:
        penalty: adds a term to the loss; None = nothing does.

    Attributes:
        total: sum of the loss in nats over the images seen since :meth:`begin`, without the penalty's term.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        train: TrainConfig,
        penalty: Penalty | None = None,
    ) -> None:
        self.model, self.optimizer, self.train, self.penalty = model, optimizer, train, penalty
        self.device = next(model.parameters()).device
        self.total = torch.zeros((), dtype=torch.float64, device=self.device)
        self._rates = Rates(optimizer, self.device)
        self._after_step = getattr(penalty, "after_step", None)

    def begin(self, rates: Sequence[Sequence[float]]) -> None:
        """Before an epoch: the learning rates of its steps, one for each parameter group."""
        self.total.zero_()
        self._rates.begin(rates)

    def end(self) -> None:
        """After an epoch, also one that broke off: the optimiser's rates are plain numbers again."""
        self._rates.end()

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """Train with one batch: ``(B, C, H, W)`` and ``(B,)``, on the device."""
        self._rates.next()
        self._train(images, labels)

    def _train(self, images: Tensor, labels: Tensor) -> None:
        train = self.train
        with torch.autocast(self.device.type, torch.bfloat16, enabled=train.precision == "bf16"):
            outputs = self.model(images)
            loss = loss_of(outputs, labels, train.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        if self.penalty is None:
            loss.backward()
        else:
            (loss + self.penalty.term(self.model, images, labels, outputs)).backward()
        self.optimizer.step()
        if self._after_step is not None:
            with torch.no_grad():
                self._after_step(self.model)
        self.total += loss.detach().double() * len(labels)


def loss_of(outputs: Any, labels: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross-entropy; auxiliary heads count :data:`AUXILIARY_WEIGHT` each."""
    if isinstance(outputs, Tensor):
        return nn.functional.cross_entropy(outputs, labels, label_smoothing=label_smoothing)
    heads = [loss_of(head, labels, label_smoothing) for head in outputs if head is not None]
    # torchvision's tuples differ: logits come first in all of them.
    return heads[0] + AUXILIARY_WEIGHT * sum(heads[1:], torch.zeros_like(heads[0]))
