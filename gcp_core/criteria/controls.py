"""Controls: chance, and another criterion's scores in another order. What every criterion has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gcp_core.criteria.base import Batches, GroupsLike, Needs, Wrapped
from gcp_core.groups import Groups


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


@dataclass(frozen=True)
class Shuffled(Wrapped):
    """``shuffled:NAME``: NAME's scores, shuffled within each layer.

    Every layer keeps its distribution of scores, so a global ranking takes as many channels from each layer as NAME
    would; which channels is left to chance. The difference between NAME and this control is what choosing channels is
    worth, apart from choosing widths (see also Frankle et al., "Pruning Neural Networks at Initialization: Why Are We
    Missing the Mark?", ICLR 2021, section 5).
    """

    def score(
        self, model: nn.Module, groups: Groups, batches: Batches, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The inner scores, each layer in a random order."""
        scores = self.inner.score(model, groups, batches, generator)
        return {layer: score[_order(score, generator)] for layer, score in scores.items()}


def _order(score: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randperm(score.numel(), generator=generator, device=generator.device).to(score.device)
