"""Layers of every kind with inputs that a fit can be checked on."""

from __future__ import annotations

import torch
from torch import nn

LAYERS = {
    "conv": lambda: nn.Conv2d(4, 3, 3, padding=1),
    "strided": lambda: nn.Conv2d(4, 3, 3, stride=2, padding=1),
    "dilated": lambda: nn.Conv2d(4, 3, 3, padding=2, dilation=2),
    "same": lambda: nn.Conv2d(4, 3, (2, 3), padding="same"),
    "uneven": lambda: nn.Conv2d(4, 3, (3, 1), padding=(1, 0), stride=(1, 2)),
    "circular": lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"),
    "pointwise": lambda: nn.Conv2d(4, 3, 1),
    "conv1d": lambda: nn.Conv1d(4, 3, 3, padding=1),
    "conv3d": lambda: nn.Conv3d(4, 3, 2),
    "linear": lambda: nn.Linear(4, 3),
}


def layer_and_input(kind: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layer = LAYERS[kind]().double()
    shape = {"linear": (), "conv1d": (9,), "conv3d": (3, 3, 4)}.get(kind, (6, 6))
    mix = torch.randn(4, 4, dtype=torch.float64)
    x = torch.randn(40, 4, *shape, dtype=torch.float64) + torch.tensor([5.0, 0.0, -1.0, 2.0]).reshape(
        1, 4, *[1] * len(shape)
    )
    return layer, torch.einsum("ij,nj...->ni...", mix, x)


def batches_of(x: torch.Tensor, size: int = 17) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(part, torch.zeros(len(part), dtype=torch.int64)) for part in x.split(size)]


def columns_of(channels: list[int], positions: int) -> list[int]:
    return [c * positions + p for c in channels for p in range(positions)]
