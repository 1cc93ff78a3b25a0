"""The learning rates of an epoch's steps, where the optimiser reads them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Rates:
    """The learning rates of an epoch's steps.

    On a GPU they are uploaded once, as float32, and a step copies its own from there into the tensors that the optimiser
    reads: no copy from the host, and the place in memory stays the same. On a CPU they are plain numbers, in float64.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._optimizer, self._device = optimizer, device
        self._own = None if device.type == "cpu" else torch.zeros(len(optimizer.param_groups), device=device)
        self._rates: Sequence[Sequence[float]] = ()
        self._uploaded: tuple[Tensor, ...] = ()
        self._at = 0

    def begin(self, rates: Sequence[Sequence[float]]) -> None:
        """Rates per step and parameter group."""
        self._rates, self._at = rates, 0
        if self._own is None:
            return
        self._uploaded = torch.tensor(rates, dtype=torch.float32).to(self._device).unbind()
        for group, own in zip(self._optimizer.param_groups, self._own):
            group["lr"] = own

    def next(self) -> None:
        """Those of the next step become the optimiser's."""
        if self._own is not None:
            self._own.copy_(self._uploaded[self._at])
        else:
            for group, rate in zip(self._optimizer.param_groups, self._rates[self._at]):
                group["lr"] = rate
        self._at += 1

    def end(self) -> None:
        """The optimiser has the last step's as plain numbers: checkpoints hold no tensors of a device."""
        last = self._rates[max(0, self._at - 1)] if self._rates else ()
        for group, rate in zip(self._optimizer.param_groups, last):
            group["lr"] = rate
