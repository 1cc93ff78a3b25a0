"""Convolution and linear layer as linear maps: forward, adjoint, and their weights split by sign."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from gcp_core.relevance.stabiliser import EPSILON, Stabiliser

#: A filter whose positive or negative part is this much smaller than the other: a difference of sums would be noise.
_ONE_SIDED = 1e-3


class LinearMap(Protocol):
    """A bias-free linear map with a weight of shape (output channels, ...)."""

    @property
    def groups(self) -> int:
        """How many parts of the channels do not see each other."""
        ...

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The map's output; ``bias`` has one number per output channel."""
        ...

    def adjoint_weight(self, weight: Tensor) -> Tensor:
        """``weight`` in the form :meth:`adjoint` wants."""
        ...

    def adjoint(self, r: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        """The transposed map, from the output's side to a tensor shaped like ``x``."""
        ...


@dataclass(frozen=True)
class ConvMap:
    """Convolution in one, two or three dimensions, with groups."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def _as_forward(self) -> bool:
        """Whether the transposed map is an ordinary convolution with a mirrored kernel (the faster kernels on CPU)."""
        return self.groups == 1 and all(s == 1 for s in self.stride) and all(d == 1 for d in self.dilation)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        zeros = (0,) * len(self.stride)
        return torch.convolution(
            x, weight, bias, self.stride, self.padding, self.dilation, False, zeros, self.groups
        )

    def adjoint_weight(self, weight: Tensor) -> Tensor:
        if not self._as_forward:
            return weight
        mirrored = weight.flip(tuple(range(2, weight.ndim))).transpose(0, 1)
        return mirrored.contiguous(memory_format=_format(weight))

    def adjoint(self, r: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        kernel = weight.shape[2:]
        zeros = (0,) * len(self.stride)
        if self._as_forward and all(p < k for p, k in zip(self.padding, kernel)):
            padding = tuple(k - 1 - p for k, p in zip(kernel, self.padding))
            return torch.convolution(r, weight, None, self.stride, padding, self.dilation, False, zeros, 1)
        if self._as_forward:  # more padding than kernel: the mirrored form would need a crop
            weight = weight.transpose(0, 1).flip(tuple(range(2, weight.ndim)))
        given = [
            (r.shape[i + 2] - 1) * s - 2 * p + d * (k - 1) + 1
            for i, (s, p, d, k) in enumerate(zip(self.stride, self.padding, self.dilation, kernel))
        ]
        missing = tuple(size - g for size, g in zip(x.shape[2:], given))
        return torch.convolution(
            r, weight, None, self.stride, self.padding, self.dilation, True, missing, self.groups
        )


@dataclass(frozen=True)
class DenseMap:
    """``x (M, inputs) -> (M, outputs)``."""

    groups: int = 1

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, weight, bias)

    def adjoint_weight(self, weight: Tensor) -> Tensor:
        return weight

    def adjoint(self, r: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        return r @ weight


class SplitWeight:
    """The parts of one weight, made once per pass: ``positive`` and ``negative``, and both stacked for the adjoint.

    ``direct`` is the adjoint's weight for positive inputs, ``crossed`` for negative ones; alpha = 2 and -beta = -1 are
    folded in, so one transposed convolution of ``[R / Z+, R / Z-]`` gives the whole rule.
    """

    def __init__(self, weight: Tensor, linear_map: LinearMap, stabiliser: Stabiliser) -> None:
        floor = stabiliser.conv_floor if isinstance(linear_map, ConvMap) else 0.0
        self._map = linear_map
        self.positive = weight.clamp_min(floor)
        self.negative = weight.clamp_max(-floor)
        self.epsilon = weight.new_full((weight.shape[0],), EPSILON)
        # Rounding of a difference of two sums of this many terms, relative to the larger (a random walk's width).
        self.noise = (4.0 + weight[0].numel() ** 0.5) * torch.finfo(weight.dtype).eps

    @cached_property
    def direct(self) -> Tensor:
        return self._stacked(self.positive, self.negative)

    @cached_property
    def crossed(self) -> Tensor:
        return self._stacked(self.negative, self.positive)

    @cached_property
    def one_sided(self) -> bool:
        """Whether some filter is (almost) all positive or all negative, so that Z- must not be a difference."""
        up = self.positive.flatten(1).sum(1)
        down = -self.negative.flatten(1).sum(1)
        return bool((torch.minimum(up, down) < _ONE_SIDED * torch.maximum(up, down)).any())

    def _stacked(self, twice: Tensor, once: Tensor) -> Tensor:
        """``2 * twice`` and ``-once``, output channels side by side within each group."""
        groups = self._map.groups
        parts = [part.reshape(groups, 1, -1, *part.shape[1:]) for part in (2 * twice, -once)]
        stacked = torch.cat(parts, 1).reshape(-1, *twice.shape[1:])
        return self._map.adjoint_weight(stacked.contiguous(memory_format=_format(twice)))


def _format(weight: Tensor) -> torch.memory_format:
    """Channels-last for image kernels: what the passes' activations use."""
    return torch.channels_last if weight.ndim == 4 else torch.contiguous_format
