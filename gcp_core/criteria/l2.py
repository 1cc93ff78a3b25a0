"""L2 norm of the filter: ``sqrt(sum w^2)``.

Source: He et al., "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks", IJCAI 2018. Not invariant
to a filter's scale, which batch norm makes meaningless.
"""

from __future__ import annotations

from torch import Tensor

from gcp_core.criteria.base import FilterCriterion


def l2() -> FilterCriterion:
    """No options."""
    return FilterCriterion(_norm)


def _norm(filters: Tensor) -> Tensor:
    return filters.norm(dim=1)
