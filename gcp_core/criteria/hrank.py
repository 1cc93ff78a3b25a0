"""Mean rank of the feature map: mean over images of ``rank(ReLU(y_c))``, y = the layer's map after its norm.

Source: Lin et al., "HRank: Filter Pruning using High-Rank Feature Map", CVPR 2020. Costs a singular value decomposition
per map, so few images are looked at (the paper finds the rank stable); ties are common.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gcp_core.criteria.feature_maps import MapCriterion
from gcp_core.errors import ConfigError


def hrank(max_images: int = 32) -> MapCriterion:
    """``max_images``: how many images are looked at."""
    if isinstance(max_images, bool) or not isinstance(max_images, int) or max_images < 1:
        raise ConfigError(f"{max_images!r} is not a whole number >= 1", "prune.options.max_images")
    return MapCriterion(_rank, max_images)


def _rank(maps: Tensor) -> Tensor:
    matrices = maps.relu().reshape(*maps.shape[:2], maps.shape[2] if maps.ndim > 2 else 1, -1)
    return torch.linalg.matrix_rank(matrices).double()
