"""What gates say: how likely each channel is active or open. Higher = keep; a probability, so layers are comparable.

``active_probability`` is BWCP's P (:mod:`gcp_core.rewrites.whitening`). Where the network is trained with batch
whitening, it is that of the whitened channels; behind a plain norm, that of a normal value of the norm's shift and scale.
``gate_mean`` is the share of samples for which a consensus gate is open. A layer without norm or gate has 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gcp_core.config.checks import number
from gcp_core.criteria.base import Batches, GroupsLike, Needs
from gcp_core.criteria.feature_maps import first_image, norm_after
from gcp_core.rewrites import Gate, gates_of
from gcp_core.rewrites.whitening import active_probability as probability


@dataclass(frozen=True)
class ActiveProbability:
    """See :func:`active_probability`; one image says which norm takes which layer's output."""

    delta: float
    needs: Needs = "data"
    comparable: bool = True
    forwards: float = 0.0
    reads_gates: bool = True

    def score(
        self, model: nn.Module, groups: GroupsLike, batches: Batches, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """P of each channel."""
        layers, gates = groups.scored_layers(), _by_layer(model)
        norms = norm_after(model, [layer for layer in layers if layer not in gates], first_image(batches))
        return {
            layer: gates[layer].chance() if layer in gates else self._plain(model, norms.get(layer), size)
            for layer, size in layers.items()
        }

    def _plain(self, model: nn.Module, name: str | None, size: int) -> Tensor:
        norm = None if name is None else model.get_submodule(name)
        scale, shift = (getattr(norm, name, None) for name in ("weight", "bias"))
        if not isinstance(scale, Tensor) or not isinstance(shift, Tensor):
            return torch.ones(size, dtype=torch.float64)
        return probability(shift.detach().double(), scale.detach().double(), self.delta)


@dataclass(frozen=True)
class GateMean:
    """See :func:`gate_mean`."""

    needs: Needs = "nothing"
    comparable: bool = True
    reads_gates: bool = True
    needs_gates: bool = True

    def score(
        self, model: nn.Module, groups: GroupsLike, batches: Batches, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The gates' moving averages."""
        gates = _by_layer(model)
        return {
            layer: gates[layer].chance() if layer in gates else torch.ones(size, dtype=torch.float64)
            for layer, size in groups.scored_layers().items()
        }


def active_probability(delta: float = 0.05) -> ActiveProbability:
    """How likely a channel is above ``delta`` behind its norm (BWCP's P).

    Args:
        delta: of channels behind plain norms; batch whitening has its own.

    Raises:
        ConfigError: not a number.
    """
    number("prune.options.delta", delta, -math.inf, math.inf)
    return ActiveProbability(float(delta))


def gate_mean() -> GateMean:
    """The share of samples for which the channel's gate is open."""
    return GateMean()


def _by_layer(model: nn.Module) -> dict[str, Gate]:
    return {gate.place.layer: gate for gate in gates_of(model)}
