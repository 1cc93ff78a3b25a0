"""Norm of everything that goes with a unit: mean over its tensors of ``sum |w|^p``, divided by the group's mean.

A unit's tensors are its filters, the entries of its norms and its consumers' input columns (biases left out). Source:
Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, section 3.3 (p = 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gcp_core.criteria.base import Batches, Needs, by_layer
from gcp_core.errors import ConfigError
from gcp_core.groups import Groups


@dataclass(frozen=True)
class GroupNorm:
    """Reads the groups' tensors."""

    p: float
    needs: Needs = "nothing"

    def score(
        self, model: nn.Module, groups: Groups, batches: Batches, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Every member of a group gets its units' scores; channels that belong to no unit get 0."""
        return by_layer(self._units(model, groups), groups)

    def _units(self, model: nn.Module, groups: Groups) -> Tensor:
        """``(num_units,)`` score of each unit."""
        sums = torch.zeros(groups.num_units, dtype=torch.float64)
        tensors = torch.zeros(groups.num_units, dtype=torch.float64)
        parameters = dict(model.named_parameters())
        for axis in groups.layout.axes:
            weight = parameters.get(axis.tensor)
            if weight is None or axis.tensor.endswith("bias"):
                continue
            unit_of = torch.as_tensor(axis.units)
            alive = unit_of >= 0
            others = [d for d in range(weight.ndim) if d != axis.dim]
            power = weight.detach().double().abs().pow(self.p).cpu()
            power = power.sum(others) if others else power
            per_unit = torch.zeros_like(sums).index_add_(0, unit_of[alive], power[alive])
            sums += per_unit
            tensors[unit_of[alive].unique()] += 1
        mean = sums / tensors.clamp_min(1)
        for group in groups.groups:
            own = slice(group.first_unit, group.first_unit + group.size)
            total = mean[own].mean()
            mean[own] = mean[own] / total if total > 0 else mean[own]
        return mean


def group_norm(p: float = 2.0) -> GroupNorm:
    """``p``: the exponent."""
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 < p < 100:
        raise ConfigError(f"{p!r} is not a number in (0, 100)", "prune.options.p")
    return GroupNorm(float(p))
