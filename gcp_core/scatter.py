"""A batch norm whose channels are written into a wider residual stream at registered indices."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ScatterBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over k living channels, written into ``full_channels`` at ``scatter_index``; the others are zero.

    This is what stays of a block's last norm when its conv loses channels on its own while the residual stream
    keeps its width (the paper's removal, residual mode ``scatter``).

    Attributes:
        scatter_index: ``(k,)`` int64 buffer, ascending: living channel -> channel of the stream.
        full_channels: width of the stream.
    """

    scatter_index: Tensor

    def __init__(
        self, scatter_index: Tensor, full_channels: int, *, eps: float = 1e-5, momentum: float | None = 0.1
    ) -> None:
        super().__init__(len(scatter_index), eps=eps, momentum=momentum)
        self.full_channels = int(full_channels)
        self.register_buffer("scatter_index", scatter_index.to(torch.int64))

    @classmethod
    def from_batch_norm(cls, norm: nn.BatchNorm2d, full_channels: int) -> ScatterBatchNorm2d:
        """The same function as ``norm``: its parameters and buffers (shared, not copied), identity indices."""
        device = next(
            (t.device for t in (norm.weight, norm.running_mean) if t is not None), torch.device("cpu")
        )
        index = torch.arange(full_channels, device=device)
        new = cls(index, full_channels, eps=norm.eps, momentum=norm.momentum)
        new.affine, new.track_running_stats = norm.affine, norm.track_running_stats
        new._parameters.update(norm._parameters)
        new._buffers.update(norm._buffers)
        return new.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, k, H, W)`` -> ``(N, full_channels, H, W)``."""
        y = super().forward(x)
        full = y.new_zeros((y.shape[0], self.full_channels, *y.shape[2:]))
        return full.index_copy(1, self.scatter_index, y)

    def extra_repr(self) -> str:
        """Adds the stream's width."""
        return f"{super().extra_repr()}, full_channels={self.full_channels}"
