"""What one relevance pass over a model knows and collects."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from torch import Tensor, nn

from gcp_core.relevance.linear_maps import LinearMap, SplitWeight
from gcp_core.relevance.stabiliser import Stabiliser


@dataclass
class PassState:
    """Shared by the function mode and the rules.

    Attributes:
        stabiliser: see :mod:`gcp_core.relevance.stabiliser`.
        read_sum: read a block's last layer at the whole residual sum instead of at its own output.
        names: module name of each layer by the ``id`` of its weight.
        wanted: layers to be read; nothing below the lowest of them is computed.
        root: a scalar that requires a gradient: it gives the lowest layers a graph.
        order: layers met in forward order.
        at_sum: layers that are read at a residual sum.
        readings: ``(N, C)`` spatial means of relevance by layer.
        splits: the parts of each named layer's weight, kept from batch to batch.
    """

    stabiliser: Stabiliser
    read_sum: bool
    names: dict[int, str]
    wanted: Collection[str]
    root: Tensor
    order: list[str] = field(default_factory=list)
    at_sum: set[str] = field(default_factory=set)
    readings: dict[str, Tensor] = field(default_factory=dict)
    splits: dict[tuple[str, LinearMap], SplitWeight] = field(default_factory=dict)

    def start_batch(self) -> None:
        """Forget the last batch; keep the split weights."""
        self.order, self.at_sum, self.readings = [], set(), {}

    def split(self, layer: str | None, weight: Tensor, linear_map: LinearMap) -> SplitWeight:
        """The parts of ``weight``; made once for a named layer."""
        if layer is None:
            return SplitWeight(weight, linear_map, self.stabiliser)
        if (layer, linear_map) not in self.splits:
            self.splits[layer, linear_map] = SplitWeight(weight, linear_map, self.stabiliser)
        return self.splits[layer, linear_map]

    def record(self, layer: str, relevance: Tensor) -> None:
        """Add one reading ``(N, C)``; a layer used twice has the sum of both."""
        old = self.readings.get(layer)
        self.readings[layer] = relevance if old is None else old + relevance


def layer_names(model: nn.Module) -> dict[int, str]:
    """Module name of every convolution and linear layer by the ``id`` of its weight."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return {id(m.weight): name for name, m in model.named_modules() if isinstance(m, kinds)}
