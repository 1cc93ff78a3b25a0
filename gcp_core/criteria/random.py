"""Chance: uniform numbers in [0, 1). The control that every criterion has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gcp_core.criteria.base import Batches, GroupsLike, Needs


@dataclass(frozen=True)
class Random:
    """Drawn from the generator, layer after layer."""

    needs: Needs = "nothing"

    def score(
        self, model: nn.Module, groups: GroupsLike, batches: Batches, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Independent uniform numbers."""
        return {
            layer: torch.rand(size, dtype=torch.float64, generator=generator, device=generator.device)
            for layer, size in groups.scored_layers().items()
        }


def random() -> Random:
    """No options."""
    return Random()
