"""``global``: one ranking over all groups, the lowest units of the whole network go (the paper's)."""

from __future__ import annotations

from dataclasses import dataclass

from gcp_core.allocators.base import Scores
from gcp_core.allocators.budget import Budget
from gcp_core.allocators.order import by_order
from gcp_core.groups import Groups


@dataclass(frozen=True)
class WholeNetwork:
    """The lowest scores go, whichever group they are in."""

    per_unit: bool = False

    def allot(self, scores: Scores, groups: Groups, budget: Budget) -> dict[str, int]:
        """As many of each group as are among the lowest."""
        return by_order(scores, groups, budget, lead=lambda share: 0.0)


def whole_network() -> WholeNetwork:
    """One ranking over all groups: the lowest units of the whole network go."""
    return WholeNetwork()
