"""What one relevance pass over a model knows and collects."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field

from torch import Tensor, nn

from gcp_core.relevance.linear_maps import LinearMap, SplitWeight
from gcp_core.relevance.stabiliser import Stabiliser

Prepared = tuple[LinearMap, SplitWeight]


@dataclass
class PassState:
    """Shared by the function mode and the rules.

    Attributes:
        stabiliser: see :mod:`gcp_core.relevance.stabiliser`.
        read_sum: read a block's last layer at the whole residual sum instead of at its own output.
        names: module name of each layer by the ``id`` of its weight.
        wanted: layers to be read; no relevance below the lowest of them is computed.
        root: a scalar that requires a gradient: it gives the lowest layers a graph.
        order: layers to be read that were met, in forward order (a dict as an ordered set).
        at_sum: layers that are read at a residual sum.
        readings: ``(N, C)`` spatial means of relevance by layer.
    """

    stabiliser: Stabiliser
    read_sum: bool
    names: dict[int, str]
    wanted: Collection[str]
    root: Tensor
    order: dict[str, None] = field(default_factory=dict)
    at_sum: set[str] = field(default_factory=set)
    readings: dict[str, Tensor] = field(default_factory=dict)
    _prepared: dict[Hashable, Prepared] = field(default_factory=dict)

    def start_batch(self) -> None:
        """Forget the last batch; keep what was prepared of the weights."""
        self.order, self.at_sum, self.readings = {}, set(), {}

    def prepared(self, layer: str | None, geometry: Hashable, make: Callable[[], Prepared]) -> Prepared:
        """``make()``, called once for each named layer and geometry."""
        if layer is None:
            return make()
        key = (layer, geometry)
        if key not in self._prepared:
            self._prepared[key] = make()
        return self._prepared[key]

    def record(self, layer: str, relevance: Tensor) -> None:
        """Add one reading ``(N, C)``; a layer used twice has the sum of both."""
        old = self.readings.get(layer)
        self.readings[layer] = relevance if old is None else old + relevance


def layer_names(model: nn.Module) -> dict[int, str]:
    """Module name of every convolution and linear layer by the ``id`` of its weight, where that is a parameter.

    A weight that is computed for every call (weight norm, spectral norm) is a new tensor each time. The ``id`` of one
    that is gone may be that of any other later: such layers have no name, and relevance goes through them.
    """
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    weights = {name: m._parameters.get("weight") for name, m in model.named_modules() if isinstance(m, kinds)}
    return {id(weight): name for name, weight in weights.items() if weight is not None}
