"""Mean absolute activation: mean over images and pixels of ``|y_c|``, y = the layer's feature map after its norm.

Source: Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017, section
2.2 (activation criterion).
"""

from __future__ import annotations

from torch import Tensor

from gcp_core.criteria.feature_maps import MapCriterion, over_positions


def mean_activation() -> MapCriterion:
    """No options."""
    return MapCriterion(_mean)


def _mean(maps: Tensor) -> Tensor:
    return over_positions(maps.double().abs())
