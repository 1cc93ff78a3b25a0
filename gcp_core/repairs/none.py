"""``none``: weights stay as they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from gcp_core.criteria import Batches
from gcp_core.groups import Groups
from gcp_core.plan import Plan


@dataclass(frozen=True)
class NoRepair:
    """The null repair."""

    needs: str = "nothing"

    def patch(
        self, model: nn.Module, groups: Groups, plan: Plan, batches: Batches, generator: torch.Generator
    ) -> None:
        """Nothing."""


def none() -> NoRepair:
    """Weights stay as they are."""
    return NoRepair()
