"""Batch norms whose channels are written into a wider residual stream at registered indices."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Scattering(_BatchNorm):
    """What turns a batch norm over k channels into one that writes them into ``full_channels``; the others are zero.

    This is what stays of a block's last norm when its conv loses channels on its own while the residual stream
    keeps its width (the paper's removal, residual mode ``scatter``).

    Attributes:
        scatter_index: ``(k,)`` int64 buffer, ascending: living channel -> channel of the stream.
        full_channels: width of the stream.
    """

    scatter_index: Tensor
    full_channels: int

    def __init__(
        self, scatter_index: Tensor, full_channels: int, *, eps: float = 1e-5, momentum: float | None = 0.1
    ) -> None:
        super().__init__(len(scatter_index), eps=eps, momentum=momentum)
        self.full_channels = int(full_channels)
        self.register_buffer("scatter_index", scatter_index.to(torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, k, ...)`` -> ``(N, full_channels, ...)``."""
        return self.spread(super().forward(x))

    def spread(self, y: Tensor) -> Tensor:
        """``(N, k, ...)``, normalised -> ``(N, full_channels, ...)``."""
        wide = (y.shape[0], self.full_channels, *y.shape[2:])
        full = torch.empty(wide, dtype=y.dtype, device=y.device, memory_format=_format_of(y)).zero_()
        # In place: the other form gives back plain strides, and everything behind it is slower for that.
        return full.index_copy_(1, self.scatter_index, y)

    def extra_repr(self) -> str:
        """Adds the stream's width."""
        return f"{super().extra_repr()}, full_channels={self.full_channels}"


def _format_of(x: Tensor) -> torch.memory_format:
    """Channels last, or as tensors usually are."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    last = formats.get(x.dim(), torch.contiguous_format)
    return last if x.is_contiguous(memory_format=last) and not x.is_contiguous() else torch.contiguous_format


class ScatterBatchNorm1d(Scattering, nn.BatchNorm1d):
    """Over ``(N, k)`` or ``(N, k, L)``."""


class ScatterBatchNorm2d(Scattering, nn.BatchNorm2d):
    """Over ``(N, k, H, W)``."""


class ScatterBatchNorm3d(Scattering, nn.BatchNorm3d):
    """Over ``(N, k, D, H, W)``."""


class ScatterSyncBatchNorm(Scattering, nn.SyncBatchNorm):
    """Statistics over all processes of a group."""


_SCATTERING: dict[type[nn.Module], type[Scattering]] = {
    nn.BatchNorm1d: ScatterBatchNorm1d,
    nn.BatchNorm2d: ScatterBatchNorm2d,
    nn.BatchNorm3d: ScatterBatchNorm3d,
    nn.SyncBatchNorm: ScatterSyncBatchNorm,
}


def can_scatter(norm: nn.Module | None) -> bool:
    """Whether the norm scatters already or :func:`scattering` can make it: torch's own classes, no others.

    What a subclass does besides would be lost.
    """
    return isinstance(norm, Scattering) or type(norm) in _SCATTERING


def scattering(norm: _BatchNorm, full_channels: int) -> nn.Module:
    """The same function as ``norm``: its parameters and buffers (shared, not copied), identity indices."""
    device = next((t.device for t in (norm.weight, norm.running_mean) if t is not None), torch.device("cpu"))
    index = torch.arange(full_channels, device=device)
    new = _SCATTERING[type(norm)](index, full_channels, eps=norm.eps, momentum=norm.momentum)
    new.affine, new.track_running_stats = norm.affine, norm.track_running_stats
    if isinstance(norm, nn.SyncBatchNorm) and isinstance(new, nn.SyncBatchNorm):
        new.process_group = norm.process_group
    new._parameters.update(norm._parameters)
    new._buffers.update(norm._buffers)
    return new.train(norm.training)
