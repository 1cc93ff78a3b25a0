"""What trials of the tests are made of, loaded by name in every process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn


def without_norms(num_classes: int, in_channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )


class WithAnUnusedLayer(nn.Module):
    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.unused, self.used = nn.Linear(3, 3), without_norms(num_classes, in_channels)

    def forward(self, x):
        return self.used(x)


def with_torch_sync_norm(num_classes: int, in_channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 3),
        nn.SyncBatchNorm(6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, num_classes),
    )


class RaisesIn:
    """A penalty of 0 that raises in the third step of one process."""

    def __init__(self, rank: int) -> None:
        self._rank, self._steps = rank, 0

    def term(self, model, images, labels, outputs):
        self._steps += 1
        if self._steps == 3 and dist.get_rank() == self._rank:
            raise LookupError(f"made to fail in process {self._rank}")
        return images.new_zeros(())

    def on_plan(self, plan) -> None:
        pass


class Drifts(RaisesIn):
    """Changes a weight after a step, in one process only."""

    def term(self, model, images, labels, outputs):
        return images.new_zeros(())

    def after_step(self, model) -> None:
        if dist.get_rank() == self._rank:
            next(model.parameters()).flatten()[0].add_(1e-3)


class Counts(RaisesIn):
    """Learns something of the images that each process sees, and of no other."""

    def __init__(self) -> None:
        self.seen = torch.zeros(())

    def term(self, model, images, labels, outputs):
        self.seen = self.seen + images.mean()
        return self.seen * next(model.parameters()).sum() * 1e-3

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


class KillsIn(RaisesIn):
    """Kills one of the processes in its seventh step, unless there is the file ``once``."""

    def __init__(self, rank: int, once: str) -> None:
        super().__init__(rank)
        self._once = Path(once)

    def term(self, model, images, labels, outputs):
        self._steps += 1
        if self._steps == 7 and dist.get_rank() == self._rank and not self._once.exists():
            self._once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return images.new_zeros(())
