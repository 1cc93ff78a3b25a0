"""``none``: the loss is the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gcp_core.plan import Plan


@dataclass(frozen=True)
class NoPenalty:
    """The null penalty."""

    def term(self, model: nn.Module, images: Tensor, labels: Tensor, outputs: Any) -> Tensor:
        """Zero."""
        return images.new_zeros(())

    def on_plan(self, plan: Plan) -> None:
        """Nothing."""


def none() -> NoPenalty:
    """The loss is the loss."""
    return NoPenalty()
