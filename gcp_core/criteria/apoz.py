"""Average share of positive activations: ``1 - APoZ``, APoZ = mean over images and pixels of ``1[ReLU(y_c) = 0]``.

y = the layer's feature map after its norm. Source: Hu et al., "Network Trimming: A Data-Driven Neuron Pruning Approach
towards Efficient Deep Architectures", 2016, equation 1.
"""

from __future__ import annotations

from torch import Tensor

from gcp_core.criteria.feature_maps import MapCriterion, over_positions


def apoz() -> MapCriterion:
    """No options."""
    return MapCriterion(_positive_share, comparable=True)


def _positive_share(maps: Tensor) -> Tensor:
    return over_positions((maps > 0).double())
