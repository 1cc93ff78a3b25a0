"""Layer-adaptive magnitude: ``s_i / sum over {j: s_j >= s_i} of s_j`` with ``s_i = ||w_i||_2^2``.

Within a layer this ranks as the L2 norm does; across layers it decides how much goes from each (an allocator in
disguise). The last survivor of a layer always scores 1.
Source: Lee et al., "Layer-Adaptive Sparsity for the Magnitude-Based Pruning", ICLR 2021, here for whole filters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gcp_core.criteria.base import FilterCriterion


def lamp() -> FilterCriterion:
    """No options."""
    return FilterCriterion(_shares, comparable=True)


def _shares(filters: Tensor) -> Tensor:
    s = filters.square().sum(1)
    not_smaller = s.unsqueeze(0) >= s.unsqueeze(1)
    remaining = torch.where(not_smaller, s.unsqueeze(0), torch.zeros_like(s)).sum(1)
    return torch.where(remaining > 0, s / remaining, torch.zeros_like(s))
