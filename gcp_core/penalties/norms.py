"""``scale_and_shift``: norms are drawn towards channels that are never active (BWCP's penalty).

``sum_c scale |gamma_c| + shift beta_c`` over the channels of all batch norms. Source: Shao et al., BWCP, arXiv
2105.06423. The text advises a ``scale`` of 2 to 3 times ``shift``; its settings for CIFAR-10 have half of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gcp_core.config.checks import number
from gcp_core.plan import Plan


@dataclass(frozen=True)
class ScaleAndShift:
    """See :func:`scale_and_shift`."""

    scale: float
    shift: float

    def term(self, model: nn.Module, images: Tensor, labels: Tensor, outputs: Any) -> Tensor:
        """The sum over all norms that have both."""
        total = images.new_zeros(())
        for norm in model.modules():
            if isinstance(norm, _BatchNorm) and norm.affine:
                total = total + self.scale * norm.weight.abs().sum() + self.shift * norm.bias.sum()
        return total

    def on_plan(self, plan: Plan) -> None:
        """It keeps nothing by channel."""


def scale_and_shift(scale: float = 4e-5, shift: float = 8e-5) -> ScaleAndShift:
    """The sum of the scales' magnitudes, and of the shifts, of all batch norms (BWCP's penalty).

    Args:
        scale, shift: their weights; the defaults are the paper's for CIFAR-10.

    Raises:
        ConfigError: not numbers >= 0.
    """
    for name, value in (("scale", scale), ("shift", shift)):
        number(f"train.penalty_options.{name}", value, 0.0, math.inf)
    return ScaleAndShift(float(scale), float(shift))
