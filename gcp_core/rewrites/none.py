"""``none``: the network is trained as it is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from gcp_core.plan import Plan
from gcp_core.rewrites.base import Lifted


@dataclass(frozen=True)
class NoRewrite:
    """The null rewrite."""

    def install(self, model: nn.Module, example: Tensor) -> None:
        """Nothing."""

    def fold(self, model: nn.Module) -> None:
        """Nothing."""

    def lift(self, model: nn.Module) -> Lifted:
        """Nothing."""
        return Lifted()

    def again(self, model: nn.Module, lifted: Lifted, plan: Plan) -> None:
        """Nothing."""

    def own(self, model: nn.Module) -> list[nn.Parameter]:
        """None."""
        return []

    def macs(self, model: nn.Module, batch_size: int) -> float:
        """0."""
        return 0.0


def none() -> NoRewrite:
    """The network is trained as it is."""
    return NoRewrite()
