"""What an allocator is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from gcp_core.allocators.budget import Budget
from gcp_core.criteria import Batches
from gcp_core.groups import Groups

#: Group name -> ``(units,)`` float64, higher = keep; NaN = no score, so the unit stays. Of a criterion that chooses sets
#: they are the worth of the units in any order: only how many are low can be read from them, not which.
Scores = Mapping[str, np.ndarray]


class Allocator(Protocol):
    """Says how many units of each group stay; which ones is the criterion's business.

    May also have:
        needs: ``data`` if it looks at the model and at images before it decides; it then has :meth:`Looking.look`.
        forwards: what a look costs per image, in forward passes (1 where data is needed, else 0).
        per_unit: True if it reads which unit has which score; it then cannot follow a criterion that chooses sets.
        absolute: True if it compares scores with a fixed value: they are then refused where they are rescaled.
        grows: True if it may ask for more units than there are.
        exact: True if nothing else may be removed than it says: refused where events go on until a cost is reached.
        check: called as ``check(groups)`` with the groups of the whole network before a trial starts; raises ConfigError.
    """

    def allot(self, scores: Scores, groups: Groups, budget: Budget) -> Mapping[str, int]:
        """Group name -> units that stay; a group that is left out stays whole.

        Args:
            scores: normalised as ``budget.ranking`` says, so they can be compared across groups.
            groups: of the model as it is now, with floors (``budget.floor``), whole steps
                (:func:`gcp_core.allocators.removable`) and costs (``groups.cost``, ``groups.marginal_cost``).

        Who asks fits the answer to the budget: floors and whole steps are kept, and an answer that removes more than the
        budget asks or its limit needs is cut down evenly until one unit more would be too few. An answer that removes
        less is taken as it is, unless ``budget.whole`` says that the limit is to be reached.
        """
        ...


@runtime_checkable
class Looking(Protocol):
    """An allocator that looks before it decides."""

    def look(
        self, model: nn.Module, groups: Groups, batches: Batches, generator: torch.Generator
    ) -> Allocator:
        """The allocator that has seen this model. The model is left exactly as found, as by a criterion."""
        ...


def looks(allocator: Allocator) -> bool:
    """Whether the allocator decides by what it sees of the model."""
    return getattr(allocator, "needs", "nothing") == "data"
