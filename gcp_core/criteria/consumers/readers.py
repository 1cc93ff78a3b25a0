"""Which layers read a group's units, and where: the input channels of ordinary convolutions and linear layers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from gcp_core.groups import Edges, Groups

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
    """All layers that read units (:meth:`Groups.edges`), in the order of the groups' layout.

    Depthwise and grouped convolutions are left out: their filters do not see all channels. So are layers that do not run
    in evaluation mode (auxiliary heads): nobody sees what they read.
    """
    return _readers(model, groups, groups.edges())


def readers_by_group(model: nn.Module, groups: Groups) -> dict[str, list[Reader]]:
    """Group name -> the layers that read any of its units; an empty list where nothing does (``scatter``)."""
    edges = groups.edges()
    every = _readers(model, groups, edges)
    layers = {name: {consumer.layer for consumer in own.consumers} for name, own in edges.items()}
    return {name: [reader for reader in every if reader.layer in own] for name, own in layers.items()}


def _readers(model: nn.Module, groups: Groups, edges: Mapping[str, Edges]) -> list[Reader]:
    consumers = {consumer.layer: consumer for own in edges.values() for consumer in own.consumers}
    evaluated = {term.layer for term in groups.layout.terms}
    found = []
    for axis in groups.layout.axes:
        layer, _, short = axis.tensor.rpartition(".")
        if axis.dim != 1 or short != "weight" or layer not in consumers:
            continue
        if layer not in evaluated:
            _log.debug("%s is left out: it does not run in evaluation mode", layer)
            continue
        if consumers[layer].depthwise or consumers[layer].conv_groups > 1:
            _log.debug("%s is left out: its filters do not see all channels", layer)
            continue
        module = model.get_submodule(layer)
        if isinstance(module, CONVS):
            found.append(Reader(layer, axis.units, int(np.prod(module.kernel_size))))
        else:
            run = _run(axis.units)
            found.append(Reader(layer, axis.units[::run], run))
    return found


def _run(units: np.ndarray) -> int:
    """How many neighbouring columns a channel has where all have as many, else 1."""
    ends = np.flatnonzero(np.append(units[1:] != units[:-1], True))
    lengths = set(np.diff(ends, prepend=-1).tolist())
    return lengths.pop() if len(lengths) == 1 else 1
