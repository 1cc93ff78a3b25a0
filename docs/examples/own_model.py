"""A model of your own: any ``nn.Module`` factory named ``package.module:factory``.

Nothing has to be registered or rewritten: which tensors lose a channel together is read off one traced forward pass.
"""

import torch
from torch import nn

from gcp_core.config import ModelConfig, PruneConfig, TrainConfig, TrialConfig
from gcp_core.groups import find_groups
from gcp_core.training import run_trial


class TwoPaths(nn.Module):
    """Two branches that are concatenated."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.left = nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(32, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.cat([self.left(x), self.right(x)], dim=1)
        return self.head(x.mean((2, 3)))


def two_paths(num_classes: int, in_channels: int) -> nn.Module:
    return TwoPaths(num_classes, in_channels)


if __name__ == "__main__":
    groups = find_groups(two_paths(10, 1), torch.zeros(1, 1, 8, 8))
    print(", ".join(f"{group.name}: {group.size} units" for group in groups.groups))
    config = TrialConfig(
        model=ModelConfig("own_model:two_paths"),
        train=TrainConfig(epochs=4, batch_size=64),
        prune=PruneConfig(interval=1, ratio=0.3, target=0.5, until=3),
    )
    print(f"{run_trial(config).finals['macs_removed']:.0%} of the MACs removed")
