"""``threshold``: units whose score is above a fixed value stay."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gcp_core.allocators.base import Scores
from gcp_core.allocators.budget import Budget
from gcp_core.config.checks import number
from gcp_core.groups import Groups


@dataclass(frozen=True)
class Threshold:
    """Reads scores as they are: they must not be rescaled (``absolute``)."""

    at: float
    per_unit: bool = False
    absolute: bool = True

    def allot(self, scores: Scores, groups: Groups, budget: Budget) -> dict[str, int]:
        """As many of each group as have a score above the value, or none at all."""
        return {
            group.name: int(sum(math.isnan(s) or s > self.at for s in scores[group.name].tolist()))
            for group in groups.groups
        }


def threshold(at: float = 0.5) -> Threshold:
    """Units whose score is above a fixed value stay; the budget is the most that an event removes.

    Args:
        at: 1/2 is where gates close a channel.

    Raises:
        ConfigError: not a number.
    """
    number("prune.allocator_options.at", at, -math.inf, math.inf)
    return Threshold(float(at))
