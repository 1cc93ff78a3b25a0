"""Scale of the batch norm behind the layer: ``|gamma_c|``; 1 for a layer without a norm.

Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017. Means something only
if training drives scales to zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gcp_core.criteria.base import Batches, GroupsLike, Needs
from gcp_core.criteria.feature_maps import first_image, norm_after


@dataclass(frozen=True)
class BnScale:
    """Needs one image, to see which norm takes which layer's output."""

    needs: Needs = "data"
    forwards: float = 0.0

    def score(
        self, model: nn.Module, groups: GroupsLike, batches: Batches, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Absolute scales."""
        layers = groups.scored_layers()
        norms = norm_after(model, layers, first_image(batches))
        return {layer: _scale(model, norms.get(layer), size) for layer, size in layers.items()}


def bn_scale() -> BnScale:
    """No options."""
    return BnScale()


def _scale(model: nn.Module, norm: str | None, size: int) -> Tensor:
    weight = None if norm is None else model.get_submodule(norm).weight
    # Norms without a scale have None.
    return weight.detach().abs() if isinstance(weight, Tensor) else torch.ones(size, dtype=torch.float64)
