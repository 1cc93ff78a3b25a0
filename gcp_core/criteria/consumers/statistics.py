"""Mean and covariance of what a layer reads: the input of a convolution or linear layer, unfolded into columns.

One row per image and output position, one column per weight of a filter: ``u`` in R^(C P), P = positions of the kernel.
Everything is summed in float64. Source: Xie et al., "Pruning with Compensation: Efficient Channel Pruning for Deep
Convolutional Neural Networks", arXiv 2108.13728, and its authors' code (pseudopruner), which takes the statistics so.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gcp_core.criteria.base import Batches
from gcp_core.criteria.consumers.readers import CONVS
from gcp_core.criteria.feature_maps import first_image, norm_after
from gcp_core.errors import RelevanceError
from gcp_core.relevance import untouched

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

#: ``all``: every pair of columns. ``position``: pairs of channels at the same kernel position (block-diagonal).
#: ``channel``: pairs of positions of the same channel. ``none``: means only.
Blocks = Literal["all", "position", "channel", "none"]

#: Columns above which pairs of positions are left out: 256 channels of a 3 x 3 kernel, 42 MB.
MAX_COLUMNS = 2304
#: Numbers that the covariances of one pass may have together (float64: 512 MB).
MAX_NUMBERS = 2**26
#: Numbers of the rows that are unfolded at once (float64: 64 MB).
_CHUNK = 2**23


@dataclass(frozen=True, eq=False)
class Moments:
    """Statistics of one layer's input. B blocks of D columns; ``all``: B = 1, D = C P; ``position``: B = P, D = C.

    Attributes:
        layer: module name.
        blocks: which pairs of columns were looked at.
        shape: ``(C, P)``: input channels and positions.
        rows: how many vectors ``u`` there were.
        mean: ``(B, D)`` float64, E[u].
        covariance: ``(B, D, D)`` float64, E[u u^T] - E[u] E[u]^T (no correction for the sample); None for ``none``.
        output_variance: ``(O,)`` float64, variance of each output over the same rows.
    """

    layer: str
    blocks: Blocks
    shape: tuple[int, int]
    rows: int
    mean: Tensor
    covariance: Tensor | None
    output_variance: Tensor

    def blocked(self, weight: Tensor) -> Tensor:
        """The layer's weight as ``(B, O, D)`` float64."""
        return blocked(weight.detach().double().reshape(weight.shape[0], *self.shape), self.blocks)

    def unblocked(self, weight: Tensor, shape: Sequence[int]) -> Tensor:
        """Inverse of :meth:`blocked`: the weight in its own ``shape``."""
        if self.blocks == "position":
            weight = weight.permute(1, 2, 0)
        elif self.blocks == "channel":
            weight = weight.permute(1, 0, 2)
        else:
            weight = weight.squeeze(0)
        return weight.reshape(tuple(shape))

    def columns(self, channels: Tensor) -> Tensor:
        """Indices along D of these input channels (int64)."""
        if self.blocks == "position":
            return channels
        places = torch.arange(self.shape[1], device=channels.device)
        return (channels[:, None] * self.shape[1] + places).reshape(-1)


def norm_scale(norm: nn.Module | None) -> Tensor | None:
    """``(O,)`` float64 ``|gamma| / sigma`` of a batch norm with running statistics; None for everything else."""
    if not isinstance(norm, _BatchNorm) or norm.running_var is None:
        return None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    return scale if norm.weight is None else scale * norm.weight.detach().double().abs()


def row_scales(model: nn.Module, layers: Iterable[str], image: Tensor) -> dict[str, Tensor]:
    """:func:`norm_scale` of the norm behind each layer that has one; rows of a convolution then count as behind it."""
    norms = norm_after(model, layers, image)
    found = {layer: norm_scale(model.get_submodule(norm)) for layer, norm in norms.items()}
    return {layer: scale for layer, scale in found.items() if scale is not None}


def blocked(columns: Tensor, blocks: Blocks) -> Tensor:
    """``(rows, C, P)`` -> ``(B, rows, D)``."""
    if blocks == "position":
        return columns.permute(2, 0, 1)
    return columns.permute(1, 0, 2) if blocks == "channel" else columns.flatten(1)[None]


def blocks_for(shape: tuple[int, int], max_columns: int) -> Blocks:
    """The most that fits: all pairs, else channels at the same position, else means only."""
    channels, positions = shape
    if channels * positions <= max_columns:
        return "all"
    return "position" if positions > 1 and channels <= max_columns else "none"


def input_moments(
    model: nn.Module,
    layers: Mapping[str, int | None],
    batches: Batches,
    *,
    sampling_stride: int = 1,
    max_columns: int = MAX_COLUMNS,
    max_numbers: int = MAX_NUMBERS,
    blocks: Blocks | None = None,
) -> Iterator[Moments]:
    """The statistics of each layer's input over ``batches``, in evaluation mode; the model is left as it was.

    A layer that the model does not call (an auxiliary head) is left out.

    Memory: a covariance has ``(C P)^2`` float64 numbers. A layer of more than ``max_columns`` columns gets ``position``
    blocks, ``P C^2`` numbers: correlations between different kernel positions are taken to be zero. A layer that is too
    wide even so (a linear layer, say) gets its means only. Layers are looked at together as long as they have no more
    than ``max_numbers`` numbers; the others wait for another pass over ``batches``.

    Args:
        layers: convolution (``groups=1``) or linear layer -> the positions that a channel of its input has; None = its
            kernel's size (1 for a linear layer).
        sampling_stride: only every n-th output position along each dimension is looked at (the layer's stride times n).
        blocks: the same for all layers, instead of what fits.

    Raises:
        RelevanceError: no images, a layer of another kind, or an input that is not finite.
    """
    first_image(batches)
    shapes = {layer: _shape(model, layer, positions) for layer, positions in layers.items()}
    kinds: dict[str, Blocks] = {
        layer: blocks if blocks is not None else blocks_for(shape, max_columns)
        for layer, shape in shapes.items()
    }
    for layer, kind in kinds.items():
        if blocks is None and kind != "all":
            _log.info("%s has %d input columns: %s blocks only", layer, math.prod(shapes[layer]), kind)
    for turn in packed(layers, lambda layer: _numbers(shapes[layer], kinds[layer]), max_numbers):
        sums = {layer: _Sums(layer, kinds[layer], shapes[layer]) for layer in turn}
        _watch(model, sums, batches, sampling_stride)
        for layer in turn:
            own = sums.pop(layer)
            if own.rows:
                yield own.moments()
            else:
                _log.info("%s is not called on these images", layer)


def packed(items: Iterable[_T], size: Callable[[_T], int], limit: int) -> list[list[_T]]:
    """The items in order, in as few runs of at most ``limit`` as that allows; what is larger alone is alone."""
    runs: list[list[_T]] = []
    room = 0
    for item in items:
        if not runs or size(item) > room:
            runs.append([])
            room = limit
        runs[-1].append(item)
        room -= size(item)
    return runs


def _shape(model: nn.Module, layer: str, positions: int | None) -> tuple[int, int]:
    module = model.get_submodule(layer)
    if isinstance(module, nn.Linear):
        positions = positions or 1
        return module.in_features // positions, positions
    if isinstance(module, CONVS) and module.groups == 1:
        return module.in_channels, math.prod(module.kernel_size)
    raise RelevanceError(
        f"a {type(module).__name__} has no columns that all filters read", layer, "leave it out"
    )


def _numbers(shape: tuple[int, int], kind: Blocks) -> int:
    channels, positions = shape
    if kind == "none":
        return channels * positions
    return (
        {"all": positions, "position": 1, "channel": positions}[kind]
        * channels
        * positions
        * (1 if kind == "channel" else channels)
    )


def _watch(model: nn.Module, sums: Mapping[str, _Sums], batches: Batches, sampling_stride: int) -> None:
    def hook(layer: str) -> Callable[..., None]:
        def add(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            for columns, outputs in _rows(module, args[0], output, sampling_stride):
                sums[layer].add(columns, outputs)

        return add

    handles = [model.get_submodule(layer).register_forward_hook(hook(layer)) for layer in sums]
    try:
        with untouched(model), torch.no_grad():
            for images, _ in batches:
                model(images)
    finally:
        for handle in handles:
            handle.remove()


def _rows(module: nn.Module, x: Tensor, y: Tensor, sampling_stride: int) -> Iterator[tuple[Tensor, Tensor]]:
    """``(rows, C P)`` columns and ``(rows, O)`` outputs, float64, a few images at a time."""
    if isinstance(module, nn.Linear):
        x, y = x.flatten(0, -2), y.flatten(0, -2)
        step = max(1, _CHUNK // x.shape[1])
        for start in range(0, len(x), step):
            yield x[start : start + step].double(), y[start : start + step].double()
        return
    for dim in range(2, y.ndim):
        y = y.index_select(dim, torch.arange(0, y.shape[dim], sampling_stride, device=y.device))
    per_image = math.prod(y.shape[2:]) * (_size(module) if isinstance(module, CONVS) else 1)
    step = max(1, _CHUNK // per_image)
    for start in range(0, len(x), step):
        columns = unfolded(module, x[start : start + step], sampling_stride)
        yield columns.double(), y[start : start + step].movedim(1, -1).flatten(0, -2).double()


def _size(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> int:
    return conv.in_channels * math.prod(conv.kernel_size)


def unfolded(conv: nn.Module, x: Tensor, sampling_stride: int = 1) -> Tensor:
    """``(rows, C P)``: what a filter of ``conv`` sees of ``x`` ``(N, C, ...)``, image by image, position by position."""
    if not isinstance(conv, CONVS):
        raise TypeError(f"{type(conv).__name__} is no convolution")
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    x = F.pad(x, _padding(conv), mode=mode)
    dims = x.ndim - 2
    for d in range(dims):
        reach = (conv.kernel_size[d] - 1) * conv.dilation[d] + 1
        x = x.unfold(2 + d, reach, conv.stride[d] * sampling_stride)
        x = x[..., :: conv.dilation[d]]
    # (N, C, out..., kernel...) -> (N, out..., C, kernel...)
    x = x.movedim(1, 1 + dims)
    return x.flatten(1 + dims).flatten(0, dims)


def _padding(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> list[int]:
    """What is added before and after each dimension, the last one first."""
    sides = []
    for d in reversed(range(len(conv.kernel_size))):
        if isinstance(conv.padding, str):
            total = conv.dilation[d] * (conv.kernel_size[d] - 1) if conv.padding == "same" else 0
            sides += [total // 2, total - total // 2]
        else:
            sides += [conv.padding[d], conv.padding[d]]
    return sides


class _Sums:
    """Sums of one layer, around its first rows' mean: no digits are lost where means are large."""

    def __init__(self, layer: str, blocks: Blocks, shape: tuple[int, int]) -> None:
        self._layer, self._blocks, self._shape = layer, blocks, shape
        self.rows = 0
        self._shift: tuple[Tensor, Tensor] | None = None
        self._first: Tensor | None = None
        self._second: Tensor | None = None
        self._outputs: tuple[Tensor, Tensor] | None = None

    def add(self, columns: Tensor, outputs: Tensor) -> None:
        """``(rows, C P)`` and ``(rows, O)``, float64."""
        if not bool(torch.isfinite(columns.sum())):
            raise RelevanceError("its input is not finite", self._layer, "has training diverged?")
        if self._shift is None:
            self._shift = columns.mean(0), outputs.mean(0)
        u = blocked((columns - self._shift[0]).reshape(len(columns), *self._shape), self._blocks)
        y = outputs - self._shift[1]
        self.rows += len(columns)
        self._first = _plus(self._first, u.sum(1))
        self._outputs = (
            _plus(None if self._outputs is None else self._outputs[0], y.sum(0)),
            _plus(None if self._outputs is None else self._outputs[1], y.square().sum(0)),
        )
        if self._blocks != "none":
            self._second = _plus(self._second, u.transpose(1, 2) @ u)

    def moments(self) -> Moments:
        """What the rows so far give."""
        if self._first is None or self._shift is None or self._outputs is None:
            raise RelevanceError("the model does not call it on these images", self._layer)
        offset = self._first / self.rows
        shift = blocked(self._shift[0].reshape(1, *self._shape), self._blocks).squeeze(1)
        covariance = None
        if self._second is not None:
            covariance = self._second / self.rows - offset[:, :, None] * offset[:, None, :]
            covariance = (covariance + covariance.transpose(1, 2)) / 2
        total, squares = self._outputs
        variance = (squares / self.rows - (total / self.rows).square()).clamp_min(0)
        return Moments(
            self._layer, self._blocks, self._shape, self.rows, shift + offset, covariance, variance
        )


def _plus(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)
