"""Activation density: the share of a layer's activations that are not zero says how wide it needs to be.

``AD_l = (# non-zero activations after ReLU) / (# activations)`` over data; widths go to
``c_l <- max(1, round(c_l AD_l))`` when AD has stopped moving, until it is near 1. Source: Foldy-Porto, Venkatesha, Panda,
"Activation Density Driven Energy-Efficient Pruning in Training", arXiv 2002.02949, of which only the abstract was seen
(the definition of AD is from the same group's arXiv 2101.04354). Readings: how widths follow from AD, the test of
saturation, one density per group, and where a residual branch is looked at (behind its own norm, before the sum). Widths
say nothing about which units go: any criterion does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gcp_core.allocators.base import Scores
from gcp_core.allocators.budget import Budget
from gcp_core.criteria.base import Batches, GroupsLike
from gcp_core.criteria.feature_maps import Maps, first_image, observed
from gcp_core.errors import ConfigError
from gcp_core.groups import Groups


def density(activations: Tensor) -> float:
    """Share of the elements that are not zero, 0..1; 0 for an empty tensor."""
    return float((activations != 0).double().mean()) if activations.numel() else 0.0


def layer_densities(model: nn.Module, groups: GroupsLike, batches: Batches) -> dict[str, float]:
    """Scored layer -> AD: the density of ReLU of its maps, at the output of the norm that follows it; one forward pass.

    It is the mean over the layer's channels of ``1 - APoZ``.

    Raises:
        RelevanceError: there are no images.
    """
    layers = groups.scored_layers()
    alive = dict.fromkeys(layers, 0.0)
    total = dict.fromkeys(layers, 0)

    def observe(layer: str, maps: Maps) -> None:
        own = maps.channels_first().detach()
        alive[layer] += float((own > 0).sum())
        total[layer] += own.numel()

    with observed(model, layers, first_image(batches), observe), torch.no_grad():
        for images, _ in batches:
            model(images)
    return {layer: alive[layer] / total[layer] for layer in layers}


def group_densities(layers: Mapping[str, float], groups: Groups) -> dict[str, float]:
    """Group name -> one AD: the mean over its scored members, weighted by their channels in the group."""
    found = {}
    for group in groups.groups:
        parts = [(layers[m.layer], sum(map(len, m.channels))) for m in group.members if m.scored]
        found[group.name] = sum(ad * number for ad, number in parts) / sum(number for _, number in parts)
    return found


def density_widths(
    widths: Mapping[str, int], densities: Mapping[str, float], floors: Mapping[str, int] | None = None
) -> dict[str, int]:
    """``max(floor, round(c AD))`` units of each group; a floor is 1 by default. Density 1 is a fixed point.

    Halves are rounded up. Never more than there are.
    """
    floors = floors or {}
    return {
        name: min(width, max(floors.get(name, 1), int(width * densities[name] + 0.5)))
        for name, width in widths.items()
    }


def saturated(history: Sequence[Mapping[str, float]], *, window: int = 3, tolerance: float = 0.01) -> bool:
    """Whether no group's density has moved by more than ``tolerance`` over the last ``window`` epochs (a reading).

    Args:
        history: densities at the end of each epoch since the last event, oldest first.
        window: epochs to look back over: ``window + 1`` values are needed.
        tolerance: largest minus smallest density of a group that still counts as rest, 0..1.

    Raises:
        ConfigError: a window below 1 or a tolerance that is not in 0..1.
    """
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise ConfigError(f"{window!r} is not a whole number >= 1", "window")
    if not 0 <= tolerance <= 1:
        raise ConfigError(f"{tolerance!r} is not in 0..1", "tolerance")
    if len(history) <= window:
        return False
    last = history[-window - 1 :]
    return all(
        max(row[name] for row in last) - min(row[name] for row in last) <= tolerance for name in last[-1]
    )


@dataclass(frozen=True)
class ActivationDensity:
    """Widths by activation density: :meth:`look` measures it, see :func:`activation_density`."""

    densities: Mapping[str, float] = field(default_factory=dict)
    needs: str = "data"
    per_unit: bool = False

    def look(
        self, model: nn.Module, groups: Groups, batches: Batches, generator: torch.Generator
    ) -> ActivationDensity:
        """One forward pass."""
        return ActivationDensity(group_densities(layer_densities(model, groups, batches), groups))

    def allot(self, scores: Scores, groups: Groups, budget: Budget) -> dict[str, int]:
        """``max(floor, round(c AD))`` of every group."""
        floors = {group.name: budget.floor(group) for group in groups.groups}
        return density_widths({group.name: group.size for group in groups.groups}, self.densities, floors)


def activation_density() -> ActivationDensity:
    """Every group keeps the share of its units that its activation density says."""
    return ActivationDensity()
