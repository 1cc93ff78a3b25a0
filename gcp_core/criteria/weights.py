"""Criteria that are a formula of a layer's filters, ``(C, weights of a filter)``; no image is needed."""

from __future__ import annotations

import torch
from torch import Tensor

from gcp_core.criteria.base import FilterCriterion


def l1() -> FilterCriterion:
    """L1 norm of the filter: ``sum |w|``.

    Source: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017. Not invariant to a filter's scale, which
    batch norm makes meaningless.
    """
    return FilterCriterion(_l1)


def _l1(filters: Tensor) -> Tensor:
    return filters.abs().sum(1)


def l2() -> FilterCriterion:
    """L2 norm of the filter: ``sqrt(sum w^2)``.

    Source: He et al., "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks", IJCAI 2018. Not
    invariant to a filter's scale, which batch norm makes meaningless.
    """
    return FilterCriterion(_l2)


def _l2(filters: Tensor) -> Tensor:
    return filters.norm(dim=1)


def fpgm() -> FilterCriterion:
    """Filter pruning via geometric median: ``sum over j of || w_i - w_j ||_2``; a filter near all others is redundant.

    Source: He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration", CVPR
    2019, equation 6 (plain Euclidean distances; some libraries square the weights first, which ranks differently).
    """
    return FilterCriterion(_distances)


def _distances(filters: Tensor) -> Tensor:
    # The matrix-product form loses small distances; filters are few enough for the exact one.
    return torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def lamp() -> FilterCriterion:
    """Layer-adaptive magnitude: ``s_i / sum over {j: s_j >= s_i} of s_j`` with ``s_i = ||w_i||_2^2``.

    Within a layer this ranks as the L2 norm does; across layers it decides how much goes from each (an allocator in
    disguise). The last survivor of a layer always scores 1.
    Source: Lee et al., "Layer-Adaptive Sparsity for the Magnitude-Based Pruning", ICLR 2021, here for whole filters.
    """
    return FilterCriterion(_shares, comparable=True)


def _shares(filters: Tensor) -> Tensor:
    s = filters.square().sum(1)
    not_smaller = s.unsqueeze(0) >= s.unsqueeze(1)
    remaining = torch.where(not_smaller, s.unsqueeze(0), torch.zeros_like(s)).sum(1)
    return torch.where(remaining > 0, s / remaining, torch.zeros_like(s))
