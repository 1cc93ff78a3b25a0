"""Filter pruning via geometric median: ``sum over j of || w_i - w_j ||_2``; a filter near all others is redundant.

Source: He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration", CVPR 2019,
equation 6 (plain Euclidean distances; some libraries square the weights first, which ranks differently).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gcp_core.criteria.base import FilterCriterion


def fpgm() -> FilterCriterion:
    """No options."""
    return FilterCriterion(_distances)


def _distances(filters: Tensor) -> Tensor:
    # The matrix-product form loses small distances; filters are few enough for the exact one.
    return torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
