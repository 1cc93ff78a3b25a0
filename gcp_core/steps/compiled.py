"""A step whose forward and backward passes are compiled by ``torch.compile``: fewer, larger kernels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from gcp_core.config import TrainConfig
from gcp_core.errors import first_line
from gcp_core.penalties import Penalty
from gcp_core.steps.step import PlainStep

log = logging.getLogger(__name__)


class CompiledStep(PlainStep):
    """A step compiled for batches of ``train.batch_size`` images; others (the last of an epoch) run as they are.

    Where compiling fails, all run as they are, and a warning says so once.

    Args:
        backend: of ``torch.compile``.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        train: TrainConfig,
        penalty: Penalty | None = None,
        scaler: GradScaler | None = None,
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        super().__init__(model, optimizer, train, penalty, scaler)
        # torch keeps what it has compiled for earlier shapes, and gives up silently after eight of them.
        torch.compiler.reset()
        self._compiled: Callable[..., Any] | None = torch.compile(
            super().forward, dynamic=False, backend=backend
        )
        self._proven = False

    @property
    def failed(self) -> frozenset[str]:
        """See :class:`gcp_core.steps.Step`."""
        return frozenset() if self._compiled is not None else frozenset({"compile"})

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Any, Tensor]:
        """See :class:`PlainStep`."""
        if self._compiled is None or len(labels) != self.config.batch_size:
            return super().forward(images, labels)
        outputs, loss = self._compiled(images, labels)
        return outputs, loss

    def gradients(self, images: Tensor, labels: Tensor) -> Tensor:
        """See :class:`PlainStep`."""
        if self._proven or self._compiled is None or len(labels) != self.config.batch_size:
            return super().gradients(images, labels)
        # Half of a step may have been done when compiling the other half fails.
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        on_gpu = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=on_gpu):
                loss = super().gradients(images, labels)
                drawn = torch.get_rng_state(), [torch.cuda.get_rng_state(device) for device in on_gpu]
        except Exception as exc:  # compilers raise what they like
            self._compiled = None
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            log.warning("train.compile: this model cannot be compiled, it runs as it is: %s", first_line(exc))
        else:
            torch.set_rng_state(drawn[0])
            for device, state in zip(on_gpu, drawn[1]):
                torch.cuda.set_rng_state(state, device)
            self._proven = True
            return loss
        # Out here nothing holds what the failed pass has made: memory may be what it failed for.
        return super().gradients(images, labels)
