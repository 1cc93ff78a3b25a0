"""One training step: forward, loss, backward, optimiser; nothing in it waits for the device or copies to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from gcp_core.config import TrainConfig
from gcp_core.models.arithmetic import autocast
from gcp_core.penalties import Penalty
from gcp_core.steps.rates import Rates

#: Weight of the auxiliary heads' losses (GoogLeNet and Inception return several outputs in training mode).
AUXILIARY_WEIGHT = 0.3


class Step(Protocol):
    """What happens to a network with each batch.

    Attributes:
        total: float64 scalar, the loss in nats summed over the images since :meth:`begin`, without a penalty's term.
        failed: what was tried with this step and did not work: ``compile``, ``record``.
    """

    @property
    def total(self) -> Tensor: ...

    @property
    def failed(self) -> frozenset[str]: ...

    def begin(self, rates: Sequence[Sequence[float]]) -> None:
        """Before an epoch: the learning rates of its steps, one for each parameter group."""

    def end(self) -> None:
        """After an epoch, also one that broke off: the optimiser's rates are plain numbers again."""

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """Train with one batch: ``(B, C, H, W)`` and ``(B,)``, on the device."""


class Part(Protocol):
    """One process's part of a step, where several train together."""

    @property
    def forward(self) -> nn.Module:
        """What is called instead of the network: its gradients are means over the processes."""

    def of_batch(self, loss: Tensor, own: int) -> Tensor:
        """The mean loss of the ``own`` images of this process, weighed for the mean over all processes' images."""


class PlainStep:
    """A step as it is written, one operation after the other.

    Args:
        part: what of it is this process's; None = all.
        penalty: adds a term to the loss; None = nothing does.
        scaler: keeps the gradients of float16 above zero; None = they need nobody.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        train: TrainConfig,
        penalty: Penalty | None = None,
        scaler: GradScaler | None = None,
        part: Part | None = None,
    ) -> None:
        self.scaler, self.part = scaler, part
        self.model, self.optimizer, self.config, self.penalty = model, optimizer, train, penalty
        self.device = next(model.parameters()).device
        self.total = torch.zeros((), dtype=torch.float64, device=self.device)
        self.rates = Rates(optimizer, self.device)
        self._after_step = getattr(penalty, "after_step", None)

    @property
    def failed(self) -> frozenset[str]:
        """See :class:`Step`."""
        return frozenset()

    def begin(self, rates: Sequence[Sequence[float]]) -> None:
        """See :class:`Step`."""
        self.total.zero_()
        self.rates.begin(rates)

    def end(self) -> None:
        """See :class:`Step`."""
        self.rates.end()

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """See :class:`Step`."""
        self.rates.next()
        self.work(images, labels)

    def work(self, images: Tensor, labels: Tensor) -> None:
        """The step itself, at the rates that the optimiser has."""
        loss = self.gradients(images, labels)
        if self.scaler is None:
            self.optimizer.step()
        else:
            # Fused optimisers look at the scale on the device: nobody waits to hear whether the step is left out.
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self._after_step is not None:
            with torch.no_grad():
                self._after_step(self.model)
        self.total += loss.double() * len(labels)

    def gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """Forward and backward; the loss, detached."""
        outputs, loss = self.forward(images, labels)
        self.optimizer.zero_grad(set_to_none=True)
        minimised = loss if self.part is None else self.part.of_batch(loss, len(labels))
        if self.penalty is not None:
            minimised = minimised + self.penalty.term(self.model, images, labels, outputs)
        (minimised if self.scaler is None else self.scaler.scale(minimised)).backward()
        return loss.detach()

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Any, Tensor]:
        """What the network makes of the images, and the loss."""
        with autocast(self.device, self.config.precision):
            outputs = (self.model if self.part is None else self.part.forward)(images)
            return outputs, loss_of(outputs, labels, self.config.label_smoothing)


def loss_of(outputs: Any, labels: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross-entropy; auxiliary heads count :data:`AUXILIARY_WEIGHT` each."""
    if isinstance(outputs, Tensor):
        return nn.functional.cross_entropy(outputs, labels, label_smoothing=label_smoothing)
    heads = [loss_of(head, labels, label_smoothing) for head in outputs if head is not None]
    # torchvision's tuples differ: logits come first in all of them.
    return heads[0] + AUXILIARY_WEIGHT * sum(heads[1:], torch.zeros_like(heads[0]))
