"""``consensus``: gates shall agree, and close (our reading of the losses of consensus sub-networks).

With the share g_c of a batch's samples for which channel c is open, over the channels of all consensus gates:

    polarise * mean_c g_c (1 - g_c)  +  activate * mean_c g_c      (with a target: activate * (mean_c g_c - target)^2)

The first term is 0 where every sample takes the same decision, and largest (1/4) where half of them do. See
:mod:`gcp_core.rewrites.consensus` for what could be read of the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gcp_core.config.checks import number
from gcp_core.plan import Plan
from gcp_core.rewrites import gates_of


def polarisation(shares: Tensor) -> Tensor:
    """Mean of g (1 - g), 0 .. 1/4; its gradient is 1 - 2 g, over their number."""
    return (shares * (1 - shares)).mean()


def activation(shares: Tensor, target: float | None) -> Tensor:
    """The mean of the shares, or the square of its distance from ``target``."""
    return shares.mean() if target is None else (shares.mean() - target).square()


@dataclass(frozen=True)
class ConsensusPenalty:
    """See :func:`consensus`."""

    polarise: float
    activate: float
    target: float | None
    needs_gates: bool = True

    def term(self, model: nn.Module, images: Tensor, labels: Tensor, outputs: Any) -> Tensor:
        """Of the last forward pass; 0 where there are no gates."""
        seen = [getattr(gate, "shares", None) for gate in gates_of(model)]
        found = [shares for shares in seen if isinstance(shares, Tensor)]
        if not found:
            return images.new_zeros(())
        shares = torch.cat(found)
        return self.polarise * polarisation(shares) + self.activate * activation(shares, self.target)

    def on_plan(self, plan: Plan) -> None:
        """It keeps nothing by channel."""


def consensus(polarise: float = 1.0, activate: float = 1.0, target: float | None = None) -> ConsensusPenalty:
    """Gates shall take the same decision for every sample, and be open for few (our reading of consensus sub-networks).

    Args:
        polarise, activate: weights of both terms.
        target: the share of channels that shall be open, 0..1; None = as few as the loss allows.

    Raises:
        ConfigError: an option is out of range.
    """
    where = "train.penalty_options"
    for name, value in (("polarise", polarise), ("activate", activate)):
        number(f"{where}.{name}", value, 0.0, math.inf)
    if target is not None:
        number(f"{where}.target", target, 0.0, 1.0)
    return ConsensusPenalty(float(polarise), float(activate), target)
