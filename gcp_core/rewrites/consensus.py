"""``consensus_gates``: gates that look at each sample, and come to agree (a reading of consensus sub-networks).

Behind every norm, the mean of each map goes through one linear layer and a sigmoid; a channel of a sample passes where
that is above 1/2, and the gradient goes through the sigmoid as if it had not been rounded. A penalty (``consensus``)
draws the share of samples for which a gate is open away from 1/2, and down. What leaves is static: a channel is open
where the moving average of that share is above 1/2.

After "A New Baseline for GreenAI: Finding the Optimal Sub-Network via Layer and Channel Pruning" (arXiv 2302.10798), of
which only the abstract was read: gates with a straight-through estimator, a polarising loss, one run, a static network.
All else is ours: the gate network and that it reads the maps that it gates, both terms of the penalty, that gates start
open, and that only channels are gated, not layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gcp_core.config.checks import number
from gcp_core.rewrites.gates import Gate, NormGates, majority
from gcp_core.rewrites.places import Place

#: Logits of fresh gates: sigmoid(1) is 0.73, open.
_OPEN = 1.0


def rounded(share: Tensor) -> Tensor:
    """0 or 1 (:func:`majority`), with the gradient of ``share`` ``(N, C)``: the straight-through estimator."""
    return majority(share).to(share) + (share - share.detach())


class Consensus(Gate):
    """A norm and a gate that looks at each sample.

    Attributes:
        weight, bias: ``(C, C)`` and ``(C,)``, of the linear layer.
        open: ``(C,)`` moving average of the share of samples for which the gate is open.
        shares: ``(C,)`` of the last batch, with its gradient; None in eval mode.
    """

    open: Tensor
    shift: Tensor
    shares: Tensor | None

    def __init__(self, place: Place, norm: _BatchNorm, momentum: float) -> None:
        super().__init__(place, norm)
        scale = norm.weight.detach()
        self.momentum = momentum
        self.weight = nn.Parameter(scale.new_zeros(len(scale), len(scale)))
        self.bias = nn.Parameter(torch.full_like(scale, _OPEN))
        self.register_buffer("open", torch.ones_like(scale))
        self.shares = None

    def act(self, y: Tensor) -> Tensor:
        """Each channel of each sample times 0 or 1; in eval mode the same for all samples."""
        shape = (-1, y.shape[1], *[1] * (y.ndim - 2))
        if not self.training:
            self.shares = None
            return y * self.mask().to(y).reshape(shape)
        with torch.autocast(y.device.type, enabled=False):
            pooled = y.to(self.weight.dtype).flatten(2).mean(2) if y.ndim > 2 else y.to(self.weight.dtype)
            gates = rounded(torch.sigmoid(nn.functional.linear(pooled, self.weight, self.bias)))
            self.shares = gates.mean(0)
            with torch.no_grad():
                self.open.lerp_(self.shares, self.momentum)
        return y * gates.to(y.dtype).reshape(shape)

    def chance(self) -> Tensor:
        """The moving average."""
        return self.open

    def fold_into(self, layer: nn.Module) -> list[nn.Parameter]:
        """Nothing moves; what the norm adds to each map is kept for :meth:`after`."""
        self.shift = self.norm.bias.detach().clone()
        return []

    def after(self, norm: _BatchNorm, kept: Tensor, gone: Tensor) -> Consensus:
        """Rows and columns of what is left. On average a removed map was its norm's shift: that stays, in the bias."""
        new = Consensus(self.place, norm, self.momentum)
        new.weight.copy_(self.weight[kept][:, kept])
        new.bias.copy_(self.bias[kept] + self.weight[kept][:, gone] @ self.shift[gone])
        new.open.copy_(self.open[kept])
        return new

    def macs(self, batch_size: int) -> float:
        """Of the linear layer."""
        return float(len(self.bias) ** 2)

    def __getstate__(self) -> dict[str, object]:
        """Without the last batch's shares: a copy is not part of their graph."""
        return {**self.__dict__, "shares": None}


@dataclass(frozen=True)
class ConsensusGates(NormGates):
    """See :func:`consensus_gates`."""

    momentum: float
    lr: float
    weight_decay: float

    def gate(self, place: Place, norm: _BatchNorm) -> Consensus:
        """An open gate behind a norm."""
        return Consensus(place, norm, self.momentum)


def consensus_gates(momentum: float = 0.1, lr: float = 1.0, weight_decay: float = 0.0) -> ConsensusGates:
    """Gates behind every norm that look at each sample, and come to agree (a reading of consensus sub-networks).

    Args:
        momentum: of the moving average of how often a gate is open.
        lr: the rate of the gates, as a factor of ``train.lr``.
        weight_decay: of the gates.

    Raises:
        ConfigError: an option is out of range.
    """
    where = "train.rewrite_options"
    number(f"{where}.momentum", momentum, 0.0, 1.0, open_low=True)
    number(f"{where}.lr", lr, 0.0, math.inf, open_low=True)
    number(f"{where}.weight_decay", weight_decay, 0.0, math.inf)
    return ConsensusGates(float(momentum), float(lr), float(weight_decay))
