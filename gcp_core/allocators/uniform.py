"""``uniform``: every group loses the same share, its lowest units first."""

from __future__ import annotations

from dataclasses import dataclass

from gcp_core.allocators.base import Scores
from gcp_core.allocators.budget import Budget
from gcp_core.allocators.order import by_order
from gcp_core.groups import Groups


@dataclass(frozen=True)
class Uniform:
    """The unit that takes a group to the lowest share removed goes first."""

    per_unit: bool = False

    def allot(self, scores: Scores, groups: Groups, budget: Budget) -> dict[str, int]:
        """The same share of each group, to one unit."""
        return by_order(scores, groups, budget, lead=lambda share: share)


def uniform() -> Uniform:
    """The same share from every group, its lowest units first."""
    return Uniform()
