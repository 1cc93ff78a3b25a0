"""``network_adjustment`` and ``least_used``: where a MAC buys much loss groups grow, where it buys little they shrink."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from gcp_core.allocators.adjustment import (
    Steps,
    adjusted_widths,
    cost_of_widths,
    cost_slopes,
    probe_rates,
    shrunk_widths,
    utilisation,
)
from gcp_core.allocators.base import Scores
from gcp_core.allocators.budget import Budget
from gcp_core.criteria.base import Batches
from gcp_core.errors import ConfigError
from gcp_core.groups import Groups


@dataclass(frozen=True)
class LeastUsed:
    """Groups shrink and none grows; see :func:`least_used` for the options.

    Attributes:
        ratios: utilisation ratio by group, as :meth:`look` found.
        forwards: what the look cost per image; before it a guess, for ten groups.
    """

    steps: Steps
    drop: float
    times: int
    ratios: Mapping[str, float] = field(default_factory=dict)
    forwards: float = 0.0
    needs: str = "data"
    per_unit: bool = False

    def look(
        self, model: nn.Module, groups: Groups, batches: Batches, generator: torch.Generator
    ) -> LeastUsed:
        """Every group is probed ``times`` times by channel dropout."""
        rates = probe_rates(groups, self.drop)
        found = utilisation(model, groups, batches, rates, generator, times=self.times)
        return replace(self, ratios=found, forwards=1.0 + self.times * len(rates))

    def allot(self, scores: Scores, groups: Groups, budget: Budget) -> dict[str, int]:
        """The worst-used groups shrink by a share of their original widths."""
        widths = {group.name: group.size for group in groups.groups}
        initial = {group.name: group.original_size for group in groups.groups}
        return shrunk_widths(widths, initial, self.ratios, steps=self.steps)


@dataclass(frozen=True)
class NetworkAdjustment(LeastUsed):
    """As :class:`LeastUsed`, but on the way to a level the best-used groups grow, up to what they once had.

    Of a level of parameters utilisation is per parameter: probes drop equal MACs, so to first order a rise is multiplied
    by the group's MACs and divided by its parameters. The source only knows MACs (a reading).
    """

    grows: bool = True

    def allot(self, scores: Scores, groups: Groups, budget: Budget) -> dict[str, int]:
        """Adjusted widths at the cost of the level; without a level to reach nothing grows."""
        if budget.limit is None or not budget.whole or not self.ratios:
            return super().allot(scores, groups, budget)
        widths = {group.name: group.size for group in groups.groups}
        initial = {group.name: group.original_size for group in groups.groups}
        return adjusted_widths(
            widths,
            initial,
            self._per(budget.of, groups),
            lambda new: cost_of_widths(groups, new, budget.of),
            float(budget.limit),
            steps=self.steps,
            ceilings=initial,
        )

    def _per(self, of: str, groups: Groups) -> Mapping[str, float]:
        """Rise of the loss by what is counted, on any common scale."""
        if of == "macs":
            return self.ratios
        macs, own = cost_slopes(groups), cost_slopes(groups, of=of)
        return {name: rise * macs[name] / own[name] for name, rise in self.ratios.items() if own[name] > 0}


def network_adjustment(
    share: float = 0.1, decay: float = 0.0, groups: int = 3, drop: float = 0.05, times: int = 5
) -> NetworkAdjustment:
    """Groups grow where a MAC buys the most loss and shrink where it buys the least; options of :func:`least_used`."""
    shrinking = least_used(share, decay, groups, drop, times)
    return NetworkAdjustment(shrinking.steps, shrinking.drop, shrinking.times, forwards=shrinking.forwards)


def least_used(
    share: float = 0.1, decay: float = 0.0, groups: int = 3, drop: float = 0.05, times: int = 5
) -> LeastUsed:
    """The groups in which a MAC buys the least loss shrink, probed by channel dropout.

    Args:
        share, decay, groups: how far so many groups shrink, see :class:`gcp_core.allocators.adjustment.Steps`.
        drop: mean dropout rate of the probes.
        times: passes over the images per group.
    """
    try:
        steps = Steps(share, decay, groups)
    except ConfigError as exc:
        raise ConfigError(exc.message, exc.where.replace("steps.", "prune.allocator_options.")) from None
    if isinstance(drop, bool) or not isinstance(drop, int | float) or not 0 < drop < 1:
        raise ConfigError(f"{drop!r} is not in (0, 1)", "prune.allocator_options.drop")
    if isinstance(times, bool) or not isinstance(times, int) or times < 1:
        raise ConfigError(f"{times!r} is not a whole number >= 1", "prune.allocator_options.times")
    return LeastUsed(steps, float(drop), times, forwards=1.0 + 10 * times)
