"""A model whose units are multiplied by factors wherever they pass: what removing or dropping them would do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gcp_core.groups import Groups
from gcp_core.scatter import Scattering


@contextmanager
def without_units(model: nn.Module, groups: Groups, removed: Mapping[str, Sequence[int]]) -> Iterator[None]:
    """Inside, these units (group name -> units) are zero wherever removing them would gate them."""
    alive = torch.ones(groups.num_units + 1, dtype=torch.float64)  # where -1 points: what is no unit
    for name, units in removed.items():
        alive[[groups.group(name).first_unit + unit for unit in units]] = 0
    with ExitStack() as stack:
        for gate in groups.layout.gates:
            factors = alive[torch.from_numpy(np.where(gate.units >= 0, gate.units, groups.num_units))]
            if bool((factors == 0).any()):
                hook = _times(factors, gate.dim)
                stack.callback(model.get_submodule(gate.module).register_forward_hook(hook).remove)
        yield


def _times(factors: Tensor, dim: int) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        own = factors
        if isinstance(module, Scattering):
            own = factors.new_ones(module.full_channels)
            own[module.scatter_index.cpu()] = factors
        shape = [1] * output.ndim
        shape[dim] = len(own)
        return output * own.to(output.device, output.dtype).reshape(shape)

    return hook
