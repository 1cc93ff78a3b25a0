"""``density_saturated``: an event is due when activation densities have stopped moving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from gcp_core.allocators.density import group_densities, layer_densities, saturated
from gcp_core.criteria import Batches
from gcp_core.errors import ConfigError
from gcp_core.groups import Groups


class DensitySaturated:
    """See :func:`density_saturated` for the options."""

    needs = "data"

    def __init__(self, window: int, tolerance: float) -> None:
        self._window, self._tolerance = window, tolerance
        #: One row per time it was asked since the last event: the groups' densities, in their order.
        self._rows: list[list[float]] = []

    def due(
        self, epoch: int, model: nn.Module, groups: Groups, batches: Batches, generator: torch.Generator
    ) -> bool:
        """One forward pass; after a yes it starts to watch anew."""
        found = group_densities(layer_densities(model, groups, batches), groups)
        self._rows.append([found[group.name] for group in groups.groups])
        history = [{str(g): value for g, value in enumerate(row)} for row in self._rows]
        if not saturated(history, window=self._window, tolerance=self._tolerance):
            return False
        self._rows = []
        return True

    def state_dict(self) -> dict[str, Any]:
        """The densities so far."""
        return {"rows": torch.tensor(self._rows, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self._rows = state["rows"].tolist()


def density_saturated(window: int = 3, tolerance: float = 0.01) -> DensitySaturated:
    """An event is due when no group's activation density has moved over the last epochs.

    Args:
        window: epochs to look back over.
        tolerance: largest minus smallest density of a group in that time, 0..1.
    """
    try:
        saturated([], window=window, tolerance=tolerance)
    except ConfigError as exc:
        raise ConfigError(exc.message, f"prune.clock_options.{exc.where}") from None
    return DensitySaturated(window, tolerance)
