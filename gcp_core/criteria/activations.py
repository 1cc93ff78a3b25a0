"""Criteria that are a formula of a layer's feature maps ``(N, C, ...)`` after their norm, averaged over images."""

from __future__ import annotations

import torch
from torch import Tensor

from gcp_core.criteria.feature_maps import MapCriterion, over_positions
from gcp_core.errors import ConfigError


def mean_activation() -> MapCriterion:
    """Mean absolute activation: mean over images and pixels of ``|y_c|``, y = the layer's feature map after its norm.

    Source: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017, section
    2.2 (activation criterion).
    """
    return MapCriterion(_mean)


def _mean(maps: Tensor) -> Tensor:
    return over_positions(maps.double().abs())


def apoz() -> MapCriterion:
    """Average share of positive activations: ``1 - APoZ``, APoZ = mean over images and pixels of ``1[ReLU(y_c) = 0]``.

    y = the layer's feature map after its norm. Source: Hu et al., "Network Trimming: A Data-Driven Neuron Pruning
    Approach towards Efficient Deep Architectures", 2016, equation 1.
    """
    return MapCriterion(_positive_share, comparable=True)


def _positive_share(maps: Tensor) -> Tensor:
    return over_positions((maps > 0).double())


def hrank(max_images: int = 32) -> MapCriterion:
    """Mean rank of the feature map: mean over images of ``rank(ReLU(y_c))``, y = the layer's map after its norm.

    Source: Lin et al., "HRank: Filter Pruning using High-Rank Feature Map", CVPR 2020. Costs a singular value
    decomposition per map, so few images are looked at (the paper finds the rank stable); ties are common.

    Args:
        max_images: how many images are looked at.
    """
    if isinstance(max_images, bool) or not isinstance(max_images, int) or max_images < 1:
        raise ConfigError(f"{max_images!r} is not a whole number >= 1", "prune.options.max_images")
    return MapCriterion(_rank, max_images)


def _rank(maps: Tensor) -> Tensor:
    matrices = maps.relu().reshape(*maps.shape[:2], maps.shape[2] if maps.ndim > 2 else 1, -1)
    return torch.linalg.matrix_rank(matrices).double()
