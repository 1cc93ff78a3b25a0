"""L1 norm of the filter: ``sum |w|``.

Source: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017. Not invariant to a filter's scale, which batch
norm makes meaningless.
"""

from __future__ import annotations

from torch import Tensor

from gcp_core.criteria.base import FilterCriterion


def l1() -> FilterCriterion:
    """No options."""
    return FilterCriterion(_norm)


def _norm(filters: Tensor) -> Tensor:
    return filters.abs().sum(1)
