"""What a convolution with merged channels costs, image by image: multiplications, hashing, averages, sums of filters.

An addition counts as much as a multiply-add, as it does in the published count of the hashing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gcp_core.errors import ModelError

#: What is counted, in the order of :meth:`TileCost.macs`.
PARTS = ("products", "hashing", "averages", "filter_sums")


@dataclass(frozen=True)
class TileCost:
    """The sizes that the cost of one tile depends on.

    Attributes:
        kernel: K^2, numbers in one channel of a filter.
        channels, filters: C and O.
        patch: d, pixels of a patch.
        nonzero: entries of all projections that are not 0: on average L d (1 - s).
        centred: whether patches are centred before they are hashed.
    """

    kernel: int
    channels: int
    filters: int
    patch: int
    nonzero: int
    centred: bool

    def macs(self, buckets: Tensor, outputs: Tensor) -> Tensor:
        """Multiply-adds of every tile, by part.

        Args:
            buckets: C', ``(...)``, whole numbers.
            outputs: p, how many outputs of the tile are kept; same shape or one that broadcasts.

        Returns:
            ``(..., 4)`` in the order of :data:`PARTS`: K^2 C' O p; ``nonzero`` C, and 2 d C where patches are centred (a
            mean and a difference); d C; K^2 (C - C') O.
        """
        products = self.kernel * self.filters * buckets * outputs
        centring = 2 * self.patch * self.channels if self.centred and self.nonzero else 0
        hashing = torch.full_like(products, self.nonzero * self.channels + centring)
        averages = torch.full_like(products, self.patch * self.channels)
        sums = (self.kernel * self.filters * (self.channels - buckets)).expand_as(products)
        return torch.stack([products, hashing, averages, sums], dim=-1)


class Tally:
    """Collects the multiply-adds of the images of one forward pass, layer by layer."""

    def __init__(self) -> None:
        self._layers: dict[str, Tensor] = {}

    def add(self, layer: str, macs: Tensor) -> None:
        """``macs``: ``(N, 4)``, whole numbers; a layer that runs twice is counted twice."""
        known = self._layers.get(layer)
        self._layers[layer] = macs if known is None else _sum(layer, known, macs)

    def take(self) -> Tensor:
        """Of the pass that has just ended: ``(N, 4)``, summed over the layers; the next one starts from 0.

        Raises:
            ModelError: no layer ran, or one saw another number of images than the others.
        """
        layers, self._layers = self._layers, {}
        total: Tensor | None = None
        for layer, macs in layers.items():
            total = macs if total is None else _sum(layer, total, macs)
        if total is None:
            raise ModelError("none of the replaced convolutions ran", "HASTE")
        return total


def _sum(layer: str, one: Tensor, other: Tensor) -> Tensor:
    if len(one) != len(other):
        raise ModelError(
            f"saw {len(other)} images where others saw {len(one)}: its multiply-adds belong to no image",
            layer,
        )
    return one + other
