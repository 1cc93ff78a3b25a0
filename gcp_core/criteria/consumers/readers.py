"""Which layers read a group's units, and where: the input channels of ordinary convolutions and linear layers."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from torch import nn

from gcp_core.groups import Groups

_log = logging.getLogger(__name__)
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads units.

    Attributes:
        layer: module name of a convolution (``groups=1``) or linear layer.
        units: ``(C,)`` global unit number of each input channel, -1 for what is never removed.
        positions: columns of the weight that an input channel has: the kernel's size, or the positions of a map that was
            flattened before a linear layer.
    """

    layer: str
    units: np.ndarray
    positions: int


def readers(model: nn.Module, groups: Groups) -> list[Reader]:
    """All layers that read units, in the order of the groups' layout.

    Depthwise and grouped convolutions are left out: their filters do not see all channels.
    """
    found = []
    for axis in groups.layout.axes:
        layer, _, short = axis.tensor.rpartition(".")
        if axis.dim != 1 or short != "weight" or not bool((axis.units >= 0).any()):
            continue
        module = model.get_submodule(layer)
        if isinstance(module, CONVS) and module.groups == 1:
            found.append(Reader(layer, axis.units, int(np.prod(module.kernel_size))))
        elif isinstance(module, nn.Linear):
            run = _run(axis.units)
            found.append(Reader(layer, axis.units[::run], run))
        else:
            _log.debug("%s is left out: its filters do not see all channels", layer)
    return found


def readers_by_group(model: nn.Module, groups: Groups) -> dict[str, list[Reader]]:
    """Group name -> the layers that read any of its units; an empty list where nothing does (``scatter``)."""
    every = readers(model, groups)
    return {
        group.name: [
            reader
            for reader in every
            if bool(
                ((reader.units >= group.first_unit) & (reader.units < group.first_unit + group.size)).any()
            )
        ]
        for group in groups.groups
    }


def _run(units: np.ndarray) -> int:
    """How many neighbouring columns a channel has where all have as many, else 1."""
    ends = np.flatnonzero(np.append(units[1:] != units[:-1], True))
    lengths = set(np.diff(ends, prepend=-1).tolist())
    return lengths.pop() if len(lengths) == 1 else 1
